"""Options of ``recipes/quickstart.sh``, checked before anything is installed.

Needs nothing but Python: ``python -m recipes.options --help``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List

from data_prep import LANGUAGES, SPLITS

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments(arguments: List[str]) -> argparse.Namespace:
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
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.extra = arguments[end + 1 :]
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


if __name__ == "__main__":
    parse_arguments(sys.argv[1:])
