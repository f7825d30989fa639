"""Every recipe from its script to its JSON line, on generated text.

The tools of fairseq run in this process, which imports it once; one test runs a script
with all its processes.
"""

import gzip
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from conftest import LINES, ROOT
from fairseq import options as fairseq_options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from data_prep import declaration
from fairseq_phm.models.phm_transformer import PHMTransformerConfig
from recipes.driver import classification, translation
from recipes.driver.data import Data
from recipes.driver.options import parse_classification, parse_translation
from recipes.driver.settings import Source
from recipes.driver.slurm import configuration, sweep_command, sweeps

SCRIPTS = sorted(
    path.name
    for path in (ROOT / "recipes").glob("*.sh")
    if path.stem not in ("quickstart", "quality", "speed", "language_model", "compress")
)


def script(name, python, *arguments):
    """Output of a recipe."""
    done = subprocess.run(
        [ROOT / "recipes" / name, *map(str, arguments)],
        env={**os.environ, "RECIPE_PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(module, arguments, monkeypatch):
    """Run a recipe's module in this process."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()


def results(out):
    return [json.loads(line) for line in (out / "results.jsonl").open()]


def write_tables(name, folder):
    """Rows of a declared table: a word says the label."""
    declared = declaration.load(name)
    for split, count in LINES.items():
        with (folder / f"{split}.tsv").open("w") as file:
            for number in range(count):
                label = declared.labels[number % len(declared.labels)]
                cells = {column: "a b " + label for column in declared.columns}
                cells.update(label=label, attractors=str(number % 3))
                print(*(cells[c] for c in declared.columns), sep="\t", file=file)


@pytest.mark.one_version
@pytest.mark.parametrize("name", SCRIPTS)
def test_tiny_run_of_every_script(
    name, handed, texts, tmp_path, in_process, monkeypatch
):
    flags = ["--size", "tiny", "--out", tmp_path / "out", "--cpu"]
    if name == "translate.sh":
        flags += ["--src", "en", "--tgt", "de", "--bf16"]
    else:
        flags += ["--models", "4"]
    module, *arguments = handed(name, "--raw", texts, *flags)
    module = importlib.import_module(module)
    if module is classification:
        write_tables(arguments[0], tmp_path)
        run(module, [*arguments, "--raw", tmp_path], monkeypatch)
        (model,) = results(tmp_path / "out")
        assert 0 <= model["accuracy"] <= 100 and len(model["curve"]) == 1
    else:
        run(module, [*arguments, "--updates", 3, "--beam", 2], monkeypatch)
        *dense, model = results(tmp_path / "out")
        for twin in dense:
            assert model["parameters"] < twin["parameters"] / 2
            assert 0 <= model["bleu_p"] <= 1 and "bleu_p" not in twin
        assert len(dense) == (name == "translate.sh")
        assert [point[0] for point in model["curve"]] == [1, 2, 3]
        (log,) = (tmp_path / "out").glob("*/n4-*/generate.log")
        assert "--required-batch-size-multiple 1 " in log.read_text()
    assert (model["model"], model["size"]) == ("4", "tiny")
    assert {split: model["data"][split] for split in LINES} == LINES
    assert model["commit"] and model["versions"] and "--arch" in model["flags"]


def test_data_cleaned_in_another_way_are_other_data(texts, tmp_path):
    keys = set()
    for most in (1000, 1000, 100):
        (tmp_path / "mine.toml").write_text(
            'title = "Mine"\nkind = "parallel"\nlanguages = ["en", "vi"]\n'
            f"max_characters = {most}\n"
        )
        source = Source(str(tmp_path / "mine.toml"), raw=texts)
        keys.add(Data(source, tmp_path, "parallel").key)
    assert len(keys) == 2


@pytest.mark.parametrize("size, given, lines", [
    ("small", [], 50), ("tiny", [], 2000), ("small", ["--lines", 0], 0),
    ("tiny", ["--lines", 20], 20),
])  # fmt: skip
def test_lines_of_the_declaration_hold_where_no_others_are_given(
    size, given, lines, texts, tmp_path
):
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "Mine"\nkind = "parallel"\nlanguages = ["en", "vi"]\nlines = 50\n'
    )
    words = [file, "--raw", texts, "--size", size, *given]
    source = parse_translation(list(map(str, words))).source
    assert Data(source, tmp_path, "parallel").set.lines == lines


def test_script_with_all_its_processes(texts, tmp_path):
    """And languages with a dash, in files of the user's own."""
    for split in LINES:
        shutil.copy(texts / f"{split}.en", tmp_path / f"{split}.pt-br")
        shutil.copy(texts / f"{split}.vi", tmp_path / f"{split}.zh_Hans")
    out = script(
        "translate.sh", sys.executable, "--raw", tmp_path, "--src", "pt-br", "--tgt",
        "zh_Hans", "--size", "tiny", "--updates", 2, "--models", 4, "--cpu",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert "Sentence pairs: dropped 0, train 90" in out and "nrefs:1|case:mixed" in out
    (result,) = results(tmp_path / "out")
    assert result["experiment"] == "pt-br-zh_Hans" and result["checkpoints"] == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="has no PYTHONSAFEPATH")
def test_modules_of_the_working_directory_are_not_taken(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "__init__.py").write_text("raise SystemExit('theirs')")
    said = subprocess.check_output(
        [ROOT / "recipes" / "speed.sh", "--help"], cwd=tmp_path, text=True,
        env={**os.environ, "RECIPE_PYTHON": sys.executable},
    )  # fmt: skip
    assert said.startswith("usage: speed.sh")


def test_an_environment_of_ones_own_is_left_alone(tmp_path):
    mine = tmp_path / ".venv" / "mine"
    mine.parent.mkdir()
    mine.write_text("kept")
    making = [ROOT / "recipes" / "driver" / "environment.sh", mine.parent]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(making, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "not made by this script" in done.stderr
    assert mine.read_text() == "kept"


def test_packages_of_pythonpath_count(texts, tmp_path):
    bare = [sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"]
    subprocess.run(bare, check=True)
    paths = os.pathsep.join(path for path in sys.path if "site-packages" in path)
    environment = {"RECIPE_PYTHON": str(tmp_path / "bare" / "bin" / "python")}
    call = [
        ROOT / "recipes" / "translate.sh", "--raw", texts, "--src", "en", "--tgt", "de",
        "--stage", "train", "--out", tmp_path / "out", "--cpu",
    ]  # fmt: skip
    for path, message in [("", "has no fairseq"), (paths, "run --stage prepare first")]:
        done = subprocess.run(
            call, env={**os.environ, **environment, "PYTHONPATH": path},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode and message in done.stderr


@pytest.fixture
def translate(texts, tmp_path, in_process, monkeypatch):
    """Run the recipe for translation on a few words."""

    def call(*arguments):
        settings = [
            "--raw", texts, "--src", "en", "--tgt", "de", "--size", "tiny", "--cpu",
            "--updates", 3, "--beam", 2, "--lines", 40, "--models", 4,
            "--max-tokens", 100, "--out", tmp_path,
        ]  # fmt: skip
        run(translation, [*settings, *arguments], monkeypatch)

    return call


@pytest.mark.one_version
def test_stages_one_by_one(translate, tmp_path, capsys):
    def refused(stage, needs):
        with pytest.raises(SystemExit) as error:
            translate("--stage", stage)
        assert re.fullmatch(
            f"python -m recipes.driver.translation: .*: run --stage {needs} first",
            error.value.code,
        ), error.value.code

    refused("train", "prepare")
    translate("--stage", "prepare")
    refused("average", "train")
    translate("--to", "train")
    refused("score", "generate")
    translate("--from", "average")
    assert capsys.readouterr().out.count("Preparing") == 1
    translate("--mean", "none", "--lenpen", 1)
    assert "train: using" in capsys.readouterr().out
    first, second = results(tmp_path)
    assert (first["mean"], first["checkpoints"]) == ("factors", 3)
    assert (second["mean"], second["checkpoints"]) == ("none", 1)
    assert (first["lenpen"], second["lenpen"]) == (0.6, 1)
    translate("--compare")
    found = {result["model"]: result for result in results(tmp_path)[2:]}
    assert sorted(found) == ["4", "4r4", "dense", "dense/4"]
    assert "bleu_p" in found["4"] and "bleu_p" not in found["dense"]  # compared later
    assert found["4"]["bleu"] == first["bleu"] and "bleu_p" not in first
    assert 0.8 < found["dense/4"]["parameters"] / first["parameters"] < 1.2
    assert "--phm-rule-rank 4" in found["4r4"]["flags"]
    translate("--compare")
    assert len(results(tmp_path)) == 6


def test_missing_hypotheses_end_in_one_line(translate, tmp_path, monkeypatch):
    whole = translation.TranslationRun.follow

    def drops_one(run, command, name):
        return (x for x in whole(run, command, name) if not x.startswith("H-0\t"))

    monkeypatch.setattr(translation.TranslationRun, "follow", drops_one)
    with pytest.raises(SystemExit, match="3 hypotheses for 4 test lines"):
        translate("--mean", "none")
    assert not list(tmp_path.glob("*/*/test-*"))


@pytest.mark.one_version
def test_another_translation_of_the_dense_twin_is_compared_anew(translate, tmp_path):
    translate("--models", "dense", 4)
    (decoding,) = tmp_path.glob("*/dense-*/test-*.json")
    dense = json.loads(decoding.read_text())
    dense["hypotheses"] = ["a b c d e f"] * len(dense["hypotheses"])
    decoding.write_text(json.dumps(dense))
    translate("--models", "dense", 4)
    lines = [line for line in results(tmp_path) if line["model"] == "4"]
    assert len({line["bleu_difference"] for line in lines}) == 2


@pytest.mark.one_version
def test_data_that_were_prepared_anew_are_not_mixed(translate, tmp_path):
    translate("--to", "train")
    (manifest,) = tmp_path.glob("*/data-*/manifest.json")
    known = json.loads(manifest.read_text())
    known["steps"]["encoded"]["sha256"]["train.en"] = "of other code"
    manifest.write_text(json.dumps(known))
    message = r"n4-seed1-\w+: trained on other data, hash \w+ and not \w+: remove it"
    with pytest.raises(SystemExit, match=message):
        translate("--from", "average")


@pytest.mark.one_version
def test_data_are_known_by_what_is_in_them(translate, texts, tmp_path, capsys):
    translate("--stage", "prepare")
    moved = shutil.copytree(texts, tmp_path / "moved")
    translate("--raw", moved, "--stage", "prepare")
    assert "Using " in capsys.readouterr().out
    assert len(list(tmp_path.glob("*/data-*"))) == 1
    file = moved / "train.en"
    file.with_name("train.en.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    own = [word for s in ("train", "valid", "test") for word in (f"--{s}", moved / s)]
    given = parse_translation([*map(str, own), "--src", "en", "--tgt", "de"])
    assert Data(given.source, tmp_path, "parallel").raw["train"] == [
        moved / "train.en.gz", moved / "train.de"
    ]  # fmt: skip


@pytest.mark.one_version
def test_names_of_an_experiment_are_those_of_the_call(translate, tmp_path, capsys):
    translate("--name", "En De")
    translate("--name", "en-de")
    assert "score: using" in capsys.readouterr().out
    assert [run["experiment"] for run in results(tmp_path)] == ["En De", "en-de"]
    (folder,) = tmp_path.glob("*/n4-*")
    for checkpoint in folder.glob("checkpoint*.pt"):
        checkpoint.unlink()
    translate("--name", "en-de", "--beam", 3)
    assert [run["checkpoints"] for run in results(tmp_path)] == [3, 3, 3]


@pytest.mark.one_version
def test_what_is_gone_is_made_again_or_named(translate, tmp_path):
    translate("--to", "average")
    (folder,) = tmp_path.glob("*/n4-*")
    (folder / "train.json").unlink()
    with pytest.raises(SystemExit, match="train.json: run --stage train first"):
        translate("--from", "generate")
    translate()
    assert len(results(tmp_path)) == 1
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()
    message = "trained, but the checkpoints are gone: remove the folder to train again"
    with pytest.raises(SystemExit, match=f"{folder.name}: {message}"):
        translate("--beam", 3)
    translate()  # nothing is to be done


def test_help_has_the_options_of_the_script():
    asked = [ROOT / "recipes" / "quickstart.sh", "--help"]
    text = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    text = " ".join(text.split())
    assert "(default: ['4'])" in text and "(default: ['dense', '4'])" not in text
    assert "of models and training (default: quickstart)" in text


def test_a_path_that_cannot_be_is_one_line():
    asked = [ROOT / "recipes" / "quality.sh", "--raw", "x" * 300, "--src", "en"]
    done = subprocess.run([*asked, "--tgt", "vi"], capture_output=True, text=True)
    assert done.returncode and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.one_version
def test_a_test_set_of_one_line(translate, texts, tmp_path):
    shutil.copytree(texts, tmp_path / "texts")
    for side in ("en", "de"):
        file = tmp_path / "texts" / f"test.{side}"
        file.write_text(file.read_text().split("\n")[0] + "\n")
    translate("--raw", tmp_path / "texts", "--models", "dense", "4", "--mean", "none")
    assert [run.get("bleu_p") for run in results(tmp_path)] == [None, 1.0]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--stage", "train", "--to", "score"], "--stage goes without --from and --to"),
        (["--from", "score", "--to", "train"], "--from score comes after --to train"),
        (["--models", "x"], "--models x: dense, quaternion or a whole number"),
        (["--lenpen", "nan"], "--lenpen nan: a length penalty is a number"),
        (
            ["--updates", "9", "--warmup-updates", "10"],
            "--warmup-updates 10: more than --updates 9",
        ),
        (["--models", "dense/3"], "--models dense/3: 3 does not divide the inner"),
        (["--beam", "0"], "--beam must be at least 1"),
        (["--raw", "nowhere"], "--raw nowhere: no such folder"),
        (["--size", "huge"], "invalid choice: 'huge'"),
        (["--src", "de"], "--src and --tgt are both de"),
        (["--fp16"], "--fp16 and --cpu do not go together"),
        (["--nodes", "2"], "--nodes needs --master HOST:PORT"),
        (
            ["--nodes", "2", "--master", "a", "--node-rank", "1"],
            "node 0 does the other stages",
        ),
        (["--stage", "train", "--node-rank", "1"], "--node-rank 1: --nodes 1 are"),
        (["--master", "a"], "--master is for --nodes"),
        (["--gpus", "2"], "--gpus and --cpu do not go together"),
        (["--slurm"], "--slurm is for --size paper"),
        (["--models", "3"], "--models 3: 3 does not divide the widths of phm_tran"),
        (["--lr", "-1"], "--lr -1: a learning rate is positive"),
        (["--lr", "nan"], "--lr nan: a learning rate is positive"),
        (["--dropout", "1"], "--dropout 1: at least 0 and less than 1"),
        (["--", "--dropout", "0"], "--dropout after --: the recipe has --dropout for"),
        (["--", "--max-epoch=9"], "--max-epoch after --: the recipe has --updates"),
        (["--", "--seed", "9"], "--seed after --: the recipe has --seeds for this"),
        (["--seeds", "1", "-2"], "--seeds -2: a seed is 0 to 4294967295"),
        (["--out", "a:b"], "--out a:b: fairseq splits paths at :"),
        (
            ["--models", "4r4", "--mean", "weights"],
            "--mean weights is not for 4r4 with --phm-rule-rank",
        ),
        (
            ["--arch", "quaternion_transformer"],
            "--arch quaternion_transformer: none of phm_transformer, ",
        ),
        (["--stage", "average", "--mean", "none"], "--mean none there is nothing to"),
        (["--", "-a", "phm_transformer"], "--arch after --: the recipe has --arch for"),
        (
            ["--models", "4r4", "--", "--phm-rule-rank=2"],
            "--phm-rule-rank after --: 4r4 of --models is made by it",
        ),
        (
            ["--models", "4-wide", "--", "--encoder-ffn-embed-dim", "64"],
            "--encoder-ffn-embed-dim after --: 4-wide of --models is made by it",
        ),
        (["snli"], "snli: a table set, not a parallel one"),
        (["nothing"], "no data set 'nothing'; declared are"),
    ],
)
def test_bad_options_end_in_one_line(translate, arguments, message, capsys):
    with pytest.raises(SystemExit):
        translate(*arguments)
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error


def test_other_languages_than_the_declared_ones_are_refused(capsys):
    languages = ["--src", "en", "--tgt", "de"]
    made = parse_translation(["iwslt14-de-en", *languages])
    assert made.source.languages == ("en", "de") and not made.published
    with pytest.raises(SystemExit):
        parse_translation(["iwslt14-de-en", *languages[:3], "fr"])
    message = "iwslt14-de-en has de and en, not en and fr"
    assert message in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        parse_translation(["cldr", *languages[:3], "zz"])
    message = "the demo corpus has the languages de, en, "
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["scitail", "--models", "4", "8"], "--models 8: 8 does not divide the widths"),
        (["linzen", "--models", "3"], ", attention 128 and FFN 512"),
        (["linzen", "--models", "4-wide"], "4-wide: no other inner widths are known"),
    ],
)
def test_models_that_classifiers_cannot_be_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_classification(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]
    own = ["--", "--encoder-embed-dim", "320"]
    assert parse_classification(["scitail", "--models", "8", *own]).models


def test_more_gpus_than_there_are_is_one_line(monkeypatch, texts, tmp_path):
    flags = ["--raw", texts, "--src", "en", "--tgt", "de", "--out", tmp_path]
    with pytest.raises(SystemExit, match=r"--gpus 99: this machine has \d"):
        run(translation, [*flags, "--gpus", "99"], monkeypatch)


def test_half_precision_needs_a_gpu(monkeypatch, texts, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    flags = ["--raw", texts, "--src", "en", "--tgt", "de", "--out", tmp_path, "--fp16"]
    with pytest.raises(SystemExit, match="--fp16 needs a GPU and there is none"):
        run(translation, flags, monkeypatch)
    assert not list(tmp_path.iterdir())


def run_of(texts, out, *arguments):
    """A run of the translation recipe, with its data."""
    experiment = parse_translation(
        ["--raw", str(texts), "--src", "en", "--tgt", "de", "--out", str(out)]
        + list(map(str, arguments))
    )
    data = Data(experiment.source, experiment.folder, "parallel")
    model, seed = experiment.models[0], experiment.seeds[0]
    return translation.TranslationRun(model, seed, data, experiment)


@pytest.mark.one_version
def test_two_nodes_train_one_model(translate, texts, tmp_path):
    """Two torchruns on the CPU, by gloo, each by the script."""
    translate("--stage", "prepare")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    commands = [
        [
            ROOT / "recipes" / "translate.sh", "--raw", texts, "--src", "en",
            "--tgt", "de", "--size", "tiny", "--lines", "40", "--models", "4", "--cpu",
            "--updates", "2", "--max-tokens", "100", "--out", tmp_path,
            "--stage", "train", "--nodes", "2", "--node-rank", rank,
            "--master", f"localhost:{port}",
        ]
        for rank in "01"
    ]  # fmt: skip
    one_thread = {"OMP_NUM_THREADS": "1", "RECIPE_PYTHON": sys.executable}
    started = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **one_thread},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for command in commands
    ]  # fmt: skip
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
    (log,) = tmp_path.glob("*/n4-*/train.log")
    assert "training on 2 devices" in log.read_text()
    (done,) = tmp_path.glob("*/n4-*/train.json")
    assert len(json.loads(done.read_text())["curve"]) == 2


