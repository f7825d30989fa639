"""``fairseq-phm densify IN OUT``: a PHM checkpoint as one of fairseq's own models."""

import argparse
from pathlib import Path

from ..errors import DataError, one_line

DESCRIPTION = (
    "Writes a checkpoint of fairseq's transformer, transformer_lm or lstm that gives "
    "the scores of a PHM checkpoint and loads where the plugin is not installed. The "
    "state of the optimizer is left out."
)
DATA_HELP = "folder with the dictionaries (default: that of the training)"
TOLERANCE = 1e-4
"""Of log-probabilities."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="checkpoint of a PHM model")
    add("output", type=Path, metavar="OUT", help="checkpoint to write")
    add("--data", type=Path, help=DATA_HELP)
    add("--force", action="store_true", help="replace OUT if it exists")
    add(
        "--options", choices=("dictionary", "namespace"), default="dictionary",
        help="how the options of the model are stored: as fairseq-hydra-train does, "
        "which loads with torch.load's defaults, or as fairseq-train does, for "
        "programs that convert checkpoints of fairseq",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Write the dense checkpoint, after a comparison of its scores.

    Raises:
        DataError: no PHM checkpoint of a model with a dense counterpart, or an output
            that exists or cannot be written.
    """
    from .. import require_fairseq
    from ..checkpoint import read_checkpoint, refuse_not_finite, write_checkpoint
    from ..files import refuse_existing

    require_fairseq("densify")
    from ..densify import densified, largest_difference, stock_checkpoint
    from ..rebuild import rebuild

    refuse_existing(options.output, options.force, options.input)
    checkpoint = read_checkpoint(options.input)
    rebuilt = rebuild(checkpoint, options.input, options.data)
    refuse_not_finite(checkpoint["model"], options.input)
    try:
        dense = densified(rebuilt)
    except (DataError, RuntimeError, ValueError) as error:
        raise DataError(f"{options.input}: {one_line(error)}") from None
    difference = largest_difference(rebuilt, dense)
    if not difference <= TOLERANCE:
        raise DataError(f"{options.input}: the dense scores differ by {difference:.1g}")
    namespace = options.options == "namespace"
    write_checkpoint(stock_checkpoint(checkpoint, dense, namespace), options.output)
    numbers = [
        sum(p.numel() for p in one.model.parameters()) for one in (rebuilt, dense)
    ]
    print(
        f"{options.output}: {dense.args.arch}, {numbers[1]:,} parameters "
        f"({numbers[0]:,} before), largest difference of log-probabilities "
        f"{difference:.1g}"
    )
