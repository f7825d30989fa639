"""A folder for CTranslate2, by way of fairseq's own Transformer."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import List

import torch
from tqdm import tqdm

from ..checkpoint import write_checkpoint
from ..densify import stock_checkpoint
from ..errors import DataError
from ..rebuild import load_dictionary
from . import QUANTIZATIONS, needs
from .source import BEAM, Source, log_probabilities, translate

SENTENCEPIECE = "sentencepiece.model"
EXAMPLE = '''"""Translate lines of standard input: python example.py < text"""
import sys
from pathlib import Path

import ctranslate2
{imports}
folder = Path(__file__).resolve().parent
translator = ctranslate2.Translator(str(folder), device="cpu")
{setup}for line in sys.stdin:
    result = translator.translate_batch(
        [{split}], beam_size=5, max_decoding_length={limit}
    )[0]
    print({join}, flush=True)
'''
PLAIN = {
    "imports": "",
    "setup": "",
    "split": "line.split()",
    "join": '" ".join(result.hypotheses[0])',
}
"""Parts of the example for input and output in the model's tokens."""
PIECES = {
    "imports": "import sentencepiece\n",
    "setup": "pieces = sentencepiece.SentencePieceProcessor()\n"
    f'pieces.Load(str(folder / "{SENTENCEPIECE}"))\n',
    "split": "pieces.EncodeAsPieces(line)",
    "join": "pieces.DecodePieces(result.hypotheses[0])",
}
"""Parts of the example for plain text."""


def export(source: Source, folder: Path, quantization: str = "float32") -> str:
    """Write the folder and compare CTranslate2's scores with fairseq's.

    Args:
        source: an encoder-decoder Transformer, PHM or dense, with dictionaries.
        folder: an empty one.
        quantization: of :data:`QUANTIZATIONS`.

    Returns:
        One line on the comparison.

    Raises:
        DataError: a model that CTranslate2 cannot convert, or scores that differ.
    """
    ctranslate2 = needs("ctranslate2")
    source.refuse_other_decoders("CTranslate2")
    _convert(source, folder, quantization)
    for path in dict.fromkeys(source.dictionaries):
        shutil.copy(path, folder / path.name)
    if source.sentencepiece:
        shutil.copy(source.sentencepiece, folder / SENTENCEPIECE)
    example = EXAMPLE.format(
        **(PIECES if source.sentencepiece else PLAIN),
        limit=min(256, _positions(source) - 2),
    )
    (folder / "example.py").write_text(example, encoding="utf-8")
    # The weights are read as they are stored: "default" keeps their type.
    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type="default", intra_threads=1
    )
    return _compare(source, translator, QUANTIZATIONS[quantization])


def _convert(source: Source, folder: Path, quantization: str) -> None:
    """Let CTranslate2 convert a dense checkpoint with its options as a namespace."""
    from ctranslate2.converters import FairseqConverter

    checkpoint = stock_checkpoint(source.checkpoint, source.dense(), namespace=True)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "dense.pt"
        write_checkpoint(checkpoint, path)
        languages = [path.name.split(".")[1] for path in source.dictionaries]
        converter = FairseqConverter(
            str(path), str(source.dictionaries[0].parent), languages[0], languages[-1]
        )
        try:
            converter.convert(str(folder), quantization=quantization, force=True)
        except (
            AttributeError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:  # AttributeError: of layers that it has no name for
            reason = " ".join(str(error).split())
            raise DataError(
                f"{source.path}: CTranslate2 cannot convert this model: {reason}"
            ) from None


def _positions(source: Source) -> int:
    return getattr(source.rebuilt.args, "max_target_positions", None) or 1024


def _compare(source: Source, translator: object, tolerance: float) -> str:
    """Score fairseq's hypotheses, and count equal ones.

    Raises:
        DataError: the mean difference of log-probabilities is above the tolerance.
    """
    words = [
        load_dictionary(source.dictionaries[i]).symbols for i in (0, -1)
    ]  # source, target

    def symbols(tokens: List[int], which: int) -> List[str]:
        return [words[which][token] for token in tokens]

    difference, count, same = 0.0, 0, 0
    found = translate(source.rebuilt, source.sentences)
    for sentence, target in tqdm(
        list(zip(source.sentences, found)), "comparison", disable=None, leave=False
    ):
        texts = symbols(sentence, 0), symbols(target[:-1], 1)
        scores = translator.score_batch([texts[0]], [texts[1]])[0].log_probs
        expected = log_probabilities(source.rebuilt, sentence, target)
        difference += float((torch.tensor(scores) - expected).abs().sum())
        count += len(scores)
        result = translator.translate_batch(
            [texts[0]], beam_size=BEAM,
            max_decoding_length=min(2 * len(sentence) + 12, _positions(source) - 2),
        )[0]  # fmt: skip
        same += result.hypotheses[0] == texts[1]
    mean = difference / count
    if not mean <= tolerance:
        raise DataError(
            f"{source.path}: CTranslate2's log-probabilities differ by {mean:.2g} in "
            f"the mean, more than {tolerance}"
        )
    return (
        f"{same} of {len(found)} hypotheses are fairseq's, log-probabilities differ by "
        f"{mean:.1g} in the mean"
    )
