"""PHMLSTM over nn.LSTM: forward + backward of a batch of sequences."""

from __future__ import annotations

import argparse
from typing import Dict, List

import torch
from torch import nn

from fairseq_phm import PHMLSTM

from .timing import Row, interleave, place, rows

WIDTH, LENGTH, BATCH = 300, 40, 64
"""The paper's encoder for natural language inference."""


def lstm(options: argparse.Namespace) -> List[Row]:
    """Measure n = 2, 5, 10, which divide 300."""
    layers: Dict[str, nn.Module] = {"dense": nn.LSTM(WIDTH, WIDTH, **place(options))}
    for n in (2, 5, 10):
        layers[f"n={n}"] = PHMLSTM(WIDTH, WIDTH, n, **place(options))
    x = torch.randn(LENGTH, BATCH, WIDTH, **place(options), requires_grad=True)

    def step(layer: nn.Module) -> None:
        layer(x)[0].sum().backward()

    calls = {name: lambda layer=layer: step(layer) for name, layer in layers.items()}
    about = {"benchmark": "LSTM", "in x out": f"{WIDTH}x{WIDTH}"}
    times = interleave(calls, options)
    return rows(times, **about, tokens=LENGTH * BATCH, mode="forward + backward")
