"""Finds, downloads or generates the raw files of a data set."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple
from urllib.parse import urlparse

from . import SPLITS, DataError
from .archive import open_archive
from .declaration import DataSet, Part
from .text import ENDINGS, lines_of

Row = Tuple[bytes, ...]  # a line of each side
Lines = Iterable[bytes]


def raw_files(folder: Path, sides: Sequence[str]) -> Dict[str, List[Path]]:
    """Find the files ``SPLIT.SIDE`` of each split, plain, .gz or .xz.

    Validation files may have the name ``dev``.

    Args:
        folder: with the files.
        sides: endings, such as ``("de", "en")`` or ``("tsv",)``.

    Returns:
        Split -> its files, one for each side.

    Raises:
        DataError: a file is missing, or two files match.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return {
        split: [
            find_file([folder / f"{name}.{side}" for name in _names(split)])
            for side in sides
        ]
        for split in SPLITS
    }


def find_file(paths: Sequence[Path]) -> Path:
    """Return the one file that exists among ``paths``, also with .gz or .xz added.

    Raises:
        DataError: none exists, or more than one.
    """
    names = [path.with_name(path.name + end) for path in paths for end in ENDINGS]
    found = [name for name in names if name.is_file()]
    if not found:
        raise DataError(f"{paths[0]}: No such file (nor with .gz or .xz)")
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1].name} are both there: remove one")
    return found[0]


def fetch(data_set: DataSet, downloads: Path, out: Path) -> Dict[str, Any]:
    """Write ``out/SPLIT.SIDE`` from all parts of a data set.

    Args:
        data_set: the declaration.
        downloads: folder that keeps the downloaded files.
        out: an empty folder.

    Returns:
        Number of lines by split; ``downloads`` maps each URL to its SHA-256.

    Raises:
        DataError: the set cannot be downloaded, or a source fails; with the reason.
    """
    if not data_set.parts:
        raise DataError(
            f"{data_set.name} cannot be downloaded, use --raw FOLDER: {data_set.note}"
        )
    if data_set.parts[0].generator:
        from .cldr import write_corpus  # needs babel

        return dict(write_corpus(*data_set.languages, out, seed=data_set.seed))
    print(f"{data_set.title}; licence: {data_set.licence}", flush=True)
    counts = dict.fromkeys(SPLITS, 0)
    seen: Dict[str, str] = {}
    with ExitStack() as stack:
        files = {
            split: [
                stack.enter_context((out / f"{split}.{side}").open("wb"))
                for side in data_set.sides
            ]
            for split in SPLITS
        }
        for part in data_set.parts:
            rows = _rows(data_set, part, downloads, seen)
            for number, row in enumerate(rows, start=1):
                split = _split(data_set, part.split, number)
                for file, line in zip(files[split], row):
                    file.write(line.rstrip(b"\n") + b"\n")
                counts[split] += 1
    return {**counts, "downloads": seen}


def _rows(
    data_set: DataSet, part: Part, downloads: Path, seen: Dict[str, str]
) -> Iterator[Row]:
    if part.mtdata:
        yield from _mtdata(part.mtdata)
    elif part.sacrebleu:
        yield from _sacrebleu(data_set, part)
    else:
        from .download import download

        urls = part.urls or (part.archive,)
        checksums = part.sha256 or ("",) * len(urls)
        paths = []
        for url, expected in zip(urls, checksums):
            # The hash distinguishes URLs that end in the same file name.
            name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-"
            paths.append(downloads / (name + Path(urlparse(url).path).name))
            found = download(url, paths[-1], expected)
            if not expected and url not in seen:
                print(f"{url}: SHA-256 {found}; no checksum is declared for it")
            seen[url] = found
        if part.archive:
            with open_archive(paths[0]) as member:
                for names in part.members:
                    with ExitStack() as stack:
                        files = [stack.enter_context(member(name)) for name in names]
                        yield from _parallel(files, names, part)
        else:
            yield from _parallel(list(map(lines_of, paths)), urls, part)


def _parallel(
    files: Sequence[Lines], names: Sequence[str], part: Part
) -> Iterator[Row]:
    """Rows of parallel files, which must have the same number of lines."""
    convert = {"lines": iter, "wit3": _wit3}.get(part.format)
    if not convert:
        yield from _table(files[0], names[0], part)
        return
    sides = zip_longest(*(convert(file) for file in files))
    for number, row in enumerate(sides, start=1):
        if None in row:
            ended = names[row.index(None)]
            raise DataError(f"{ended} ends before line {number} of the other side")
        yield row


