"""The PHM layer from rule and blocks, without its weight H.

For few tokens reading the weight takes longer than multiplying with it, and the blocks
have n times fewer bytes.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor


def factored_linear(
    input: Tensor,
    rule: Tensor,
    blocks: Tensor,
    bias: Optional[Tensor] = None,
    start: int = 0,
    stop: Optional[int] = None,
) -> Tensor:
    """Compute outputs start to stop - 1 (default: all) of a PHM layer without H.

    With x_q and y_p the n parts of input and output, y_p = sum_iq A_i[p, q] (S_i x_q):
    all blocks times all parts of the input, in out multiply-adds a token as with H, and
    the mixing of these products, n^2 out.

    Args:
        input: (..., in).
        rule: (n, n, n), ``rule[i]`` = A_i.
        blocks: (n, out/n, in/n), ``blocks[i]`` = S_i.
        bias: (stop - start,) or None.
        start: first output.
        stop: output behind the last one; None for all.

    Returns:
        Tensor (..., stop - start).

    >>> rule, blocks = torch.randn(2, 2, 2), torch.randn(2, 3, 4)
    >>> H = sum(torch.kron(rule[i], blocks[i]) for i in range(2))
    >>> x = torch.randn(5, 8)
    >>> factored_linear(x, rule, blocks).allclose(x @ H.t(), atol=1e-5)
    True
    """
    n, height, width = blocks.shape
    if stop is None:
        stop = n * height
    first, last = start // height, (stop - 1) // height + 1
    parts = last - first
    rule = rule[:, first:last]
    whole = parts * height == stop - start
    inputs = input.reshape(-1, width)  # ((token, q), column)
    own = bias.view(parts, height) if whole and bias is not None else None
    if len(inputs) == n:  # one token: n columns, for one product with all blocks
        products = blocks.reshape(n * height, width) @ inputs.t()
        output = torch.bmm(rule, products.view(n, height, n).transpose(1, 2)).sum(0)
        output = output if own is None else output + own
    else:
        products = torch.bmm(inputs.expand(n, -1, -1), blocks.transpose(1, 2))
        products = products.view(n, -1, n, height).transpose(0, 1)
        products = products.reshape(-1, n * n, height)  # (token, (i, q), row)
        mixing = rule.transpose(0, 1).reshape(1, parts, n * n)
        mixing = mixing.expand(products.size(0), -1, -1)
        if own is None:
            output = torch.bmm(mixing, products)
        else:
            output = torch.baddbmm(own, mixing, products)
    output = output.view(*input.shape[:-1], parts * height)
    if whole:
        return output
    output = output.narrow(-1, start - first * height, stop - start)
    return output.contiguous() if bias is None else output + bias


def kronecker_rows(rule: Optional[Tensor], blocks: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of H = sum_i kron(A_i, S_i), without H.

    With p = row // (out/n) and a = row % (out/n), part q of a row is
    sum_i A_i[p, q] S_i[a]: n in multiply-adds a row.

    Args:
        rule: (n, n, n), ``rule[i]`` = A_i; None for n = 1.
        blocks: (n, out/n, in/n), ``blocks[i]`` = S_i.
        rows: (...) of whole numbers below out.

    Returns:
        Tensor (..., in).

    >>> rule, blocks = torch.randn(2, 2, 2), torch.randn(2, 3, 4)
    >>> H = sum(torch.kron(rule[i], blocks[i]) for i in range(2))
    >>> rows = torch.tensor([[5, 0], [2, 5]])
    >>> kronecker_rows(rule, blocks, rows).allclose(H[rows])
    True
    """
    n, height, width = blocks.shape
    index = rows.reshape(-1)
    if rule is None:
        vectors = blocks[0].index_select(0, index)
    else:
        part = torch.div(index, height, rounding_mode="floor")
        found = blocks.index_select(1, index - part * height)  # (i, row, column)
        mixing = rule.index_select(1, part)  # (i, row, q)
        vectors = torch.bmm(mixing.permute(1, 2, 0), found.transpose(0, 1))
    return vectors.reshape(rows.shape + (n * width,))
