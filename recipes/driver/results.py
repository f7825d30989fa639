"""The files of JSON lines that runs are noted in."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any, Callable, Dict, Iterable, List, Sequence

from data_prep import DataError
from data_prep.workspace import atomic_path

from .models import Model

Line = Dict[str, Any]
_one_at_a_time = Lock()


def note(line: Line, file: Path) -> None:
    """Append a line, unless it is there; a torn last one goes, its run comes again.

    Args:
        line: what a run has given.
        file: JSON lines of all runs; made if it is not there.
    """
    text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    with _one_at_a_time, file.open("ab+") as lines:
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
    before = read_lines([file], lambda line: key) if file.is_file() else []
    with atomic_path(file) as partial, partial.open("w", encoding="utf-8") as out:
        for line in united([*before, *lines], key):
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


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
        for number, row in enumerate(text_of(file).splitlines(), start=1):
            try:
                line = json.loads(row)
                missing = [key for key in needed(line) if key not in line]
                if missing:
                    raise ValueError(f"the result has no {missing[0]!r}")
                Model.parse(line["model"])
            except (ValueError, TypeError) as error:
                raise DataError(f"{file}:{number}: {error}") from None
            lines.append(line)
    return lines


def text_of(file: Path) -> str:
    """Read a file of JSON lines.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8, byte {error.start}") from None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
