"""Command lines of the recipes, which become the typed values of ``settings``.

They are checked before anything is installed: this needs nothing but Python.
``python -m recipes.driver.options translation --help``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence, Tuple, Union

from data_prep import LANGUAGES, SPLITS, DataError

from .flags import values_of
from .models import DENSE, LM, Model, divided_widths
from .settings import (
    QUALITY_MODELS,
    ROOT,
    SIZES,
    SPEED_MODELS,
    STAGES,
    VIEWS,
    WAYS,
    Classification,
    Compression,
    LanguageModel,
    Machine,
    Quality,
    QualityReport,
    Search,
    Source,
    Speed,
    Training,
    Translation,
)

if TYPE_CHECKING:
    from data_prep.declaration import DataSet

OF_THE_PAPER = ("models", "seeds", "updates", "layers", "epochs")
"""Options whose defaults with ``--size paper`` stand in the data set's declaration."""

NOT_EVERYWHERE = {
    "src": None, "tgt": None, "train": None, "wide": False, "slurm": None, "lr": None,
    "updates": None, "warmup_updates": None,
    "save_interval": None, "stage": None, "first": None, "last": None,
}  # fmt: skip
"""Options that some recipes lack."""

FLAGS = {
    "--arch": ["--arch"], "--bf16": ["--bf16"], "--fp16": ["--fp16"],
    "--lr": ["--lr", "--lrs"],
    "--max-epoch": ["--epochs", "--updates"], "--max-tokens": ["--max-tokens"],
    "--max-update": ["--updates"], "--phm-n": ["--models"], "--save-dir": ["--out"],
    "--save-interval-updates": ["--save-interval"], "--seed": ["--seeds"],
    "--tokens-per-sample": ["--tokens-per-sample"],
    "--warmup-updates": ["--warmup-updates"],
}  # fmt: skip
"""Flags of fairseq-train, and the options of recipes that make them."""


def program(module: str) -> str:
    """Name what was called: the script, or the module that stands behind it."""
    return os.environ.get("RECIPE") or f"python -m recipes.driver.{module}"


def parse_translation(arguments: Sequence[str]) -> Translation:
    """Read the options of translation; those that cannot be end the program."""
    parser = _translation_parser()
    given = _parse(parser, arguments, "parallel")
    _check_pairs(parser, given)
    if given.slurm and given.size != "paper":
        parser.error("--slurm is for --size paper")
    if given.slurm and any(word.startswith("-") for word in given.extra):
        parser.error("--slurm takes overrides after --, as model.encoder.layers=4")
    training = _training(given)
    if given.compare:
        first = next((m for m in given.models if m.family == "PHM"), DENSE)
        peers = [m for m in first.peers(training.arch) if m not in given.models]
        given.models = (*given.models, *peers)
    _check_models(parser, given, training.arch)
    return Translation(**_shared(given), training=training, search=_search(given))


def parse_quality(arguments: Sequence[str]) -> Union[Quality, QualityReport]:
    """Read the options of the quality benchmark; ``--report`` has its own type."""
    parser = _quality_parser()
    given = _parse(parser, arguments, "parallel", as_published=False)
    if given.report:
        _check_alone(parser, arguments, ("report", "views"))
        return QualityReport(tuple(given.report), tuple(given.views))
    _check_comparison(parser, given)
    if given.gpus > 1 and "time" in given.views:
        parser.error(
            "--gpus: throughput is measured on one; --views updates parameters"
        )
    own = SIZES[given.size].lr
    lrs = sorted(set(given.lrs or (own / 2, own, own * 2)))
    training = _training(given)
    _check_models(parser, given, training.arch, compared=True)
    return Quality(
        **_shared(given), training=training, search=_search(given), lrs=tuple(lrs),
        extend=given.extend, views=tuple(given.views),
        validations=given.validations, rounds=given.rounds,
    )  # fmt: skip


def parse_speed(arguments: Sequence[str]) -> Speed:
    """Read the options of the benchmark of speed; those that cannot be end it."""
    parser = _speed_parser()
    given = _parse(parser, arguments, "parallel", as_published=False)
    if given.gpus > 1:
        parser.error("--gpus: the benchmark measures one")
    _check_comparison(parser, given)
    training = _training(given)
    _check_models(parser, given, training.arch, compared=True)
    return Speed(
        **_shared(given), training=training, search=_search(given),
        sentences=given.sentences, rounds=given.rounds,
    )  # fmt: skip


