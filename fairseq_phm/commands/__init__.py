"""The command ``fairseq-phm`` and its subcommands.

A subcommand NAME is in :data:`COMMANDS` and the module ``fairseq_phm/commands/NAME.py``
with

- ``add_arguments(parser)``;
- ``run(options)``, which raises ``DataError`` with one line for bad input;
- if it needs it, ``parse(parser, arguments)``, in place of ``parser.parse_args``.

The module is imported when its subcommand is called.
"""

import argparse
import os
import sys
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Iterator, List, Optional, Sequence

from .. import has_fairseq

COMMANDS = {
    "flags": "list the flags of a PHM model, which fairseq-train --help omits",
    "average": "write the mean of several checkpoints of one training",
    "predict": "write labels and scores for a TSV file, from trained classifiers",
    "densify": "write a PHM checkpoint as a dense one, for fairseq without the plugin",
    "export": "write a model for CTranslate2, TorchScript, ONNX or as safetensors",
    "compress": "turn a trained dense model into the nearest PHM model, to train it on",
    "params": "list the parameters and multiply-adds of a model, PHM against dense",
    "inspect": "show the rules that a PHM model has learned, as a page with pictures",
}
"""Subcommand -> its line in ``fairseq-phm --help``, in this order."""

PROGRAM = "fairseq-phm"


def main(arguments: Optional[List[str]] = None, program: str = PROGRAM) -> None:
    """Run the command line.

    Args:
        arguments: default: those of the process.
        program: name that the help shows.

    Raises:
        SystemExit: with status 0 for help, 1 for bad input, 2 for bad arguments.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        with _output():
            print(listing(program))
        sys.exit(0)
    name = arguments[0]
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        message = f"{program}: error: no command {name!r}: choose one of {known}"
        print(message, file=sys.stderr)
        sys.exit(2)
    run_command(name, arguments[1:], f"{program} {name}")


def listing(program: str = PROGRAM) -> str:
    """Return the text of ``fairseq-phm --help``."""
    width = max(map(len, COMMANDS))
    lines = [
        f"usage: {program} COMMAND ...",
        "",
        "PHM layers for fairseq: models, checkpoints and exports.",
        "",
        *(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
        "",
        f"{program} COMMAND --help lists the arguments of a command.",
    ]
    return "\n".join(lines)


def run_command(
    name: str, arguments: Optional[List[str]] = None, program: Optional[str] = None
) -> None:
    """Run one subcommand.

    Args:
        name: of :data:`COMMANDS`.
        arguments: default: those of the process.
        program: name that the help shows.

    Raises:
        SystemExit: bad arguments; bad input, or no fairseq where it is needed, with one
            line on stderr.
    """
    import logging

    from ..errors import DataError

    logger = logging.getLogger("fairseq_phm")
    level = logger.level
    try:
        module = import_module(f"fairseq_phm.commands.{name}")
        parser = argparse.ArgumentParser(
            prog=program or f"{PROGRAM} {name}",
            description=getattr(module, "DESCRIPTION", COMMANDS[name] + "."),
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        if hasattr(module, "parse"):
            options = module.parse(parser, arguments)
        else:
            options = parser.parse_args(arguments)
        logger.setLevel(logging.WARNING)
        with _output():
            module.run(options)
    except DataError as error:
        sys.exit(f"error: {error}")
    except ImportError as error:
        if has_fairseq():
            raise
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was written")
    finally:
        logger.setLevel(level)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text in columns, the first one to the left, others to the right.

    >>> print(aligned([("layer", "n"), ("fc1", "16")]))
    layer   n
    fc1    16
    """
    first, *others = (max(map(len, column)) for column in zip(*rows))
    return "\n".join(
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip()
        for row in rows
    )


@contextmanager
def _output() -> Iterator[None]:
    """Write all that is printed, if someone reads it: not to what is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename:
            raise
        with suppress(OSError, ValueError):  # what is left cannot be written either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        broken = isinstance(error, BrokenPipeError)  # as of | head
        sys.exit(1 if broken else f"error: {error.strerror or error}")