@pytest.mark.one_version
def test_slurm_sweep_trains_a_model(texts, tmp_path):
    """By hydra's own launcher; what follows -- overrides the configuration."""
    script(
        "translate.sh", sys.executable, "--raw", texts, "--src", "en", "--tgt", "de",
        "--size", "paper", "--slurm", "basic", "--layers", 1, "--vocab-size", 30,
        "--updates", 2, "--save-interval", 1, "--max-tokens", 100, "--models", 2,
        "--to", "train", "--cpu", "--out", tmp_path, "--", "model.dropout=0.2",
    )  # fmt: skip
    (done,) = tmp_path.glob("en-de/n2-seed1-*/train.json")
    assert [point[0] for point in json.loads(done.read_text())["curve"]] == [1, 2]
    assert "'dropout': 0.2" in done.with_name("train.log").read_text()


@pytest.mark.one_version
def test_slurm_sweeps_over_n_and_seeds(texts, tmp_path):
    flags = ["--size", "paper", "--slurm", "--nodes", 2, "--seeds", 1, 2, "--models"]
    end = ["--", "hydra.launcher.partition=gpu"]
    runs = [run_of(texts, tmp_path, *flags, model, *end) for model in ("2", "8")]
    runs[0].experiment.folder.mkdir()
    command = sweep_command(runs)
    for word in (
        "common.seed=1", "model.phm_n=2,8", "hydra.launcher.nodes=2",
        "hydra/launcher=submitit_slurm", end[-1],
    ):  # fmt: skip
        assert word in command
    missing = [replace(runs[0], seed=2), *runs]  # n = 8, seed 2 is done
    assert sorted(map(len, sweeps(missing))) == [1, 2]
    product = [replace(run, seed=seed) for seed in (1, 2) for run in runs]
    assert list(map(len, sweeps(product))) == [4]
    first, second = map(configuration, runs)
    assert (first["model"].pop("phm_n"), second["model"].pop("phm_n")) == (2, 8)
    assert first == second
    assert first["distributed_training"]["distributed_world_size"] == 2