def parse_compress(arguments: Sequence[str]) -> Compression:
    """Read the options of compression; those that cannot be end the program."""
    parser = _compress_parser()
    given = _parse(parser, arguments, "parallel", as_published=False)
    _check_comparison(parser, given)
    for model in given.models:
        if model.n == 1 or model.wide or model.whole:
            parser.error(
                f"--models {model}: PHM or quaternion of the dense widths, not whole"
            )
    if given.checkpoint and not given.checkpoint.is_file():
        parser.error(f"--checkpoint {given.checkpoint}: no such file")
    training = _training(given)
    training = training.of_length(training.updates, given.validations)
    on = training.of_length(
        given.updates_on or max(1, training.updates // 4), given.validations
    )
    on = replace(on, lr=training.lr / 4 if given.lr_on is None else given.lr_on)
    _check_models(parser, given, training.arch)
    ways = [way for way in WAYS if way != "distilled" or given.distill]
    if given.rows:
        wanted = [row.replace("-", " ") for row in given.rows]
        ways = [w for w in ways if w in wanted or w == "distilled"]
    return Compression(
        **_shared(given), training=training, search=_search(given),
        checkpoint=given.checkpoint and given.checkpoint.absolute(),
        updates_of_checkpoint=given.updates or 0, on=on,
        validations=given.validations, ways=tuple(ways),
    )  # fmt: skip


def parse_language_model(arguments: Sequence[str]) -> LanguageModel:
    """Read the options of language models; those that cannot be end the program."""
    parser = _language_model_parser()
    given = _parse(parser, arguments, "text")
    if not given.raw:
        parser.error("--raw FOLDER is needed")
    own = SIZES[given.size].arch.replace("phm_transformer", LM)
    given.arch = given.arch or own
    if not given.arch.startswith(LM):
        parser.error(f"--arch {given.arch}: {LM}, or that with _small or _tiny")
    given.name = given.name or given.raw.resolve().name
    _check_models(parser, given, given.arch)
    shared = _shared(given)
    shared["source"] = replace(shared["source"], languages=("txt",))
    training, block = _training(given), given.tokens_per_sample
    if block > training.max_tokens:
        parser.error(
            f"--tokens-per-sample {block}: longer than a batch, --max-tokens "
            f"{training.max_tokens}"
        )
    return LanguageModel(**shared, training=training, tokens_per_sample=block)


def parse_classification(arguments: Sequence[str]) -> Classification:
    """Read the options of classification; those that cannot be end the program."""
    parser = _classification_parser()
    given = _parse(parser, arguments, "table")
    tiny, paper = given.size == "tiny", given.paper
    if given.data and (given.raw or given.lines or tiny):
        other = "raw" if given.raw else "lines" if given.lines else "size tiny"
        parser.error(f"--data takes files as they are, not with --{other}: use --raw")
    if given.raw and not given.data_set:
        parser.error("--raw needs the name of a data set, whose columns it has")
    if not (given.data_set or given.data):
        parser.error("a data set or --data FOLDER is needed")
    if given.data and not given.data.is_dir():
        parser.error(f"--data {given.data}: no such folder")
    vectors = given.vectors
    if vectors and vectors.is_dir():
        files = [file for file in vectors.iterdir() if ".txt" in file.name]
        if len(files) != 1:
            parser.error(f"--vectors {vectors}: {len(files)} .txt files there")
        vectors = files[0]
    if vectors and not vectors.is_file():
        parser.error(f"--vectors {vectors}: no such file")
    arch = given.arch or (paper and paper.arch) or "phm_lstm_classifier"
    _check_models(parser, given, arch)
    return Classification(
        **_shared(given), arch=arch, epochs=given.epochs or (1 if tiny else 10),
        tables=given.data, vectors=vectors, flags=paper.flags if paper else "",
        groups=paper.groups if paper else "",
    )  # fmt: skip


def _translation_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "translation",
        "Prepares sentence pairs, trains PHM-Transformers and their dense twin, "
        "averages the last checkpoints, translates the test set and scores it.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    _add_pairs(parser, "small")
    parser.add_argument(
        "--compare", action="store_true",
        help="train what shows what a PHM model is for: the same with R = n, its dense "
        "twin, and dense/N, of about equal parameters",
    )  # fmt: skip
    _add_runs(parser, ["dense", "4"], [1])
    _add_stages(parser, STAGES)
    size = _add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    size("--save-interval", type=int, help="updates between checkpoints")
    _add_search(parser, "factors")
    _add_machine(parser).add_argument(
        "--slurm", nargs="?", const="submitit_slurm", metavar="LAUNCHER",
        help="train by fairseq-hydra-train, one Slurm job for each model and seed, or "
        "by another launcher of hydra; what follows -- are overrides of the "
        "configuration then, e.g. hydra.launcher.partition=gpu",
    )  # fmt: skip
    return parser


def _quality_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "quality",
        "Trains models on sentence pairs, each at its best of the same learning rates "
        "by validation loss, with several seeds, for as many updates and for as much "
        "time as the dense one. Without a data set: the demo corpus.",
    )
    add = parser.add_argument
    _add_pairs(parser, "demo")
    _add_runs(parser, QUALITY_MODELS, [1, 2, 3])
    add(
        "--lrs", type=float, nargs="+", metavar="LR",
        help="peak learning rates; default: the size's own, its half and its double",
    )  # fmt: skip
    add(
        "--extend", type=int, default=0, metavar="TIMES",
        help="a model whose best rate is at the edge of the sweep gets the next one, "
        "half or double, at most so many times",
    )  # fmt: skip
    add("--views", nargs="+", choices=VIEWS, default=VIEWS, help="what is compared")
    add("--validations", type=int, default=12, help="of each run")
    add("--rounds", type=int, default=15, help="of the measurement of throughput")
    _add_size(parser)
    _add_search(parser, "none")
    _add_machine(parser)
    add(
        "--report", type=Path, nargs="+", metavar="FILE",
        help="train nothing: tables and figures from these results.jsonl, or folders "
        "with one, into the folder of the first",
    )  # fmt: skip
    parser.set_defaults(stages=STAGES)
    return parser


