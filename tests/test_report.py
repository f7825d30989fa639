"""Tables and figures from made-up JSON lines."""

import json
import math
import re
import sys

import pytest
from conftest import ROOT, cells

from data_prep import DataError
from recipes.driver.settings import slug
from recipes.report import __main__ as report
from recipes.report import figures, summary
from recipes.report.experiments import collect, picture, read, tables

DATA = {"train": 1000, "valid": 20, "test": 30, "hash": "abc"}
TRANSLATION = {
    "experiment": "Xx-Yy", "task": "translation", "size": "small", "data": DATA,
    "languages": ["xx", "yy"], "updates": 900, "bleu_signature": "tok:13a",
    "mean": "factors", "checkpoints": 8, "beam": 5, "lenpen": 0.6, "published": [],
    "training_seconds": 1234.5, "decoding_seconds": 6.7, "hardware": "CPU, 1 threads",
    "curve": [[300, 6.0, 4.5], [600, 5.0, 4.0], [900, 4.0, 4.0]],
}  # fmt: skip
CLASSIFICATION = {
    "experiment": "Toy", "model": "dense", "seed": 1, "epochs": 3, "accuracy": 80.0,
    "encoder_parameters": 721200, "valid_accuracy": 82.0, "published": ["721K", 74.36],
}  # fmt: skip


