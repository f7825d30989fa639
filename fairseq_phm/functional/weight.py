"""The weight H = sum_i kron(A_i, S_i) by batched matrix products."""

from typing import List

import torch
from torch import Tensor


def kronecker_sums(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
    """Build H of several layers of equal size, by one batched product for each layer.

    The batch runs over the rows a of the blocks, so that the results are whole rows of
    H, which only need to be moved.

    Args:
        rules: of each layer, (n, parts, n): all of A_i, or some of their rows.
        blocks: of each layer, (n, out/n, in/n).

    Returns:
        Tensor (number of layers * parts * out/n, in): one H below the other.
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


def batched_kronecker_sums(rules: Tensor, blocks: Tensor) -> Tensor:
    """Build H of several layers of equal size by one batched product for all of them.

    As :func:`kronecker_sums`, with fewer and larger steps.

    Args:
        rules: (number of layers, n, n, n).
        blocks: (number of layers, n, out/n, in/n).

    Returns:
        Tensor (number of layers * out, in): one H below the other.
    """
    layers, n, height, width = blocks.shape
    products = torch.bmm(
        rules.reshape(layers, n, n * n).transpose(1, 2), blocks.reshape(layers, n, -1)
    )
    products = products.view(layers, n, n, height, width).transpose(2, 3)
    return products.reshape(layers * n * height, n * width)


def low_rank_blocks(u: Tensor, v: Tensor) -> Tensor:
    """Build blocks S_i = U_i V_i of rank r.

    Args:
        u: (n, out/n, r).
        v: (n, r, in/n).

    Returns:
        Tensor (n, out/n, in/n).
    """
    return torch.bmm(u, v)