def _speed_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "speed",
        "Times training steps and beam search of untrained models on the same "
        "batches, in turn. Without a data set: the demo corpus.",
        "Times are measured anew.",
    )
    add = parser.add_argument
    _add_pairs(parser, "small")
    _add_runs(parser, SPEED_MODELS)
    add("--sentences", type=int, default=256, help="of the test set to translate")
    add("--rounds", type=int, default=5, help="that count; two more come before them")
    _add_size(parser, trains=False)
    _add_beam(parser, 4)
    _add_machine(parser)
    parser.set_defaults(
        stages=STAGES, seeds=[1], jobs=1, mean="none", num_checkpoints=1
    )
    return parser


def _compress_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "compress",
        "Trains a dense Transformer on sentence pairs, or takes a checkpoint, "
        "compresses it to PHM models and trains these on; and trains PHM models from "
        "scratch, for as many updates as both. Without a data set: the demo corpus.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    add = parser.add_argument
    _add_pairs(parser, "demo")
    _add_runs(parser, ["2", "4", "4r4"], [1])
    add(
        "--checkpoint", type=Path, metavar="FILE",
        help="of a dense model of this size that was trained on these data; --updates "
        "are then those of its training, if it was not the last checkpoint",
    )  # fmt: skip
    add(
        "--updates-on", type=int, metavar="UPDATES",
        help="of training after compression; default: a quarter of --updates",
    )  # fmt: skip
    add(
        "--lr-on", type=float, metavar="LR",
        help="its peak learning rate; default: a quarter of --lr",
    )  # fmt: skip
    add(
        "--distill", action="store_true",
        help="train on, too, with the dense model's translations of the training set "
        "as targets",
    )  # fmt: skip
    add(
        "--rows", nargs="+", metavar="ROW",
        choices=[way.replace(" ", "-") for way in WAYS if way != "distilled"],
        help="only these, with --distill that one as well, and what they need, of "
        "dense, compressed, trained-on, from-scratch",
    )  # fmt: skip
    add("--validations", type=int, default=12, help="of each training")
    size = _add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    _add_search(parser, "none")
    _add_machine(parser)
    parser.set_defaults(stages=(*STAGES, "validate", "compress"))
    return parser


