"""H built once in eval mode, and never used when it is stale."""

from typing import Any, Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor


class WeightCache:
    """Keeps one built weight and copies of the tensors that it was built from.

    The copies are compared with the tensors at every use, so no edit is missed, not
    even one through ``.data`` or through another layer that shares a rule. They are n
    times smaller than the weight: comparing costs less than building. Only on the CPU,
    where it does not wait for a device. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the weight and free its memory."""
        self._weight: Optional[Tensor] = None
        self._version = 0
        self._sources: Tuple[Optional[Tensor], ...] = ()

    def get(
        self, sources: Sequence[Optional[Tensor]], build: Callable[[], Tensor]
    ) -> Tensor:
        """``build()``, or its earlier result when ``sources`` have not changed since.

        Always built anew when gradients may be asked for, under autocast, when torch
        traces or compiles, and off the CPU.
        """
        if (
            torch.is_grad_enabled()
            or torch.is_autocast_enabled()
            or torch.is_autocast_cpu_enabled()
            or torch.jit.is_tracing()
            or _is_compiling()
            or any(s is not None and s.device.type != "cpu" for s in sources)
        ):
            return build()
        weight = self._weight
        if (
            weight is None
            or _version(weight) != self._version
            or not all(map(_same, sources, self._sources))
        ):
            weight = self._weight = build()
            self._version = _version(weight)
            self._sources = tuple(
                None if source is None else source.detach().clone()
                for source in sources
            )
        return weight

    def __deepcopy__(self, memo: Any) -> "WeightCache":
        return WeightCache()

    def __reduce__(self) -> Tuple[Any, ...]:
        return WeightCache, ()


def _same(now: Optional[Tensor], then: Optional[Tensor]) -> bool:
    if now is None or then is None:
        return now is then
    return now.dtype == then.dtype and torch.equal(now, then)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _is_compiling() -> bool:
    compiler = getattr(torch, "compiler", None)
    return hasattr(compiler, "is_compiling") and compiler.is_compiling()
