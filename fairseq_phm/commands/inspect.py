"""``fairseq-phm inspect CHECKPOINT --out DIR``: learned rules as one page."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from ..checkpoint import read_checkpoint
from ..errors import DataError, one_line
from ..files import folder_written_whole
from ..inspection import inspect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="of a PHM model")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder")


def run(options: argparse.Namespace) -> None:
    """Write the page and its pictures; the folder appears when it is complete.

    Raises:
        DataError: the folder exists or cannot be written, the checkpoint cannot be read
            or is dense, or matplotlib is missing.
    """
    path, out = options.checkpoint, options.out
    if out.exists() or out.is_symlink():
        raise DataError(f"{out}: exists already; choose a new folder")
    if not out.absolute().parent.is_dir():
        raise DataError(f"{out.absolute().parent}: no such folder")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq logs all
    try:
        from .. import page
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise DataError("inspect needs matplotlib: pip install matplotlib") from None
    checkpoint = read_checkpoint(path)
    try:
        found = inspect(checkpoint)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = one_line(error)
        raise DataError(f"{path}: rules and blocks do not fit: {reason}") from None
    pictures = page.draw(found)
    name = os.fsencode(path.name).decode("utf-8", "replace")
    text = page.write(found, pictures, name)
    files = {**pictures, "index.html": text.encode()}
    with folder_written_whole(out) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
    print(f"{out / 'index.html'}: {len(found.rules)} rules, {len(found.layers)} layers")
