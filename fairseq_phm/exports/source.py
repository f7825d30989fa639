"""What every export starts from, and what fairseq says about test sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import refuse_not_finite
from ..densify import densified
from ..errors import DataError, one_line
from ..rebuild import (
    Rebuilt,
    Vocabularies,
    dictionary_paths,
    is_phm,
    load_dictionary,
    longest,
    longest_source,
    model_name,
    rebuild,
)
from . import needs

TRANSFORMER_ONLY = {
    "ctranslate2": "CTranslate2",
    "torchscript": "TorchScript",
    "onnx": "ONNX",
}
"""Formats that know no other model, and their names."""
BEAM = 5
EOS = 2


class Source(NamedTuple):
    """A checkpoint, its model, its dictionaries if they are there, test sentences.

    A sentence is its tokens as numbers of the source vocabulary, without the end.
    ``sentencepiece`` is a file, for the exports that keep one.
    """

    path: Path
    rebuilt: Rebuilt
    dictionaries: List[Path]
    sentences: List[List[int]]
    sentencepiece: Optional[Path]

    def dense(self, any_width: bool = True) -> Rebuilt:
        """Return fairseq's own model with the same scores.

        Args:
            any_width: of attention, even one that its options cannot tell.

        Raises:
            DataError: there is none; names the checkpoint.
        """
        if not is_phm(self.rebuilt):
            return self.rebuilt
        try:
            return densified(self.rebuilt, any_width)
        except (DataError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.path}: {one_line(error)}") from None

    def refuse_other_decoders(self, kind: str) -> None:
        """Refuse a decoder that formats do not know.

        Raises:
            DataError: with adaptive softmax, or without attention to the encoder.
        """
        decoder = self.rebuilt.model.decoder
        if decoder.adaptive_softmax is not None:
            raise DataError(f"{self.path}: {kind} export knows no adaptive softmax")
        if any(layer.encoder_attn is None for layer in decoder.layers):
            raise DataError(
                f"{self.path}: {kind} export needs attention to the encoder"
            )


def open_source(
    path: Path,
    checkpoint: Dict[str, Any],
    data: Optional[Path],
    sentences: Optional[Path],
    sentencepiece: Optional[Path],
    form: str,
) -> Source:
    """Build the model of a checkpoint and read or draw test sentences.

    Args:
        path: of the checkpoint, for errors.
        checkpoint: its content.
        data: folder with the dictionaries; default: that of the training.
        sentences: file with one sentence per line, in the model's tokens, or plain if
            there is a model of SentencePiece; default: random tokens.
        sentencepiece: model that splits the sentences.
        form: format of the export; for ctranslate2 the dictionaries must be there.

    Raises:
        DataError: a file that is missing or cannot be used, or a model that the
            format does not know.
    """
    rebuilt = rebuild(checkpoint, path, data)
    name = model_name(rebuilt.args)
    if form in TRANSFORMER_ONLY and name not in ("phm_transformer", "transformer"):
        kind = TRANSFORMER_ONLY[form]
        raise DataError(f"{path}: {kind} export knows transformer, not {name}")
    if not rebuilt.source:
        raise DataError(f"{path}: a classifier, {name}: there is no export of it")
    dictionaries: List[Path] = []
    try:
        dictionaries = dictionary_paths(checkpoint, data)
    except DataError:
        if form == "ctranslate2" or sentences or data:
            raise
    if dictionaries:
        _check_sizes(dictionaries, rebuilt)
    refuse_not_finite(checkpoint["model"], path)
    split = pieces(sentencepiece) if sentencepiece else str.split
    if sentences:
        most = longest_source(rebuilt.model)
        tokens = read_sentences(sentences, dictionaries[0], split, most)
    else:
        tokens = random_sentences(rebuilt.source, longest(rebuilt.model))
    return Source(path, rebuilt, dictionaries, tokens, sentencepiece)


def _check_sizes(dictionaries: List[Path], rebuilt: Rebuilt) -> None:
    sizes = (rebuilt.source, rebuilt.target)
    for path, size in zip((dictionaries[0], dictionaries[-1]), sizes):
        found = len(load_dictionary(path))
        if found != size:
            raise DataError(f"{path}: {found} symbols, but the model has {size}")


def pieces(sentencepiece: Path) -> Callable[[str], List[str]]:
    """Load a model of SentencePiece, which splits a sentence.

    Raises:
        DataError: there is no such model, or no SentencePiece.
    """
    if not sentencepiece.is_file():
        raise DataError(f"{sentencepiece}: no such file")
    processor = needs("sentencepiece").SentencePieceProcessor()
    try:
        processor.Load(str(sentencepiece))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{sentencepiece}: {str(error)[:80]}") from None
    return processor.EncodeAsPieces


def read_sentences(
    path: Path, dictionary: Path, split: Callable[[str], List[str]], most: int
) -> List[List[int]]:
    """Return the tokens of each line that is not empty, 100 lines at most.

    Args:
        path: of the text.
        dictionary: of the source side.
        split: makes tokens of a line.
        most: tokens that a sentence can have, its end included.

    Raises:
        DataError: the file cannot be read, has no line or one that is too long.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', error)}") from None
    words = load_dictionary(dictionary)
    found: List[List[int]] = []
    for number, line in enumerate(lines, start=1):
        if len(found) == 100:
            break
        tokens = [words.index(token) for token in split(line)]
        if len(tokens) >= most:
            raise DataError(
                f"{path}: line {number} has {len(tokens)} tokens; the model takes "
                f"{most - 1}"
            )
        if tokens:
            found.append(tokens)
    if not found:
        raise DataError(f"{path}: no sentences")
    return found


