"""Plain-text sentence pairs -> subwords -> fairseq's binarised data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import sentencepiece

from . import SPLITS

LONGEST = 1023  # subwords of a sentence: fairseq's 1024 positions and the end mark


class DataError(ValueError):
    """Input that cannot be used; the message is one line that names file and line."""


def read_lines(path: Path) -> List[str]:
    """Lines of a UTF-8 text file, without their ends (LF or CRLF).

    Raises:
        DataError: no such file, an empty one, bytes that are not UTF-8, a NUL byte.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not raw:
        raise DataError(f"{path}: the file is empty")
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
    lines = []
    if raw.endswith(b"\n"):
        raw = raw[:-1]
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if b"\0" in line:
            raise DataError(f"{path}:{number}: the line has a NUL byte")
        try:
            lines.append(line.rstrip(b"\r").decode("utf-8"))
        except UnicodeDecodeError:
            raise DataError(f"{path}:{number}: the line is not UTF-8") from None
    return lines


def read_pairs(prefix: str, src: str, tgt: str) -> List[Tuple[str, str]]:
    """Sentence pairs of PREFIX.src and PREFIX.tgt.

    Raises:
        DataError: as :func:`read_lines`, and when the sides have different lengths.
    """
    sides = [Path(f"{prefix}.{language}") for language in (src, tgt)]
    source, target = (read_lines(side) for side in sides)
    if len(source) != len(target):
        raise DataError(
            f"{sides[0]} has {len(source)} lines but {sides[1]} has {len(target)}"
        )
    return list(zip(source, target))


def binarize(
    prefixes: Dict[str, str], src: str, tgt: str, out: Path, vocab_size: int, seed: int
) -> Dict[str, int]:
    """Make ``out``: raw text, a shared subword model and fairseq's binarised splits.

    Training pairs with an empty side are dropped and counted; validation and test keep
    every line. ``out`` appears only when it is complete.

    Args:
        prefixes: split ("train", "valid", "test") -> prefix of its two text files.
        src, tgt: the languages, which are the files' endings.
        out: folder to make.
        vocab_size: size of the shared sentencepiece model, at most; a small corpus
            gets fewer pieces.
        seed: of the subword model.

    Returns:
        Counts of pairs by split, and "dropped".

    Raises:
        DataError: see :func:`read_pairs`; a vocabulary that is too small; a sentence of
            validation or test that is longer than :data:`LONGEST` subwords.
    """
    if src == tgt:
        raise DataError(f"source and target language are both {src!r}")
    pairs = {split: read_pairs(prefixes[split], src, tgt) for split in SPLITS}
    kept = [pair for pair in pairs["train"] if all(side.strip() for side in pair)]
    counts = {"dropped": len(pairs["train"]) - len(kept)}
    if not kept:
        raise DataError(f"{prefixes['train']}.{src}: no pair without an empty side")
    pairs["train"] = kept
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for split, chosen in pairs.items():
            counts[split] = len(chosen)
            for language, sentences in zip((src, tgt), zip(*chosen)):
                _write(partial / f"raw.{split}.{language}", sentences)
        model = _train_subwords(partial / "subwords", kept, vocab_size, seed)
        for split, chosen in pairs.items():
            for language, sentences in zip((src, tgt), zip(*chosen)):
                pieces = model.encode(list(sentences), out_type=str)
                if split != "train":
                    _check_lengths(pieces, f"{prefixes[split]}.{language}")
                _write(partial / f"subwords.{split}.{language}", map(" ".join, pieces))
        _preprocess(partial, src, tgt)
        (partial / "counts.json").write_text(json.dumps(counts))
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return counts


def _train_subwords(
    prefix: Path, pairs: List[Tuple[str, str]], vocab_size: int, seed: int
) -> sentencepiece.SentencePieceProcessor:
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(side for pair in pairs for side in pair),
            model_prefix=str(prefix),
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            split_digits=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        characters = len({c for pair in pairs for side in pair for c in side})
        raise DataError(
            f"no {vocab_size} subwords for the {characters} different characters of "
            f"the training text, try --vocab-size {2 * characters} "
            f"({str(error).strip().splitlines()[-1]})"
        ) from None
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def _check_lengths(lines: List[List[str]], path: str) -> None:
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST:
            raise DataError(
                f"{path}:{number}: the line has {len(line)} subwords, "
                f"at most {LONGEST} fit the model"
            )


def _preprocess(folder: Path, src: str, tgt: str) -> None:
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "--joined-dictionary"]
    command += ["--source-lang", src, "--target-lang", tgt]
    for split in SPLITS:
        command += [f"--{split}pref", str(folder / f"subwords.{split}")]
    command += ["--destdir", str(folder), "--workers", str(os.cpu_count() or 1)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    if done.returncode:
        last = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"fairseq-preprocess failed on {folder}: {' '.join(last)}")


def _write(path: Path, lines) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
