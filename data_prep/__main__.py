"""Command line of the data preparation: ``python -m data_prep --help``."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from . import errors_in_one_line

EXAMPLES = """examples:
  python -m data_prep --list
  python -m data_prep iwslt15-en-vi
  python -m data_prep iwslt14-de-en --raw FOLDER --out runs/data/de-en
  python -m data_prep --raw FOLDER --src en --tgt cs --vocab-size 16000

FOLDER holds train, valid (or dev) and test, with one sentence per line: train.en,
train.cs, ..., or train.tsv, ... for tables; plain, .gz or .xz. A second call skips the
steps whose inputs have not changed. After an interruption, run the command again."""


def main() -> None:
    """Run the command. An error prints one line and exits with code 1."""
    try:
        with errors_in_one_line("data_prep"):
            _run(_arguments())
    except ModuleNotFoundError as error:
        sys.exit(f"data_prep: no module {error.name}: pip install '.[recipes]'")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Downloads or reads a data set, cleans it and prepares it for "
        "fairseq-train.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("data_set", nargs="?", help="name (see --list), or path of a .toml file")
    add("--list", action="store_true", help="list the declared data sets")
    add(
        "--raw",
        type=Path,
        metavar="FOLDER",
        help="use files on disk instead of a download",
    )
    add("--out", type=Path, metavar="FOLDER", help="default: runs/data/NAME")
    add(
        "--src",
        metavar="LANGUAGE",
        help="source; --src and --tgt also reverse a declared pair",
    )
    add("--tgt", metavar="LANGUAGE", help="target")
    add("--vocab-size", type=int, metavar="N", help="number of subwords")
    add("--seed", type=int, help="of the demo corpus; no other set uses it")
    add("--workers", type=int, metavar="N", help="processes (default: all cores)")
    options = parser.parse_args()
    if not (options.list or options.data_set or options.raw):
        parser.error("a data set, --raw or --list is needed")
    if bool(options.src) != bool(options.tgt):
        parser.error("--src and --tgt go together")
    if not (options.list or options.data_set or options.src):
        parser.error("--raw without a data set needs --src and --tgt")
    if options.src and options.src == options.tgt:
        parser.error(f"--src and --tgt are both {options.src}")
    for name in ("vocab_size", "workers"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def _run(options: argparse.Namespace) -> None:
    from . import declaration
    from .prepare import prepare
    from .sources import raw_files

    if options.list:
        for name in declaration.names():
            print(_line(declaration.load(name)))
        return
    if options.data_set:
        data_set = declaration.load(options.data_set)
    else:
        name = f"{options.src}-{options.tgt}"
        data_set = declaration.DataSet(name, f"{options.raw}", "parallel")
    pair = (options.src, options.tgt) if options.src else ()
    data_set = data_set.between(pair, bool(options.raw))
    changes = {"subwords": options.vocab_size, "seed": options.seed}
    changes = {k: v for k, v in changes.items() if v is not None}
    data_set = replace(data_set, **changes)
    out = options.out or Path("runs") / "data" / data_set.name
    raw = raw_files(options.raw, data_set.sides) if options.raw else None
    command = shlex.join(["python", "-m", "data_prep", *sys.argv[1:]])
    manifest = prepare(data_set, out, raw, options.workers, command)
    counts = ", ".join(f"{split} {n:,}" for split, n in manifest["counts"].items())
    print(f"{out / 'manifest.json'}: {counts}")


def _line(data_set) -> str:
    parts = "--raw only" if not data_set.parts else ""
    what = "-".join(data_set.languages) or ", ".join(data_set.labels)
    return f"{data_set.name:18} {what:38} {data_set.title}  {parts}".rstrip()


if __name__ == "__main__":
    main()
