"""The PHM layer as a function of its input, rule, blocks and bias."""

from typing import Optional

import torch.nn.functional as F
from torch import Tensor

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
