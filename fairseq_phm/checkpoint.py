"""Checkpoints of fairseq: read and written, and what their training was."""

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, Mapping

import torch
from torch import Tensor

from .errors import DataError
from .files import written_whole
from .modules.factors import STORED
from .safe_load import safe_load


def parent_of(key: str) -> str:
    """Return the path without its last part.

    >>> parent_of("encoder.fc1.blocks"), name_of("encoder.fc1.blocks")
    ('encoder.fc1', 'blocks')
    """
    return key.rpartition(".")[0]


def name_of(key: str) -> str:
    """Return the last part of a path."""
    return key.rpartition(".")[2]


def read_checkpoint(path: Path) -> Dict[str, Any]:
    """Read a checkpoint of fairseq onto the CPU; nothing in it is run.

    Raises:
        DataError: the file cannot be read or is no such checkpoint.
    """
    try:
        checkpoint = safe_load(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # what pickle raises for other files is of any kind
        raise DataError(f"{path}: no checkpoint: {_reason(path, error)}") from None
    model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(model, dict) or not all(map(torch.is_tensor, model.values())):
        raise DataError(f"{path}: no checkpoint of fairseq: it has no 'model'")
    history = checkpoint.get("optimizer_history") or []
    if not isinstance(history, list) or not all(isinstance(h, dict) for h in history):
        raise DataError(f"{path}: damaged: its optimizer_history is no list of dicts")
    for key, value in model.items():
        if not isinstance(key, str):
            raise DataError(f"{path}: damaged: {key!r} in its model is no name")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise DataError(f"{path}: damaged: {key} is no plain tensor")
        if name_of(key) in STORED and not value.dim():
            raise DataError(f"{path}: damaged: {key} is a single number")
    return checkpoint


def write_checkpoint(checkpoint: Dict[str, Any], path: Path) -> None:
    """Write a checkpoint; the file appears only when it is complete.

    Raises:
        DataError: the file cannot be written.
    """
    with written_whole(path, "wb") as file:
        torch.save(checkpoint, file)


def updates_of(checkpoint: Dict[str, Any]) -> int:
    """Return the number of updates that led to a checkpoint; 0 where it is unknown."""
    history = checkpoint.get("optimizer_history") or [{}]
    updates = history[-1].get("num_updates")
    return updates if isinstance(updates, int) else 0


def options_of(checkpoint: Mapping[str, Any], part: str) -> Dict[str, Any]:
    """Return the options of a part of the training; none where there are none.

    They are under ``args`` in old checkpoints, for all parts, and under ``cfg`` in new
    ones: a namespace after ``fairseq-train``, a dictionary after
    ``fairseq-hydra-train``.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        part: ``"model"``, ``"task"``, ``"criterion"``.

    Raises:
        DataError: they are of another kind, in a file that is not of fairseq.

    >>> from argparse import Namespace
    >>> old, new = {"args": Namespace(data="bin")}, {"cfg": {"task": {"data": "bin"}}}
    >>> options_of(old, "task"), options_of(new, "task"), options_of(new, "model")
    ({'data': 'bin'}, {'data': 'bin'}, {})
    """
    held, cfg = checkpoint.get("args"), checkpoint.get("cfg")
    if held is None and isinstance(cfg, Mapping):
        held = cfg.get(part)
    if isinstance(held, argparse.Namespace):
        return dict(vars(held))
    if isinstance(held, Mapping) or held is None:
        return dict(held or {})
    raise DataError(f"damaged: its options are no options but {type(held).__name__}")


def refuse_not_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a state dict of a training that diverged.

    Args:
        state: but for the buffers that fairseq 0.12.2 never fills.
        path: of its checkpoint, for the error.

    Raises:
        DataError: an entry has numbers that are infinite or none.
    """
    for key, value in state.items():
        if not (key.endswith("._float_tensor") or value.isfinite().all()):
            raise DataError(f"{path}: {key} has numbers that are not finite")


def _reason(path: Path, error: Exception) -> str:
    """Return one line that says why a file could not be read."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return f"refused: it holds {refused[1]}, which a checkpoint does not need"
    if "TorchScript" in str(error):
        return "a TorchScript archive"
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        return "the file is empty"
    if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return "the file is damaged or cut short"
    return "the file is not one of torch.save, or damaged"