def _language_model_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "language_model",
        "Prepares a text, trains Transformer language models with PHM layers and their "
        "dense twin, and prints the perplexity of the test set, by subwords and by "
        "words.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    parser.set_defaults(data_set=None)
    _add_raw(parser, "train.txt, valid.txt (or dev.txt) and test.txt")
    parser.add_argument("--name", help="of the experiment; default: the folder's")
    sizes = [name for name in SIZES if name != "paper"]
    parser.add_argument(
        "--size", default="small", choices=sizes, help="of models and training"
    )
    _add_runs(parser, ["dense", "4"], [1])
    _add_stages(parser, ("prepare", "train", "score"))
    size = _add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    size("--save-interval", type=int, help="updates between checkpoints")
    parser.add_argument(
        "--tokens-per-sample", type=int, default=256,
        help="subwords of a block; the text is cut into blocks across its lines",
    )  # fmt: skip
    _add_machine(parser)
    return parser


def _classification_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "classification",
        "Trains sentence classifiers, several seeds each, keeps the checkpoint with "
        "the best validation accuracy and prints test accuracies.",
        "tiny is a dry run of all stages: the first rows of the data, one epoch.",
    )
    add = parser.add_argument
    add("data_set", nargs="?", help="name (python -m data_prep --list) or .toml file")
    _add_raw(parser, "train.tsv, valid.tsv (or dev.tsv) and test.tsv")
    add("--data", type=Path, metavar="FOLDER", help="such files, taken as they are")
    add("--vectors", type=Path, help="GloVe vectors: a file, or a folder with one")
    add("--name", help="of the experiment; default: the data set's")
    add("--size", default="paper", choices=("paper", "tiny"), help="of the training")
    add("--arch", help="fairseq architecture phm_...")
    add("--epochs", type=int, help="length of a training")
    add("--lines", type=int, help="training rows; a tenth for the rest; 0: all")
    _add_runs(parser, ["dense", "2"], [1], wide=False)
    _add_stages(parser, [stage for stage in STAGES if stage != "average"])
    _add_machine(parser)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _parser(module: str, description: str, note: str = "") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program(module),
        allow_abbrev=False,
        description=description,
        epilog="What follows -- goes to fairseq-train, e.g. -- --phm-share-rule none. "
        "A second run reuses what is there; an interrupted one goes on. " + note,
        formatter_class=_Help,
    )
    parser.set_defaults(**NOT_EVERYWHERE)
    return parser


def _add_pairs(parser: argparse.ArgumentParser, size: str) -> None:
    add = parser.add_argument
    add("data_set", nargs="?", help="name (python -m data_prep --list) or .toml file")
    _add_raw(parser, "train.SRC, train.TGT, valid.SRC, ...")
    for split in SPLITS:
        add(f"--{split}", metavar="PREFIX", help="or your own PREFIX.SRC, PREFIX.TGT")
    add("--src", help="source language; a declared data set has its own")
    add("--tgt", help="target language")
    add("--name", help="of the experiment; default: the data set's")
    add("--size", default=size, choices=SIZES, help="of models and training")


def _add_raw(parser: argparse.ArgumentParser, files: str) -> None:
    parser.add_argument(
        "--raw", type=Path, metavar="FOLDER",
        help=f"files on disk, no download: {files}, plain, .gz or .xz",
    )  # fmt: skip


def _add_runs(
    parser: argparse.ArgumentParser,
    models: Sequence[str],
    seeds: Sequence[int] = (),
    wide: bool = True,
) -> None:
    add = parser.add_argument
    add(
        "--models", "--n", nargs="+", default=models, metavar="MODEL",
        help="dense, quaternion, n of PHM, as 4, nrR with rules of CP rank R, as 4r4; "
        "and, but for classifiers, 4-wide, of twice the inner widths, 4-whole, whose "
        "embeddings are PHM as well, and dense/4, of the size of n = 4",
    )  # fmt: skip
    add("--out", type=Path, default=ROOT / "runs", help="work folder")
    if seeds:
        add(
            "--seeds", "--seed", type=int, nargs="+", default=seeds, metavar="SEED",
            help="of each model",
        )  # fmt: skip
        add("--jobs", type=int, default=1, help="trainings at the same time")
    if wide:
        add(
            "--wide", action="store_true",
            help="all PHM and quaternion models of twice the inner widths",
        )  # fmt: skip


