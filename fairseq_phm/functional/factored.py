"""The PHM layer from rule and blocks, without its weight H.

For few tokens reading the weight takes longer than multiplying with it, and the blocks
have n times fewer bytes.
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def factored_linear(
    input: Tensor,
    rule: Tensor,
    blocks: Tensor,
    bias: Optional[Tensor] = None,
    start: int = 0,
    stop: Optional[int] = None,
) -> Tensor:
    """Outputs start to stop - 1 (default: all) of a PHM layer, H never being built.

    With x_q and y_p the n parts of input and output, y_p = sum_iq A_i[p, q] S_i x_q.
    Either the inputs are mixed, sum_i S_i (sum_q A_i[p, q] x_q), or the products are,
    sum_iq A_i[p, q] (S_i x_q): whichever takes fewer multiply-adds. Of all outputs
    both take in x out plus the mixing: n^2 in or n^2 out a token.

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
    if last - first < n:
        rule = rule[:, first:last]
    whole = (last - first) * height == stop - start
    own = bias if whole else None
    parts = last - first
    if parts * width * (n + height) < n * height * (width + parts):
        output = _mix_inputs(input, rule, blocks, own)
    else:
        output = _mix_products(input, rule, blocks, own)
    output = output.view(*input.shape[:-1], parts * height)
    if whole:
        return output
    output = output.narrow(-1, start - first * height, stop - start)
    return output if bias is None else output + bias


def _mix_products(
    input: Tensor, rule: Tensor, blocks: Tensor, bias: Optional[Tensor]
) -> Tensor:
    n, parts, _ = rule.shape
    _, height, width = blocks.shape
    inputs = input.reshape(-1, width)  # ((token, q), column)
    products = F.linear(inputs, blocks.reshape(n * height, width))
    products = products.view(-1, n * n, height)  # (token, (q, i), row)
    mixing = rule.permute(1, 2, 0).reshape(1, parts, n * n)
    mixing = mixing.expand(products.size(0), -1, -1)
    if bias is None:
        return torch.bmm(mixing, products)
    return torch.baddbmm(bias.view(1, parts, height), mixing, products)


def _mix_inputs(
    input: Tensor, rule: Tensor, blocks: Tensor, bias: Optional[Tensor]
) -> Tensor:
    n, parts, _ = rule.shape
    _, height, width = blocks.shape
    count = input.numel() // (n * width)
    inputs = input.reshape(count, n, width).transpose(0, 1).reshape(n, count * width)
    mixed = rule.reshape(n * parts, n) @ inputs  # ((i, p), (token, column))
    mixed = mixed.view(n, parts * count, width)
    products = torch.bmm(mixed, blocks.transpose(1, 2))
    output = products.sum(0).view(parts, count, height).transpose(0, 1)
    output = output.reshape(count, parts * height)
    return output if bias is None else output + bias
