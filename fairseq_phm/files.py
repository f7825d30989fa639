"""Write a file or a folder whole or not at all."""

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator, Optional

from .errors import DataError

ALMOST_NONE = 1 << 20
"""Bytes: with fewer of them free, a disk is full."""


@contextmanager
def written_whole(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file that takes the name ``path`` when the block has ended well.

    Args:
        path: of the file; another one of that name is replaced then, and not before.
        mode: ``w`` or ``wb``.
        options: of ``open``.

    Raises:
        DataError: the file cannot be written; nothing is left of it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open(mode, **options) as file:
            yield file
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {_reason(error, path)}") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Make a folder that takes the name ``path`` when the block has ended well.

    Args:
        path: of the folder; another one of that name is replaced then, and not before.

    Yields:
        The folder to fill, empty, beside the final one.

    Raises:
        DataError: it cannot be written; nothing is left of it.
    """
    partial, former = (path.with_name(f"{path.name}.{e}") for e in ("partial", "old"))
    try:
        _remove(partial)
        partial.mkdir()
        yield partial
        if path.exists() or path.is_symlink():
            _remove(former)
            os.replace(path, former)
        os.replace(partial, path)
        _remove(former)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {_reason(error, path)}") from None
    finally:
        if partial.exists():
            _remove(partial)


def refuse_existing(output: Path, force: bool, *inputs: Path) -> None:
    """Refuse an output that cannot be written, or must not be.

    Args:
        output: file or folder to write.
        force: it may exist.
        inputs: files that it must not be.

    Raises:
        DataError: it exists, is an input, or has no folder.
    """
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output}: no such folder: {output.absolute().parent}")
    if not output.exists():
        return
    if any(path.exists() and output.samefile(path) for path in inputs):
        raise DataError(f"{output}: is the input")
    if not force:
        raise DataError(f"{output}: exists; --force replaces it")


def _reason(error: BaseException, path: Path) -> str:
    """Return one line that says why a file could not be written.

    What writes for us hides the error of the system: torch and CTranslate2 raise a
    RuntimeError for a full disk.
    """
    first: Optional[BaseException] = error
    while first and not getattr(first, "strerror", None):
        first = first.__cause__ or first.__context__
    if first:
        return first.strerror
    if shutil.disk_usage(path.absolute().parent).free < ALMOST_NONE:
        return os.strerror(errno.ENOSPC)
    if "inline_container" in str(error):  # where torch writes archives
        return "it cannot be written: is the disk full?"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