def _add_size(
    parser: argparse.ArgumentParser, trains: bool = True
) -> Callable[..., argparse.Action]:
    add = parser.add_argument_group("instead of what --size says").add_argument
    add("--arch", help="fairseq architecture phm_...; --models chooses the layers")
    if trains:
        add("--updates", type=int, help="training updates")
        add("--warmup-updates", type=int, help="updates of rising learning rate")
    add("--max-tokens", type=int, help="tokens in a batch, of its longer side")
    add("--vocab-size", type=int, help="subwords, shared by both sides")
    add("--layers", type=int, help="of each stack, encoder and decoder")
    add("--lines", type=int, help="training lines; a tenth for the rest; 0: all")
    return add


def _add_search(parser: argparse.ArgumentParser, mean: str) -> None:
    add = parser.add_argument
    add(
        "--mean", default=mean, choices=("factors", "weights", "none"),
        help="what is averaged; none: the checkpoint of the best validation",
    )  # fmt: skip
    add("--num-checkpoints", type=int, default=8, help="last checkpoints to average")
    _add_beam(parser, 5)


def _add_beam(parser: argparse.ArgumentParser, beam: int) -> None:
    add = parser.add_argument
    add("--beam", type=int, default=beam, help="beam of the search")
    add("--lenpen", type=float, default=0.6, help="length penalty of the search")


