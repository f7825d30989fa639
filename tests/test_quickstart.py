"""The quickstart's driver: a run, its repetition, interruption, bad input."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import python

from data_prep.text import read_lines
from recipes.driver import translation
from recipes.driver.flags import split_phm
from recipes.driver.models import Model
from recipes.driver.training_log import converged
from recipes.report.tables import MARKED

pytestmark = pytest.mark.one_version

ROOT = Path(__file__).resolve().parent.parent


def write_pairs(folder, counts):
    rng = random.Random(3)
    for split, count in counts.items():
        rows = [rng.choices("abcdefghij", k=rng.randint(2, 8)) for _ in range(count)]
        for language, words in (("xx", rows), ("yy", [row[::-1] for row in rows])):
            text = "".join(" ".join(row) + "\n" for row in words)
            (folder / f"{split}.{language}").write_text(text)


@pytest.fixture
def corpus(tmp_path):
    write_pairs(tmp_path, {"train": 60, "valid": 9, "test": 11})
    return tmp_path


def command(corpus, *arguments):
    files = [
        word for s in ("train", "valid", "test") for word in (f"--{s}", corpus / s)
    ]
    options = [
        "cldr", "--name", "quickstart", "--size", "demo", "--models", "4",
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


def test_dense_twin_has_no_phm_flags():
    flags = ["--phm-ffn-n", "8", "--cpu", "--phm-fuse-qkv", "--clip-norm", "0.1"]
    phm = ["--phm-ffn-n", "8", "--phm-fuse-qkv"]
    assert split_phm(flags) == (phm, ["--cpu", "--clip-norm", "0.1"])


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
        (lambda c: (c / "valid.xx").write_text(""), r"valid\.xx: the file is empty"),
        (
            lambda c: (c / "test.xx").write_text("a b\n"),
            r"test\.xx has 1 lines but .*test\.yy has 11",
        ),
        (
            lambda c: (c / "train.yy").write_bytes(b"a\nb\xff\n" + 58 * b"c\n"),
            r"train\.yy:2: the line is not UTF-8",
        ),
        (
            lambda c: (c / "train.xx").write_bytes(b"a\nb\nc\0\n" + 57 * b"c\n"),
            r"train\.xx:3: the line has a NUL byte",
        ),
        (
            lambda c: [(c / f"train.{x}").write_text("\n" * 60) for x in ("xx", "yy")],
            r"no pair without an empty side",
        ),
        (
            lambda c: (c / "test.yy").write_text("a\n" * 10 + "b " * 1400 + "\n"),
            r"test\.yy:11: the line has 1400 subwords, at most 1023 fit",
        ),
        (
            lambda c: (c / "train.xx").write_text(
                "".join(f"{chr(200 + i)} a\n" for i in range(60))
            ),
            r"no 30 subwords for the 7\d different characters of the training text",
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


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--n", "5"], "n=5 does not fit"),
        (["--n", "0"], "n must be at least 2"),
        (["--tgt", "xx"], "--src and --tgt are both xx"),
        pytest.param(
            ["--arch", "phm_transformer_gigantic"],
            "invalid choice",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_bad_options_end_in_one_line(corpus, flags, message):
    code, out, err = run(corpus, *flags)
    assert code != 0
    assert message in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_demo_refuses_unknown_languages():
    languages = ["--src", "en", "--tgt", "zz"]
    done = python("-m", "recipes.driver.translation", "cldr", *languages)
    assert done.returncode == 2
    assert "demo corpus has the languages" in done.stderr.splitlines()[-1]
