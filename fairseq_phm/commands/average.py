"""``fairseq-phm average``: the mean of several checkpoints of one training."""

import argparse
from pathlib import Path

from ..average import MEANS, average, find_checkpoints
from ..checkpoint import write_checkpoint
from ..errors import DataError
from ..files import refuse_existing

DESCRIPTION = (
    "Writes the mean of several checkpoints of one training, and says how far it is "
    "from the mean of the weights H of PHM layers."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "--inputs", required=True, nargs="+", type=Path, metavar="FOLDER_OR_FILE",
        help="checkpoints, or folders with checkpoint_EPOCH_UPDATES.pt "
        "or checkpointEPOCH.pt",
    )  # fmt: skip
    add("--num-checkpoints", type=int, default=8, help="the last so many of a folder")
    add("--output", required=True, type=Path, help="checkpoint to write")
    add(
        "--mean", choices=MEANS, default="factors",
        help="of rules and blocks, or of the weights that they make (the nearest)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Write the mean and print its distance from the mean of H.

    Raises:
        DataError: input that cannot be averaged, or an output that cannot be written.
    """
    if options.num_checkpoints < 1:
        raise DataError("--num-checkpoints must be at least 1")
    paths = find_checkpoints(options.inputs, options.num_checkpoints)
    refuse_existing(options.output, True, *paths)
    made = average(paths, options.mean)
    write_checkpoint(made.checkpoint, options.output)
    print(
        f"{options.output}: mean of {len(paths)} checkpoints, "
        f"updates {made.updates[0]} to {made.updates[-1]}"
    )
    for kind, distances in made.distances.items():
        print(
            f"largest |H - mean H| / |mean H|, mean of {kind}: "
            f"{max(distances.values()):.3g}{' (written)' * (kind == options.mean)}"
        )
