"""Which way the product of a PHM layer is computed: chosen here, from sizes alone."""

from __future__ import annotations

import math
from typing import Dict, Tuple

import torch

from .crossovers import CROSSOVERS

_limits: Dict[Tuple[object, ...], int] = {}


def few_tokens(
    tokens: int,
    n: int,
    in_features: int,
    out_features: int,
    device: torch.device,
    dtype: torch.dtype,
    kept: bool,
) -> bool:
    """True where the factored path is the faster one for so many tokens.

    The other path multiplies with H, which ``kept`` says is there already (eval mode
    without gradients) or has to be built. Measured limits of other sizes, the nearest
    by ratio, stand in for sizes that were not measured; without any for this kind of
    device and dtype, H is used.
    """
    key = (n, in_features, out_features, device.type, dtype, kept)
    limit = _limits.get(key)
    if limit is None:
        limit = _limits[key] = _nearest_limit(*key)
    return 0 < tokens <= limit


def _nearest_limit(
    n: int,
    in_features: int,
    out_features: int,
    device: str,
    dtype: torch.dtype,
    kept: bool,
) -> int:
    column = "kept" if kept else "built"
    measured = CROSSOVERS.get((device, str(dtype).partition(".")[2], column), {})
    if n == 1 or not measured:
        return 0
    sizes = (n, in_features, out_features)

    def distance(other: Tuple[int, int, int]) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(sizes, other))

    return measured[min(measured, key=distance)]
