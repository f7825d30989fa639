"""States of torch in which a computation must not depend on sizes or on values."""

from typing import Callable, Optional

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_autocasting() -> bool:
    """Return True under torch.autocast of CUDA or the CPU."""
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def is_tracing() -> bool:
    """Return True while torch traces or compiles, which records choices by size."""
    return torch.jit.is_tracing() or is_compiling()


def is_ordinary(tensor: Tensor) -> bool:
    """Return True for a dense tensor whose numbers are in its own memory.

    Those of torch.func's transforms, fake tensors and other subclasses are not: their
    values cannot be compared.
    """
    return not _is_special(tensor) and tensor.layout is torch.strided


def is_plain(tensor: Tensor) -> bool:
    """Return True for an ordinary tensor on the CPU."""
    return tensor.is_cpu and is_ordinary(tensor)


def can_write_out(*tensors: Optional[Tensor]) -> bool:
    """Return True where a product of these, or None, can be written by ``out=``.

    There it has no derivatives, forward or backward, and no transforms of torch.func.
    """
    if is_tracing() or getattr(forward_ad, "_current_level", -1) >= 0:
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    return not any(map(_is_special, given))


def _is_special(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, nn.Parameter) or _is_wrapped(tensor)


_compiler = getattr(torch, "compiler", None)
is_compiling: Callable[[], bool] = getattr(_compiler, "is_compiling", None) or getattr(
    torch._utils, "is_compiling", lambda: False
)  # older torch has it in torch._utils
_is_wrapped: Callable[[Tensor], bool] = getattr(
    getattr(torch._C, "_functorch", None),
    "is_functorch_wrapped_tensor",
    lambda _: False,
)
