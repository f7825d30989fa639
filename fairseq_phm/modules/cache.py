"""H that is there: kept in eval mode until a factor changes; built for a pass."""

import ctypes
import threading
from contextlib import contextmanager
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)
from weakref import WeakSet

import torch
from torch import Tensor

from ..functional.tracing import is_autocasting, is_ordinary, is_plain, is_tracing


class WeightCache:
    """Keeps one built weight and copies of the tensors that it was built from.

    The copies are compared with the tensors at every use, so no edit is missed, not
    even one through ``.data`` or through another layer that shares a rule. They are n
    times smaller than the weight, and their bytes are compared at the speed of memory:
    much less than multiplying with the weight takes. On other devices Python would wait
    for the comparison: there a weight is kept after :meth:`trust` only, and edits
    through ``.data`` are missed. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._batched: Any = WeakSet()
        self.clear()

    def trust(self) -> None:
        """Keep the weight on all devices, until :meth:`clear`; for a finished model.

        Meanwhile edits off the CPU that torch does not count are missed: by ``.data``.
        """
        self._trusts = True

    def join(self, parts: Iterable["WeightCache"]) -> None:
        """Be cleared with each of these: caches of layers that share this weight."""
        for part in parts:
            part._batched.add(self)

    def clear(self) -> None:
        """Forget the weight, and batched ones built with it; free their memory."""
        for batched in self._batched:
            batched.clear()
        self._trusts = False
        self._kept: Optional[Tuple[Tensor, int, Hashable, Tuple[Any, ...]]] = None

    def keeps(self, sources: Sequence[Tensor]) -> bool:
        """Return True where a weight that is built from these tensors can be kept.

        Not when gradients may be asked for, under autocast, when torch traces or
        compiles, off the CPU without :meth:`trust`, and not from tensors whose numbers
        are elsewhere than in their own memory: those of torch.func's transforms, fake
        and other subclasses.
        """
        if torch.is_grad_enabled() or is_autocasting() or is_tracing():
            return False
        if self._trusts:
            return all(is_plain(one) or _counts_edits(one) for one in sources)
        return all(map(is_plain, sources))

    def get(
        self,
        sources: Sequence[Tensor],
        build: Callable[[], Tensor],
        key: Hashable = None,
    ) -> Tensor:
        """Return ``build()``, or its earlier result while ``sources`` are unchanged.

        Always built anew where :meth:`keeps` says no.

        Args:
            sources: the tensors that the weight is built from.
            build: makes the weight.
            key: of what is built from them, such as the rows of the weight.
        """
        if not self.keeps(sources):
            return build()
        if self._kept is not None:
            weight, version, known_key, known = self._kept
            if (
                key == known_key
                and _version(weight) == version
                and len(sources) == len(known)
                and all(map(_same, sources, known))
            ):
                return weight
        # First the copies: an edit by another thread while H is built is seen later.
        known = tuple(map(_remembered, sources))
        with torch.inference_mode(False), torch.no_grad():
            weight = build()  # one of inference mode would be of no use elsewhere
        self._kept = (weight, _version(weight), key, known)
        return weight

    def __deepcopy__(self, memo: Any) -> "WeightCache":
        made = WeightCache()
        made._trusts = self._trusts
        return made

    def __reduce__(self) -> Tuple[Any, ...]:
        return WeightCache, ()


class KeepsWeights:
    """Mixed into a module, before it in the bases, whose attributes are caches."""

    def train(self, mode: bool = True) -> Any:
        """Set the mode as ``nn.Module`` does; training frees the kept weights."""
        if mode:
            for cache in self._caches():
                cache.clear()
        return super().train(mode)

    def make_generation_fast_(self, **options: Any) -> None:
        """Keep weights on a GPU, too: called by ``make_generation_fast_`` of models."""
        for cache in self._caches():
            cache.trust()

    @torch.jit.unused
    def _caches(self) -> List[WeightCache]:
        return [held for held in vars(self).values() if isinstance(held, WeightCache)]


_pass = threading.local()
"""``weights`` of the forward pass that this thread is in, by the ids of the layers, and
whether they were ``cast``, built under autocast."""


@contextmanager
def built_for_a_pass(weights: Dict[Tuple[int, ...], Tensor]) -> Iterator[None]:
    """Have :func:`built_weight` return these weights meanwhile, in this thread.

    Args:
        weights: ids of the layers that are multiplied at once -> their H, one below the
            other.
    """
    before = getattr(_pass, "weights", {}), getattr(_pass, "cast", False)
    _pass.weights, _pass.cast = weights, is_autocasting()
    try:
        yield
    finally:
        _pass.weights, _pass.cast = before


def built_weight(layers: Iterable[Any]) -> Optional[Tensor]:
    """Return H of these layers, one below the other, if it was built for this pass.

    Not where autocast was switched since, nor where tensors for the backward pass are
    saved in another way: a checkpointed part builds its own when it comes again.

    Args:
        layers: that are multiplied at once, in this order.

    Returns:
        Tensor (sum of their outputs, in), or None.
    """
    weights = getattr(_pass, "weights", None)
    if not weights or _pass.cast != is_autocasting() or _saves_otherwise(True):
        return None
    return weights.get(tuple(map(id, layers)))


_saves_otherwise: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None
)  # torch 2.2 does not tell


def _remembered(source: Tensor) -> Any:
    """Return a copy; off the CPU the tensor, and what an edit of it changes."""
    if not is_plain(source):
        return source, *_edition(source)
    return source.detach().clone(memory_format=torch.contiguous_format)


def _counts_edits(source: Tensor) -> bool:
    return is_ordinary(source) and not source.is_inference()


def _edition(source: Tensor) -> Tuple[int, int, torch.dtype]:
    return _version(source), source.data_ptr(), source.dtype


def _same(now: Tensor, then: Any) -> bool:
    if isinstance(then, tuple):
        return now is then[0] and _edition(now) == then[1:]
    if not now.is_cpu or now.dtype != then.dtype or now.shape != then.shape:
        return False
    plain = now.is_contiguous() and not (now.is_neg() or now.is_conj())
    if _memcmp is None or not plain:
        return torch.equal(now, then)
    return _memcmp(now.data_ptr(), then.data_ptr(), then.nbytes) == 0


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _find_memcmp() -> Optional[Callable[[int, int, int], int]]:
    """Find C's memcmp, about six times as fast as torch.equal, or None."""
    try:
        memcmp = ctypes.CDLL(None).memcmp
    except (AttributeError, OSError, TypeError):
        return None
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    memcmp.restype = ctypes.c_int
    return memcmp


_memcmp = _find_memcmp()
