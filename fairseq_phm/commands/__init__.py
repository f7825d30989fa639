"""The command ``fairseq-phm`` and its subcommands.

A subcommand NAME is the module ``fairseq_phm/commands/NAME.py`` with

- ``HELP``, one line, a literal;
- ``add_arguments(parser)``;
- ``run(options)``, which raises ``DataError`` with one line for bad input;
- if it needs it, ``parse(parser, arguments)``, in place of ``parser.parse_args``.

The module is imported when its subcommand is called.
"""

import argparse
import ast
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, Optional

COMMANDS = (
    "flags",
    "average",
    "predict",
    "densify",
    "export",
    "compress",
    "params",
    "inspect",
)
"""In the order of ``fairseq-phm --help``; those whose module is there are listed."""

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
    helps = available()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(listing(helps, program))
        sys.exit(0)
    name = arguments[0]
    if name not in helps:
        print(
            f"{program}: error: no command {name!r}: choose one of {', '.join(helps)}",
            file=sys.stderr,
        )
        sys.exit(2)
    run_command(name, arguments[1:], f"{program} {name}")


def available() -> Dict[str, str]:
    """Return the commands and their one line of help, read without an import."""
    helps = {}
    for name in COMMANDS:
        path = Path(__file__).with_name(f"{name}.py")
        if path.is_file():
            helps[name] = _help_of(path)
    return helps


def listing(helps: Dict[str, str], program: str = PROGRAM) -> str:
    """Return the text of ``fairseq-phm --help``."""
    width = max(map(len, helps))
    lines = [
        f"usage: {program} COMMAND ...",
        "",
        "PHM layers for fairseq: models, checkpoints and exports.",
        "",
        *(f"  {name:<{width}}  {text}" for name, text in helps.items()),
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
            description=getattr(module, "DESCRIPTION", module.HELP + "."),
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        if hasattr(module, "parse"):
            options = module.parse(parser, arguments)
        else:
            options = parser.parse_args(arguments)
        logger.setLevel(logging.WARNING)
        module.run(options)
        sys.stdout.flush()
    except DataError as error:
        sys.exit(f"error: {error}")
    except ImportError as error:
        if find_spec("fairseq"):
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was written")
    except BrokenPipeError:  # as of | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        logger.setLevel(level)


def _help_of(path: Path) -> str:
    """Return the literal that a module assigns to ``HELP``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            getattr(target, "id", "") == "HELP" for target in node.targets
        ):
            return ast.literal_eval(node.value)
    return ""
