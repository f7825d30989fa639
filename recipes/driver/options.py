"""Options of the recipes, checked before anything is installed.

Needs nothing but Python: ``python -m recipes.driver.options translation --help``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from data_prep import LANGUAGES, SPLITS

from .models import DENSE, Model

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("prepare", "train", "average", "generate", "score")
VIEWS = ("updates", "parameters", "time")
"""What models of the quality benchmark have in common in each of its tables."""

QUALITY_MODELS = "dense quaternion 2 4 8 4r4 8r8 4-wide 8r8-wide dense/4".split()


@dataclass(frozen=True)
class Size:
    """Model and training of a translation run; each has an option of its own name."""

    arch: str
    updates: int
    warmup_updates: int  # at most a third of the updates
    lr: float  # at its peak
    max_tokens: int  # of a batch, of its longer side
    vocab_size: int  # of the subwords; 0: what the data set declares
    checkpoints: int  # saved, each after a validation
    flags: str  # of fairseq-train
    lines: int = 0  # of the training set, a tenth of it for the others; 0: all


ADAM = "--adam-betas (0.9,0.98) --clip-norm 1.0"
SIZES: Dict[str, Size] = {
    "paper": Size(
        "phm_transformer", 50_000, 16_000, 7e-4, 2048, 0, 50,
        "--lr-scheduler inverse_sqrt --adam-betas (0.9,0.997) --adam-eps 1e-9",
    ),
    "small": Size(
        "phm_transformer_small", 10_000, 1000, 1e-3, 4096, 8000, 25,
        f"--lr-scheduler inverse_sqrt {ADAM}",
    ),
    "tiny": Size(
        "phm_transformer_tiny", 24, 8, 1e-3, 1000, 4000, 12,
        f"--lr-scheduler inverse_sqrt {ADAM}", lines=2000,
    ),
    "demo": Size(
        "phm_transformer_tiny", 1200, 150, 4e-3, 1500, 2000, 8,
        f"--lr-scheduler polynomial_decay --total-num-update {{updates}} {ADAM}",
    ),
}  # fmt: skip


def parse_translation(arguments: List[str]) -> argparse.Namespace:
    """Options of the runs; ``extra`` holds what follows ``--``, for fairseq-train."""
    parser = _parser(
        "translation",
        "Prepares sentence pairs, trains PHM-Transformers and their dense twin, "
        "averages the last checkpoints, translates the test set and scores it.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    add = parser.add_argument
    _add_pairs(parser)
    add("--size", default="small", choices=SIZES, help="of models and training")
    add(
        "--compare", action="store_true",
        help="train what shows what a PHM model is for: the same with R = n, its dense "
        "twin, and dense/N, of about equal parameters",
    )  # fmt: skip
    _add_runs(parser, ["dense", "4"], [1])
    _add_wide(parser)
    _add_stages(parser, STAGES)
    size = _add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    size("--save-interval", type=int, help="updates between checkpoints")
    _add_search(parser, "factors")
    _add_machine(parser).add_argument(
        "--slurm", nargs="?", const="submitit_slurm", metavar="LAUNCHER",
        help="train by fairseq-hydra-train, one Slurm job for each model and seed, or "
        "by another launcher of hydra; what follows -- are overrides for recipes/"
        "slurm.yaml then, e.g. hydra.launcher.partition=gpu",
    )  # fmt: skip
    add("--published", type=json.loads, default={}, help=argparse.SUPPRESS)
    add("--paper", default="", help=argparse.SUPPRESS)
    options = _parse(parser, arguments)
    _check_pairs(parser, options)
    if options.slurm and options.size != "paper":
        parser.error("--slurm is for --size paper")
    if options.slurm and any(word.startswith("-") for word in options.extra):
        parser.error("--slurm takes overrides after --, as model.encoder.layers=4")
    options = _with_size(options)
    if options.compare:
        first = next((m for m in options.models if m.family == "PHM"), DENSE)
        peers = [m for m in first.peers(options.arch) if m not in options.models]
        options.models = [*options.models, *peers]
    _check_models(parser, options)
    return options


def parse_quality(arguments: List[str]) -> argparse.Namespace:
    """Options of the quality benchmark, or ``report``: what to draw again."""
    parser = _parser(
        "quality",
        "Trains models on sentence pairs, each at its best of the same learning rates "
        "by validation loss, with several seeds, for as many updates and for as much "
        "time as the dense one. Without a data set: the demo corpus.",
    )
    add = parser.add_argument
    _add_pairs(parser)
    add("--size", default="demo", choices=SIZES, help="of models and training")
    _add_runs(parser, QUALITY_MODELS, [1, 2, 3])
    _add_wide(parser)
    add(
        "--lrs", type=float, nargs="+", metavar="LR",
        help="peak learning rates; default: the size's own, its half and its double",
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
    parser.set_defaults(
        stages=STAGES, stage=None, first=None, last=None, slurm=None, paper="",
        published={}, lr=None, save_interval=None,
    )  # fmt: skip
    options = _parse(parser, arguments)
    if options.report:
        return options
    if options.nodes > 1:
        parser.error("--nodes: the benchmark runs on one machine")
    if not (options.data_set or options.raw or options.train):
        options.data_set = "cldr"
    if options.data_set == "cldr" and not options.src:
        options.src, options.tgt = "en", "de"
    _check_pairs(parser, options)
    options = _with_size(options)
    own = SIZES[options.size].lr
    options.lrs = sorted(set(options.lrs or (own / 2, own, own * 2)))
    if min(options.lrs) <= 0:
        parser.error(f"--lrs {min(options.lrs)}: a learning rate is positive")
    options.models = list(dict.fromkeys(options.models))
    options.seeds = list(dict.fromkeys(options.seeds))
    if DENSE not in options.models:
        parser.error("--models needs dense, which the others are compared with")
    if options.mean == "none":
        options.num_checkpoints = 1
    _check_models(parser, options)
    options.name = f"quality-{options.name}"
    return options


def of_length(
    options: argparse.Namespace, updates: int, checkpoints: int
) -> argparse.Namespace:
    """The options with the schedule of a training of another length.

    Args:
        options: of translation or of the quality benchmark.
        updates: of the training.
        checkpoints: how many are saved, each after a validation.
    """
    changed = argparse.Namespace(**vars(options))
    changed.updates = updates
    changed.warmup_updates = max(1, min(options.warmup_updates, updates // 3))
    changed.save_interval = max(1, updates // checkpoints)
    changed.flags = SIZES[options.size].flags.format(updates=updates)
    return changed


def parse_classification(arguments: List[str]) -> argparse.Namespace:
    """Options of the runs; ``extra`` holds what follows ``--``, for fairseq-train."""
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
    add("--arch", default="phm_lstm_classifier", help="fairseq architecture phm_...")
    add("--epochs", type=int, help="length of a training")
    add("--lines", type=int, help="training rows; a tenth for the rest; 0: all")
    _add_runs(parser, ["dense", "2"], [1])
    parser.set_defaults(wide=False)
    _add_stages(parser, [stage for stage in STAGES if stage != "average"])
    _add_machine(parser)
    add("--published", type=json.loads, default={}, help=argparse.SUPPRESS)
    add("--paper", default="", help=argparse.SUPPRESS)
    add("--flags", default="", help=argparse.SUPPRESS)
    add("--by-column", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(train=None, src=None, tgt=None, vocab_size=None, slurm=None)
    options = _parse(parser, arguments)
    tiny = options.size == "tiny"
    if options.data and (options.raw or options.lines or tiny):
        other = "raw" if options.raw else "lines" if options.lines else "size tiny"
        parser.error(f"--data takes files as they are, not with --{other}: use --raw")
    if options.raw and not options.data_set:
        parser.error("--raw needs the name of a data set, whose columns it has")
    if not (options.data_set or options.data):
        parser.error("a data set or --data FOLDER is needed")
    if options.data and not options.data.is_dir():
        parser.error(f"--data {options.data}: no such folder")
    if options.lines is None:
        options.lines = 2000 if tiny else 0
    options.epochs = options.epochs or (1 if tiny else 10)
    options.name = (
        options.name or Path(options.data_set or options.data.absolute()).stem
    )
    if options.vectors and options.vectors.is_dir():
        files = [file for file in options.vectors.iterdir() if ".txt" in file.name]
        if len(files) != 1:
            parser.error(f"--vectors {options.vectors}: {len(files)} .txt files there")
        options.vectors = files[0]
    if options.vectors and not options.vectors.is_file():
        parser.error(f"--vectors {options.vectors}: no such file")
    _check_models(parser, options)
    return options


def _parser(name: str, description: str, note: str = "") -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name,
        allow_abbrev=False,
        description=description,
        epilog="What follows -- goes to fairseq-train, e.g. -- --phm-share-rule block. "
        "A second run reuses what is there; an interrupted one goes on. " + note,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data_set", nargs="?", help="name (python -m data_prep --list) or .toml file")
    _add_raw(parser, "train.SRC, train.TGT, valid.SRC, ...")
    for split in SPLITS:
        add(f"--{split}", metavar="PREFIX", help="or your own PREFIX.SRC, PREFIX.TGT")
    add("--src", help="source language; a declared data set has its own")
    add("--tgt", help="target language")
    add("--name", help="of the experiment; default: the data set's")


def _add_raw(parser: argparse.ArgumentParser, files: str) -> None:
    parser.add_argument(
        "--raw", type=Path, metavar="FOLDER",
        help=f"files on disk, no download: {files}, plain, .gz or .xz",
    )  # fmt: skip


def _add_runs(
    parser: argparse.ArgumentParser, models: Sequence[str], seeds: Sequence[int]
) -> None:
    add = parser.add_argument
    add(
        "--models", "--n", nargs="+", default=models, metavar="MODEL",
        help="dense, quaternion, n of PHM, as 4, nrR with rules of CP rank R, as 4r4; "
        "for Transformers 4-wide, of twice the inner widths, and dense/4, of the size "
        "of n = 4",
    )  # fmt: skip
    add(
        "--seeds", "--seed", type=int, nargs="+", default=seeds, metavar="SEED",
        help="of each model",
    )  # fmt: skip
    add("--jobs", type=int, default=1, help="trainings at the same time")
    add("--out", type=Path, default=ROOT / "runs", help="work folder")


def _add_wide(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wide", action="store_true",
        help="all PHM and quaternion models of twice the inner widths",
    )  # fmt: skip


def _add_size(parser: argparse.ArgumentParser) -> Callable[..., argparse.Action]:
    add = parser.add_argument_group("instead of what --size says").add_argument
    add("--arch", help="fairseq architecture phm_...; for quaternion quaternion_...")
    add("--updates", type=int, help="training updates")
    add("--warmup-updates", type=int, help="updates of rising learning rate")
    add("--max-tokens", type=int, help="tokens in a batch, of its longer side")
    add("--vocab-size", type=int, help="subwords, shared by both sides")
    add("--layers", type=int, help="of the encoder and of the decoder, each")
    add("--lines", type=int, help="training pairs; a tenth for the rest; 0: all")
    return add


def _add_search(parser: argparse.ArgumentParser, mean: str) -> None:
    add = parser.add_argument
    add(
        "--mean", default=mean, choices=("factors", "weights", "none"),
        help="what is averaged; none: the checkpoint of the best validation",
    )  # fmt: skip
    add("--num-checkpoints", type=int, default=8, help="last checkpoints to average")
    add("--beam", type=int, default=5, help="beam of the search")
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


def _parse(parser: argparse.ArgumentParser, arguments: List[str]) -> argparse.Namespace:
    """The options before a ``--``, checked, and as ``extra`` what follows it.

    With ``--size paper`` those of ``--paper``, a recipe's, are the defaults.
    """
    own, extra = _split(arguments)
    options = parser.parse_intermixed_args(own)
    options.extra = extra
    if options.size == "paper" and options.paper:
        recipe, more = _split(shlex.split(options.paper))
        given = vars(parser.parse_intermixed_args(recipe))
        parser.set_defaults(
            **{k: v for k, v in given.items() if v != parser.get_default(k)}
        )
        options = parser.parse_intermixed_args(own)
        options.extra = [*more, *extra]
    try:
        options.models = [Model.parse(text) for text in options.models]
    except ValueError as error:
        parser.error(f"--models {error}")
    if options.wide:
        options.models = [
            model if model.family == "dense" else replace(model, wide=True)
            for model in options.models
        ]
    for name, value in vars(options).items():
        if type(value) is int and value < (name not in ("lines", "node_rank")):
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.raw and not options.raw.is_dir():
        parser.error(f"--raw {options.raw}: no such folder")
    _set_stages(parser, options)
    if options.nodes > 1 and not (options.master or options.slurm):
        parser.error("--nodes needs --master HOST:PORT")
    if options.node_rank and options.stages != ("train",):
        parser.error("node 0 does the other stages: --stage train")
    if options.fp16 and (options.bf16 or options.cpu):
        other = "--bf16" if options.bf16 else "--cpu"
        parser.error(f"--fp16 and {other} do not go together")
    return options


def _split(arguments: List[str]) -> Tuple[List[str], List[str]]:
    """What is before a ``--``, and what follows it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def _set_stages(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """``options.stages``: those to run."""
    if options.stage and (options.first or options.last):
        parser.error("--stage goes without --from and --to")
    first = options.stages.index(options.stage or options.first or options.stages[0])
    last = options.stages.index(options.stage or options.last or options.stages[-1])
    if first > last:
        parser.error(f"--from {options.first} comes after --to {options.last}")
    options.stages = tuple(options.stages[first : last + 1])


def _with_size(options: argparse.Namespace) -> argparse.Namespace:
    """The options with what ``--size`` says where the user said nothing."""
    name = options.data_set and Path(options.data_set).stem
    options.name = options.name or name or f"{options.src}-{options.tgt}"
    size, given = SIZES[options.size], dict(vars(options))
    for name, value in vars(size).items():
        if given.get(name) is None:
            setattr(options, name, value)
    options = of_length(options, options.updates, size.checkpoints)
    for name in ("warmup_updates", "save_interval"):
        setattr(options, name, given[name] or getattr(options, name))
    return options


def _check_models(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse models that the architecture has not."""
    for model in options.models:
        try:
            model.flags(options.arch)
        except ValueError as error:
            parser.error(f"--models {error}")


def _check_pairs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse sentence pairs of which something is missing or said twice."""
    own = [split for split in SPLITS if getattr(options, split)]
    if own and len(own) < len(SPLITS):
        parser.error("--train, --valid and --test go together")
    if own and options.raw:
        parser.error("--raw and --train go without each other")
    if not (own or options.raw or options.data_set):
        parser.error("a data set or --raw FOLDER is needed")
    if bool(options.src) != bool(options.tgt):
        parser.error("--src and --tgt go together")
    if options.src and options.src == options.tgt:
        parser.error(f"--src and --tgt are both {options.src}")
    if (own or not options.data_set) and not options.src:
        parser.error("your own files need --src and --tgt")
    if options.data_set == "cldr" and options.src and not own and not options.raw:
        if not {options.src, options.tgt} <= set(LANGUAGES):
            languages = ", ".join(LANGUAGES)
            parser.error(f"the demo corpus has the languages {languages} only")


PARSERS = {
    "translation": parse_translation,
    "classification": parse_classification,
    "quality": parse_quality,
}

if __name__ == "__main__":
    PARSERS[sys.argv[1]](sys.argv[2:])
