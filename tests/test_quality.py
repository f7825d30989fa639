"""The quality benchmark: choices, tables and figures of made-up runs, a tiny whole."""

import json
import math
import sys
from dataclasses import replace

import pytest
from conftest import table

from data_prep import DataError
from recipes.driver import options as recipe_options
from recipes.driver import quality, translation
from recipes.driver import run as driver_run
from recipes.driver.lock import locked
from recipes.driver.models import Model
from recipes.driver.quality import best_rate, updates_of_equal_time
from recipes.report import __main__ as results_report
from recipes.report import figures
from recipes.report.quality import pictures, render, report, tables
from recipes.report.quality_runs import Runs, at_equal_updates, read

pytestmark = pytest.mark.one_version

SPEED = {"dense": 1.0, "dense/4": 2.0, "4": 0.96, "4r4": 1.5, "8r8-wide": 1.2}
LOSS = {"dense": 4.4, "dense/4": 4.7, "4": 4.5, "4r4": 4.52, "8r8-wide": 4.48}


def line(model, seed, part_of, lr=0.004, **more):
    loss = LOSS[model] + 0.01 * seed + 10 * abs(lr - 0.004)
    updates = round(1200 * SPEED[model]) if part_of == ["equal time"] else 1200
    curve = [[updates * i // 12, 9.0, loss + 0.2 * (12 - i)] for i in range(1, 13)]
    return {
        "experiment": "Xx", "model": model, "seed": seed, "size": "demo", "lr": lr,
        "extra": "", "updates": updates, "diverged": False,
        "converged": (model, seed) != ("4", 2),
        "part_of": part_of, "dense_updates": 1200, "benchmark": "abc",
        "validation_loss": loss, "bleu": 30 - 10 * (loss - 4.4), "curve": curve,
        "parameters": round(900_000 * Model.parse(model).share),
        "total_parameters": round(900_000 * Model.parse(model).share) + 500_000,
        "data": {"train": 10, "valid": 2, "test": 3}, "languages": ["xx", "yy"],
        "throughput": SPEED[model], "tokens_per_second": 5000 * SPEED[model],
        "seconds_per_update": 0.3 / SPEED[model], "hardware": "CPU, 1 threads", **more,
    }  # fmt: skip


def benchmark():
    lines = []
    for model in SPEED:
        lines += [line(model, 1, ["sweep"], lr) for lr in (0.002, 0.008)]
        lines.append(line(model, 1, ["sweep", "equal updates"]))
        lines.append(line(model, 2, ["equal updates"]))
        lines += [line(model, seed, ["equal time"]) for seed in (1, 2)]
    return lines


def rows(text, view):
    """Cells of a view's table, by model and header."""
    return table(text[text.index(f"## {view}") :].split("\n\n")[1])


def test_tables():
    text = tables(Runs(benchmark()))
    found = rows(text, "Equal updates")
    assert list(found) == [
        "dense", "dense, widths / 4", "PHM n=4", "PHM n=4, R=4", "PHM n=8, R=8, wide"
    ]  # fmt: skip
    assert found["PHM n=4"] == {
        "model": "PHM n=4", "parameters": "225,000",
        "with embeddings": "725,000", "learning rate": "0.004",
        "validation loss": "4.515 ± 0.007 †", "to dense": "+0.100",
        "BLEU": "28.85 ± 0.07", "BLEU to dense": "-1.00", "throughput": "0.96",
    }  # fmt: skip
    assert found["dense"]["to dense"] == "" and found["dense"]["throughput"] == "1.00"
    assert "p" not in found["dense"]
    assert "†" not in found["PHM n=4, R=4"]["validation loss"]
    found = rows(text, "Equal parameters")
    assert list(found) == [
        "dense, widths / 4", "PHM n=4", "PHM n=4, R=4", "PHM n=8, R=8, wide"
    ]  # fmt: skip
    assert found["PHM n=4"]["to dense"] == "-0.200"
    assert found["PHM n=4"]["BLEU to dense"] == "+2.00"
    found = rows(text, "Equal time")
    assert found["PHM n=4, R=4"]["updates"] == "1,800"
    assert "1,200 updates, 2 seeds. Data: xx to yy, sentence pairs train 10" in text
    assert "Dense: 5,000 tokens a second (CPU, 1 threads)." in text


def test_significance_of_bleu():
    """Of each run against the dense one of its seed, in two of the three tables."""
    more = [
        {**run, "bleu_p": 0.5 if run["seed"] == 1 else 0.061}
        if run["model"] == "4"
        else run
        for run in benchmark()
    ]
    text = tables(Runs(more))
    for view in ("Equal updates", "Equal time"):
        found = rows(text, view)
        assert found["PHM n=4"]["p"] == "0.061 to 0.5" and found["dense"]["p"] == ""
    assert "p" not in rows(text, "Equal parameters")["PHM n=4"]
    former = [{**run, "twin_lr": 0.002 + 0.002 * (run["seed"] == 1)} for run in more]
    found = rows(tables(Runs(former)), "Equal updates")
    assert found["PHM n=4"]["p"] == "0.5"  # the other was of another dense run


def test_models_with_further_flags_have_rows_of_their_own():
    """Figures and the summary show each model once, with the fewest flags."""
    none = {"extra": "--phm-share-rule none", "parameters": 230_000}
    more = [{**run, **none} for run in benchmark() if run["model"] == "4"]
    found = rows(tables(Runs([*more, *benchmark()])), "Equal updates")
    assert list(found)[2:4] == ["PHM n=4", "PHM n=4 `--phm-share-rule none`"]
    assert found["PHM n=4"]["parameters"] == "225,000"
    assert found["PHM n=4 `--phm-share-rule none`"]["parameters"] == "230,000"
    assert found["PHM n=4 `--phm-share-rule none`"]["learning rate"] == "0.004"
    pictures = render([*more, *benchmark()])[1]
    assert pictures == render(benchmark())[1]
    (models,) = at_equal_updates([*more, *benchmark()])
    sizes = [run["parameters"] for runs in models for run in runs]
    assert 225_000 in sizes and 230_000 not in sizes


def test_a_later_sweep_finds_a_better_rate():
    """What trained at the former rate does not count any more."""
    former = line("4r4", 2, ["equal updates"], 0.002)
    lines = [
        {**run, "part_of": ["sweep", "equal updates"]}
        if (run["model"], run["lr"]) == ("4r4", 0.002)
        else run
        for run in benchmark()
    ]
    assert tables(Runs([*lines, former])) == tables(Runs(benchmark()))


def test_equal_time_on_two_machines():
    """Throughput differs, and so do lengths; each seed counts once, the last run."""
    longer = [
        {**run, "updates": run["updates"] + 60, "validation_loss": 4.0}
        for run in benchmark()
        if run["part_of"] == ["equal time"] and run["model"] == "4r4"
        if run["seed"] == 2
    ]
    found = rows(tables(Runs([*benchmark(), *longer])), "Equal time")["PHM n=4, R=4"]
    assert found["updates"] == "1,800 to 1,860" and "runs" not in found
    assert found["validation loss"].startswith("4.265")
    for run in longer:
        run["curve"] = [[at + 7, x, loss] for at, x, loss in run["curve"]]
    assert render([*benchmark(), *longer])[1]["loss-time.svg"].startswith(b"<?xml")


def test_lines_without_sweep_and_throughput():
    gone = ("throughput", "seconds_per_update", "tokens_per_second")
    lines = [
        {key: value for key, value in run.items() if key not in gone}
        for run in benchmark()
        if run["part_of"] == ["equal updates"]
    ]
    text, files = render(lines)
    found = rows(text, "Equal updates")["PHM n=4"]
    assert (found["learning rate"], found["throughput"]) == ("0.004", "")
    assert list(files) == ["loss-parameters.svg"]


def test_curves_are_drawn_by_seconds(monkeypatch):
    monkeypatch.setattr(figures, "loss_by_time", lambda drawn, title: drawn)
    for drawn in pictures(Runs(benchmark()))["loss-time"]:
        for curve in drawn.curves:  # all as long as dense: 1,200 updates of 0.3 s
            assert curve[-1][0] == pytest.approx(360)


def test_only_the_views_that_are_wanted():
    text = tables(Runs(benchmark()), views=["time"])
    assert "## Equal time" in text and text.count("## ") == 1
    shorter = [run for run in benchmark() if run["part_of"] != ["equal time"]]
    lines = [{**run, "part_of": ["equal updates"]} for run in shorter]
    text = tables(Runs(lines), views=["time"])
    assert text.endswith("## Equal time\n\nNo dense model has runs of equal time.")


def test_edges_of_the_sweep_and_diverged_runs_are_marked():
    lines = [run for run in benchmark() if run["lr"] < 0.008 or run["model"] != "4"]
    gone = ("validation_loss", "parameters", "bleu", "curve")
    for run in lines:
        if run["model"] == "4r4" and run["seed"] == 2:
            run["diverged"] = True
            for key in gone:
                del run[key]
    found = rows(tables(Runs(lines)), "Equal updates")
    assert found["PHM n=4"]["learning rate"] == "0.004 *"
    assert found["PHM n=4, R=4"]["learning rate"] == "0.004"
    assert found["PHM n=4, R=4"]["validation loss"] == "4.530 (1 diverged)"
    assert (found["PHM n=4, R=4"]["runs"], found["dense"]["runs"]) == ("1", "2")
    one = [run for run in lines if run["lr"] == 0.004]
    assert rows(tables(Runs(one)), "Equal updates")["dense"]["learning rate"] == "0.004"


def test_lines_of_two_files_are_united():
    """A benchmark in two calls or on two machines has the dense runs in both."""
    lines = benchmark()
    first = [run for run in lines if run["model"] != "4r4"]
    second = [run for run in lines if run["model"] in ("dense", "4r4")]
    assert render([*first, *second]) == render(lines)


def test_equal_time_is_of_the_last_measurement():
    """Of three the last one was the first one again, whose runs were done before."""
    other = [
        {**run, "updates": 9, "throughput": 0.5, "validation_loss": 4.0}
        for run in benchmark()
        if run["part_of"] == ["equal time"] and run["model"] == "4r4"
    ]
    lines = [*benchmark(), *other]
    assert tables(Runs(lines)) == tables(Runs(benchmark()))
    for run in lines:
        if run["model"] == "4r4":
            run["throughput"] = run["throughput"] if run["updates"] == 1800 else 0.5
    assert rows(tables(Runs(lines)), "Equal time")["PHM n=4, R=4"]["updates"] == "9"


def test_a_title_says_what_the_size_has_otherwise():
    def title(flags):
        return Runs([line("dense", 1, ["sweep"], flags=flags)]).title

    assert title("--arch phm_transformer_tiny --lr 1") == "Xx, size demo"
    deep = "--arch phm_transformer --encoder-layers 4 --decoder-layers 2"
    assert title(deep) == "Xx, size demo, phm_transformer, 4 + 2 layers"


def test_report_from_lines_only(tmp_path, monkeypatch, capsys):
    lines = benchmark()
    other = [{**run, "benchmark": "def", "size": "small"} for run in lines]
    only_updates = [run for run in other if run["part_of"] != ["equal time"]]
    text = "".join(json.dumps(run) + "\n" for run in lines + only_updates)
    (tmp_path / "results.jsonl").write_text(text)

    def made():
        monkeypatch.setattr(sys, "argv", ["quality", "--report", str(tmp_path)])
        quality.main()
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    first = made()
    assert sorted(first) == [
        "loss-parameters-2.svg", "loss-parameters.svg", "loss-time-2.svg",
        "loss-time.svg", "results.jsonl", "tables.md",
    ]  # fmt: skip
    tables_text = first["tables.md"].decode()
    assert tables_text.strip() in capsys.readouterr().out
    assert "Quality: Xx, size demo" in tables_text and "size small" in tables_text
    assert tables_text.count("## Equal time\n\n|") == 1
    assert "training time: Xx, size small](loss-time-2.svg)" in tables_text
    assert all(first[name].startswith(b"<?xml") for name in first if "svg" in name)
    (tmp_path / "loss-time-3.svg").touch()  # of a benchmark that is gone
    assert made() == first


def test_results_have_a_section_of_it(tmp_path, monkeypatch):
    (tmp_path / "results" / "runs" / "quality").mkdir(parents=True)
    text = "".join(json.dumps(run) + "\n" for run in benchmark())
    (tmp_path / "results" / "runs" / "quality" / "xx.jsonl").write_text(text)
    monkeypatch.setattr(results_report, "RECIPES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    results_report.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert "\n## Quality: Xx, size demo\n" in text and "\n### Equal time\n" in text
    link = "results/figures/quality-xx-loss-parameters.svg"
    assert f"]({link})" in text and (tmp_path / link).is_file()


def test_a_run_that_diverged_may_have_no_loss(tmp_path):
    gone = line("4", 1, ["sweep"], diverged=True, validation_loss=math.nan)
    (tmp_path / "results.jsonl").write_text(json.dumps(gone) + "\n")
    assert len(read([tmp_path])) == 1


@pytest.mark.parametrize(
    "spoiled,message",
    [
        ({"bleu": None}, "results.jsonl:2: the result has no 'bleu'"),
        ({"model": "x"}, "results.jsonl:2: 'model' x: dense, quaternion or"),
        ({"curve": []}, "results.jsonl:2: 'curve' is no list"),
        ({"throughput": 0}, "results.jsonl:2: 'throughput' is not above 0"),
        ({"extra": "'"}, "results.jsonl:2: No closing quotation"),
        ({"languages": [1, 2]}, "results.jsonl:2: 'languages' are no texts"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, spoiled, message):
    good = line("dense", 1, ["equal updates"])
    bad = {k: v for k, v in {**good, **spoiled}.items() if v is not None}
    file = tmp_path / "results.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(DataError) as error:
        read([file])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "write,message",
    [
        (lambda folder: None, "results.jsonl: No such file or directory"),
        (
            lambda folder: (folder / "results.jsonl").write_text(""),
            "quality: no results of the benchmark",
        ),
        (
            lambda folder: (folder / "results.jsonl").write_text(
                json.dumps(line("4", 1, ["equal updates"]))
            ),
            "quality: Xx, size demo: no run of the dense model",
        ),
        (
            lambda folder: (folder / "results.jsonl").write_text(
                json.dumps({**line("dense", 1, ["sweep"]), "diverged": True})
            ),
            "quality: Xx, size demo: no run of the dense model that did not diverge",
        ),
    ],
)
def test_no_report_is_one_line(tmp_path, write, message, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quality", "--report", str(tmp_path)])
    with pytest.raises(SystemExit) as error:
        quality.main()
    assert message in error.value.code and "\n" not in error.value.code


def test_best_rate():
    assert best_rate({0.002: 4.6, 0.004: 4.4, 0.008: 4.5}) == 0.004
    assert best_rate({0.004: 4.4, 0.002: 4.4}) == 0.002
    assert best_rate({0.002: None, 0.004: None, 0.008: 9.0}) == 0.008
    assert best_rate({0.002: None}) is None


def test_a_sweep_goes_on_beyond_its_edge(benchmark_run, tmp_path, monkeypatch):
    """The dense model is best at the lower edge, PHM at the upper one; not in time."""
    loss = {
        "dense": {0.0005: 4.1, 0.001: 4.0, 0.002: 4.2, 0.004: 4.3},
        "4r4": {0.002: 4.2, 0.004: 4.1, 0.008: 4.0, 0.016: 3.9},
    }

    def go(trial):
        trial.folder.mkdir(parents=True)
        lr = trial.experiment.training.lr
        known = {**trial.described([]), "diverged": False, "curve": [[1, 1, 1]]}
        found = {"validation_loss": loss[str(trial.model)][lr], "bleu": 1, "data": {}}
        sizes = {"parameters": 1, "total_parameters": 2}
        quality.write_json(trial.result, {**known, **found, **sizes})

    monkeypatch.setattr(quality.Trial, "go", go)
    monkeypatch.setattr(quality.Benchmark, "measure", lambda self: None)
    arguments = ["--lrs", 2e-3, 4e-3, "--extend", 2, "--views", "updates"]
    monkeypatch.setattr(quality, "report", lambda *_: "")
    benchmark_run(*arguments)
    runs = Runs(read([tmp_path / "quality-en-de"]))
    dense, fast = runs.rows
    assert runs.rates(dense) == [0.0005, 0.001, 0.002, 0.004]
    assert runs.rates(fast) == [0.002, 0.004, 0.008, 0.016]
    (best,) = {run["lr"] for run in runs.of(dense, "equal updates")}
    (edge,) = {run["lr"] for run in runs.of(fast, "equal updates")}
    assert (best, edge) == (0.001, 0.016)
    benchmark_run("--lrs", 2e-3, 4e-3, "--views", "updates", "--seeds", 1, 2, 3)
    runs = Runs(read([tmp_path / "quality-en-de"]))  # at the rate that was found
    assert [run["seed"] for run in runs.of(fast, "equal updates")] == [1, 2, 3]
    assert runs.rates(fast) == [0.002, 0.004, 0.008, 0.016]


def test_updates_of_equal_time():
    assert [updates_of_equal_time(1000, x) for x in (1, 1.02, 0.975, 0.9, 1.5)] == [
        1000, 1000, 1000, 900, 1500
    ]  # fmt: skip
    assert updates_of_equal_time(3, 0.01) == 1


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--models", "4"], "--models needs dense, which the others are compared with"),
        (["--lrs", "0.1", "0"], "--lrs 0: a learning rate is positive"),
        (["--views", "speed"], "invalid choice: 'speed'"),
        (["--nodes", "2", "--master", "a"], "--nodes: the benchmark runs on one"),
        (["--extend", "-1"], "--extend must be at least 0"),
        (["--gpus", "2"], "--gpus: throughput is measured on one; --views updates"),
        (["--report", "a", "--out", "b"], "--out has no effect: --report and --views"),
        (["cldr", "--report", "a"], "cldr has no effect"),
        (["--report", "a", "--", "--clip-norm", "0"], "--clip-norm has no effect"),
    ],
)
def test_bad_options_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        recipe_options.parse_quality(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_defaults():
    options = recipe_options.parse_quality([])
    assert options.source.data_set == "cldr" and options.search.mean == "none"
    assert options.source.languages == ("en", "de")
    assert (options.name, options.folder.name) == ("cldr", "quality-cldr")
    assert options.lrs == (0.002, 0.004, 0.008) and options.seeds == (1, 2, 3)
    assert " ".join(map(str, options.models)) == (
        "dense quaternion 2 4 8 4r4 8r8 4-wide 8r8-wide dense/4"
    )
    training = options.training.of_length(100, 10)
    assert (training.updates, training.save_interval) == (100, 10)
    assert training.warmup_updates == 33 and options.training.updates != 100
    flags = translation.training_flags(replace(options, training=training))
    assert flags[flags.index("--lr-period-updates") + 1] == str(100 - 33)
    asked = recipe_options.parse_quality(["--warmup-updates", "600"]).training
    assert asked.of_length(9000, 10).warmup_updates == 600
    assert asked.of_length(900, 10).warmup_updates == 300
    wide = recipe_options.parse_quality(["--models", "dense", "4", "--wide"])
    assert list(map(str, wide.models)) == ["dense", "4-wide"]


@pytest.fixture
def benchmark_run(texts, tmp_path, in_process, monkeypatch):
    """Run the benchmark on a few words; a PHM step is half as long again as dense."""
    measured = quality.measure

    def measure(runs, rounds):
        found = measured(runs, rounds)
        assert [speed["throughput"] > 0 for speed in found.values()] == [True, True]
        for model, speed in found.items():
            speed["throughput"] = 1.0 if model.family == "dense" else 1.5
        return found

    monkeypatch.setattr(quality, "measure", measure)

    def call(*more):
        arguments = [
            "--raw", texts, "--src", "en", "--tgt", "de", "--size", "tiny", "--cpu",
            "--updates", 4, "--lines", 40, "--max-tokens", 100, "--beam", 2,
            "--models", "dense", "4r4", "--lrs", 1e-3, 1e-2, "--seeds", 1, 2,
            "--rounds", 2, "--validations", 2, "--out", tmp_path, *more,
        ]  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["quality", *map(str, arguments)])
            quality.main()

    return call


def test_interrupted_benchmark_goes_on(benchmark_run, tmp_path, monkeypatch, capsys):
    """Trainings: 4 of the sweep, one of which diverges, 2 of seeds, 2 of equal time."""
    trained = []
    train = driver_run.train

    def counts(title, command, folder, **options):
        trained.append(title)
        if len(trained) == 3:
            raise KeyboardInterrupt
        if title == "dense, seed 1, lr 0.01, 4 updates":
            assert folder.is_dir()
            raise quality.RunError("fairseq-train failed: FloatingPointError:")
        train(title, command, folder, **options)

    monkeypatch.setattr(driver_run, "train", counts)
    with pytest.raises(SystemExit) as error:
        benchmark_run()
    assert error.value.code == 130
    folder = tmp_path / "quality-en-de"
    assert len((folder / "results.jsonl").read_text().splitlines()) == 2
    benchmark_run()
    titles = [trained[2], *trained[:2], *trained[3:]]
    assert titles[0] == trained[3]  # the one that was interrupted, and no other again
    assert len(set(trained)) == 8 and len(trained) == 9
    assert not list(folder.glob("*/*.pt"))
    lines = read([folder])
    parts = [
        (run["model"], run["seed"], run["updates"], *sorted(run["part_of"]))
        for run in lines
        if not run["diverged"] and "equal updates" in run["part_of"]
    ]
    assert ("dense", 1, 4, "equal time", "equal updates", "sweep") in parts
    assert ("dense", 2, 4, "equal time", "equal updates") in parts
    assert ("4r4", 2, 4, "equal updates") in parts
    longer = [run for run in lines if run["part_of"] == ["equal time"]]
    assert {run["model"] for run in longer} == {"4r4"} and len(longer) == 2
    assert all(run["updates"] == 6 for run in longer)
    assert all("--lr-period-updates" not in run["flags"] for run in longer)
    assert [run["curve"][-1][0] for run in longer] == [6, 6]
    tested = [run for run in lines if "bleu_p" in run]
    assert all(0 < run["bleu_p"] <= 1 for run in tested)
    assert [(run["model"], run["seed"]) for run in tested] == [
        ("4r4", 1),
        ("4r4", 2),
    ] * 2
    (diverged,) = [run for run in lines if run["diverged"]]
    assert diverged["model"] == "dense" and diverged["lr"] == 1e-2
    for run in lines:
        assert run["throughput"] in (1.0, 1.5) and run["tokens_per_second"] > 0
        assert not run["converged"] or run["curve"]
    capsys.readouterr()
    benchmark_run()
    output = capsys.readouterr().out
    assert len(trained) == 9 and "4 runs of sweep, 4 of them done before" in output
    assert (folder / "tables.md").read_text().strip() in output
    assert (folder / "loss-time.svg").read_text().startswith("<?xml")
    assert read([folder]) == lines
    benchmark_run("--seeds", 1, "--views", "updates")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(driver_run, "train", lambda *_, **__: sys.exit("killed"))
        benchmark_run("--models", "dense", "2")
    assert read([folder]) == lines  # what others have done stays
    report(lines, tmp_path)
    drawn = (tmp_path / "loss-time.svg").read_bytes()
    assert drawn == (folder / "loss-time.svg").read_bytes()
    next(folder.glob("n4r4-seed2-*/result-*.json")).unlink()
    benchmark_run()  # its checkpoints are gone, so it trains again
    assert len(trained) == 10 and len(read([folder])) == len(lines)
    benchmark_run(
        "--models", "dense", "--views", "updates", "--seeds", "1", "--lrs", "1e-3"
    )
    (speeds,) = folder.glob("throughput-*.json")
    before = json.loads(speeds.read_text())
    benchmark_run("--rounds", 3)
    again = json.loads(speeds.read_text())
    assert {speed["rounds"] for speed in before.values()} == {2}
    assert {speed["rounds"] for speed in again.values()} == {3}
    assert {run["model"] for run in read([folder])} == {"dense", "4r4"}
    assert len({run["benchmark"] for run in read([folder])}) == 2  # by their sweeps
    assert (folder / "tables.md").read_text().count("# Quality: ") == 2
    with (folder / "results.jsonl").open("a") as file:
        file.write("{")
    monkeypatch.setattr(quality.Benchmark, "sweep", lambda _: pytest.fail("trains"))
    with pytest.raises(SystemExit, match="results.jsonl:[0-9]+: no JSON"):
        benchmark_run()


def test_equal_time_alone_trains_no_seeds_at_equal_updates(benchmark_run, tmp_path):
    benchmark_run("--views", "time", "--lrs", "1e-3")
    lines = read([tmp_path / "quality-en-de"])
    assert sorted((run["model"], run["seed"], run["updates"]) for run in lines) == [
        ("4r4", 1, 4), ("4r4", 1, 6), ("4r4", 2, 6), ("dense", 1, 4), ("dense", 2, 4)
    ]  # fmt: skip
    text, _ = render(lines)
    assert rows(text, "Equal updates")["PHM n=4, R=4"]["runs"] == "1"
    assert rows(text, "Equal time")["PHM n=4, R=4"]["updates"] == "6"
    (folder,) = (tmp_path / "quality-en-de").glob("dense-seed1-*")
    checkpoint = folder / "checkpoint_last.pt"
    checkpoint.touch()  # of a training that goes on
    with locked(folder):
        benchmark_run("--views", "time", "--lrs", "1e-3")
    assert checkpoint.exists()
    benchmark_run("--views", "time", "--lrs", "1e-3")
    assert not checkpoint.exists()


def test_flags_of_phm_layers_join_the_benchmark(benchmark_run, tmp_path, monkeypatch):
    """The dense model has none of them, and is not trained again."""
    trained = []
    train = driver_run.train

    def counts(title, *arguments, **options):
        trained.append(title)
        train(title, *arguments, **options)

    monkeypatch.setattr(driver_run, "train", counts)
    once = ["--views", "updates", "--seeds", "1", "--lrs", "1e-3"]
    benchmark_run(*once)
    benchmark_run(*once, "--", "--phm-share-rule", "none")
    assert len(trained) == 3 and trained[2].startswith("PHM n=4, R=4")
    lines = read([tmp_path / "quality-en-de"])
    assert [(run["model"], run["extra"]) for run in lines] == [
        ("dense", ""), ("4r4", ""), ("4r4", "--phm-share-rule none")
    ]  # fmt: skip
    assert len({run["benchmark"] for run in lines}) == 1
    benchmark_run(*once, "--beam", "1")  # no checkpoint is left to translate with
    assert len(trained) == 5
    assert len({run["benchmark"] for run in read([tmp_path / "quality-en-de"])}) == 2
