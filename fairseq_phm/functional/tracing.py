"""States of torch in which a computation must not depend on sizes or on values."""

from typing import Callable

import torch


def is_autocasting() -> bool:
    """Return True under torch.autocast, on any device."""
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def is_tracing() -> bool:
    """Return True while torch traces or compiles, which records choices by size."""
    return torch.jit.is_tracing() or _is_compiling()


_compiler = getattr(torch, "compiler", None)
_is_compiling: Callable[[], bool] = getattr(_compiler, "is_compiling", None) or getattr(
    torch._utils, "is_compiling", lambda: False
)  # older torch has it in torch._utils
