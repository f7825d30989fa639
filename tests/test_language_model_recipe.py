"""The recipe for language models, from its script to its tables, on generated text."""

import json
import lzma
import math
import random
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from forked import python

from data_prep import DataError
from data_prep.text import read_lines
from recipes.driver import language_model
from recipes.driver.options import parse_language_model
from recipes.report.experiments import collect, picture, read

pytestmark = pytest.mark.one_version

SIZES = {"train": 200, "valid": 20, "test": 30}


@pytest.fixture
def raw(tmp_path):
    """Words of one to three letters; a line longer than a block; one file packed."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = random.Random(1)
    for split, count in SIZES.items():
        rows = [
            ["".join(rng.choices("abcdef", k=rng.randint(1, 3))) for _ in range(length)]
            for length in [700, *rng.choices(range(3, 9), k=count - 1)]
        ]
        text = "".join(" ".join(row) + "\n" for row in rows)
        if split == "train":
            (folder / "train.txt.xz").write_bytes(lzma.compress(text.encode()))
        else:
            (folder / f"{split}.txt").write_text(text)
    return folder


def options(raw, out, *more):
    return [
        "--raw", str(raw), "--out", str(out), "--size", "tiny", "--cpu",
        "--vocab-size", "30", "--updates", "3", "--tokens-per-sample", "64", *more,
    ]  # fmt: skip


def run(arguments, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["language_model", *arguments])
        language_model.main()


def test_from_text_to_tables(raw, tmp_path, in_process, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = options(raw, out, "--models", "dense", "4", "--", "--phm-embeddings=4")
    run(arguments, monkeypatch)
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "results.jsonl").open()]
    dense, phm = lines
    assert (dense["model"], phm["model"]) == ("dense", "4")
    test = read_lines(next(out.glob("mine/data-*/clean/test.txt")))
    assert test == (raw / "test.txt").read_text().splitlines()
    for line in lines:
        assert line["task"] == "language model" and line["experiment"] == "mine"
        assert line["data"]["train"] == 200 and line["data"]["test"] == 30
        assert line["words"] == sum(len(text.split()) + 1 for text in test)
        bits = math.log2(line["perplexity"]) * line["subwords"]
        assert math.log2(line["word_perplexity"]) * line["words"] == pytest.approx(bits)
        assert line["curve"][-1][0] == 3
        assert all(math.isfinite(loss) for point in line["curve"] for loss in point)
    assert "--phm-embeddings" in phm["flags"] and "phm-emb" not in dense["flags"]
    assert phm["total_parameters"] < 0.27 * dense["total_parameters"]
    for text in ("mine", "PHM n=4", "blocks of 64 subwords", "lines train 200, valid"):
        assert text in printed
    found = {re.split(r"  +", row)[0]: row for row in printed.splitlines()}
    name = "PHM n=4 `--phm-embeddings 4`"
    assert f"{phm['word_perplexity']:.2f}" in found[f"{name} †"]  # 3 updates
    (table,) = collect(read(out / "results.jsonl"))
    assert b"test perplexity per word" in picture(table)

    run(arguments, monkeypatch)
    again = capsys.readouterr().out
    assert again.count("score: using") == 2
    assert len((out / "results.jsonl").read_text().splitlines()) == 2


def test_report_reads_the_lines(tmp_path):
    line = {
        "experiment": "Text", "task": "language model", "model": "4", "size": "small",
        "data": {"train": 1000, "valid": 20, "test": 30, "hash": "abc"},
        "updates": 900, "parameters": 1234, "total_parameters": 5678, "perplexity": 4.0,
        "word_perplexity": 20.0, "tokens_per_sample": 64, "training_seconds": 12.0,
        "hardware": "CPU",
    }  # fmt: skip
    file = tmp_path / "runs.jsonl"
    runs = [{**line, "seed": 1}, {**line, "seed": 2, "word_perplexity": 22.0}]
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))
    done = python("-m", "recipes.report", file, check=True)
    assert "21.00 ± 1.41" in done.stdout and "5,678" in done.stdout
    del runs[0]["tokens_per_sample"]
    file.write_text(json.dumps(runs[0]) + "\n")
    with pytest.raises(DataError, match="has no 'tokens_per_sample'"):
        read(file)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "--raw FOLDER is needed"),
        (
            ["--raw", ".", "--arch", "phm_lstm"],
            "--arch phm_lstm: none of phm_transformer_lm",
        ),
        (
            ["--raw", ".", "--tokens-per-sample", "65", "--max-tokens", "64"],
            "--tokens-per-sample 65: longer than a batch, --max-tokens 64",
        ),
        (["--raw", ".", "--stage", "average"], "invalid choice: 'average'"),
    ],
)
def test_bad_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        parse_language_model(arguments)
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_without_a_name():
    assert parse_language_model(["--raw", "/"]).name == "text"


def test_script(raw, tmp_path):
    """The real script, up to a part of its stages."""
    done = subprocess.run(
        [ROOT / "recipes/language_model.sh", *options(raw, tmp_path / "out"),
         "--stage", "prepare"],
        env={"RECIPE_PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Lines: dropped 0, train 200, valid 20, test 30" in done.stdout