@pytest.mark.one_version
@pytest.mark.parametrize("model", ["quaternion-wide", "8r8-whole"])
def test_slurm_sweep_is_the_same_training(texts, tmp_path, model):
    """What hydra composes is what fairseq makes of the recipe's flags."""
    flags = [
        "--size", "paper", "--slurm", "basic", "--updates", 9000, "--layers", 3,
        "--models", model, "--seeds", 7,
    ]  # fmt: skip
    one = run_of(texts, tmp_path, *flags)
    one.experiment.folder.mkdir()
    command = sweep_command([one])
    command[command.index("--multirun")] = "--cfg=job"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    config = yaml.safe_load(done.stdout)
    args = fairseq_options.parse_args_and_arch(
        fairseq_options.get_training_parser(),
        ["DATA", "--source-lang", "en", "--target-lang", "de"] + one.flags,
    )
    expected = OmegaConf.to_container(
        convert_namespace_to_omegaconf(args), enum_to_str=True
    )
    model = asdict(PHMTransformerConfig.from_namespace(args))
    expected["model"] = {**model, "_name": "phm_transformer"}  # not the architecture
    for section in ("optimizer", "lr_scheduler", "criterion", "model"):
        for name, value in config[section].items():
            assert expected[section][name] == value, name
    for name in ("lr", "clip_norm", "update_freq"):
        assert config["optimization"][name] == expected["optimization"][name]
    assert config["dataset"]["max_tokens"] == expected["dataset"]["max_tokens"]
    assert config["common"]["seed"] == expected["common"]["seed"] == 7
    for side in ("encoder", "decoder"):
        assert config["model"][side]["layers"] == 3
    assert config["checkpoint"]["save_interval_updates"] == 180
    folder = config["checkpoint"]["save_dir"].replace("${common.seed}", "7")
    assert folder.replace("${model.phm_n}", "8") == str(one.folder)


