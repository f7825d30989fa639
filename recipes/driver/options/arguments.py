"""Arguments that several recipes have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional, Sequence

from data_prep import SPLITS

from ..settings import ROOT, SIZES

NOT_EVERYWHERE = {
    "src": None, "tgt": None, "train": None, "wide": False, "slurm": None, "lr": None,
    "updates": None, "warmup_updates": None,
    "save_interval": None, "stage": None, "first": None, "last": None,
}  # fmt: skip
"""Options that some recipes lack."""


def program(module: str) -> str:
    """Name what was called: the script, or the module that stands behind it."""
    return os.environ.get("RECIPE") or f"python -m recipes.driver.{module}"


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


class _ShowHelp(argparse.Action):
    """Help whose defaults are what comes before it: the script's own options."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, *_: Any) -> None:
        given = {k: v for k, v in vars(namespace).items() if v is not None}
        parser.set_defaults(**given)
        parser.print_help()
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Its errors are one line, without the usage of twenty."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def new_parser(
    module: str, description: str, note: str = ""
) -> argparse.ArgumentParser:
    """Make the parser of a recipe; what follows ``--`` is for fairseq-train."""
    parser = _Parser(
        prog=program(module),
        allow_abbrev=False,
        description=description,
        epilog="What follows -- goes to fairseq-train, e.g. -- --phm-share-rule none. "
        "A second run reuses what is there; an interrupted one goes on. " + note,
        formatter_class=_Help,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_ShowHelp, nargs=0, help="this text")
    parser.set_defaults(**NOT_EVERYWHERE)
    return parser


def add_pairs(parser: argparse.ArgumentParser, size: str) -> None:
    """Add where sentence pairs come from, and ``--size``."""
    add = parser.add_argument
    add("data_set", nargs="?", help="name (python -m data_prep --list) or .toml file")
    add_raw(parser, "train.SRC, train.TGT, valid.SRC, ...")
    for split in SPLITS:
        add(f"--{split}", metavar="PREFIX", help="or your own PREFIX.SRC, PREFIX.TGT")
    add("--src", help="source language; a declared data set has its own")
    add("--tgt", help="target language")
    add("--name", help="of the experiment; default: the data set's")
    add("--size", default=size, choices=SIZES, help="of models and training")


def add_raw(parser: argparse.ArgumentParser, files: str) -> None:
    """Add the folder of the user's own files."""
    parser.add_argument(
        "--raw", type=Path, metavar="FOLDER",
        help=f"files on disk, no download: {files}, plain, .gz or .xz",
    )  # fmt: skip


def add_runs(
    parser: argparse.ArgumentParser,
    models: Sequence[str],
    seeds: Sequence[int] = (),
    wide: bool = True,
) -> None:
    """Add the models, their seeds if there are any, and the work folder."""
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


def add_size(
    parser: argparse.ArgumentParser, trains: bool = True
) -> Callable[..., argparse.Action]:
    """Add what overrides ``--size``; returns what adds to this group."""
    add = parser.add_argument_group("instead of what --size says").add_argument
    add("--arch", help="fairseq architecture phm_...; --models chooses the layers")
    if trains:
        add("--updates", type=int, help="training updates")
        add("--warmup-updates", type=int, help="updates of rising learning rate")
    add("--max-tokens", type=int, help="tokens in a batch, of its longer side")
    add("--vocab-size", type=int, help="subwords, shared by both sides")
    add("--dropout", type=float, help="of embeddings and sublayers")
    add("--layers", type=int, help="of each stack, encoder and decoder")
    add("--lines", type=int, help="training lines; a tenth for the rest; 0: all")
    return add


def add_search(parser: argparse.ArgumentParser, mean: str) -> None:
    """Add the average of checkpoints, and beam search."""
    add = parser.add_argument
    add(
        "--mean", default=mean, choices=("factors", "weights", "none"),
        help="what is averaged; none: the checkpoint of the best validation",
    )  # fmt: skip
    add("--num-checkpoints", type=int, default=8, help="last checkpoints to average")
    add_beam(parser, 5)


def add_beam(parser: argparse.ArgumentParser, beam: int) -> None:
    """Add beam search."""
    add = parser.add_argument
    add("--beam", type=int, default=beam, help="beam of the search")
    add("--lenpen", type=float, default=0.6, help="length penalty of the search")


def add_stages(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    """Add the choice among stages."""
    group = parser.add_argument_group(f"stages ({', '.join(stages)})")
    group.add_argument("--stage", choices=stages, help="only this one")
    group.add_argument("--from", dest="first", choices=stages, help="first one")
    group.add_argument("--to", dest="last", choices=stages, help="last one")
    parser.set_defaults(stages=stages)


def add_machine(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what the trainings run on; returns the group."""
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
