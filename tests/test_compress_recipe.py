"""The recipe for compression: its table, a tiny whole, resumption, bad input."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import table

from fairseq_phm.checkpoint import read_checkpoint
from recipes.driver import compress, compression_rows
from recipes.driver import options as recipe_options
from recipes.driver import run as driver_run
from recipes.driver.compress import compress_options
from recipes.driver.models import Model
from recipes.driver.settings import WAYS
from recipes.driver.stages import RunError
from recipes.driver.training_log import converged
from recipes.report import __main__ as results_report
from recipes.report import compress as compress_report

pytestmark = pytest.mark.one_version


@pytest.fixture
def recipe(texts, tmp_path, in_process, monkeypatch):
    """Run the recipe on a few words; return its lines by model and way."""

    def call(*more):
        arguments = [
            "--raw", texts, "--src", "en", "--tgt", "de", "--size", "tiny", "--cpu",
            "--updates", 6, "--updates-on", 3, "--lines", 40, "--max-tokens", 100,
            "--beam", 2, "--validations", 3, "--out", tmp_path / "out", *more,
        ]  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["compress", *map(str, arguments)])
            compress.main()
        file = tmp_path / "out" / "compress-en-de" / "results.jsonl"
        lines = compress_report.read([file])
        return {(line["model"], line["way"]): line for line in lines}

    return call


def test_interrupted_recipe_goes_on(recipe, tmp_path, monkeypatch, capsys):
    """Trainings: dense, on, distilled and from scratch."""
    trained = []
    train = driver_run.train

    def counts(title, command, folder, **options):
        trained.append((title, options["updates"]))
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(title, command, folder, **options)

    monkeypatch.setattr(driver_run, "train", counts)
    with pytest.raises(SystemExit) as error:
        recipe("--models", "4r4", "--distill")
    assert error.value.code == 130
    folder = tmp_path / "out" / "compress-en-de"
    assert len((folder / "results.jsonl").read_text().splitlines()) == 2
    lines = recipe("--models", "4r4", "--distill")
    assert trained == [
        ("dense", 6),
        ("dense, trained on", 3),
        ("dense, trained on", 3),
        ("PHM n=4, R=4, trained on", 3),
        ("PHM n=4, R=4, distilled", 3),
        ("PHM n=4, R=4, from scratch", 9),
    ]
    control = lines.pop(("dense", "trained on"))
    assert [way for _, way in lines] == list(WAYS)
    dense, compressed, on, distilled, scratch = lines.values()
    budgets = [(line["dense_updates"], line["updates"]) for line in lines.values()]
    assert budgets == [(6, 6), (6, 0), (6, 3), (6, 3), (0, 9)]
    assert 0 < compressed["energy"] == on["energy"] == distilled["energy"] < 1
    assert dense["energy"] is scratch["energy"] is control["energy"] is None
    assert control["parameters"] == dense["parameters"]
    assert (control["dense_updates"], control["updates"]) == (6, 3)
    assert control["validation_loss"] < dense["validation_loss"]
    assert compressed["parameters"] == scratch["parameters"] < dense["parameters"] / 2
    assert compressed["validation_loss"] != scratch["validation_loss"]
    assert on["curve"][-1][0] == 3 and on["lr"] == dense["lr"] / 4
    assert on["curve"] != distilled["curve"]
    assert distilled["validation_loss"] == distilled["curve"][-1][2]
    printed = capsys.readouterr().out
    text = (folder / "tables.md").read_text()
    assert text.strip() in printed
    found = table(text, 2)
    assert list(found) == [
        ("dense", ""),
        ("dense", "trained on"),
        *(("PHM n=4, R=4", way) for way in WAYS[1:]),
    ]
    on = found["PHM n=4, R=4", "trained on"]
    assert (on["updates, dense"], on["then"]) == ("6", "3")
    assert on["to dense"] and on["BLEU to dense"] and on["energy"].endswith("%")

    again = recipe("--models", "4r4", "--distill")
    assert again.pop(("dense", "trained on")) == control
    assert again == lines and len(trained) == 6
    assert capsys.readouterr().out.count(": using") == 7
    recipe("--models", "2", "--rows", "from-scratch")
    assert trained[6:] == [("PHM n=2, from scratch", 9)]
    assert len((folder / "results.jsonl").read_text().splitlines()) == 7
    joined = table((folder / "tables.md").read_text(), 2)
    assert set(joined) == {*found, ("PHM n=2", "from scratch")}


def test_averaged_rows(recipe, tmp_path):
    """What was compressed is one checkpoint: there is no mean of it."""
    rows = ["--rows", "dense", "compressed", "trained-on"]
    once = recipe("--models", "2", *rows)
    wanted = ["--mean", "factors", "--num-checkpoints", 1]
    lines = recipe("--models", "2", *rows, *wanted)
    assert set(lines) == set(once)
    folder = tmp_path / "out" / "compress-en-de"
    assert len(list(folder.glob("*/averaged-factors1.pt"))) == 3
    logs = "".join(file.read_text() for file in folder.glob("*/train.log"))
    assert logs.count("--finetune-from-model") == 4
    dense, _ = sorted(folder.glob("dense-*/averaged-factors1.pt"))
    shutil.copy(dense, tmp_path / "given.pt")
    given = recipe(
        "--models", "2", *rows, *wanted, "--checkpoint", tmp_path / "given.pt"
    )
    assert ("dense", "dense") in given


def test_a_given_checkpoint(recipe, tmp_path, monkeypatch, capsys):
    """Its loss is the one that its training has logged; it is not trained again."""
    lines = recipe("--models", "2", "--rows", "dense")
    dense = lines["dense", "dense"]
    (folder,) = (tmp_path / "out" / "compress-en-de").glob("dense-seed1-*")
    checkpoint = tmp_path / "mine.pt"
    state = read_checkpoint(folder / "checkpoint_best.pt")
    state["cfg"]["task"]["data"] = "of/another/machine"
    torch.save(state, checkpoint)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "mine.json").write_text('{"of": "the user"}')
    monkeypatch.setattr(driver_run, "train", lambda *_, **__: pytest.fail("trained"))
    flags = ["--checkpoint", checkpoint, "--seeds", 1, 2]
    lines = recipe("--models", "2", "quaternion", "--rows", "compressed", *flags)
    assert list(lines) == [
        ("dense", "dense"), ("2", "compressed"), ("quaternion", "compressed")
    ]  # fmt: skip
    given = lines["dense", "dense"]
    for key in ("validation_loss", "bleu", "parameters", "checkpoints"):
        assert given[key] == dense[key]
    assert (given["dense_updates"], given["updates"]) == (6, 0)
    assert lines["quaternion", "compressed"]["energy"] < 0.5
    flags += ["--updates", 9]
    lines = recipe("--models", "2", "--rows", "compressed", *flags)
    assert [line["dense_updates"] for line in lines.values()] == [9, 9, 6]
    capsys.readouterr()

    def refused(message, **changed):
        file = tmp_path / "other.pt"
        torch.save({**read_checkpoint(checkpoint), **changed}, file)
        with pytest.raises(SystemExit, match=message) as error:
            recipe("--models", "2", "--checkpoint", file)
        assert "\n" not in error.value.code

    cfg = read_checkpoint(checkpoint)["cfg"]
    state = read_checkpoint(checkpoint)["model"]
    short = {key: value[:9] for key, value in state.items() if "embed" in key}
    refused(r"other.pt: has vocabularies of \(9, 9\) subwords, the", model=short)
    other = {**cfg["criterion"], "_name": "cross_entropy"}
    refused("trained with cross_entropy and label sm", cfg={**cfg, "criterion": other})
    (tmp_path / "dict.en.txt").write_text("x 1\n")
    other = {**cfg["task"], "data": str(tmp_path)}
    refused("trained with other subwords, .*dict.en.txt", cfg={**cfg, "task": other})
    checkpoint.write_text("none")
    with pytest.raises(SystemExit, match="mine.pt: no checkpoint: "):
        recipe("--models", "2", "--checkpoint", checkpoint)


def test_results_have_a_section_of_it(tmp_path, monkeypatch):
    line = {
        "experiment": "Xx", "model": "4", "seed": 1, "size": "demo",
        "way": "trained on", "dense_updates": 1200, "updates": 300, "lr": 1e-3,
        "energy": 0.31, "converged": False, "validation_loss": 4.6,
        "parameters": 225000, "bleu": 20.0, "data": {"train": 10},
        "languages": ["xx", "yy"], "comparison": "abc",
    }  # fmt: skip
    dense = {
        **line, "model": "dense", "way": "dense", "updates": 1200, "energy": None,
        "validation_loss": 4.4, "bleu": 23.0, "converged": True,
        "lr": None,  # of a given checkpoint, for all seeds
    }  # fmt: skip
    second = {"seed": 2, "validation_loss": 4.8, "bleu": 21.0, "energy": 0.33}
    lines = [dense, line, {**line, **second}]
    folder = tmp_path / "results" / "runs" / "compress"
    folder.mkdir(parents=True)
    (folder / "xx.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    monkeypatch.setattr(results_report, "RECIPES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    results_report.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert "\n## Compression to PHM n=4: Xx, size demo\n" in text
    assert "2 seeds. Data: xx to yy, sentence pairs train 10." in text
    assert table(text, 2)["PHM n=4", "trained on"] == {
        "model": "PHM n=4", "made": "trained on", "parameters": "225,000",
        "energy": "32.0%", "updates, dense": "1,200", "then": "300",
        "validation loss": "4.700 ± 0.141 †", "to dense": "+0.300",
        "BLEU": "20.50 ± 0.71", "BLEU to dense": "-2.50",
    }  # fmt: skip
    trained = compress_report.tables([{**dense, "lr": 1e-3}, *lines[1:]])
    assert table(trained, 2)["PHM n=4", "trained on"]["to dense"] == "+0.200"  # seed 1
    assert compress_report.tables([dense]).startswith("# Compression: Xx, size demo\n")
    del lines[1]["energy"]
    (folder / "xx.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    with pytest.raises(SystemExit, match="xx.jsonl:2: the result has no 'energy'"):
        results_report.main()
    spoiled = json.dumps({**line, "way": "guessed"}) + "\n"
    (folder / "xx.jsonl").write_text(spoiled)
    with pytest.raises(SystemExit, match="xx.jsonl:1: 'way' is none of dense, "):
        results_report.main()


def test_options_of_compression():
    def made(model, *extra):
        return " ".join(compress_options(Model.parse(model), extra))

    assert made("4") == "--n 4"
    assert made("quaternion") == "--n 4 --rule quaternion --freeze-rule"
    extra = ["--phm-share-rule=layer", "--dropout", "0.2", "--phm-ffn-n", "2"]
    assert made("4r4", *extra) == "--n 4 --rule-rank 4 --share-rule=layer --ffn-n 2"
    assert made("2", "--phm-rule-lr", "1", "--phm-fuse-qkv") == "--n 2 --fuse-qkv"
    with pytest.raises(RunError, match="--phm-rank: a dense model cannot be"):
        made("4", "--phm-rank", "2")


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            ["--models", "dense"],
            "--models dense: PHM or quaternion of the dense widths",
        ),
        (["--models", "4-wide"], "--models 4-wide: PHM or quaternion of the dense"),
        (["--checkpoint", "none.pt"], "--checkpoint none.pt: no such file"),
        (["--checkpoint", "a:b.pt"], "--checkpoint a:b.pt: fairseq splits paths at :"),
        (["--lr-on", "0"], "--lr-on 0: a learning rate is positive"),
        (["--rows", "distilled"], "invalid choice: 'distilled'"),
        (["--nodes", "2", "--master", "a"], "--nodes: the benchmark runs on one"),
    ],
)
def test_bad_options_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        recipe_options.parse_compress(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_defaults():
    options = recipe_options.parse_compress([])
    assert options.source.data_set == "cldr" and options.folder.name == "compress-cldr"
    assert " ".join(map(str, options.models)) == "2 4 4r4"
    assert (options.training.updates, options.on.updates) == (2000, 500)
    assert (options.training.lr, options.on.lr) == (4e-3, 1e-3)
    assert options.on.warmup_updates == 150 and options.on.save_interval == 41
    assert options.ways == ("dense", "compressed", "trained on", "from scratch")
    options = recipe_options.parse_compress(["--distill", "--rows", "trained-on"])
    assert options.ways == ("trained on", "distilled")


def test_a_distilled_model_has_converged_when_its_training_loss_rests():
    """Its validation loss is of other targets, and lowest at the start."""
    curve = [[at, 9.0 - at / 100, 7.0 + at / 100] for at in range(100, 500, 100)]
    for way, rests in (("distilled", False), ("trained on", True)):
        row = SimpleNamespace(way=way)
        assert converged(compression_rows.Row.learned(row, curve)) is rests
