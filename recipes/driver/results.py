"""The files of JSON lines that runs are noted in."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any, Callable, Dict, List, Sequence

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
    text = json.dumps(line, ensure_ascii=False) + "\n"
    with _one_at_a_time, file.open("a+", encoding="utf-8") as lines:
        lines.seek(0)
        known = lines.read()
        whole, end, torn = known.rpartition("\n")
        if torn and _is_json(torn):
            lines.write("\n")
            whole, end = known, "\n"
        elif torn:
            lines.truncate(len((whole + end).encode()))
        if text not in (whole + end).splitlines(keepends=True):
            lines.write(text)


def replace_lines(
    file: Path, before: Sequence[Line], lines: Sequence[Line], key: Sequence[str]
) -> None:
    """Write lines, after those there were before that have another key.

    Args:
        file: replaced as a whole.
        before: what was in it.
        lines: what is known now.
        key: entries that lines of the same kind have in common.
    """

    def kind(line: Line) -> List[Any]:
        return [line[name] for name in key]

    mine = [kind(line) for line in lines]
    others = [line for line in before if kind(line) not in mine]
    with atomic_path(file) as partial, partial.open("w", encoding="utf-8") as out:
        for line in [*others, *lines]:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


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
        text = file.read_text(encoding="utf-8")
        for number, row in enumerate(text.splitlines(), start=1):
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


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
