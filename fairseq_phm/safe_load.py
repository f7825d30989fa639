"""Read a file of ``torch.save`` without running what is in it, on every torch."""

from __future__ import annotations

import argparse
import collections
import pickle
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Tuple

import numpy as np
import torch


def safe_load(path: Path) -> Any:
    """Read a checkpoint onto the CPU; only tensors and plain values are made.

    Beside what ``weights_only=True`` reads there are the types of
    :func:`allow_fairseq_checkpoints`. torch before 2.6 cannot be told all of them, so
    that the file is read by :class:`Unpickler` there, which allows the same.

    Args:
        path: file of ``torch.save``.

    Raises:
        OSError: the file cannot be read.
        pickle.UnpicklingError: it holds something else, which has not been run.
        Exception: of any kind, for a damaged file.
    """
    if torch_version() >= (2, 6):
        allow_fairseq_checkpoints()
        with warnings.catch_warnings():  # of what is refused then
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise pickle.UnpicklingError("a TorchScript archive")
    reader = SimpleNamespace(Unpickler=Unpickler, load=_load, __name__=__name__)
    return torch.load(
        path, map_location="cpu", weights_only=False, pickle_module=reader
    )


def allow_fairseq_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, torch's default since 2.6, read fairseq's
    checkpoints: allow-list the types that they hold besides tensors.

    These are the command line's Namespace and, with ``--eval-bleu``, NumPy arrays of
    integer n-gram counts, as NumPy 1 and NumPy 2 name them.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):
        return
    reconstruct = np.array(0).__reduce__()[0]
    safe = [argparse.Namespace, np.ndarray, np.dtype, type(np.dtype("int64"))]
    if torch_version() >= (2, 6):
        safe += [
            (reconstruct, "numpy.core.multiarray._reconstruct"),
            (reconstruct, "numpy._core.multiarray._reconstruct"),
        ]
    torch.serialization.add_safe_globals(safe)


def torch_version() -> Tuple[int, ...]:
    """Return its first two numbers."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


class Unpickler(pickle._Unpickler):
    """Unpickles listed types only, and changes no class or function.

    It is Python's own in Python: that in C cannot check what it sets attributes of.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed type or function.

        Raises:
            pickle.UnpicklingError: any other.
        """
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"Unsupported global: GLOBAL {module}.{name}"
            ) from None

    def load_build(self) -> None:
        """Set the state of an instance, never of a type or function."""
        if not isinstance(self.stack[-2], _STATEFUL):
            kind = type(self.stack[-2]).__name__
            raise pickle.UnpicklingError(f"Unsupported state of a {kind}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def _allowed() -> Dict[Tuple[str, str], Any]:
    reconstruct = np.array(0).__reduce__()[0]
    allowed = {
        ("argparse", "Namespace"): argparse.Namespace,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("torch", "Tensor"): torch.Tensor,
        ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
        ("builtins", "set"): set,
        ("_codecs", "encode"): _encode,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed[module, "_reconstruct"] = reconstruct
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        allowed["torch._utils", name] = getattr(torch._utils, name)
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype) or name.endswith("Storage"):
            allowed["torch", name] = value
    return allowed


def _encode(text: str, encoding: str) -> bytes:
    """Encode as Python 2's pickles of bytes need it, and in no other way."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"Unsupported encoding {encoding}")
    return text.encode("latin1")


_ALLOWED = _allowed()
_STATEFUL = (
    argparse.Namespace,
    collections.OrderedDict,
    np.ndarray,
    np.dtype,
    torch.Tensor,
)
