"""Products with a weight: the PHM layer as a function, and a dense map."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .paths import weight_goes_first
from .weight import materialize


def phm_linear(
    input: Tensor, rule: Optional[Tensor], blocks: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """y = (sum_i A_i kron S_i) x + b (Zhang et al., ICLR 2021, equation 2).

    Args:
        input: (..., in).
        rule: (n, n, n), ``rule[i]`` = A_i; None for n = 1, the dense layer.
        blocks: (n, out/n, in/n), ``blocks[i]`` = S_i.
        bias: (out,) or None.

    Returns:
        Tensor (..., out).
    """
    return F.linear(input, materialize(rule, blocks), bias)


def dense_linear(
    input: Tensor, weight: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """``F.linear``; without gradients by weight @ input^T where that is faster.

    For a handful of tokens on the CPU the library behind torch shares the rows of the
    left factor among its threads better than those of the right one.

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


def weight_first(input: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """``F.linear`` as weight @ input^T, without gradients."""
    columns = torch.mm(weight, input.reshape(-1, weight.size(1)).t())
    output = input.new_empty(columns.size(1), columns.size(0))
    if bias is None:
        output.copy_(columns.t())
    else:
        torch.add(columns.t(), bias, out=output)
    return output.view(*input.shape[:-1], weight.size(0))
