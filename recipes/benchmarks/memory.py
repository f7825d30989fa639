"""Memory of a training step with Adam: peak, optimiser state and checkpoint."""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
from typing import Any, List

import torch
from torch import nn

from fairseq_phm import PHMLinear

from .timing import Row, place

LAYERS, TOKENS = 12, 512


def memory(options: argparse.Namespace) -> List[Row]:
    """Measure MB over dense, for the feed-forward layers of the base Transformer."""
    result: List[Row] = []
    dense: List[float] = []
    for n in (1, *options.n):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            sizes = pool.apply(_measure, (n, place(options)))
        dense = dense or sizes
        for what, mine, other in zip(("peak", "Adam", "checkpoint"), sizes, dense):
            row = {"benchmark": "memory", "mode": what, "tokens": TOKENS}
            name = f"n={n}" if n > 1 else "dense"
            row.update({"in x out": "512x2048", "what": name, "MB": mine})
            result.append({**row, "ratio": mine / other})
    return result


def _measure(n: int, place: Any) -> List[float]:
    cuda = str(place["device"]).startswith("cuda")

    def linear(*sizes: int) -> nn.Module:
        return nn.Linear(*sizes, **place) if n == 1 else PHMLinear(*sizes, n, **place)

    def peak() -> float:
        if cuda:
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    before = peak()
    model = nn.Sequential(
        *(
            nn.Sequential(linear(512, 2048), nn.ReLU(), linear(2048, 512))
            for _ in range(LAYERS)
        )
    )
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(TOKENS, 512, **place)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    after = peak()
    states = [s for state in optimizer.state.values() for s in state.values()]
    state = sum(s.numel() * s.element_size() for s in states) / 1e6
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return [after - before, state, file.tell() / 1e6]