def _add_stages(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    group = parser.add_argument_group(f"stages ({', '.join(stages)})")
    group.add_argument("--stage", choices=stages, help="only this one")
    group.add_argument("--from", dest="first", choices=stages, help="first one")
    group.add_argument("--to", dest="last", choices=stages, help="last one")
    parser.set_defaults(stages=stages)


def _add_machine(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("machine")
    add = group.add_argument
    add(
        "--gpus", type=int, default=1, help="GPUs of this machine; without one, the CPU"
    )
    add("--fp16", action="store_true", help="half precision, on a GPU")
    add("--bf16", action="store_true", help="bfloat16")
    add("--cpu", action="store_true", help="do not use a GPU")
    add(
        "--nodes", type=int, default=1,
        help="machines that share the work folder: after --stage prepare each runs the "
        "same command with --stage train",
    )  # fmt: skip
    add("--node-rank", type=int, default=0, help="number of this one, from 0")
    add("--master", metavar="HOST:PORT", help="of node 0")
    return group


def _parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    kind: str,
    as_published: bool = True,
) -> argparse.Namespace:
    """Read and check what all recipes have.

    Adds ``extra``, what follows a ``--``, and ``paper``, the published experiment, or
    None.

    Args:
        kind: of the data set, ``parallel``, ``text`` or ``table``.
        as_published: take note of the published experiment, whose settings are the
            defaults with ``--size paper``.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    given = parser.parse_intermixed_args(arguments[:end])
    declared = _declared(parser, given.data_set, kind)
    paper = declared.paper if declared and as_published else None
    if paper and given.size == "paper":
        known = {name: getattr(paper, name) for name in OF_THE_PAPER if name in given}
        parser.set_defaults(**{name: value for name, value in known.items() if value})
        given = parser.parse_intermixed_args(arguments[:end])
    if declared and given.src and given.tgt:
        pair = (given.src, given.tgt)
        if pair != declared.languages:
            paper = None  # the other direction
        try:
            declared.between(pair, bool(given.raw or given.train))
        except DataError as error:
            parser.error(str(error))
    given.extra, given.paper = tuple(arguments[end + 1 :]), paper
    try:
        models = tuple(map(Model.parse, given.models))
    except ValueError as error:
        parser.error(f"--models {error}")
    given.models = tuple(
        dict.fromkeys(
            replace(m, wide=True) if given.wide and m.family != "dense" else m
            for m in models
        )
    )
    given.seeds = list(dict.fromkeys(given.seeds))
    if not all(0 <= seed < 2**32 for seed in given.seeds):
        parser.error(f"--seeds {min(given.seeds)}: a seed is 0 to {2**32 - 1}")
    for name in ("out", "checkpoint"):
        path = getattr(given, name, None)
        if path and os.pathsep in str(path.absolute()):
            parser.error(f"--{name} {path}: fairseq splits paths at {os.pathsep}")
    for name, value in vars(given).items():
        option = f"--{name.replace('_', '-')}"
        least = 0 if name in ("extend", "lines", "node_rank") else 1
        if type(value) is int and value < least:
            parser.error(f"{option} must be at least {least}")
        if name in ("lr", "lrs", "lr_on") and value is not None:
            for rate in value if name == "lrs" else [value]:
                if not 0 < rate < math.inf:
                    parser.error(f"{option} {rate:g}: a learning rate is positive")
        if name == "warmup_updates" and value and value > (given.updates or value):
            parser.error(f"{option} {value}: more than --updates {given.updates}")
        if name == "lenpen" and not math.isfinite(value):
            parser.error(f"{option} {value}: a length penalty is a number")
    _check_extra(parser, given.extra)
    if given.raw and not given.raw.is_dir():
        parser.error(f"--raw {given.raw}: no such folder")
    arch = getattr(given, "arch", None)
    if arch and not arch.startswith("phm_"):
        parser.error(f"--arch {arch}: phm_...; --models chooses the layers")
    given.stages = _stages(parser, given)
    if given.stages == ("average",) and given.mean == "none":
        parser.error("--stage average: with --mean none there is nothing to average")
    _check_machine(parser, given)
    return given


def _declared(
    parser: argparse.ArgumentParser, data_set: Optional[str], kind: str
) -> Optional[DataSet]:
    """The declaration of a data set; None where Python has no TOML yet."""
    if not data_set:
        return None
    try:
        from data_prep.declaration import load
    except ModuleNotFoundError:  # tomli, before Python 3.11 and the installation
        return None
    try:
        declared = load(data_set)
    except DataError as error:
        parser.error(str(error))
    if declared.kind != kind:
        parser.error(f"{declared.name}: a {declared.kind} set, not a {kind} one")
    return declared


def _stages(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> Tuple[str, ...]:
    """Those to run."""
    if given.stage and (given.first or given.last):
        parser.error("--stage goes without --from and --to")
    first = given.stages.index(given.stage or given.first or given.stages[0])
    last = given.stages.index(given.stage or given.last or given.stages[-1])
    if first > last:
        parser.error(f"--from {given.first} comes after --to {given.last}")
    return tuple(given.stages[first : last + 1])


def _check_comparison(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> None:
    """Check what benchmarks have in common; their default data are the demo corpus."""
    if given.nodes > 1:
        parser.error("--nodes: the benchmark runs on one machine")
    if not (given.data_set or given.raw or given.train):
        given.data_set = "cldr"
    if given.data_set == "cldr" and not given.src:
        given.src, given.tgt = "en", "de"
    _check_pairs(parser, given)
    if given.mean == "none":
        given.num_checkpoints = 1


def _check_alone(
    parser: argparse.ArgumentParser, arguments: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse options, but for those of these names, that would have no effect."""
    given = vars(parser.parse_known_args(arguments)[0])
    words = {action.dest: action.option_strings for action in parser._actions}
    changed = [k for k, v in given.items() if v != parser.get_default(k)]
    others = [(words[k] or [given[k]])[0] for k in changed if k not in names]
    if others:
        alone = " and ".join(f"--{name}" for name in names)
        parser.error(f"{others[0]} has no effect: {alone} go alone")


def _check_extra(parser: argparse.ArgumentParser, extra: Sequence[str]) -> None:
    """Refuse flags after ``--`` that the recipe makes from its options."""
    known = {name for action in parser._actions for name in action.option_strings}
    short = ["--arch"] if "-a" in extra else []
    for flag in [*values_of(extra), *short]:
        option = next((name for name in FLAGS.get(flag, ()) if name in known), "")
        if option:
            parser.error(f"{flag} after --: the recipe has {option} for this")


def _check_machine(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse options of the machine that do not fit each other."""
    if given.nodes > 1 and not (given.master or given.slurm):
        parser.error("--nodes needs --master HOST:PORT")
    if given.master and given.nodes == 1:
        parser.error("--master is for --nodes")
    if given.node_rank >= given.nodes:
        parser.error(
            f"--node-rank {given.node_rank}: --nodes {given.nodes} are numbered from 0"
        )
    if given.node_rank and given.stages != ("train",):
        parser.error("node 0 does the other stages: --stage train")
    if given.fp16 and (given.bf16 or given.cpu):
        other = "--bf16" if given.bf16 else "--cpu"
        parser.error(f"--fp16 and {other} do not go together")
    if given.gpus > 1 and given.cpu:
        parser.error("--gpus and --cpu do not go together")


def _check_models(
    parser: argparse.ArgumentParser,
    given: argparse.Namespace,
    arch: str,
    compared: bool = False,
) -> None:
    """Refuse models that the architecture has not, or what lacks the dense one."""
    if compared and DENSE not in given.models:
        parser.error("--models needs dense, which the others are compared with")
    own_widths = any("dim" in word for word in given.extra)
    widths = {} if own_widths else divided_widths(arch)
    flags = values_of(given.extra)
    for model in given.models:
        try:
            made = values_of(model.flags(arch))
        except ValueError as error:
            parser.error(f"--models {error}")
        for flag in made:
            if flag in flags:
                parser.error(f"{flag} after --: {model} of --models is made by it")
        low_rank = {"--phm-rule-rank", "--phm-rank"} & {*made, *flags}
        if low_rank and getattr(given, "mean", "") == "weights":
            parser.error(f"--mean weights is not for {model} with {min(low_rank)}")
        if any(width % model.n for width in widths.values()):
            named = " and ".join(f"{kind} {width}" for kind, width in widths.items())
            parser.error(
                f"--models {model}: {model.n} does not divide the widths of {arch}, "
                f"{named}"
            )


def _check_pairs(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse sentence pairs of which something is missing or said twice."""
    own = [split for split in SPLITS if getattr(given, split)]
    if own and len(own) < len(SPLITS):
        parser.error("--train, --valid and --test go together")
    if own and given.raw:
        parser.error("--raw and --train go without each other")
    if not (own or given.raw or given.data_set):
        parser.error("a data set or --raw FOLDER is needed")
    if bool(given.src) != bool(given.tgt):
        parser.error("--src and --tgt go together")
    if given.src and given.src == given.tgt:
        parser.error(f"--src and --tgt are both {given.src}")
    if (own or not given.data_set) and not given.src:
        parser.error("your own files need --src and --tgt")
    if given.data_set == "cldr" and given.src and not own and not given.raw:
        if not {given.src, given.tgt} <= set(LANGUAGES):
            languages = ", ".join(LANGUAGES)
            parser.error(f"the demo corpus has the languages {languages} only")


def _shared(given: argparse.Namespace) -> Dict[str, Any]:
    """The fields of :class:`Experiment`."""
    languages = (given.src, given.tgt) if given.src else ()
    stem = Path(given.data_set).stem if given.data_set else "-".join(languages)
    paper, size = given.paper, SIZES[given.size]
    subwords = given.vocab_size or size.vocab_size if "vocab_size" in given else 0
    return dict(
        name=given.name or (paper and paper.name) or stem or given.data.absolute().stem,
        size=given.size,
        models=given.models,
        seeds=tuple(given.seeds),
        stages=given.stages,
        out=given.out,
        source=Source(
            data_set=given.data_set or "",
            raw=given.raw,
            prefixes={s: getattr(given, s) for s in SPLITS} if given.train else {},
            languages=languages,
            subwords=subwords,
            lines=given.lines if given.lines is not None else size.lines or None,
        ),
        machine=Machine(
            given.jobs, given.gpus, given.fp16, given.bf16, given.cpu, given.nodes,
            given.node_rank, given.master or "", given.slurm or "",
        ),
        published=paper.published if paper else {},
        extra=given.extra,
    )  # fmt: skip


def _training(given: argparse.Namespace) -> Training:
    """What ``--size`` says, where the user said nothing."""
    size = SIZES[given.size]
    training = Training(
        arch=given.arch or size.arch,
        updates=size.updates,
        warmup_updates=size.warmup_updates,
        lr=size.lr if given.lr is None else given.lr,
        max_tokens=given.max_tokens or size.max_tokens,
        save_interval=0,
        layers=given.layers or 0,
        schedule=size.schedule,
    )
    training = training.of_length(given.updates or size.updates, size.checkpoints)
    return replace(
        training,
        warmup_updates=given.warmup_updates or training.warmup_updates,
        save_interval=given.save_interval or training.save_interval,
    )


def _search(given: argparse.Namespace) -> Search:
    return Search(given.mean, given.num_checkpoints, given.beam, given.lenpen)


PARSERS: Dict[str, Callable[[Sequence[str]], object]] = {
    "translation": parse_translation,
    "classification": parse_classification,
    "language_model": parse_language_model,
    "quality": parse_quality,
    "speed": parse_speed,
    "compress": parse_compress,
}

if __name__ == "__main__":
    PARSERS[sys.argv[1]](sys.argv[2:])
