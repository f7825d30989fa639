"""Reads members of .zip and .tar archives, without extracting them to disk."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Callable, Iterator

from . import DataError

SYMLINK = 0o120000  # Unix file type in a zip entry's attributes
FILE_TYPE = 0o170000
DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
    EOFError,
)  # fmt: skip


@contextmanager
def open_archive(path: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Check all members of an archive, then give a function that opens one by name.

    Raises:
        DataError: the archive is damaged, has no such member, or has a member that is
            a link, a device, or a path outside the archive's folder.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                for entry in file.infolist():
                    kind = entry.external_attr >> 16 & FILE_TYPE
                    _check(path, entry.filename, kind != SYMLINK)
                yield lambda name: _member(path, name, file.open)
        else:
            with tarfile.open(path) as file:
                for entry in file:
                    _check(path, entry.name, entry.isfile() or entry.isdir())
                while file.fileobj.read(1 << 20):
                    pass  # to the checksum, which is behind the last member
                yield lambda name: _member(path, name, file.extractfile)
    except DAMAGED as error:
        raise DataError(f"{path}: damaged archive ({type(error).__name__})") from None


def _check(path: Path, name: str, plain: bool) -> None:
    member = PurePosixPath(name.replace("\\", "/"))
    if member.is_absolute() or ".." in member.parts or ":" in name[:2]:
        raise DataError(f"{path}: the member {name!r} is outside the folder")
    if not plain:
        raise DataError(f"{path}: the member {name!r} is a link or a device")


def _member(path: Path, name: str, read: Callable[[str], IO[bytes]]) -> IO[bytes]:
    try:
        file = read(name)
    except KeyError:
        raise DataError(f"{path}: the archive has no member {name!r}") from None
    except (RuntimeError, NotImplementedError) as error:  # encrypted, other methods
        raise DataError(f"{path}: the member {name!r}: {error}") from None
    if file is None:
        raise DataError(f"{path}: the member {name!r} is a folder")
    return file
