"""Scores of translations: sacreBLEU's figures, the paired test, the command line."""

import os
import random
import subprocess
import sys

import pytest
from conftest import ROOT
from sacrebleu.metrics import BLEU

from data_prep import DataError
from recipes.score import compare, main, score


@pytest.fixture(scope="module")
def lines():
    """References, a good system and a bad one."""
    rng = random.Random(1)
    references = [
        " ".join(rng.choices(["Một", "2.5%", "(b)", "c,", "d’e", "f."], k=9))
        for _ in range(60)
    ]

    def spoil(share):
        return [
            " ".join("x" if rng.random() < share else word for word in line.split())
            for line in references
        ]

    return references, spoil(0.1), spoil(0.3)


def test_scores_and_signatures(lines):
    references, good, bad = lines
    found = score(good, references)
    for name, tokenize in (("bleu", "13a"), ("bleu_intl", "intl")):
        metric = BLEU(tokenize=tokenize)
        expected = metric.corpus_score(good, [references]).score
        assert found[name] == pytest.approx(expected, abs=0.005)
        assert found[f"{name}_signature"] == str(metric.get_signature())
        assert score(bad, references)[name] < found[name]
    assert found["chrf_signature"].startswith("nrefs:1|case:mixed")
    assert found["bleu"] != found["bleu_intl"]
    assert score(references, references)["chrf"] == 100
    assert score(references, references)["length_ratio"] == 1
    assert score(["a b c"], ["a b c d"])["length_ratio"] == 0.75


def test_a_difference_and_its_significance(lines):
    references, good, bad = lines
    found = compare(good, bad, references)
    difference = score(good, references)["bleu"] - score(bad, references)["bleu"]
    assert found["bleu_difference"] == pytest.approx(difference, abs=0.011)
    assert found["bleu_p"] < 0.01
    assert found["test_signature"].startswith("ar:10000|seed:12345|scipy:")
    assert found == compare(good, bad, references)
    same = compare(good, good, references)
    assert same["bleu_difference"] == 0 and same["bleu_p"] == 1
    assert compare(["q"] * 60, ["z"] * 60, references)["bleu_p"] == 1  # 0 BLEU twice


@pytest.mark.parametrize("differing,expected", [(1, 1.0), (2, 0.5), (3, 0.25)])
def test_few_lines_that_differ_prove_nothing(lines, differing, expected):
    references, good, _ = lines
    system = [*references[:differing], *good[differing:]]
    baseline = [*["x y"] * differing, *good[differing:]]
    p = compare(system, baseline, references)["bleu_p"]
    assert p == pytest.approx(expected, abs=0.03)


def test_of_equally_good_systems_p_is_uniform(lines):
    """A p-value below 0.5 comes half of the time where there is no difference."""
    references, good, bad = lines
    values = []
    for seed in range(40):
        side = random.Random(seed).choices((0, 1), k=len(references))
        pairs = [(b, g) if s else (g, b) for s, g, b in zip(side, good, bad)]
        one, other = zip(*pairs)
        values.append(compare(one, other, references)["bleu_p"])
    assert 10 <= sum(p < 0.5 for p in values) <= 30
    assert max(values) > 0.8


def test_unequal_lines_are_refused(lines):
    references, good, _ = lines
    with pytest.raises(DataError, match="59 hypotheses, 60 references"):
        score(good[:-1], references)
    with pytest.raises(DataError, match="60 system, 59 baseline, 60 references"):
        compare(good, good[:-1], references)
    with pytest.raises(DataError, match="0 hypotheses, 0 references"):
        score([], [])


def test_command_line(lines, tmp_path, monkeypatch, capsys):
    for name, text in zip(("ref", "good", "bad"), lines):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text), "utf-8")
    (tmp_path / "short").write_text("a\n")

    def call(hypotheses, *baseline):
        files = {"hypotheses": hypotheses, "references": "ref"}
        files.update(zip(["baseline"], baseline))
        words = [w for k, v in files.items() for w in (f"--{k}", str(tmp_path / v))]
        monkeypatch.setattr(sys, "argv", ["score", *words])
        main()
        return capsys.readouterr().out

    assert "tok:intl" in call("good") and "p =" not in call("good")
    text = call("good", "bad")
    assert "over the baseline, p = 0.0002" in text and "seed:12345" in text
    for files, message in [
        (["short"], "short has 1 lines but .*ref has 60"),
        (["good", "short"], "short has 1 lines but .*ref has 60"),
        (["none"], "none: No such file"),
    ]:
        with pytest.raises(SystemExit, match=message) as error:
            call(*files)
        assert "\n" not in str(error.value)


def test_files_may_be_pipes_and_what_reads_the_output_may_end(tmp_path):
    (tmp_path / "text").write_text("a b c d\ne f g h\n")
    command = (
        f"{sys.executable} -m recipes.score --hypotheses <(cat text) --references text"
    )
    done = subprocess.run(
        ["bash", "-c", f"{command} --baseline <(cat text) && {command} | true"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    assert "BLEU +0.00 over the baseline, p = 1.0000" in done.stdout
    assert not done.stderr
