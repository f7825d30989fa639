"""A folder with the encoder and one step of the decoder as ONNX."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..safe_load import torch_version
from . import needs
from .source import EOS, Source, sample, translated

TOLERANCE = 1e-3
"""Of log-probabilities."""
OPSET = 17
PAD = 1


class Encoder(nn.Module):
    """src_tokens (batch, time) -> states (time, batch, width), padding (batch, time).

    Sources are padded on the left, as fairseq pads them.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, src_tokens: Tensor) -> Tuple[Tensor, Tensor]:
        padding = src_tokens.eq(PAD)
        lengths = (~padding).sum(1)
        output = self.encoder(src_tokens, lengths)
        return output["encoder_out"][0], padding


class DecoderStep(nn.Module):
    """Log-probabilities (batch, vocabulary) of the token after a prefix.

    Shapes: prefix (batch, length), which starts with the end-of-sentence symbol, and
    the two results of :class:`Encoder`.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        decoder.buffered_future_mask = _future_mask

    def forward(self, prefix: Tensor, states: Tensor, padding: Tensor) -> Tensor:
        encoder_out = {"encoder_out": [states], "encoder_padding_mask": [padding]}
        scores = self.decoder(prefix, encoder_out=encoder_out)[0]
        return scores[:, -1].log_softmax(-1)


def _future_mask(states: Tensor) -> Tensor:
    """Return what is added to scores, (time, time), for states (time, ...)."""
    places = torch.ones_like(states[:, 0, 0]).cumsum(0)
    later = places.unsqueeze(0) > places.unsqueeze(1)
    return torch.zeros_like(later, dtype=states.dtype).masked_fill(later, -1e9)


@torch.no_grad()
def export(source: Source, folder: Path) -> str:
    """Write ``encoder.onnx`` and ``decoder.onnx`` and compare them with fairseq.

    Args:
        source: an encoder-decoder Transformer.
        folder: an empty one.

    Returns:
        One line on the comparison.

    Raises:
        DataError: a model that cannot be traced, or log-probabilities that differ.
    """
    needs("onnx")
    runtime = needs("onnxruntime")
    model = copy.deepcopy(source.dense().model)  # which is changed
    source.refuse_other_decoders("ONNX")
    model.prepare_for_onnx_export_()
    encoder, decoder = Encoder(model.encoder).eval(), DecoderStep(model.decoder).eval()
    tokens = torch.tensor([[4, 5, 6, EOS], [PAD, 4, 5, EOS]])
    states, padding = encoder(tokens)
    prefix = torch.tensor([[EOS, 4, 5], [EOS, 5, 4]])
    _write(encoder, (tokens,), folder / "encoder.onnx", ["src_tokens"],
           ["states", "padding"])  # fmt: skip
    _write(decoder, (prefix, states, padding), folder / "decoder.onnx",
           ["prefix", "states", "padding"], ["log_probabilities"])  # fmt: skip
    sessions = [
        runtime.InferenceSession(str(folder / f), providers=["CPUExecutionProvider"])
        for f in ("encoder.onnx", "decoder.onnx")
    ]
    return _compare(source, sessions)


AXES = {
    "src_tokens": {0: "batch", 1: "source"},
    "states": {0: "source", 1: "batch"},
    "padding": {0: "batch", 1: "source"},
    "prefix": {0: "batch", 1: "target"},
    "log_probabilities": {0: "batch"},
}


def _write(
    module: nn.Module,
    inputs: Tuple[Tensor, ...],
    path: Path,
    names: List[str],
    results: List[str],
) -> None:
    """Write a module as ONNX; all batch sizes and lengths fit.

    Raises:
        DataError: it cannot be traced.
    """
    options: Any = {"dynamo": False} if torch_version() >= (2, 5) else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, inputs, str(path), input_names=names, output_names=results,
                dynamic_axes={name: AXES[name] for name in (*names, *results)},
                opset_version=OPSET, **options,
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path.name}: torch.onnx says: {reason}") from None


def _compare(source: Source, sessions: List[Any]) -> str:
    """Compare the log-probabilities of fairseq's hypotheses, token by token.

    Raises:
        DataError: the largest difference is above the tolerance.
    """
    encoder, decoder = sessions
    differences: List[float] = []
    for sentence, target, expected in translated(source):
        tokens = sample(sentence)["net_input"]["src_tokens"].numpy()
        states, padding = encoder.run(None, {"src_tokens": tokens})
        for step, token in enumerate(target):
            prefix = torch.tensor([[EOS, *target[:step]]]).numpy()
            given = {"prefix": prefix, "states": states, "padding": padding}
            (scores,) = decoder.run(None, given)
            differences.append(abs(float(scores[0, token]) - float(expected[step])))
    worst = float(torch.tensor(differences).max())  # no number where one is none
    if not worst <= TOLERANCE:
        raise DataError(
            f"{source.path}: ONNX's log-probabilities differ by {worst:.2g}"
        )
    count = len(source.sentences)
    return f"log-probabilities of {count} hypotheses differ by at most {worst:.1g}"
