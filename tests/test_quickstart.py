"""The quickstart's driver: a run, its repetition, interruption, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_pairs
from forked import python

from data_prep.text import read_lines
from recipes.driver import translation
from recipes.driver.models import Model
from recipes.driver.training_log import converged
from recipes.report.tables import MARKED

pytestmark = pytest.mark.one_version


@pytest.fixture
def corpus(tmp_path):
    write_pairs(tmp_path, {"train": 60, "valid": 9, "test": 11})
    return tmp_path


def command(corpus, *arguments):
    files = [
        word for s in ("train", "valid", "test") for word in (f"--{s}", corpus / s)
    ]
    options = [
        "cldr", "--name", "quickstart", "--size", "quickstart", "--models", "4",
        "--mean", "none", "--src", "xx", "--tgt", "yy", "--updates", "6",
        "--max-tokens", "200", "--vocab-size", "30", "--beam", "2",
        "--out", corpus / "runs",
    ]  # fmt: skip
    flags = [
        "--", "--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--cpu",
    ]  # fmt: skip
    module = ["-m", "recipes.driver.translation"]
    return list(map(str, [*module, *options, *files, *arguments, *flags]))


def run(corpus, *arguments):
    done = python(
        *command(corpus, *arguments), env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    return done.returncode, done.stdout, done.stderr


def test_run_compare_and_repeat(corpus, in_process, monkeypatch, capsys):
    def compare():
        _, module, *arguments = command(corpus, "--compare")
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        translation.main()
        return capsys.readouterr().out

    out = compare()
    assert "Sentence pairs: dropped 0, train 60, valid 9, test 11" in out
    table = out[out.index("\nmodel ") :]
    names = ["PHM n=4", "PHM n=4, R=4", "dense", "dense, widths / 4"]
    row = r"^(\S.*?)( †)?  +[\d,]+ +[\d,]+ +[\d.]+ +[\d.]+ +\d+ s +[\d.]+ s$"
    rows = dict(re.findall(row, table, re.MULTILINE))
    assert list(rows) == names
    assert "nrefs:1|case:mixed" in table
    results = [json.loads(f.read_text()) for f in corpus.glob("runs/*/*/result*.json")]
    results += [json.loads(f.read_text()) for f in corpus.glob("runs/*/*/compared*")]
    for result in results:
        mark = rows[Model.parse(result["model"]).name]
        assert bool(mark) == (not converged(result["curve"]))
    assert (MARKED in table) == any(rows.values())
    parameters = {result["model"]: result["parameters"] for result in results}
    assert max(parameters, key=parameters.get) == "dense" and len(parameters) == 4
    assert parameters["4"] < parameters["dense"] / 2
    for name, pattern in (
        ("train", "done training in"),
        ("generate", "Translated 11 "),
    ):
        logs = [log.read_text() for log in corpus.glob(f"runs/*/*/{name}.log")]
        assert len(logs) == 4 and all(pattern in log for log in logs)
    hypotheses = [read_lines(f) for f in corpus.glob("runs/*/*/test-*.yy.txt")]
    assert [len(lines) for lines in hypotheses] == [11] * 4
    started = time.time()
    again = compare()
    assert again[again.index("\nmodel ") :] == table
    assert "using" in again and time.time() - started < 60


@pytest.mark.nightly
def test_interrupted_run_goes_on(corpus):
    process = subprocess.Popen(
        [sys.executable, *command(corpus, "--updates", "40")], cwd=ROOT,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 120
    while not list(corpus.glob("runs/*/n4-*/train.log")) and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(corpus.glob("runs/*/*/result*"))
    for folder in corpus.glob("runs/*/n4-*"):
        (folder / "checkpoint_last.pt").write_bytes(b"PK half a checkpoint")
    code, out, err = run(corpus, "--updates", "40")
    assert code == 0, err[-3000:]
    assert "Using" in out and "BLEU" in out


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda c: (c / "test.yy").unlink(), r"test\.yy: No such file"),
        (
            lambda c: (c / "test.yy").write_text("a\n" * 10 + "b " * 1400 + "\n"),
            r"test\.yy:11: the line has 1400 subwords, at most 1023 fit",
        ),
    ],
)
def test_bad_files_end_in_one_line(corpus, spoil, message):
    spoil(corpus)
    code, out, err = run(corpus)
    assert code == 1
    last = err.strip().splitlines()
    assert len(last) == 1 and re.search(message, last[0]), err
    assert not list(corpus.glob("runs/*/data-*/manifest.json"))


def test_what_fairseq_refuses_ends_in_one_line(corpus):
    code, out, err = run(corpus, "--n", "5")
    assert code == 1 and "Traceback" not in err
    assert "n=5 does not fit" in err.strip().splitlines()[-1]
