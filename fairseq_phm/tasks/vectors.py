"""Reading pretrained word vectors in GloVe's text format."""

from pathlib import Path
from typing import Container, Dict, Tuple, Union

import numpy as np

from ..errors import DataError
from .tsv import numbered_lines


def read_vectors(
    path: Union[str, Path], wanted: Container[str]
) -> Tuple[Dict[str, np.ndarray], int]:
    """Read the vectors of the wanted words, in the file's order, and their width.

    A line is a word and its numbers, separated by spaces; the first line sets the
    width. A first line of two whole numbers (word2vec's) is skipped. Of a word that
    occurs twice the first line counts.

    Args:
        path: text file, plain, .gz or .xz.
        wanted: the words to keep.

    Returns:
        word -> float32 array (width,), and the width.

    Raises:
        DataError: naming file and line: another number of numbers than the first line,
            a wanted vector with something that is no finite number; or as
            :func:`numbered_lines`.
    """
    vectors: Dict[str, np.ndarray] = {}
    width = 0
    for number, line in numbered_lines(path):
        fields = line.rstrip(" ").split(" ")
        if number == 1 and len(fields) == 2 and all(f.isdigit() for f in fields):
            continue
        if not width:
            width = len(fields) - 1
        surplus = fields[1 : len(fields) - width]
        if width < 1 or len(fields) <= width or any(map(_is_number, surplus)):
            raise DataError(
                f"{path}:{number}: the vector of {fields[0]!r} has "
                f"{len(fields) - 1} numbers, the file's first one {width}"
            )
        word = " ".join([fields[0], *surplus])  # a few of GloVe's words have spaces
        if word not in wanted or word in vectors:
            continue
        try:
            vector = np.array(fields[len(fields) - width :], dtype=np.float32)
        except ValueError:
            vector = np.array([np.nan])
        if not np.isfinite(vector).all():
            raise DataError(
                f"{path}:{number}: the vector of {word!r} holds something that is no "
                "finite number"
            )
        vectors[word] = vector
    return vectors, width


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
