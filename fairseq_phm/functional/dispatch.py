"""Choose, from sizes and a table of measurements, how a product is computed.

The only place that decides: the kernels that are called from here do not ask again.
All results are differentiable twice, safe under autocast, and scriptable by
TorchScript, which compiles the plain product with H.

=====================  ============================================  =================
product                when                                          kernel
=====================  ============================================  =================
input times a built H  training                                      ``weight``
weight first           few tokens, no gradients, CPU                 ``weight_first``
factored               few tokens, eval mode, CPU                    ``factored``
CP rank                rules of CP rank R up to n^2 / 2, and frozen  ``cp_rules``
                       quaternion rules
=====================  ============================================  =================
"""

import math
from functools import lru_cache
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import is_autocasting, is_tracing
from .tuning_table import TUNING_TABLE
from .weight import kronecker_sums
from .weight_first import weight_first

WEIGHT, FACTORED, CP = "weight", "factored", "CP rank"
"""H times input; rule and blocks without H; the R products of a rule of CP rank R."""


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
    """Return the fastest way to multiply: WEIGHT, FACTORED or CP.

    The factored product replaces a kept H up to a number of tokens; the products of a
    rule of CP rank R replace H from a number of tokens on. Both numbers were measured;
    for sizes that were not, those of the nearest size, by ratio, count. Without any
    measurement for this device and dtype the answer is WEIGHT.

    Args:
        tokens: number of input vectors.
        n, in_features, out_features: sizes of the layer.
        device: type of device, "cpu" or "cuda".
        dtype: of input and parameters.
        kept: H is there (eval mode without gradients); else it has to be built.
        rule_rank: R, or 0 for a full rule.
    """
    where = (device, dtype, kept)
    if tokens < 1 or n == 1:
        return WEIGHT
    if kept and tokens <= _limit(FACTORED, n, in_features, out_features, 1, *where):
        return FACTORED
    if rule_rank and 2 * rule_rank <= n * n:  # more products were not measured
        share = rule_rank / n**2
        limit = _limit(CP, n, in_features, out_features, share, *where)
        if 0 < limit <= tokens:
            return CP
    return WEIGHT


def dense_linear(
    input: Tensor, weight: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """Compute ``F.linear``, without gradients by ``weight_first`` where that is faster.

    Args:
        input: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        Tensor (..., out), contiguous.
    """
    if torch.is_grad_enabled() or not weight_goes_first(input, weight):
        return F.linear(input, weight, bias)
    return weight_first(input, weight, bias)


def weight_goes_first(input: Tensor, weight: Tensor) -> bool:
    """Return True where ``weight_first`` was measured to be the faster one."""
    if is_tracing() or is_autocasting() or not weight.is_cpu:
        return False
    if torch.get_num_threads() == 1 or weight.dtype != input.dtype:
        return False
    outputs, inputs = weight.shape
    tokens = input.numel() // max(1, inputs)
    place = ("cpu", input.dtype, True)
    return 1 < tokens <= _limit("weight first", 1, inputs, outputs, 1, *place)


def phm_linear(
    input: Tensor, rule: Optional[Tensor], blocks: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """Compute y = (sum_i A_i kron S_i) x + b (Zhang et al., ICLR 2021, equation 2).

    Args:
        input: (..., in).
        rule: (n, n, n), ``rule[i]`` = A_i; None for n = 1, the dense layer.
        blocks: (n, out/n, in/n), ``blocks[i]`` = S_i.
        bias: (out,) or None.

    Returns:
        Tensor (..., out).
    """
    return F.linear(input, materialize(rule, blocks), bias)


def materialize(
    rule: Optional[Tensor], blocks: Tensor, start: int = 0, stop: Optional[int] = None
) -> Tensor:
    """Build rows start to stop - 1 (default: all) of the weight of a PHM layer.

    Args:
        rule: (n, n, n), or None for n = 1: then the weight is ``blocks[0]``.
        blocks: (n, out/n, in/n).
        start: first row.
        stop: row behind the last one; None: to the end. Few rows outside are computed.

    Returns:
        Tensor (stop - start, in).

    >>> rule, blocks = torch.randn(4, 4, 4), torch.randn(4, 6, 2)
    >>> rows = materialize(rule, blocks, 8, 16)
    >>> rows.allclose(kronecker_sum(rule, blocks)[8:16])
    True
    """
    if start == 0 and stop is None:
        return blocks[0] if rule is None else kronecker_sum(rule, blocks)
    height = blocks.size(1)
    if stop is None:
        stop = blocks.size(0) * height
    if rule is None:
        return blocks[0, start:stop]
    first = start // height
    last = (stop - 1) // height + 1
    rows = kronecker_sum(rule[:, first:last], blocks)
    return rows.narrow(0, start - first * height, stop - start)


def kronecker_sum(rule: Tensor, blocks: Tensor) -> Tensor:
    """Build H = sum_i kron(rule[i], blocks[i]).

    H[p * out/n + a, q * in/n + b] = sum_i rule[i, p, q] * blocks[i, a, b]
    (Zhang et al., ICLR 2021, equation 3). No temporary is larger than H.

    Args:
        rule: (n, n, n), ``rule[i]`` = A_i.
        blocks: (n, out/n, in/n), ``blocks[i]`` = S_i.

    Returns:
        Tensor (out, in).

    >>> rule, blocks = torch.randn(2, 2, 2), torch.randn(2, 3, 4)
    >>> H = sum(torch.kron(rule[i], blocks[i]) for i in range(2))
    >>> kronecker_sum(rule, blocks).allclose(H)
    True
    """
    return kronecker_sums([rule], [blocks])


@lru_cache(None)
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
    """Return the entry of the nearest sizes; ``share`` is R / n^2 of a rule, or 1."""
    column = f"{path}, {'kept' if kept else 'built'}"
    measured = TUNING_TABLE.get((device, str(dtype).partition(".")[2], column), {})
    here = (n, in_features, out_features, share)

    def distance(other: Tuple[int, ...]) -> float:
        n, *features, rule_rank = other
        there = (n, *features, rule_rank / n**2 if rule_rank else 1)
        return sum(abs(math.log(a / b)) for a, b in zip(here, there))

    return measured[min(measured, key=distance)] if measured else 0