@pytest.mark.one_version
def test_a_finished_training_is_not_trained_again(translate, tmp_path, monkeypatch):
    """After a kill between the last checkpoint and what the run notes of it."""
    translate("--models", "dense")
    (line,) = results(tmp_path)
    (folder,) = tmp_path.glob("*/dense-seed1-*")
    before = {file.name for file in folder.glob("checkpoint*.pt")}
    assert "checkpoint_1_3.pt" in before
    made_later = [*folder.glob("*.json"), *folder.glob("averaged*")]
    for file in {*made_later, tmp_path / "results.jsonl"}:
        file.unlink()
    translate("--models", "dense")
    (again,) = results(tmp_path)
    assert {file.name for file in folder.glob("checkpoint*.pt")} == before
    assert again["curve"] == line["curve"] and again["bleu"] == line["bleu"]


def test_bad_tables_of_ones_own_are_one_line(tmp_path, monkeypatch):
    write_tables("scitail", tmp_path)
    (tmp_path / "test.tsv").write_bytes(b"\xff")
    arguments = ["scitail", "--data", tmp_path, "--size", "paper", "--cpu", "--epochs"]
    with pytest.raises(SystemExit, match="test.tsv") as error:
        run(classification, [*arguments, 1, "--out", tmp_path / "out"], monkeypatch)
    assert "\n" not in error.value.code
