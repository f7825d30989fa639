"""Write a file or a folder whole or not at all."""

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Iterator, Optional
from uuid import uuid4

from .errors import DataError, one_line

ALMOST_NONE = 1 << 20
"""Bytes: with fewer of them free, a disk is full."""


@contextmanager
def written_whole(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file that takes the name ``path`` when the block has ended well.

    Args:
        path: of the file; another one of that name is replaced then, and not before; of
            a link, the file that it names.
        mode: ``w`` or ``wb``.
        options: of ``open``.

    Raises:
        DataError: the file cannot be written; nothing is left of it.
    """
    final = _final(path)
    partial = _beside(final, "partial")
    try:
        with partial.open(mode, **options) as file:
            yield file
        os.replace(partial, final)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {_reason(error, path)}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Make a folder that takes the name ``path`` when the block has ended well.

    Args:
        path: of the folder; another one of that name is replaced then, and not before;
            of a link, the folder that it names.

    Yields:
        The folder to fill, empty, beside the final one.

    Raises:
        DataError: it cannot be written; nothing is left of it.
    """
    final = _final(path)
    partial, former = _beside(final, "partial"), _beside(final, "old")
    try:
        partial.mkdir()
        yield partial
        try:
            if final.exists():
                os.replace(final, former)
            os.replace(partial, final)
        except BaseException:  # an interruption, too
            if former.exists() and not final.exists():
                os.replace(former, final)
            raise
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {_reason(error, path)}") from None
    finally:
        with suppress(OSError):
            _remove(partial)
    with suppress(OSError):  # the new folder is there
        _remove(former)


def refuse_existing(output: Path, force: bool, *inputs: Path) -> None:
    """Refuse an output that cannot be written, or must not be.

    Args:
        output: file or folder to write.
        force: it may exist.
        inputs: files that it must not be, and must not hold.

    Raises:
        DataError: it exists, is an input or a folder around one, is neither file nor
            folder, or has no folder.
    """
    try:
        if not output.absolute().parent.is_dir():
            raise DataError(f"{output}: no such folder: {output.absolute().parent}")
        if not _final(output).exists():
            return
        if any(path.exists() and output.samefile(path) for path in inputs):
            raise DataError(f"{output}: is the input")
        for path in inputs:
            places = path.resolve(), path.absolute().parent.resolve() / path.name
            if any(output.resolve() in place.parents for place in places):
                raise DataError(f"{output}: holds the input {path}")
    except OSError as error:
        raise DataError(f"{output}: {error.strerror}") from None
    if not force:
        raise DataError(f"{output}: exists; --force replaces it")


def _final(path: Path) -> Path:
    """Return where to write: the path, or what a link names.

    Raises:
        DataError: a link to nothing, or there is a device, a pipe or the like.
    """
    try:
        link, there = path.is_symlink(), path.exists()
        if there and not (path.is_file() or path.is_dir()):
            raise DataError(f"{path}: is neither a file nor a folder")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if link and not there:
        raise DataError(f"{path}: is a link to nothing")
    return Path(os.path.realpath(path)) if link else path


def _beside(path: Path, ending: str) -> Path:
    """Return a name in the same folder that nothing has."""
    if not path.name:
        raise DataError(f"{path}: is a folder")
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}.{ending}")


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
    return one_line(error)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
