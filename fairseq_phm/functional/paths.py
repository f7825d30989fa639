"""Which way the product of a PHM layer is computed: chosen here, from sizes alone."""

from __future__ import annotations

import math
from functools import cache
from typing import Callable, Dict, Tuple

import torch

from .crossovers import CROSSOVERS

WEIGHT, FACTORED, BOUNDED_RANK = "weight", "factored", "bounded rank"
"""H times input; rule and blocks without H; R products of a rule of bounded rank."""


def choose_path(
    tokens: int,
    n: int,
    in_features: int,
    out_features: int,
    device: str,
    dtype: torch.dtype,
    kept: bool,
    rule_rank: int = 0,
) -> str:
    """The fastest path for so many tokens: WEIGHT, FACTORED or BOUNDED_RANK.

    H is there already (``kept``: eval mode without gradients) or has to be built, as in
    training. The factored path, only taken in place of a kept H, wins up to a number of
    tokens; products of a rule of bounded rank win from a number on. Both were measured;
    of sizes that were not, the nearest by ratio stand in. Without any for this type of
    device ("cpu", "cuda") and dtype, H is used.
    """
    limit = _limit(n, in_features, out_features, rule_rank, device, dtype, kept)
    if rule_rank:
        return BOUNDED_RANK if 0 < limit <= tokens else WEIGHT
    return FACTORED if 0 < tokens <= limit else WEIGHT


def weight_goes_first(input: torch.Tensor, weight: torch.Tensor) -> bool:
    """True where weight @ input^T was measured to be faster than input @ weight^T."""
    if is_tracing() or is_autocasting() or not weight.is_cpu:
        return False
    if torch.get_num_threads() == 1 or weight.dtype != input.dtype:
        return False
    outputs, inputs = weight.shape
    tokens = input.numel() // max(1, inputs)
    return 1 < tokens <= _first_limit(inputs, outputs, input.dtype)


@cache
def _first_limit(in_features: int, out_features: int, dtype: torch.dtype) -> int:
    column = ("cpu", str(dtype).partition(".")[2], "weight first, kept")
    return _nearest(CROSSOVERS.get(column, {}), 1, in_features, out_features, 1)


@cache
def _limit(
    n: int,
    in_features: int,
    out_features: int,
    rule_rank: int,
    device: str,
    dtype: torch.dtype,
    kept: bool,
) -> int:
    path = BOUNDED_RANK if rule_rank else FACTORED
    column = f"{path}, {'kept' if kept else 'built'}"
    measured = CROSSOVERS.get((device, str(dtype).partition(".")[2], column), {})
    if n == 1 or not measured or 2 * rule_rank > n * n:
        return 0  # no more than n^2 / 2 products were measured
    return _nearest(measured, n, in_features, out_features, max(rule_rank, 1) / n**2)


def _nearest(measured: Dict[Tuple[int, ...], int], *here: float) -> int:
    """The entry of the sizes that are nearest by ratio; 0 without any."""

    def distance(other: Tuple[int, ...]) -> float:
        n, *features, rule_rank = other
        there = (n, *features, max(rule_rank, 1) / n**2)
        return sum(abs(math.log(a / b)) for a, b in zip(here, there))

    return measured[min(measured, key=distance)] if measured else 0


def is_autocasting() -> bool:
    """True under torch.autocast, on any device."""
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def is_tracing() -> bool:
    """True when torch traces or compiles: what is chosen from sizes would stay."""
    return torch.jit.is_tracing() or _is_compiling()


_compiler = getattr(torch, "compiler", None)
_is_compiling: Callable[[], bool] = getattr(_compiler, "is_compiling", None) or getattr(
    torch._utils, "is_compiling", lambda: False
)  # older torch has it in torch._utils
