"""The file of JSON lines that all runs are noted in."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any, Dict

_one_at_a_time = Lock()


def note(line: Dict[str, Any], file: Path) -> None:
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


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
