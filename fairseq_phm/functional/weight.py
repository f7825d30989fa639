"""The weight H = sum_i kron(A_i, S_i) from a rule A and blocks S.

These functions are differentiable twice, safe under autocast, and scriptable by
TorchScript. On a GPU Triton kernels stand in for plain tensor code where they were
measured to be faster.
"""

from typing import List, Optional

import torch
from torch import Tensor

from .paths import triton_builds


def kronecker_sum(rule: Tensor, blocks: Tensor) -> Tensor:
    """H = sum_i kron(rule[i], blocks[i]).

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


def kronecker_sums(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
    """H of several layers with equal sizes, one above the other.

    Args:
        rules: of each layer, (n, n, n).
        blocks: of each layer, (n, out/n, in/n).

    Returns:
        Tensor (number of layers * out, in).
    """
    if not torch.jit.is_scripting():
        if triton_builds(blocks[0]):
            return _by_triton(rules, blocks)
    return kronecker_sums_by_bmm(rules, blocks)


def kronecker_sums_by_bmm(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
    """``kronecker_sums`` by one batched matrix product for each layer.

    The products run over the rows a of the blocks: their results need only be moved by
    whole rows of H.
    """
    n, height, width = blocks[0].shape
    parts: List[Tensor] = []
    for rule, own in zip(rules, blocks):
        mixing = rule.reshape(n, -1).t().expand(height, -1, -1)
        rows = torch.bmm(mixing, own.transpose(0, 1))
        parts.append(rows.view(height, -1, n * width).transpose(0, 1))
    if len(parts) == 1:
        return parts[0].reshape(-1, n * width)
    return torch.cat(parts).view(-1, n * width)


def _by_triton(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
    from .triton_weight import kronecker_sums_by_triton  # needs triton

    return kronecker_sums_by_triton(rules, blocks)


def materialize(
    rule: Optional[Tensor], blocks: Tensor, start: int = 0, stop: Optional[int] = None
) -> Tensor:
    """Rows start to stop - 1 (default: all) of the weight of a PHM layer.

    Args:
        rule: (n, n, n), or None for n = 1: then the weight is ``blocks[0]``.
        blocks: (n, out/n, in/n).
        start: first row.
        stop: row behind the last one; None for all. Few rows outside are computed.

    Returns:
        Tensor (stop - start, in).

    >>> rule, blocks = torch.randn(4, 4, 4), torch.randn(4, 6, 2)
    >>> rows = materialize(rule, blocks, 8, 16)
    >>> rows.allclose(kronecker_sum(rule, blocks)[8:16])
    True
    """
    if rule is None:
        return blocks[0] if stop is None else blocks[0, start:stop]
    if stop is None:
        return kronecker_sum(rule, blocks)
    height = blocks.size(1)
    first = start // height
    last = (stop - 1) // height + 1
    rows = kronecker_sum(rule[:, first:last], blocks)
    return rows.narrow(0, start - first * height, stop - start)


def low_rank_blocks(u: Tensor, v: Tensor) -> Tensor:
    """Blocks S_i = U_i V_i of rank r.

    Args:
        u: (n, out/n, r).
        v: (n, r, in/n).

    Returns:
        Tensor (n, out/n, in/n).
    """
    return torch.bmm(u, v)
