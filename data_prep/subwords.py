"""Learns a shared sentencepiece model, encodes text in its subwords, decodes them."""

from __future__ import annotations

import io
from collections import Counter
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tqdm import tqdm

from . import SPLITS, DataError
from .text import Chunk, in_parallel, read_chunks

LONGEST = 1023  # subwords of a sentence: fairseq's 1024 positions less the end mark
LONGEST_LINE = 2**24  # bytes; sentencepiece learns nothing from longer ones
BYTE_FALLBACK_FROM = 4000
"""Smallest vocabulary in which rare characters become bytes, which are 256 subwords."""


def train_subwords(
    files: Sequence[Path], out: Path, vocab_size: int, sentences: int
) -> Dict[str, Any]:
    """Write ``out/model`` (sentencepiece) and ``out/dict.txt`` (fairseq).

    The result is reproducible: sentencepiece draws its sample with a fixed seed, and
    the result does not depend on the number of cores.

    Args:
        files: the clean training text of both languages.
        out: an existing folder.
        vocab_size: maximal number of subwords; a small corpus gives fewer.
        sentences: maximal number of sentences, of both sides, to learn from. A larger
            corpus is sampled, which limits the memory.

    Returns:
        Number of ``subwords``; ``byte_fallback``: whether rare characters become bytes.

    Raises:
        DataError: the text has more characters than ``vocab_size`` allows.
    """
    byte_fallback = vocab_size >= BYTE_FALLBACK_FROM
    try:
        model = _train(files, vocab_size, sentences, byte_fallback)
    except RuntimeError as error:
        characters = len({char for sentence in _sentences(files) for char in sentence})
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise DataError(
            f"no {vocab_size} subwords for the {characters} different characters of "
            f"the training text, try --vocab-size {2 * characters} ({reason})"
        ) from None
    (out / "model").write_bytes(model)
    pieces = _pieces(SentencePieceProcessor(model_proto=model))
    # fairseq adds 4 symbols; a multiple of 8 suits the matrix units of GPUs.
    padding = [f"madeupword{i:04d}" for i in range(-(len(pieces) + 4) % 8)]
    lines = [f"{piece} 1\n" for piece in pieces] + [f"{word} 0\n" for word in padding]
    (out / "dict.txt").write_bytes("".join(lines).encode())
    return {"subwords": len(pieces), "byte_fallback": byte_fallback}


def _train(
    files: Sequence[Path], vocab_size: int, sentences: int, byte_fallback: bool
) -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_sentences(files),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        input_sentence_size=sentences,
        max_sentence_length=LONGEST_LINE,
        shuffle_input_sentence=True,
        # With bytes for the rarest characters, the others are nearly all.
        character_coverage=0.9999 if byte_fallback else 1.0,
        byte_fallback=byte_fallback,
        split_digits=True,
        control_symbols=["<pad>"],  # fairseq's own; in text it is split into characters
        minloglevel=2,
    )
    return model.getvalue()


def encode(
    clean: Path,
    languages: Sequence[str],
    model: Path,
    out: Path,
    workers: int,
    longest: int = LONGEST,
    raw: Mapping[str, Sequence[Path]] = MappingProxyType({}),
) -> Dict[str, Any]:
    """Write ``out/SPLIT.LANGUAGE``: the lines of ``clean`` in subwords.

    Training pairs with a side of more than ``longest`` subwords are dropped; 0 keeps
    all lines. ``raw`` has the files of validation and test, for errors.

    Returns:
        Split -> number of ``pairs``, of pairs ``dropped`` and, by language, of
        ``subwords``.

    Raises:
        DataError: a line of validation or test is longer than ``longest``.
    """
    _processor.cache_clear()  # a previous model may have had this path
    report = {}
    for split in SPLITS:
        names = [f"{split}.{language}" for language in languages]
        keep_all = split != "train" or not longest
        limits = {"keep_all": keep_all, "limit": longest, "named": raw.get(split)}
        work = partial(_encode, model=str(model), **limits)
        jobs = read_chunks([clean / name for name in names])
        pairs, dropped = 0, 0
        subwords: Counter = Counter()
        with ExitStack() as stack:
            files = [stack.enter_context((out / name).open("wb")) for name in names]
            with tqdm(unit=" lines", desc=f"encode {names[0]}", disable=None) as bar:
                for texts, kept, lost, lengths in in_parallel(work, jobs, workers):
                    for file, side in zip(files, texts):
                        file.write(side)
                    pairs += kept
                    dropped += lost
                    subwords.update(dict(zip(languages, lengths)))
                    bar.update(kept + lost)
        report[split] = {"pairs": pairs, "dropped": {}, "subwords": dict(subwords)}
        if dropped:
            report[split]["dropped"] = {f"over {longest} subwords": dropped}
    return report


def _encode(
    chunk: Chunk,
    model: str,
    keep_all: bool,
    limit: int,
    named: Optional[Sequence[Path]],
) -> Tuple[List[bytes], int, int, List[int]]:
    processor = _processor(model)
    sides = [
        processor.encode([line.decode().rstrip("\n") for line in side], out_type=str)
        for side in chunk.sides
    ]
    longest = [max(map(len, pair)) for pair in zip(*sides)]
    if keep_all and limit and max(longest) > limit:
        for path, side in zip(named or chunk.paths, sides):
            for number, pieces in enumerate(side, start=chunk.first):
                if len(pieces) > limit:
                    raise DataError(
                        f"{path}:{number}: the line has {len(pieces)} subwords, "
                        f"at most {limit} fit the model"
                    )
    kept = [
        [pieces for pieces, size in zip(side, longest) if size <= limit or not limit]
        for side in sides
    ]
    texts = ["".join(" ".join(pieces) + "\n" for pieces in side) for side in kept]
    lengths = [sum(map(len, side)) for side in kept]
    dropped = len(longest) - len(kept[0])
    return [text.encode() for text in texts], len(kept[0]), dropped, lengths


def decode(model: Path, lines: Sequence[str]) -> List[str]:
    """Make text of subwords again; bytes of rare characters become characters.

    A line stays one: a line end, which a model can spell as a byte, becomes a space.

    Args:
        model: of sentencepiece, ``out/model`` of :func:`train_subwords`.
        lines: subwords with spaces between, as :func:`encode` writes them.
    """
    processor = SentencePieceProcessor(model_file=str(model))
    texts = processor.decode([line.split() for line in lines])
    return [text.replace("\n", " ") for text in texts]


@lru_cache(maxsize=1)
def _processor(model: str) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=model)


def _sentences(files: Sequence[Path]) -> Iterator[str]:
    for chunk in read_chunks(files):
        for pair in zip(*chunk.sides):
            for line in pair:
                yield line.decode().rstrip("\n")


def _pieces(model: SentencePieceProcessor) -> List[str]:
    """The subwords that encoded text can contain, in the order of the model."""
    return [
        model.id_to_piece(i)
        for i in range(model.get_piece_size())
        if not (model.is_control(i) or model.is_unknown(i) or model.is_unused(i))
    ]
