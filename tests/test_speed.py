"""The benchmark of speed: a tiny whole, its table beside the paper's, bad options."""

import json
import sys

import pytest
from conftest import table

from data_prep import DataError, declaration
from recipes.driver import options as recipe_options
from recipes.driver import speed, throughput
from recipes.report import __main__ as results_report
from recipes.report import speed as speed_report

pytestmark = pytest.mark.one_version


def line(model, parameters, training, search, published=()):
    def ratios(over):
        low, high = over * 0.9, over / 0.9
        return {"throughput": over, "throughput_low": low, "throughput_high": high}

    return {
        "experiment": "De-En", "model": model, "size": "paper", "benchmark": "abc",
        "arch": "phm_transformer", "languages": ["de", "en"], "data": {"train": 10},
        "max_tokens": 2048, "beam": 4, "rounds": 5, "hardware": "a GPU",
        "layers": 4, "precision": "bf16",
        "parameters": parameters, "published": list(published),
        "training": {**ratios(1 / training), "seconds_per_update": training},
        "search": {**ratios(1 / search), "seconds": 8 * search, "sentences": 256,
                   "batch": 32},
    }  # fmt: skip


@pytest.mark.parametrize("max_tokens", [100, 1000])
def test_all_models_are_measured(
    texts, tmp_path, in_process, monkeypatch, capsys, max_tokens
):
    """Dense and R = n take steps on the same batches, and translate as many tokens."""
    arguments = [
        "iwslt14-de-en", "--raw", texts, "--src", "en", "--tgt", "de", "--cpu",
        "--size", "tiny", "--lines", 40, "--max-tokens", max_tokens, "--beam", 2,
        "--models", "4r4", "dense", "--rounds", 2, "--sentences", 3, "--out", tmp_path,
        "--name", "en-de",
    ]  # fmt: skip
    made = []
    in_turn = throughput._in_turn

    def keep(runs, rounds, make):
        def made_of(run):
            made.append(make(run))
            return made[-1]

        return in_turn(runs, rounds, made_of)

    monkeypatch.setattr(throughput, "_in_turn", keep)
    monkeypatch.setattr(sys, "argv", ["speed", *map(str, arguments)])
    speed.main()
    assert list(table(capsys.readouterr().out)) == ["dense", "PHM n=4, R=4"]
    lines = speed_report.read([tmp_path / "speed-en-de"])
    assert [line["model"] for line in lines] == ["4r4", "dense"]
    rank, dense = lines
    assert dense["published"] == []  # which are of the other direction
    assert rank["parameters"] < 0.3 * dense["parameters"]
    assert dense["training"]["throughput"] == dense["search"]["throughput"] == 1
    assert rank["search"]["sentences"] == dense["search"]["sentences"] == 3
    assert all(found["search"]["seconds"] > 0 for found in lines)
    amounts = [count for _, count in made[:4]]
    assert amounts[0] == amounts[1] and amounts[2:] == [3, 3]
    if max_tokens == 1000:  # all in one batch, which is taken three times
        text = (texts / "train.en").read_text().splitlines()[:40]
        assert amounts[0] == 3 * sum(len(line.split()) + 1 for line in text)
    again = [{**line, "training": dense["training"]} for line in lines]
    monkeypatch.setattr(speed, "results", lambda experiment, data: again)
    speed.main()
    assert speed_report.read([tmp_path / "speed-en-de"]) == again


def test_results_have_a_section_of_it(tmp_path, monkeypatch):
    lines = [
        line("8r8", 5_512_704, 0.5, 0.8),
        line("4", 11_055_168, 1.1, 0.9, [7.92, 299]),
        line("dense", 44_138_496, 1.0, 1.0, [7.61, 336]),
    ]
    folder = tmp_path / "results" / "runs" / "speed"
    folder.mkdir(parents=True)
    (folder / "de-en.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    monkeypatch.setattr(results_report, "RECIPES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    results_report.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert "\n## Speed: De-En, size paper\n" in text and "256 sentences" in text
    found = table(text)
    assert list(found) == ["dense", "PHM n=4", "PHM n=8, R=8"]
    assert found["PHM n=4"] == {
        "model": "PHM n=4", "parameters": "11,055,168", "training, s": "110",
        "training / dense": "1.10 (0.99-1.22)", "training, paper": "1.04",
        "search, s": "7.2", "search / dense": "0.90 (0.81-1.00)",
        "search, paper": "0.89",
    }  # fmt: skip
    assert found["PHM n=8, R=8"]["training, paper"] == ""
    alone = speed_report.tables([{**x, "published": []} for x in lines])
    assert "training, paper" not in alone
    for gone, message in (("seconds", "'search' has no 'seconds'"), (None, "'search'")):
        search = {k: v for k, v in lines[1].pop("search").items() if k != gone}
        lines[1].update({"search": search} if gone else {})
        text = "".join(json.dumps(x) + "\n" for x in lines)
        (folder / "de-en.jsonl").write_text(text)
        with pytest.raises(SystemExit, match=f"de-en.jsonl:2: .*{message}"):
            results_report.main()


def test_the_papers_times_are_declared(tmp_path):
    assert declaration.load("iwslt14-de-en").paper.speed["4"] == (7.92, 299)
    file = tmp_path / "own.toml"
    text = 'title = "a"\nkind = "parallel"\nlanguages = ["a", "b"]\n[paper.speed]\n'
    file.write_text(text + "4 = [7.92]\n")
    with pytest.raises(DataError, match="own.toml: speed '4' must be seconds of"):
        declaration.load(str(file))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--models", "4"], "--models needs dense, which the others are compared with"),
        (["--gpus", "2"], "--gpus: the benchmark measures one"),
        (["--seeds", "1"], "unrecognized arguments: --seeds"),
        (["--raw", "."], "your own files need --src and --tgt"),
    ],
)
def test_bad_options_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        recipe_options.parse_speed(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]
