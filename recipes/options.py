"""Options of the recipes, checked before anything is installed.

Needs nothing but Python: ``python -m recipes.options translation --help``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Sequence

from data_prep import LANGUAGES, SPLITS

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("prepare", "train", "average", "generate", "score")


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
    wide: str  # flags that double the inner widths, around the same states
    lines: int = 0  # of the training set, a tenth of it for the others; 0: all


WIDE = "--phm-attention-dim {0} --encoder-ffn-embed-dim {1} --decoder-ffn-embed-dim {1}"
ADAM = "--adam-betas (0.9,0.98) --clip-norm 1.0"
SIZES: Dict[str, Size] = {
    "paper": Size(
        "phm_transformer", 50_000, 16_000, 7e-4, 2048, 0, 50,
        "--lr-scheduler inverse_sqrt --adam-betas (0.9,0.997) --adam-eps 1e-9",
        WIDE.format(1024, 4096),
    ),
    "small": Size(
        "phm_transformer_small", 10_000, 1000, 1e-3, 4096, 8000, 25,
        f"--lr-scheduler inverse_sqrt {ADAM}", WIDE.format(512, 1024),
    ),
    "tiny": Size(
        "phm_transformer_tiny", 24, 8, 1e-3, 1000, 4000, 12,
        f"--lr-scheduler inverse_sqrt {ADAM}", WIDE.format(256, 1024), lines=2000,
    ),
    "demo": Size(
        "phm_transformer_tiny", 1500, 150, 4e-3, 1500, 2000, 8,
        f"--lr-scheduler polynomial_decay --total-num-update {{updates}} {ADAM}",
        WIDE.format(256, 1024),
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
    add("data_set", nargs="?", help="name (python -m data_prep --list) or .toml file")
    add(
        "--raw", type=Path, metavar="FOLDER",
        help="files on disk: train.SRC, train.TGT, valid.SRC, ..., plain, .gz or .xz",
    )  # fmt: skip
    for split in SPLITS:
        add(f"--{split}", metavar="PREFIX", help="or your own PREFIX.SRC, PREFIX.TGT")
    add("--src", help="source language; a declared data set has its own")
    add("--tgt", help="target language")
    add("--name", help="of the experiment; default: the data set's")
    add("--size", default="small", choices=SIZES, help="of models and training")
    add("--wide", action="store_true", help="PHM models of twice the inner width")
    add("--compare", action="store_true", help="train the dense twin too")
    _add_runs(parser, ["dense", "4"], [1])
    _add_stages(parser, STAGES)
    size = parser.add_argument_group("instead of what --size says").add_argument
    size("--arch", help="fairseq architecture phm_...; for quaternion quaternion_...")
    size("--updates", type=int, help="training updates")
    size("--warmup-updates", type=int, help="updates of rising learning rate")
    size("--lr", type=float, help="peak learning rate")
    size("--max-tokens", type=int, help="tokens in a batch, of its longer side")
    size("--vocab-size", type=int, help="subwords, shared by both sides")
    size("--save-interval", type=int, help="updates between checkpoints")
    size("--lines", type=int, help="training pairs; a tenth for the rest; 0: all")
    add(
        "--mean", default="factors", choices=("factors", "weights", "none"),
        help="what is averaged; none: the checkpoint of the best validation",
    )  # fmt: skip
    add("--num-checkpoints", type=int, default=8, help="last checkpoints to average")
    add("--beam", type=int, default=5, help="beam of the search")
    add("--lenpen", type=float, default=0.6, help="length penalty of the search")
    _add_machine(parser)
    add("--published", type=json.loads, default={}, help=argparse.SUPPRESS)
    add("--paper-updates", type=int, help=argparse.SUPPRESS)
    add("--paper-flags", default="", help=argparse.SUPPRESS)
    options = _parse(parser, arguments)
    _check_data(parser, options)
    size = SIZES[options.size]
    if options.size == "paper":
        updates = options.paper_updates or size.updates
        size = replace(
            size, updates=updates, flags=f"{size.flags} {options.paper_flags}"
        )
    values, warmup = vars(options), options.warmup_updates
    for name, value in vars(size).items():
        if name != "wide" and values.get(name) is None:
            values[name] = value
    if not warmup:
        options.warmup_updates = max(1, min(size.warmup_updates, options.updates // 3))
    values["flags"] = size.flags.format(updates=options.updates)
    values["wide"] = size.wide if options.wide else ""
    if not options.save_interval:
        values["save_interval"] = max(1, options.updates // size.checkpoints)
    if options.compare and "dense" not in options.models:
        options.models.append("dense")
    return options


def parse_classification(arguments: List[str]) -> argparse.Namespace:
    """Options of the runs; ``extra`` holds what follows ``--``, for fairseq-train."""
    parser = _parser(
        "classification",
        "Trains sentence classifiers, several seeds each, keeps the checkpoint with "
        "the best validation accuracy and prints test accuracies.",
    )
    add = parser.add_argument
    add(
        "--data", type=Path, required=True, metavar="DIR",
        help="folder with train, valid (or dev) and test, .tsv, .tsv.gz or .tsv.xz",
    )  # fmt: skip
    add("--vectors", type=Path, help="GloVe vectors: a file, or a folder with one")
    add("--epochs", type=int, help="length of a training")
    _add_runs(parser)
    for hidden in ("name", "arch", "flags"):
        add(f"--{hidden}", help=argparse.SUPPRESS)
    add("--published", type=json.loads, default={}, help=argparse.SUPPRESS)
    add("--by-column", type=int, help=argparse.SUPPRESS)
    options = _parse(parser, arguments)
    if not options.data.is_dir():
        parser.error(f"--data {options.data}: no such folder")
    if options.vectors and options.vectors.is_dir():
        files = [file for file in options.vectors.iterdir() if ".txt" in file.name]
        if len(files) != 1:
            parser.error(f"--vectors {options.vectors}: {len(files)} .txt files there")
        options.vectors = files[0]
    if options.vectors and not options.vectors.is_file():
        parser.error(f"--vectors {options.vectors}: no such file")
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


def _add_runs(
    parser: argparse.ArgumentParser,
    models: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> None:
    add = parser.add_argument
    add(
        "--models", "--n", nargs="+", default=models or None, metavar="MODEL",
        help="dense, quaternion or n of PHM, as 4",
    )  # fmt: skip
    add("--seeds", "--seed", type=int, nargs="+", default=seeds or None, metavar="SEED")
    add("--jobs", type=int, default=1, help="trainings at the same time")
    add("--out", type=Path, default=ROOT / "runs", help="work folder")


def _add_stages(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    group = parser.add_argument_group(f"stages ({', '.join(stages)})")
    group.add_argument("--stage", choices=stages, help="only this one")
    group.add_argument("--from", dest="first", choices=stages, help="first one")
    group.add_argument("--to", dest="last", choices=stages, help="last one")
    parser.set_defaults(stages=stages)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("machine").add_argument
    add(
        "--gpus", type=int, default=1, help="GPUs of this machine; without one, the CPU"
    )
    add("--fp16", action="store_true", help="half precision, on a GPU")
    add("--bf16", action="store_true", help="bfloat16")
    add("--cpu", action="store_true", help="do not use a GPU")


def _parse(parser: argparse.ArgumentParser, arguments: List[str]) -> argparse.Namespace:
    """The options before a ``--``, checked, and as ``extra`` what follows it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_intermixed_args(arguments[:end])
    options.extra = arguments[end + 1 :]
    for model in options.models:
        if model not in ("dense", "quaternion"):
            if not model.isdigit():
                parser.error(f"--models {model}: dense, quaternion or a whole number")
            if not int(model):
                parser.error(f"--models {model}: n must be at least 1")
    for name, value in vars(options).items():
        if type(value) is int and value < 1 and name != "lines":
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if "stages" in options:
        _set_stages(parser, options)
    if getattr(options, "fp16", False) and (options.bf16 or options.cpu):
        other = "--bf16" if options.bf16 else "--cpu"
        parser.error(f"--fp16 and {other} do not go together")
    return options


def _set_stages(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """``options.stages``: those to run."""
    if options.stage and (options.first or options.last):
        parser.error("--stage goes without --from and --to")
    first = options.stages.index(options.stage or options.first or options.stages[0])
    last = options.stages.index(options.stage or options.last or options.stages[-1])
    if first > last:
        parser.error(f"--from {options.first} comes after --to {options.last}")
    options.stages = options.stages[first : last + 1]


def _check_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
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
    if options.raw and not options.raw.is_dir():
        parser.error(f"--raw {options.raw}: no such folder")
    if options.data_set == "cldr" and options.src and not own and not options.raw:
        if not {options.src, options.tgt} <= set(LANGUAGES):
            languages = ", ".join(LANGUAGES)
            parser.error(f"the demo corpus has the languages {languages} only")


PARSERS = {"translation": parse_translation, "classification": parse_classification}

if __name__ == "__main__":
    PARSERS[sys.argv[1]](sys.argv[2:])