def _wit3(lines: Lines) -> Iterator[bytes]:
    """Sentences of a TED file of the IWSLT campaigns, as fairseq's examples take them.

    Untagged lines, titles and descriptions of training files, ``<seg>`` of the XML of
    validation and test sets.
    """
    wanted = {b"title", b"description"}
    for line in lines:
        line = line.strip()
        tag = re.match(rb"<(\w+)[^>]*>(.*?)(</\w+>)?$", line)
        if not tag:
            if not line.startswith(b"<"):
                yield line
        elif tag[1] == b"doc":
            wanted = {b"seg"}
        elif tag[1] in wanted:
            yield tag[2].strip()


def _table(file: Lines, name: str, part: Part) -> Iterator[Row]:
    """Rows of a tab-separated file; with ``part.fields``, these columns of it."""
    lines = iter(file)
    if not part.fields:
        yield from ((line,) for line in lines)
        return
    header = next(lines, b"").rstrip(b"\r\n").decode("utf-8-sig", "replace").split("\t")
    missing = set(part.fields) - set(header)
    if missing:
        raise DataError(f"{name}:1: no column {', '.join(sorted(missing))}")
    places = [header.index(field) for field in part.fields]
    for number, line in enumerate(lines, start=2):
        cells = line.rstrip(b"\r\n").split(b"\t")
        if len(cells) <= max(places):
            raise DataError(f"{name}:{number}: {len(cells)} columns of {len(header)}")
        row = [cells[place] for place in places]
        if part.format == "agreement":
            row = _agreement(row, f"{name}:{number}")
        yield (b"\t".join(row),)


def _agreement(row: Sequence[bytes], where: str) -> List[bytes]:
    """Sentence, position of the verb (from 1), its tag, attractors -> table row."""
    sentence, position, tag, attractors = row
    words = sentence.split()
    label = {b"VBZ": b"singular", b"VBP": b"plural"}.get(tag)
    if not label or not position.isdigit() or not 1 < int(position) <= len(words):
        raise DataError(f"{where}: no verb VBZ or VBP at word {position.decode()!r}")
    return [b" ".join(words[: int(position) - 1]), label, attractors]


def _split(data_set: DataSet, split: str, number: int) -> str:
    """The split of a line (``number`` from 1) of a part: some lines are held out."""
    if split == "train" and data_set.hold_out:
        turn = number % data_set.hold_out_every
        return dict(enumerate(data_set.hold_out)).get(turn, "train")
    return split


def _mtdata(name: str) -> Iterator[Row]:
    command = shutil.which("mtdata", path=str(Path(sys.executable).parent))
    command = command or shutil.which("mtdata")
    if not command:
        raise DataError(
            f"{name} is downloaded by mtdata: pip install mtdata (Python 3.10 or "
            "newer), or use --raw FOLDER"
        )
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            [command, "-no-pb", "echo", name], stdout=subprocess.PIPE, stderr=log
        ) as process:
            try:
                for number, line in enumerate(process.stdout, start=1):
                    row = line.rstrip(b"\n").split(b"\t")
                    if len(row) != 2:
                        raise DataError(f"mtdata {name}:{number}: not two columns")
                    yield (row[0], row[1])
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise DataError(f"mtdata echo {name} failed: {' '.join(said[-1:])}")


def _sacrebleu(data_set: DataSet, part: Part) -> Iterator[Row]:
    from sacrebleu import get_reference_files, get_source_file

    name, pair = part.sacrebleu, "-".join(data_set.sides)
    try:
        paths = [get_source_file(name, pair), get_reference_files(name, pair)[0]]
    except (Exception, SystemExit) as error:  # sacrebleu raises many kinds
        raise DataError(f"sacrebleu {name} {pair}: {error}".splitlines()[0]) from None
    with open(paths[0], "rb") as source, open(paths[1], "rb") as target:
        yield from _parallel([source, target], paths, part)


def _names(split: str) -> Tuple[str, ...]:
    """File names that a split may have."""
    return ("valid", "dev") if split == "valid" else (split,)
