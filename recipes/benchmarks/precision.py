"""Sizes of gradients in fp16: how far rule and blocks are from overflow.

The gradient of a rule sums over a whole weight, that of a dense weight over tokens
only. Both are taken from the same gradient of H, of a batch as fairseq has it in fp16:
the loss is a sum over tokens, times the loss scale. The learning rate of a rule changes
nothing here: the gradient of the parameter is that of A.
"""

from __future__ import annotations

import argparse
import math
from typing import List

import torch
from torch import Tensor

from fairseq_phm import PHMLinear

from .timing import Row

LARGEST = torch.finfo(torch.half).max
COMMON = 0.2
"""What all tokens share of inputs and of gradients, in standard deviations."""


def precision(options: argparse.Namespace) -> List[Row]:
    """Measure bits from the largest gradient to 65504, for each size and n.

    Each row has the largest |gradient| over that of the dense weight, ``ratio``, and
    ``overflows``: how many gradients are not finite when fp16 computes them.
    """
    result: List[Row] = []
    tokens = max(options.tokens)
    for sizes in options.sizes:
        torch.manual_seed(1)
        gradient = _gradient_of_weight(*sizes, tokens, options.loss_scale)
        dense = gradient.abs().max().item()
        for n in options.n:
            for rule_rank in (0, n):
                layer = PHMLinear(*sizes, n, bias=False, rule_rank=rule_rank)
                found = {"dense": gradient, **_gradients(layer, gradient)}
                half = {"dense": gradient.half()}
                half.update(_gradients(layer.half(), gradient.half()))
                mode = f"n={n}" + f" R={n}" * bool(rule_rank)
                size = "x".join(map(str, sizes))
                about = {"benchmark": "precision", "in x out": size, "mode": mode}
                for name, values in found.items():
                    largest = values.abs().max().item()
                    row = {**about, "tokens": tokens, "what": name}
                    row["bits"] = math.log2(LARGEST / largest)
                    row["overflows"] = int((~half[name].isfinite()).sum())
                    result.append({**row, "ratio": largest / dense})
    return result


def _gradient_of_weight(inputs: int, outputs: int, tokens: int, scale: float) -> Tensor:
    """Return the gradient of H (out, in) for a batch, with gradients of outputs of the
    length 1 for each token."""
    x = torch.randn(tokens, inputs) + COMMON * torch.randn(inputs)
    if inputs > outputs:  # the second projection of a feed-forward sublayer
        x = x.relu()
    y = torch.randn(tokens, outputs) + COMMON * torch.randn(outputs)
    return y.t() @ x * (scale / math.sqrt(outputs))


def _gradients(layer: PHMLinear, gradient: Tensor) -> dict:
    names, parameters = zip(*layer.named_parameters())
    found = torch.autograd.grad(layer.build_weight(), parameters, gradient)
    return {name.replace("scaled_", ""): one for name, one in zip(names, found)}
