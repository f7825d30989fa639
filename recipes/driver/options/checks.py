"""Read a command line, and refuse in one line what cannot be."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

from data_prep import LANGUAGES, SPLITS, DataError

from ..flags import values_of
from ..models import DENSE, TRANSLATORS, Model, divided_widths

if TYPE_CHECKING:
    from data_prep.declaration import DataSet


OF_THE_PAPER = ("models", "seeds", "updates", "layers", "epochs")
"""Options whose defaults with ``--size paper`` stand in the data set's declaration."""

FLAGS = {
    "--arch": ["--arch"], "--bf16": ["--bf16"], "--dropout": ["--dropout"],
    "--fp16": ["--fp16"], "--lr": ["--lr", "--lrs"],
    "--max-epoch": ["--epochs", "--updates"], "--max-tokens": ["--max-tokens"],
    "--max-update": ["--updates"], "--phm-n": ["--models"], "--save-dir": ["--out"],
    "--save-interval-updates": ["--save-interval"], "--seed": ["--seeds"],
    "--tokens-per-sample": ["--tokens-per-sample"],
    "--warmup-updates": ["--warmup-updates"],
}  # fmt: skip
"""Flags of fairseq-train, and the options of recipes that make them."""


def parse(
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
    given.models = _models(parser, given)
    given.seeds = list(dict.fromkeys(given.seeds))
    if not all(0 <= seed < 2**32 for seed in given.seeds):
        parser.error(f"--seeds {min(given.seeds)}: a seed is 0 to {2**32 - 1}")
    for name in ("out", "checkpoint"):
        path = getattr(given, name, None)
        if path and os.pathsep in str(path.absolute()):
            parser.error(f"--{name} {path}: fairseq splits paths at {os.pathsep}")
    _check_numbers(parser, given)
    _check_extra(parser, given.extra)
    if given.raw and not given.raw.is_dir():
        parser.error(f"--raw {given.raw}: no such folder")
    given.stages = _stages(parser, given)
    if given.stages == ("average",) and given.mean == "none":
        parser.error("--stage average: with --mean none there is nothing to average")
    _check_machine(parser, given)
    return given


def _models(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> Tuple[Model, ...]:
    """Those of ``--models``, each once; with ``--wide`` all but dense ones are wide."""
    try:
        models = list(map(Model.parse, given.models))
    except ValueError as error:
        parser.error(f"--models {error}")
    if given.wide:
        models = [m if m.family == "dense" else replace(m, wide=True) for m in models]
    return tuple(dict.fromkeys(models))


def _check_numbers(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse numbers that are too small, too large or no numbers."""
    for name, value in vars(given).items():
        option = f"--{name.replace('_', '-')}"
        least = 0 if name in ("extend", "lines", "node_rank") else 1
        if type(value) is int and value < least:
            parser.error(f"{option} must be at least {least}")
        if name in ("lr", "lrs", "lr_on") and value is not None:
            for rate in value if name == "lrs" else [value]:
                if not 0 < rate < math.inf:
                    parser.error(f"{option} {rate:g}: a learning rate is positive")
    dropout = getattr(given, "dropout", None)
    if dropout is not None and not 0 <= dropout < 1:
        parser.error(f"--dropout {dropout:g}: at least 0 and less than 1")
    warmup, updates, lenpen = (
        getattr(given, name, None) for name in ("warmup_updates", "updates", "lenpen")
    )
    if warmup and updates and warmup > updates:
        parser.error(f"--warmup-updates {warmup}: more than --updates {updates}")
    if lenpen is not None and not math.isfinite(lenpen):
        parser.error(f"--lenpen {lenpen}: a length penalty is a number")


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


def check_comparison(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> None:
    """Check what benchmarks have in common; their default data are the demo corpus."""
    if given.nodes > 1:
        parser.error("--nodes: the benchmark runs on one machine")
    if not (given.data_set or given.raw or given.train):
        given.data_set = "cldr"
    if given.data_set == "cldr" and not given.src:
        given.src, given.tgt = "en", "de"
    check_pairs(parser, given)
    if given.mean == "none":
        given.num_checkpoints = 1


def check_alone(
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


def check_models(
    parser: argparse.ArgumentParser,
    given: argparse.Namespace,
    arch: str,
    archs: Sequence[str] = TRANSLATORS,
    compared: bool = False,
) -> None:
    """Refuse models that the architecture has not, or what lacks the dense one.

    Args:
        arch: of all models.
        archs: that the recipe can train.
        compared: the dense model is needed.
    """
    if arch not in archs:
        known = ", ".join(archs)
        parser.error(f"--arch {arch}: none of {known}; --models chooses the layers")
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


def check_pairs(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
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