def translation(model, seed, bleu, **more):
    n = int(model.partition("-")[0]) if model[0].isdigit() else 1
    scores = {"bleu": bleu, "chrf": 2 * bleu, "bleu_intl": bleu + 0.5}
    parameters = {"parameters": 44_040_192 // n}
    return {**TRANSLATION, "model": model, "seed": seed, **parameters, **scores, **more}


PUBLISHED = {"published": ["44M", 28.43]}
RUNS = [
    translation("16", 1, 9.0, bleu_p=0.2),
    translation("2-wide", 1, 9.0),
    translation("4", 1, 10.0, bleu_p=0.5),
    translation("4", 2, 12.0, bleu_p=0.00008),
    translation("dense", 1, 13.0, **PUBLISHED),
    translation("dense", 1, 14.0, **PUBLISHED),  # the same run again: this one counts
    translation("quaternion", 1, 8.0),
]


def test_table_of_translations():
    heading, table, caption = tables(RUNS, "github")
    head, _, *rows = cells(table)
    assert heading == "Xx-Yy"
    assert [row[0] for row in rows] == [
        "dense", "quaternion", "PHM n=4", "PHM n=16", "PHM n=2, wide"
    ]  # fmt: skip
    found = {row[0]: dict(zip(head, row)) for row in rows}
    assert found["dense"] == {
        "model": "dense", "parameters": "44,040,192", "paper: size": "44M", "runs": "1",
        "BLEU": "14.00", "chrF": "28.00", "p": "", "BLEU intl": "14.50",
        "paper: BLEU": "28.43", "training s": "1,234", "decoding s": "7",
    }  # fmt: skip
    assert found["PHM n=4"]["BLEU"] == "11.00 ± 1.41"
    assert found["PHM n=4"]["p"] == "8e-05 to 0.5" and found["PHM n=16"]["p"] == "0.2"
    for text in (
        "Size small; 900 updates; mean of factors of 8 checkpoints; beam 5",
        "xx to yy, sentence pairs train 1,000, valid 20, test 30 (hash abc)",
        "on CPU, 1 threads.", "`tok:13a`", "The paper's columns are of its own size",
    ):  # fmt: skip
        assert text in caption


@pytest.mark.parametrize(
    "change",
    [
        {"size": "paper"}, {"data": {**DATA, "hash": "def"}}, {"updates": 90},
        {"beam": 1}, {"num_checkpoints": 1}, {"languages": ["yy", "xx"]},
        {"flags": "--arch phm_x --lr 1"}, {"devices": 4}, {"save_interval": 30},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_settings_are_another_table(change):
    runs = [*RUNS, translation("dense", 1, 50.0, **change)]
    heading, first, _, second, _ = tables(runs, "github")
    assert len(cells(first)) == 7 and "50.00" not in first
    assert len(cells(second)) == 3 and "50.00" in second
    names = [table.name for table in collect(runs)]
    assert names[0] == "xx-yy-small" and len(set(names)) == 2


def test_a_picture_of_its_own_for_an_experiment_whose_name_ends_in_a_number():
    runs = [{**CLASSIFICATION, "experiment": name} for name in ("Toy 2", "Toy")]
    assert [table.name for table in collect(runs)] == ["toy-2", "toy"]


def test_flags_are_of_a_table_and_those_of_phm_of_a_row():
    def run(model, flags):
        return translation(model, 1, 9.0, flags=f"--seed 1 {flags}")

    tiny = "--arch phm_transformer_tiny --phm-n"
    runs = [
        run("dense", f"{tiny} 1 --lr 0.1"),
        run("quaternion", "--arch quaternion_transformer_tiny --lr 0.1"),
        run("4", f"{tiny} 4 --lr 0.1"),
        run("4", f"{tiny} 4 --lr 0.1 --phm-share-rule none"),
        run("4", f"{tiny} 4 --lr 0.2 --adam-betas '(0.9, 0.98)'"),
    ]
    _, first, one, second, other = tables(runs, "github")
    assert [row[0] for row in cells(first)[2:]] == [
        "dense", "quaternion", "PHM n=4", "PHM n=4 `--phm-share-rule none`"
    ]  # fmt: skip
    assert [row[0] for row in cells(second)[2:]] == ["PHM n=4"]
    assert one.endswith(" Flags: `--lr 0.1`.")
    assert other.endswith(" Flags: `--lr 0.2 --adam-betas (0.9, 0.98)`.")
    assert b"share-rule" not in picture(collect(runs)[0])


def test_early_stopping_is_told():
    runs = [translation("dense", seed, 9.0, trained_updates=900) for seed in (1, 2)]
    assert "; 900 updates; " in tables(runs)[2]
    runs[1]["trained_updates"] = 300
    said = tables(runs)[2]
    assert "; at most 900 updates, stopped early after 300 or more; " in said


def test_means_of_checkpoints_are_rows():
    runs = [*RUNS, translation("4", 1, 20.0, mean="weights")]
    _, table, caption = tables(runs, "github")
    assert ["PHM n=4", "weights"] in [row[:2] for row in cells(table)]
    assert "mean of factors" not in caption
    assert collect(runs)[0].means == ["factors", "weights"]
    others = [{**run, "mean": "weights"} for run in RUNS]
    assert collect([*others, RUNS[2]])[0].means == ["weights", "factors"]


def test_a_run_that_has_not_converged_is_marked():
    falling = [[updates, None, 9 - updates / 100] for updates in range(0, 900, 90)]
    resting = [*falling, [1200, None, falling[-1][2]]]
    runs = [
        {**RUNS[4], "seed": seed, "curve": curve}
        for seed, curve in enumerate((falling, resting))
    ]
    marked, caption = tables(runs, "github")[1:]
    assert cells(marked)[2][0] == "dense †" and "† not converged" in caption
    assert "†" not in "".join(tables(runs[1:], "github"))


def test_summary(monkeypatch):
    """The best PHM model by its validation, where most models are compared.

    Dense models of another size have a row of their own; what has not converged is left
    out.
    """
    rest = TRANSLATION["curve"]

    def line(model, seed, bleu, loss, curve=rest):
        curve = [[at, mean, found - 4.0 + loss] for at, mean, found in curve]
        experiment = {"experiment": "En-Vi", "curve": curve}
        return translation(model, seed, bleu, **experiment)

    falls = [[300, 6.0, 4.5], [600, 5.0, 4.3], [900, 4.0, 4.0]]
    found = [
        [line("dense", 1, 20.0, 4.0), line("dense", 2, 22.0, 4.0)],
        [line("4", 1, 21.0, 4.1), line("4", 2, 21.0, 4.1)],
        [line("8", 1, 30.0, 4.2)],
        [line("2", 1, 40.0, 3.0, falls), line("2", 2, 40.0, 3.0)],
        [line("dense/4", 1, 10.0, 5.0)],
    ]
    toy = {**CLASSIFICATION, "curve": rest}
    five = {**toy, "model": "5", "accuracy": 84.0}
    translations = summary.comparison("BLEU", found)
    alone = summary.comparison("accuracy", [[{**toy, "experiment": "No PHM"}]])
    large = [[{**run, "parameters": 5_000_000} for run in runs] for runs in found[:2]]
    several = [
        summary.comparison("BLEU", found[:1] + found[2:3]),
        translations, translations, alone,
        summary.comparison("accuracy", [[toy], [five]]),
        summary.comparison("BLEU", large),
    ]  # fmt: skip
    text, picture = summary.summary(several, summary.published())
    same = "PHM n=4 {} 21.00 1.000 1.025"
    assert [" ".join(row).strip() for row in cells(text)[2:]] == [
        "En-Vi BLEU 5,000,000 21.00 " + same.format("100%"),
        "En-Vi BLEU 44,040,192 21.00 " + same.format("25%"),
        "Toy accuracy 721,200 80.00 PHM n=5 100% 84.00 1.050",
    ]
    assert "the 12 converged runs of 8 cells" in text
    assert picture.startswith(b"<?xml") and b"PHM n=8" in picture
    assert summary.summary([alone], {}) == ("", b"")
    monkeypatch.setattr(figures, "draw_relative", lambda panels: panels)
    panels = summary.summary([translations], summary.published())[1]
    dense, phm = panels["En-Vi, 44.0M: BLEU, dense 21.00"][:2]
    assert dense.scores == pytest.approx([2000 / 21, 2200 / 21])
    assert (dense.parameters, dense.published) == (1, None)
    assert (phm.parameters, phm.scores) == (0.25, [100, 100])
    assert phm.published == pytest.approx((0.25, 102.5), abs=0.1)


def test_classification_without_task_and_by_group():
    groups = {"accuracy_by": {"a": 70.0, "b": 90.0}, "rows_by": {"a": 10, "b": 1200}}
    runs = [{**CLASSIFICATION, **groups, "seed": seed} for seed in (1, 2)]
    heading, table, caption, by_group = tables([*RUNS, *runs], "github")[3:]
    assert heading == "Toy" and "3 epochs" in caption
    assert cells(table)[2] == [
        "dense", "721,200", "721K", "2", "82.00 ± 0.00", "80.00 ± 0.00", "74.36"
    ]  # fmt: skip
    assert by_group.startswith("Test accuracy by group (rows):")
    assert cells(by_group)[0] == ["model", "a (10)", "b (1,200)"]
    runs = [{**run, "rows_by_name": "length", "task": "classification"} for run in runs]
    assert tables(runs)[-1].startswith("Test accuracy by length (rows):")
    runs[0]["trained_epochs"] = 2
    caption = tables(runs)[2]
    assert "; at most 3 epochs, stopped early after 2 or more, checkpoint" in caption


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The report's own folder with these results."""
    monkeypatch.setattr(report, "RECIPES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    for name in ("runs", "notes", "figures"):
        (tmp_path / "results" / name).mkdir(parents=True)
    lines = [*RUNS, CLASSIFICATION, {**CLASSIFICATION, "model": "5", "accuracy": 20.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "results" / "runs" / "all.jsonl").write_text(text)
    (tmp_path / "results" / "notes" / "toy.md").write_text("Notes on Toy.\n")
    return tmp_path


def test_the_same_lines_give_the_same_bytes(folder):
    def made():
        report.main()
        files = {file.name: file.read_bytes() for file in folder.rglob("*.*")}
        return {name: files[name] for name in files if not name.endswith("jsonl")}

    (folder / report.FIGURES / "gone.svg").write_text("of results that are gone")
    first = made()
    names = [
        "RESULTS.md",
        "phm.svg",
        "summary.svg",
        "toy.md",
        "toy.svg",
        "xx-yy-small.svg",
    ]
    assert sorted(first) == names
    text = first["RESULTS.md"].decode()
    assert "\n## Toy\n" in text and "\nNotes on Toy.\n" in text
    for link in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (folder / link).read_text().startswith("<?xml")
    assert made() == first


@pytest.mark.parametrize(
    "line,message",
    [
        ("{", "all.jsonl:10: no JSON: "),
        ("[1]", "all.jsonl:10: no result of a run"),
        (json.dumps({**CLASSIFICATION, "task": "x"}), "unknown 'task' or 'mean'"),
        (json.dumps({**RUNS[0], "mean": "x"}), "unknown 'task' or 'mean'"),
        (json.dumps({**RUNS[0], "bleu": math.nan}), "'bleu' is no number"),
        (json.dumps({**RUNS[0], "benchmark": "a"}), "all.jsonl:10: a run of a benchma"),
        (json.dumps({**RUNS[0], "model": 4}), "all.jsonl:10: 'model' is 4, not text"),
        (
            json.dumps({k: v for k, v in RUNS[0].items() if k != "bleu"}),
            "all.jsonl:10: the result has no 'bleu'",
        ),
        *(
            (json.dumps({**RUNS[0], key: value}), f"all.jsonl:10: '{key}' is ")
            for key, value in {
                "seed": [1], "flags": 5, "bleu": None, "updates": "12", "size": 5,
                "curve": [[1, 2]], "task": ["x"], "experiment": None, "languages": 0,
                "published": [1], "training_seconds": None, "chrf": True, "data": "x",
            }.items()
        ),
        (json.dumps({**RUNS[0], "flags": "'"}), "all.jsonl:10: No closing quotation"),
        (json.dumps({**RUNS[0], "published": ["4x", 1]}), "'published' is no size"),
        (
            json.dumps({**CLASSIFICATION, "rows_by": {"1": 2}, "accuracy_by": {}}),
            "'rows_by' has groups",
        ),
    ],
)  # fmt: skip
def test_a_faulty_line_is_named_and_nothing_written(folder, line, message):
    file = folder / "results" / "runs" / "all.jsonl"
    with file.open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(DataError, match=re.escape(message)):
        read(file)
    with pytest.raises(SystemExit, match=re.escape(message)):
        report.main()
    assert not (folder / "RESULTS.md").exists()


def test_scores_that_are_not_finite_are_left_out_of_pictures():
    """The perplexity of words can be infinite."""
    rest = [[i, 3.0, 3.0] for i in range(1, 11)]
    run = {**RUNS[0], "curve": [*rest, [11, math.inf, math.inf]], "bleu": math.inf}
    runs = [run, {**run, "seed": 9, "bleu_intl": math.nan}]
    assert "inf" in tables(runs)[1]
    (table,) = collect(runs)
    assert picture(table).startswith(b"<?xml")
    (table,) = collect(runs[1:])
    assert picture(table).startswith(b"<?xml")


def test_line_separators_of_unicode_end_no_line(folder):
    file = folder / "results" / "runs" / "all.jsonl"
    name = "a\u2028b\x85c"
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({**RUNS[0], "experiment": name}, ensure_ascii=False))
    assert read(file)[-1]["experiment"] == name


def test_other_bytes_are_named(folder):
    file = folder / "results" / "runs" / "all.jsonl"
    file.write_bytes(b'{"experiment": "Caf\xe9"}\n')
    with pytest.raises(SystemExit, match="all.jsonl: not UTF-8, byte 19"):
        report.main()


def test_a_file_without_results_is_one_line(tmp_path, monkeypatch):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    monkeypatch.setattr(sys, "argv", ["report", str(empty)])
    with pytest.raises(SystemExit, match=f"report: no results in {empty}"):
        report.main()


def test_prints_the_tables_of_files(folder, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["report", str(folder / "results" / "runs" / "all.jsonl")]
    )
    file = folder / "results" / "runs" / "all.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # of an editor
    report.main()
    output = capsys.readouterr().out
    assert "PHM n=2, wide" in output and "721,200" in output
    assert not (folder / "RESULTS.md").exists()


def test_one_name_for_each_experiment():
    """Files in the repository: lines, notes and figures agree."""
    results = ROOT / "recipes" / "results"
    names = set()
    for file in results.glob("runs/*.jsonl"):
        found = read(file)
        assert {slug(result["experiment"]) for result in found} == {file.stem}
        names |= {table.name for table in collect(found)}
        assert (results / "notes" / f"{file.stem}.md").is_file()
    for file in results.glob("runs/quality/*.jsonl"):
        benchmarks = {json.loads(line)["benchmark"] for line in file.open()}
        for number in range(len(benchmarks)):
            end = f"-{number + 1}" if number else ""
            pictures = ("loss-parameters", "loss-time")
            names |= {f"quality-{file.stem}-{one}{end}" for one in pictures}
    assert {file.stem for file in results.glob("figures/*.svg")} == {
        "phm", "summary", *names
    }  # fmt: skip
