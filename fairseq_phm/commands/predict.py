"""``fairseq-phm predict``: labels and scores for a TSV file."""

import argparse
import logging
import warnings
from pathlib import Path

from ..errors import DataError
from ..files import refuse_existing

DESCRIPTION = (
    "Writes a label and the probability of each label for every row of a TSV file, and "
    "prints the accuracy when the rows have labels."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("--path", required=True, help="checkpoint, or several as A.pt:B.pt")
    add("--input", required=True, type=Path, help="TSV file, plain, .gz or .xz")
    add("--output", required=True, type=Path, help="TSV file to write, with a header")
    add("--batch-size", type=int, default=256, help="rows in a batch")
    add("--cpu", action="store_true", help="do not use a GPU")


def run(options: argparse.Namespace) -> None:
    """Write the predictions and print the accuracy.

    Raises:
        DataError: a checkpoint or a row that cannot be used.
    """
    import torch

    from .. import require_fairseq

    paths = options.path.split(":")
    refuse_existing(options.output, True, options.input, *map(Path, paths))
    require_fairseq("predict")
    from ..predict import predict, write

    if options.batch_size < 1:
        raise DataError("--batch-size must be at least 1")
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    predictions = predict(paths, options.input, options.batch_size, device)
    write(predictions, options.output)
    print(f"{len(predictions.scores)} rows", end="")
    if predictions.accuracy is not None:
        print(f", accuracy {predictions.accuracy:.2f}", end="")
    print()
