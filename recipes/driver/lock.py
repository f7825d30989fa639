"""One program at a time in the folder of a run."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Tuple

from .stages import RunError

_held: Dict[Path, int] = {}


@contextmanager
def locked(folder: Path, node: int = 0) -> Iterator[None]:
    """Hold the lock of a folder, which is made; nobody else works there meanwhile.

    Each machine of one training has a lock of its own, by the number ``node``.

    The lock belongs to an open file, which processes that are started with
    :func:`inherited` keep open: it is held as long as one of them lives.

    Raises:
        RunError: another program holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f".lock-node{node}" if node else ".lock"
    file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder}: another program is at work there") from None
        _held[folder] = file
        yield
    finally:
        _held.pop(folder, None)
        os.close(file)


def inherited(folder: Path) -> Tuple[int, ...]:
    """Return the files that keep the lock of a folder, for ``Popen(pass_fds=...)``."""
    return (_held[folder],) if folder in _held else ()


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends; for ``preexec_fn``."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