def random_sentences(vocabulary: int, most: int) -> List[List[int]]:
    """Return 8 sentences of 3 to 12 random tokens that are no special symbols.

    Args:
        vocabulary: its size.
        most: tokens that a sentence can have, its end included.
    """
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 13, (8,), generator=random)
    lengths = lengths.clamp_max(most - 1).tolist()
    return [
        torch.randint(4, vocabulary, (length,), generator=random).tolist()
        for length in lengths
    ]


def sample(sentence: List[int]) -> Dict[str, Dict[str, Tensor]]:
    """Return fairseq's batch of one source sentence."""
    tokens = torch.tensor([[*sentence, EOS]])
    lengths = torch.tensor([tokens.size(1)])
    return {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}


def generator(rebuilt: Rebuilt) -> SequenceGenerator:
    """Return fairseq's beam search; a hypothesis has at most 2 n + 10 tokens."""
    words = Vocabularies(rebuilt.source, rebuilt.target).target_dictionary
    return SequenceGenerator(
        [rebuilt.model], words, beam_size=BEAM, max_len_a=2, max_len_b=10
    )


@torch.no_grad()
def translated(source: Source) -> Iterator[Tuple[List[int], List[int], Tensor]]:
    """Yield each sentence, fairseq's best hypothesis, with its end, and its scores.

    The scores are the log-probabilities of its tokens, (tokens,).
    """
    rebuilt = source.rebuilt
    search = generator(rebuilt)
    for one in tqdm(source.sentences, "comparison", disable=None, leave=False):
        target = best(search, rebuilt, one)["tokens"].tolist()
        yield one, target, log_probabilities(rebuilt, one, target)


def best(
    search: SequenceGenerator, rebuilt: Rebuilt, sentence: List[int]
) -> Dict[str, Tensor]:
    """Return the best hypothesis of fairseq's search.

    Raises:
        DataError: there is none, since the scores of the model are not finite.
    """
    try:
        return search.generate([rebuilt.model], sample(sentence))[0][0]
    except AssertionError:
        raise DataError(
            "fairseq's search finds nothing: scores of the model are not finite"
        ) from None


@torch.no_grad()
def log_probabilities(
    rebuilt: Rebuilt, sentence: List[int], target: List[int]
) -> Tensor:
    """Return those of each token of a translation, (tokens,), as the model has them.

    Args:
        rebuilt: an encoder-decoder model.
        sentence: the source, without its end.
        target: the translation, with its end.
    """
    inputs = sample(sentence)["net_input"]
    shifted = torch.tensor([[EOS, *target[:-1]]])
    output = rebuilt.model(**inputs, prev_output_tokens=shifted)
    scores = rebuilt.model.get_normalized_probs(output, log_probs=True)
    return scores[0].gather(1, torch.tensor(target).unsqueeze(1)).squeeze(1)
