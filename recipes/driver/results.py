"""The files of JSON lines that runs are noted in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Tuple

from filelock import FileLock

from data_prep import DataError
from data_prep.workspace import atomic_path

from .models import Model

Line = Dict[str, Any]

_TYPES: Dict[str, Tuple[Any, str]] = {
    "text": (
        str,
        "arch benchmark bleu_signature comparison experiment extra flags hardware mean "
        "model precision rows_by_name size task vectors way",
    ),
    "a whole number": (
        int,
        "beam checkpoints dense_updates devices encoder_parameters epochs layers "
        "max_tokens num_checkpoints parameters rounds save_interval seed "
        "tokens_per_sample total_parameters trained_epochs trained_updates updates",
    ),
    "a number": (
        (int, float),
        "accuracy bleu bleu_intl bleu_p chrf decoding_seconds length_ratio lenpen "
        "perplexity seconds_per_update throughput tokens_per_second training_seconds "
        "twin_lr valid_accuracy validation_loss word_perplexity",
    ),
    "a number or null": ((int, float, type(None)), "energy lr"),
    "true or false": (bool, "converged diverged"),
    "a list": (list, "curve languages part_of published"),
    "an object": (dict, "accuracy_by data rows_by search training"),
}
KINDS = {
    key: (kind, one) for one, (kind, keys) in _TYPES.items() for key in keys.split()
}
"""Entry of a line -> its type, and that in words."""


def note(line: Line, file: Path) -> None:
    """Append a line, unless it is there; a torn last one goes, its run comes again.

    Args:
        line: what a run has given.
        file: JSON lines of all runs; made if it is not there.
    """
    text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    with _alone(file), file.open("ab+") as lines:
        lines.seek(0)
        known = lines.read()
        whole, end, torn = known.rpartition(b"\n")
        if torn and _is_json(torn):
            lines.write(b"\n")
            whole, end = known, b"\n"
        elif torn:
            lines.truncate(len(whole + end))
        if text not in (whole + end).splitlines(keepends=True):
            lines.write(text)


def add_lines(file: Path, lines: Sequence[Line], key: Sequence[str]) -> None:
    """Unite lines with those that are in a file, see :func:`united`.

    Args:
        file: replaced as a whole; made if it is not there.
        lines: what is known now.
        key: entries that lines of the same run have in common.

    Raises:
        DataError: a line of the file is none.
    """
    with _alone(file):
        before = read_lines([file], lambda line: key) if file.is_file() else []
        with atomic_path(file) as partial, partial.open("w", encoding="utf-8") as out:
            for line in united([*before, *lines], key):
                out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _alone(file: Path) -> FileLock:
    """Keep other threads and programs from the file meanwhile."""
    return FileLock(file.with_name(f".{file.name}.lock"))


def united(lines: Iterable[Line], key: Sequence[str]) -> List[Line]:
    """Make one line of those of the same run: the last one counts.

    It keeps what only earlier ones tell, and is part of all that they are part of.

    >>> lines = [{"model": "4", "part_of": ["sweep"]}, {"model": "4", "bleu": 9}]
    >>> united(lines, ["model"])
    [{'model': '4', 'part_of': ['sweep'], 'bleu': 9}]
    """
    found: Dict[str, Line] = {}
    for line in lines:
        before = found.get(kind := json.dumps([line[name] for name in key]), {})
        line = {**before, **line}
        if "part_of" in before:
            parts = [*before["part_of"], *line["part_of"]]
            line["part_of"] = list(dict.fromkeys(parts))
        found[kind] = line
    return list(found.values())


def grouped(lines: Iterable[Line], key: str) -> List[List[Line]]:
    """Part lines by an entry, in the order in which its values come."""
    groups: Dict[str, List[Line]] = {}
    for line in lines:
        groups.setdefault(line[key], []).append(line)
    return list(groups.values())


def write_tables(folder: Path, text: str) -> None:
    """Write ``tables.md`` into a folder, whole or not at all."""
    with atomic_path(folder / "tables.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_lines(
    paths: Sequence[Path], needed: Callable[[Line], Sequence[str]]
) -> List[Line]:
    """Read the runs in ``results.jsonl`` files, or in folders with one.

    Args:
        paths: files or folders.
        needed: names the entries that a line has to have.

    Raises:
        DataError: a line that is no such run.
    """
    lines = []
    for path in paths:
        file = path / "results.jsonl" if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8, byte {error.start}") from None
        rows = text.split("\n")  # no other line ends: JSON keeps those
        for number, row in enumerate(rows[: -1 if rows[-1] == "" else None], start=1):
            try:
                line = json.loads(row)
            except ValueError as error:
                raise DataError(f"{file}:{number}: no JSON: {error}") from None
            try:
                _check(line, needed)
            except ValueError as error:
                raise DataError(f"{file}:{number}: {error}") from None
            lines.append(line)
    return lines


def _check(line: Any, needed: Callable[[Line], Sequence[str]]) -> None:
    """Raise ValueError for what is no run, or where an entry is missing or wrong."""
    if not isinstance(line, dict):
        raise ValueError("no result of a run")
    for key, value in line.items():
        kind, one = KINDS.get(key, (object, ""))
        is_bool = isinstance(value, bool) and kind not in (bool, object)
        if not isinstance(value, kind) or is_bool:
            raise ValueError(f"{key!r} is {json.dumps(value)}, not {one}")
        if value != value and not line.get("diverged"):
            raise ValueError(f"{key!r} is no number")
    for key in needed(line):
        if key not in line:
            raise ValueError(f"the result has no {key!r}")
    points = line.get("curve", [[0, None, 0.0]])
    if not points or not all(map(_is_point, points)):
        raise ValueError("'curve' is no list of updates, training and validation loss")
    if len(line.get("published", [])) not in (0, 2):
        raise ValueError("'published' is no pair")
    if not all(isinstance(language, str) for language in line.get("languages", [])):
        raise ValueError("'languages' are no texts")
    if not set(line.get("rows_by", {})) <= set(line.get("accuracy_by", {})):
        raise ValueError("'rows_by' has groups that 'accuracy_by' has not")
    if not line.get("throughput", 1) > 0:
        raise ValueError("'throughput' is not above 0")
    for words in (line.get("flags", ""), line.get("extra", "")):
        shlex.split(words)
    try:
        Model.parse(line["model"])
    except ValueError as error:
        raise ValueError(f"'model' {error}") from None


def _is_point(point: Any) -> bool:
    numbers = (int, float)
    return (
        isinstance(point, list)
        and len(point) == 3
        and isinstance(point[0], numbers)
        and isinstance(point[1], (*numbers, type(None)))
        and isinstance(point[2], numbers)
    )


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
