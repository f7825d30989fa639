"""The recipes for SciTail and subject-verb agreement, on generated rows."""

import json
import random
import shutil
import sys

import pytest
from conftest import ROOT
from forked import python

from recipes.driver import classification
from recipes.driver.options import parse_classification

pytestmark = pytest.mark.one_version

TOY = """
title = "Few or many distinct words"
kind = "table"
columns = ["text", "label", "remainder"]
labels = ["few", "many"]

[paper]
name = "Toy data"
arch = "phm_transformer_classifier"
models = ["dense", "2"]
seeds = [1, 2]
epochs = 2
flags = "--min-count 1 --optimizer adam --lr 0.01 --batch-size 16"
groups = "remainder"
published = {dense = ["400K", 94.8]}
"""
FLAGS = "--encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-layers 1 --cpu"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Sentences with few or many distinct words, and a number in a third column."""
    folder = tmp_path_factory.mktemp("rows")
    rng = random.Random(1)
    for split, count in {"train": 96, "dev": 20, "test": 30}.items():
        with (folder / f"{split}.tsv").open("w") as file:
            for i in range(count):
                words = rng.choices("ab" if i % 2 else "cdefg", k=6)
                print(
                    " ".join(words), ["many", "few"][i % 2], i % 3, sep="\t", file=file
                )
    (folder / "toy.toml").write_text(TOY)
    return folder


def recipe(*arguments):
    return python("-m", "recipes.driver.classification", *arguments)


def settings(rows, out, *more):
    return [
        rows / "toy.toml", "--data", rows, "--jobs", "2", "--out", out, *more,
        "--", *FLAGS.split(),
    ]  # fmt: skip


def test_trains_tests_and_reports(rows, tmp_path, in_process, monkeypatch, capsys):
    def recipe(*more):
        arguments = settings(rows, tmp_path, "--jobs", "1", *more)
        monkeypatch.setattr(sys, "argv", ["classification", *map(str, arguments)])
        classification.main()
        return capsys.readouterr().out

    first = recipe()
    assert "Data: rows train 96, valid 20, test 30 (hash " in first
    for text in ("dense", "PHM n=2", "400K", "94.80", "±", "2 epochs", "0 (10)"):
        assert text in first, first
    files = sorted((tmp_path / "toy-data").glob("*/result.json"))
    assert len(files) == 4
    result = json.loads(files[-1].read_text())
    assert result["model"] == "2" and result["rows_by"] == {"0": 10, "1": 10, "2": 10}
    assert result["accuracy"] == pytest.approx(sum(result["accuracy_by"].values()) / 3)
    assert {"hardware", "versions", "commit", "training_seconds"} <= set(result)
    assert result["vectors"] == "" and result["trained_epochs"] == 2
    again = recipe()
    assert again.count("using") == 4
    tables = [text[text.index("\nmodel") :] for text in (again, first)]
    assert tables[0] == tables[1]
    other = shutil.copytree(rows, tmp_path / "other")
    one = ["--models", "2", "--seeds", "1", "--data", other]
    assert "score: using" in recipe(*one)
    with (other / "test.tsv").open("a") as file:
        file.write("a b\tfew\t0\n")
    assert "using" not in recipe(*one)


def test_flags_of_its_own(rows, tmp_path, in_process, monkeypatch):
    """The label in another column below a header; the dense model has no rules."""
    for split in ("train", "dev", "test"):
        lines = (rows / f"{split}.tsv").read_text().splitlines()
        swapped = ["\t".join(line.split("\t")[i] for i in (0, 2, 1)) for line in lines]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["a\tb\tc", *swapped]) + "\n")
    given = settings(tmp_path, tmp_path / "out", "--seeds", "1", "--jobs", "1")
    given[0] = rows / "toy.toml"
    flags = ["--label-column=3", "--header", "--phm-rule-rank", "2"]
    monkeypatch.setattr(sys, "argv", ["classification", *map(str, given), *flags])
    classification.main()
    found = [json.loads(line) for line in (tmp_path / "out/results.jsonl").open()]
    assert ["--phm-rule-rank" in line["flags"] for line in found] == [False, True]
    for folder in tmp_path.glob("out/toy-data/*"):
        said = (folder / "predict.log").read_text()
        score = json.loads((folder / "result.json").read_text())["accuracy"]
        assert f"30 rows, accuracy {score:.2f}" in said


def test_given_rows_need_text_and_label_only(rows, tmp_path, in_process, monkeypatch):
    """Test accuracies by a declared column need it, the rest does not."""
    for split in ("train", "dev", "test"):
        lines = (rows / f"{split}.tsv").read_text().splitlines()
        fewer = ["\t".join(line.split("\t")[:2]) for line in lines]
        (tmp_path / f"{split}.tsv").write_text("\n".join(fewer) + "\n")
    given = settings(tmp_path, tmp_path / "out", "--models", "2", "--seeds", "1")
    given[0] = rows / "toy.toml"
    monkeypatch.setattr(sys, "argv", ["classification", *map(str, given)])
    classification.main()
    (found,) = [json.loads(line) for line in (tmp_path / "out/results.jsonl").open()]
    assert found["accuracy"] > 0 and "accuracy_by" not in found
    texts = [line.split("\t")[0] for line in lines]
    (tmp_path / "test.tsv").write_text("\n".join(texts) + "\n")
    given = settings(tmp_path, tmp_path / "other", "--models", "2", "--seeds", "1")
    given[0] = rows / "toy.toml"
    monkeypatch.setattr(sys, "argv", ["classification", *map(str, given)])
    with pytest.raises(SystemExit, match="test.tsv:1: the label is column 2, but"):
        classification.main()


def test_a_fault_in_the_data_is_one_line(rows, tmp_path):
    for file in rows.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    with (tmp_path / "dev.tsv").open("a") as file:
        file.write("a b\tseveral\t0\n")
    done = recipe(*settings(tmp_path, tmp_path / "out"))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("python -m recipes.driver.classification: ")
    assert "Traceback" not in done.stderr
    assert (
        len(list((tmp_path / "out" / "toy-data").iterdir())) <= 2
    )  # --jobs 2, then no more
    assert "dev.tsv:21: unknown label 'several', expected few or many" in last


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--data", "none"], "--data none: no such folder"),
        (["--data", ".", "--epochs", "0"], "--epochs must be at least 1"),
        (["--data", ".", "--vectors", "recipes"], "recipes: 0 .txt files there"),
    ],
)
def test_bad_options_end_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        parse_classification(["scitail", *arguments])
    assert message in capsys.readouterr().err.splitlines()[-1]
