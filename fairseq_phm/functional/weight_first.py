"""The dense product with the weight as its left factor."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import can_write_out


def weight_first(input: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Compute ``F.linear`` as weight @ input^T where no derivative is asked for.

    For a handful of tokens on the CPU the library behind torch shares the rows of the
    left factor among its threads better than those of the right one.

    Args:
        input: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        Tensor (..., out), contiguous.
    """
    if not can_write_out(input, weight, bias):
        return F.linear(input, weight, bias)
    columns = torch.mm(weight, input.reshape(-1, weight.size(1)).t())
    output = input.new_empty(columns.size(1), columns.size(0))
    if bias is None:
        output.copy_(columns.t())
    else:
        torch.add(columns.t(), bias, out=output)
    return output.view(*input.shape[:-1], weight.size(0))
