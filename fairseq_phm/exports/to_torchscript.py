"""Beam search and model as one TorchScript file, which needs torch alone."""

from __future__ import annotations

import io
import warnings
from typing import IO

import torch
from tqdm import tqdm

from ..errors import DataError
from .source import Source, best, generator, sample

TOLERANCE = 1e-4
"""Of the scores of hypotheses."""


@torch.no_grad()
def export(source: Source, file: IO[bytes]) -> str:
    """Write the file and compare its hypotheses with fairseq's.

    The file is fairseq's ``SequenceGenerator`` with fairseq's own model: a call takes
    ``{"net_input": {"src_tokens": (batch, time), "src_lengths": (batch,)}}``, sources
    padded on the left, and returns for each sentence its hypotheses, best first, each
    with ``tokens`` and ``score``.

    Args:
        source: an encoder-decoder Transformer.
        file: open for writing bytes.

    Returns:
        One line on the comparison.

    Raises:
        DataError: a model that cannot be scripted, or hypotheses that differ.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.script(generator(source.dense()).eval())
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{source.path}: TorchScript says: {reason}") from None
    content = io.BytesIO()
    torch.jit.save(scripted, content)
    content.seek(0)
    _compare(source, torch.jit.load(content))
    file.write(content.getvalue())
    return (
        f"{len(source.sentences)} of {len(source.sentences)} hypotheses are fairseq's"
    )


def _compare(source: Source, scripted: torch.jit.ScriptModule) -> None:
    """Raise DataError unless the best hypothesis of each sentence is fairseq's."""
    search = generator(source.rebuilt)
    for sentence in tqdm(source.sentences, "comparison", disable=None, leave=False):
        one = best(search, source.rebuilt, sentence)
        other = scripted(sample(sentence))[0][0]
        same = one["tokens"].tolist() == other["tokens"].tolist()
        if not same or abs(float(one["score"] - other["score"])) > TOLERANCE:
            raise DataError(
                f"{source.path}: TorchScript has other hypotheses than fairseq: "
                f"{other['tokens'].tolist()}, not {one['tokens'].tolist()}"
            )
