"""Reads text files in chunks and processes them in parallel."""

from __future__ import annotations

import gzip
import lzma
import multiprocessing
import os
import signal
import threading
import typing
import zlib
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, NamedTuple, Sequence
from typing import Counter as CounterOf
from unicodedata import is_normalized, normalize

from . import DataError

CHUNK = 10_000  # lines of a unit of work
LONGEST_LINE = 2**24  # bytes; a longer line is not read to its end
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
ENDINGS = ("", ".gz", ".xz")  # of plain and compressed files

Job = typing.TypeVar("Job")
Result = typing.TypeVar("Result")


class Chunk(NamedTuple):
    """The same range of lines of parallel files, as bytes."""

    paths: Sequence[Path]
    first: int  # number of the first line, counted from 1
    sides: List[List[bytes]]


def read_chunks(paths: Sequence[Path], limit: int = 0) -> Iterator[Chunk]:
    """Yield the lines of parallel files (plain, .gz or .xz), ``CHUNK`` at a time.

    Args:
        paths: the files.
        limit: number of lines to read, from the start; 0 reads all.

    Raises:
        DataError: a file is missing, empty or damaged, or the files have different
            numbers of lines.
    """
    files = [lines_of(path) for path in paths]
    first = 1
    while True:
        size = min(CHUNK, limit - first + 1) if limit else CHUNK
        sides = [list(islice(file, size)) for file in files]
        lengths = [len(side) for side in sides]
        at_limit = not size and len(files) > 1  # lines that no one reads count, too
        if at_limit or len(set(lengths)) > 1:
            totals = [
                first - 1 + length + sum(1 for _ in file)
                for length, file in zip(lengths, files)
            ]
            empty = [path for path, total in zip(paths, totals) if not total]
            if empty:
                raise DataError(f"{empty[0]}: the file is empty")
            if len(set(totals)) > 1:
                raise DataError(
                    f"{paths[0]} has {totals[0]} lines but {paths[1]} has {totals[1]}"
                )
        if not lengths[0]:
            if first == 1:
                raise DataError(f"{paths[0]}: the file is empty")
            return
        yield Chunk(paths, first, sides)
        first += lengths[0]


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain, .gz or .xz file, as bytes.

    Raises:
        DataError: the file is missing, damaged or UTF-16, or a line is too long.
    """
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"{path}:{number}: the line is longer than "
                        f"{LONGEST_LINE / 2**20:g} MiB"
                    )
                if number == 1 and line.startswith(UTF_16):
                    raise DataError(f"{path}: UTF-16, not UTF-8")
                yield line
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged {path.suffix} file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def decode(line: bytes, path: Path, number: int, repaired: CounterOf[str]) -> str:
    """Decode a line: without its end, in Unicode NFC.

    A byte order mark at the start of the file, Windows line ends and other Unicode
    normal forms are repaired.

    Args:
        line: with or without its end.
        path, number: of the line, for messages.
        repaired: counts the repaired lines, by reason.

    Raises:
        DataError: the line has a NUL byte or is not UTF-8.
    """
    if number == 1 and line.startswith(b"\xef\xbb\xbf"):
        repaired["byte order mark"] += 1
        line = line[3:]
    line = line[:-1] if line.endswith(b"\n") else line
    if line.endswith(b"\r"):
        repaired["Windows line end"] += 1
        line = line.rstrip(b"\r")
    if b"\0" in line:
        raise DataError(f"{path}:{number}: the line has a NUL byte")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number}: the line is not UTF-8") from None
    if not is_normalized("NFC", text):
        repaired["not NFC"] += 1
        text = normalize("NFC", text)
    return text


def read_lines(path: Path) -> List[str]:
    """Read and decode all lines of a text file.

    Raises:
        DataError: see :func:`read_chunks` and :func:`decode`.
    """
    return [
        decode(line, path, number, Counter())
        for chunk in read_chunks([path])
        for number, line in enumerate(chunk.sides[0], start=chunk.first)
    ]


def in_parallel(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """Yield ``work(job)`` in the order of ``jobs``, computed by ``workers`` processes.

    At most ``2 * workers + 1`` jobs are in memory. With one worker, or one job, the
    work is done in this process.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, 2))
    if workers == 1 or len(first) == 1:
        yield from map(work, chain(first, jobs))
        return
    with _processes(workers) as pool:
        waiting: deque = deque()
        try:
            for job in chain(first, jobs):
                waiting.append(pool.submit(work, job))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def in_own_process(work: Callable[..., Result], *arguments: object) -> Result:
    """Return ``work(*arguments)``, computed in a new process to free its memory."""
    with _processes(1) as pool:
        return pool.submit(work, *arguments).result()


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    try:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            yield pool
    except BrokenProcessPool:
        raise DataError("a worker process was killed: out of memory?") from None


def _end_with_parent() -> None:
    """Make a worker end when its parent is killed, and ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
