"""Cleans text: UTF-8 in NFC, no empty, very long or lopsided lines or pairs."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple
from typing import Counter as CounterOf

from tqdm import tqdm

from . import DataError
from .text import Chunk, decode, in_parallel, read_chunks

MARGIN = 20  # characters of difference up to which the ratio is not checked

Cleaned = Tuple[List[bytes], CounterOf[str], CounterOf[str]]  # sides, dropped, repaired


def clean_pairs(
    files: Mapping[str, Sequence[Path]],
    languages: Sequence[str],
    out: Path,
    max_characters: int,
    max_ratio: float,
    workers: int,
    lines: int = 0,
) -> Dict[str, Any]:
    """Write ``out/SPLIT.LANGUAGE``: UTF-8 in NFC, with Unix line ends.

    A training pair is dropped if a side is empty, if a side is longer than
    ``max_characters``, or if one side is longer than ``max_ratio`` times the other and
    more than ``MARGIN`` characters longer. Other splits keep every line. Text of one
    language is cleaned in the same way.

    Args:
        files: split -> its files, one for each language.
        languages: source and target, or the one of the text.
        out: an existing folder.
        max_characters: of a side; 0: any number.
        max_ratio: of the numbers of characters of both sides.
        workers: number of processes.
        lines: number of training lines to read, from the start, and a tenth of it for
            each other split; 0 reads all.

    Returns:
        split -> number of ``pairs``, and of lines ``dropped`` and ``repaired``, by
        reason.

    Raises:
        DataError: see :func:`data_prep.text.read_chunks` and
            :func:`data_prep.text.decode`; or no pair is left.
    """
    limits = (max_characters, max_ratio)
    report = {}
    for split, paths in files.items():
        work = partial(_clean_pairs, limits=limits if split == "train" else None)
        names = [f"{split}.{language}" for language in languages]
        outs = [out / name for name in names]
        report[split] = clean_split(work, split, paths, outs, workers, lines)
    return report


def clean_split(
    work: Any,
    split: str,
    paths: Sequence[Path],
    outs: Sequence[Path],
    workers: int,
    lines: int,
) -> Dict[str, Any]:
    """Clean a split by ``work``. Returns counts, see :func:`clean_pairs`."""
    pairs, dropped, repaired = 0, Counter(), Counter()
    chunks = read_chunks(paths, lines if split == "train" else -(-lines // 10))
    with ExitStack() as stack:
        files = [stack.enter_context(out.open("wb")) for out in outs]
        with tqdm(unit=" lines", desc=f"clean {outs[0].name}", disable=None) as bar:
            for sides, lost, mended in in_parallel(work, chunks, workers):
                for file, text in zip(files, sides):
                    file.write(text)
                kept = sides[0].count(b"\n")
                pairs += kept
                dropped += lost
                repaired += mended
                bar.update(kept + sum(lost.values()))
    if not pairs:
        why = "without an empty side"
        if set(dropped) != {"empty"}:
            why = "left, dropped: " + ", ".join(f"{k} {v}" for k, v in dropped.items())
        raise DataError(f"{paths[0]}: no pair {why}")
    return {"pairs": pairs, "dropped": dict(dropped), "repaired": dict(repaired)}


def _clean_pairs(chunk: Chunk, limits: Tuple[int, float]) -> Cleaned:
    kept: List[List[str]] = [[] for _ in chunk.sides]
    dropped: CounterOf[str] = Counter()
    repaired: CounterOf[str] = Counter()
    for number, lines in enumerate(zip(*chunk.sides), start=chunk.first):
        pair = [
            decode(line, path, number, repaired)
            for line, path in zip(lines, chunk.paths)
        ]
        reason = limits and _reason_to_drop(pair, *limits)
        if reason:
            dropped[reason] += 1
        else:
            for side, text in zip(kept, pair):
                side.append(text)
    return [_joined(side) for side in kept], dropped, repaired


def _reason_to_drop(sides: Sequence[str], limit: int, ratio: float) -> str:
    if any(map(is_empty, sides)):
        return "empty"
    lengths = list(map(len, sides))
    shorter, longer = min(lengths), max(lengths)
    if limit and longer > limit:
        return "too long"
    return "ratio" if longer > ratio * shorter and longer > shorter + MARGIN else ""


def is_empty(text: str) -> bool:
    """Whether a text has only spaces and invisible characters."""
    return not any(char.isprintable() and not char.isspace() for char in text)


def _joined(lines: List[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()
