"""Which way the product of a PHM layer is computed: chosen here, from sizes alone."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from importlib import metadata
from typing import Callable, Tuple

import torch

from .crossovers import CROSSOVERS

WEIGHT, FACTORED, BOUNDED_RANK = "weight", "factored", "bounded rank"
"""H times input; rule and blocks without H; R products of a rule of bounded rank."""
TRITON_MEASURED = any(column.startswith("triton") for *_, column in CROSSOVERS)


@lru_cache(4096)
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
    where = (device, dtype, kept)
    if tokens < 1 or n == 1:
        return WEIGHT
    if kept and tokens <= _limit(FACTORED, n, in_features, out_features, 1, *where):
        return FACTORED
    if rule_rank and 2 * rule_rank <= n * n:  # more products were not measured
        share = rule_rank / n**2
        limit = _limit(BOUNDED_RANK, n, in_features, out_features, share, *where)
        if 0 < limit <= tokens:
            return BOUNDED_RANK
    return WEIGHT


def weight_goes_first(input: torch.Tensor, weight: torch.Tensor) -> bool:
    """True where weight @ input^T was measured to be faster than input @ weight^T."""
    if is_tracing() or is_autocasting() or not weight.is_cpu:
        return False
    if torch.get_num_threads() == 1 or weight.dtype != input.dtype:
        return False
    outputs, inputs = weight.shape
    tokens = input.numel() // max(1, inputs)
    place = ("cpu", input.dtype, True)
    return 1 < tokens <= _limit("weight first", 1, inputs, outputs, 1, *place)


def triton_builds(blocks: torch.Tensor) -> bool:
    """True where Triton kernels were measured to build H, and its gradients, faster.

    Only on CUDA devices with triton installed. No GPU was measured yet, so that the
    table says nowhere; ``recipes.benchmarks.crossovers --paths triton`` measures one.
    """
    if not TRITON_MEASURED or not blocks.is_cuda:
        return False
    if is_autocasting() or torch.jit.is_tracing():
        return False
    n, height, width = blocks.shape
    return triton_wins(n, n * width, n * height, blocks.dtype)


@cache
def triton_wins(
    n: int, in_features: int, out_features: int, dtype: torch.dtype
) -> bool:
    """What the table says of these sizes on CUDA; False without triton."""
    if not has_triton():
        return False
    sizes = (n, in_features, out_features, 1)
    return _limit("triton", *sizes, "cuda", dtype, kept=False) > 0


def has_triton() -> bool:
    """True where triton 3 or newer is installed, which the kernels need."""
    try:
        return int(metadata.version("triton").partition(".")[0]) >= 3
    except (metadata.PackageNotFoundError, ValueError):
        return False


@cache
def _limit(
    path: str,
    n: int,
    in_features: int,
    out_features: int,
    share: float,
    device: str,
    dtype: torch.dtype,
    kept: bool,
) -> int:
    """The entry of the nearest sizes; ``share`` is R / n^2 of a rule, or 1."""
    column = f"{path}, {'kept' if kept else 'built'}"
    measured = CROSSOVERS.get((device, str(dtype).partition(".")[2], column), {})
    here = (n, in_features, out_features, share)

    def distance(other: Tuple[int, ...]) -> float:
        n, *features, rule_rank = other
        there = (n, *features, rule_rank / n**2 if rule_rank else 1)
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
