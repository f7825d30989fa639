"""Options of the recipes, checked before anything is installed.

Needs nothing but Python: ``python -m recipes.options quickstart --help``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List

from data_prep import LANGUAGES, SPLITS

ROOT = Path(__file__).resolve().parent.parent


def parse_quickstart(arguments: List[str]) -> argparse.Namespace:
    """Options of a run; ``extra`` holds what follows ``--``, for fairseq-train."""
    parser = argparse.ArgumentParser(
        prog="quickstart.sh",
        allow_abbrev=False,
        description="Trains phm_transformer on sentence pairs, translates the test set "
        "and scores it. Without --train, --valid and --test the corpus is made from "
        "Unicode CLDR data: dates, times, amounts, units and places.",
        epilog="What follows -- goes to fairseq-train, e.g. -- --phm-share-rule block. "
        "A second run reuses what is there; an interrupted one goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--src", default="en", help=f"source language; demo: {', '.join(LANGUAGES)}")
    add("--tgt", default="de", help="target language")
    for split in SPLITS:
        add(f"--{split}", metavar="PREFIX", help="your own PREFIX.SRC and PREFIX.TGT")
    add("--compare", action="store_true", help="train the dense twin in the same run")
    add("--n", type=int, default=4, help="PHM n: 1/n of the weights")
    add("--arch", default="phm_transformer_tiny", help="fairseq architecture")
    add("--updates", type=int, default=1500, help="training updates")
    add("--max-tokens", type=int, default=1500, help="tokens in a batch")
    add("--lr", type=float, default=4e-3, help="peak learning rate")
    add("--vocab-size", type=int, default=2000, help="subwords, shared by both sides")
    add("--beam", type=int, default=5, help="beam of the search")
    add("--seed", type=int, default=1, help="seed of corpus and training")
    add("--out", type=Path, default=ROOT / "runs" / "quickstart", help="work folder")
    options = parse_with_extra(parser, arguments)
    own = [split for split in SPLITS if getattr(options, split)]
    if own and len(own) < len(SPLITS):
        parser.error("--train, --valid and --test go together")
    if not own and not {options.src, options.tgt} <= set(LANGUAGES):
        parser.error(f"the demo corpus has the languages {', '.join(LANGUAGES)} only")
    if options.src == options.tgt:
        parser.error(f"--src and --tgt are both {options.src}")
    for number in ("n", "updates", "max_tokens", "vocab_size", "beam"):
        if getattr(options, number) < 1:
            parser.error(f"--{number.replace('_', '-')} must be at least 1")
    return options


def parse_classification(arguments: List[str]) -> argparse.Namespace:
    """Options of a run; ``extra`` holds what follows ``--``, for fairseq-train."""
    parser = argparse.ArgumentParser(
        prog="classification",
        allow_abbrev=False,
        description="Trains sentence classifiers, several seeds each, keeps the "
        "checkpoint with the best validation accuracy and prints test accuracies.",
        epilog="What follows -- goes to fairseq-train. A second run reuses what is "
        "there; an interrupted one goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data", type=Path, required=True, metavar="DIR",
        help="folder with train, valid (or dev) and test, .tsv, .tsv.gz or .tsv.xz",
    )  # fmt: skip
    add("--vectors", type=Path, help="GloVe vectors: a file, or a folder with one")
    add("--models", nargs="+", help="dense, quaternion or n of PHM, as 5")
    add("--seeds", type=int, nargs="+", help="seeds of each model")
    add("--epochs", type=int, help="length of a training")
    add("--jobs", type=int, default=1, help="trainings at the same time")
    add("--out", type=Path, default=ROOT / "runs", help="work folder")
    for hidden in ("name", "arch", "flags", "published"):
        add(f"--{hidden}", help=argparse.SUPPRESS)
    add("--by-column", type=int, help=argparse.SUPPRESS)
    options = parse_with_extra(parser, arguments)
    for model in options.models:
        if model not in ("dense", "quaternion") and not (
            model.isdigit() and int(model)
        ):
            parser.error(f"--models {model}: dense, quaternion or a whole number")
    for name in ("epochs", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
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


def parse_with_extra(
    parser: argparse.ArgumentParser, arguments: List[str]
) -> argparse.Namespace:
    """The options before a ``--``, and as ``extra`` what follows it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.extra = arguments[end + 1 :]
    return options


PARSERS = {"quickstart": parse_quickstart, "classification": parse_classification}

if __name__ == "__main__":
    PARSERS[sys.argv[1]](sys.argv[2:])
