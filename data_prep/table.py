"""Cleans tables of texts and labels: tab-separated, without a header."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from . import DataError
from .clean import Cleaned, clean_split, is_empty
from .declaration import DataSet
from .text import Chunk, decode


def clean_tables(
    files: Mapping[str, Sequence[Path]], data_set: DataSet, out: Path, workers: int
) -> Dict[str, Any]:
    """Write ``out/SPLIT.tsv``: the declared columns, UTF-8 in NFC, no quoting.

    A first row with the names of the columns is a header and dropped. Rows with one of
    ``data_set.drop_labels`` and training rows with an empty text are dropped. All
    dropped rows are counted.

    Args:
        files: split -> a list of one file.
        data_set: the declaration.
        out: an existing folder.
        workers: number of processes.

    Returns:
        Split -> counts, see :func:`data_prep.clean.clean_pairs`.

    Raises:
        DataError: a wrong number of columns, a label that is not declared, or an empty
            text in validation or test; with file and line.
    """
    report = {}
    for split, paths in files.items():
        work = partial(_clean_rows, data_set=data_set, training=split == "train")
        outs = [out / f"{split}.tsv"]
        report[split] = clean_split(work, split, paths, outs, workers, data_set.lines)
    return report


def _clean_rows(chunk: Chunk, data_set: DataSet, training: bool) -> Cleaned:
    columns = data_set.columns
    label = columns.index("label")
    kept: List[str] = []
    dropped, repaired = Counter(), Counter()
    (path,) = chunk.paths
    for number, line in enumerate(chunk.sides[0], start=chunk.first):
        row = [
            cell.strip() for cell in decode(line, path, number, repaired).split("\t")
        ]
        where = f"{path}:{number}"
        if number == 1 and tuple(row) == columns:
            dropped["header"] += 1
            continue
        if len(row) != len(columns):
            raise DataError(f"{where}: {len(row)} columns, not {', '.join(columns)}")
        if row[label] in data_set.drop_labels:
            dropped[f"label {row[label]}"] += 1
        elif row[label] not in data_set.labels:
            known = ", ".join(data_set.labels)
            raise DataError(f"{where}: unknown label {row[label]!r} (known: {known})")
        elif any(map(is_empty, row[:label])):
            if not training:
                empty = columns[[is_empty(cell) for cell in row].index(True)]
                raise DataError(f"{where}: the {empty} is empty")
            dropped["empty"] += 1
        else:
            kept.append("\t".join(row) + "\n")
    return ["".join(kept).encode()], dropped, repaired
