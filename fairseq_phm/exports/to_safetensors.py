"""A folder with parameters as safetensors and options as JSON, and its reader."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Dict

from torch import Tensor, nn

from ..densify import largest_difference
from ..errors import DataError, one_line
from ..rebuild import Rebuilt, build
from . import needs
from .source import Source

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "fairseq_phm 1"
TOLERANCE = 1e-6
"""Of log-probabilities; the parameters are the same numbers."""


def export(source: Source, folder: Path, dense: bool = False) -> str:
    """Write the folder, read it back and compare the scores with fairseq's.

    Args:
        source: any model that needs no data to be built.
        folder: an empty one.
        dense: weights H of fairseq's own model, not rules and blocks.

    Returns:
        One line on the comparison.

    Raises:
        DataError: there is no dense counterpart, or the scores differ.
    """
    save = needs("safetensors.torch").save  # save_file has an error of its own kind
    rebuilt = source.dense(any_width=False) if dense else source.rebuilt
    tensors, aliases = _without_aliases(rebuilt.model.state_dict())
    options = {k: v for k, v in vars(rebuilt.args).items() if _is_plain(v)}
    config = {
        "format": FORMAT,
        "options": options,
        "source_vocabulary": rebuilt.source,
        "target_vocabulary": rebuilt.target,
        "aliases": aliases,
    }
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    text = json.dumps(config, indent=1, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    for path in dict.fromkeys(source.dictionaries):
        shutil.copy(path, folder / path.name)
    difference = largest_difference(rebuilt, _read(folder))
    if not difference <= TOLERANCE:
        raise DataError(
            f"{source.path}: what was read back differs by {difference:.1g}"
        )
    return f"log-probabilities of the model that was read back differ by {difference:g}"


def load_safetensors(folder: Any) -> nn.Module:
    """Build the model that ``fairseq-phm export --to safetensors`` wrote.

    No pickle is read. It needs fairseq and safetensors.

    Args:
        folder: with ``model.safetensors`` and ``config.json``.

    Returns:
        The model in eval mode.

    Raises:
        DataError: a file is missing, damaged, or does not fit.
    """
    return _read(Path(folder)).model


def _read(folder: Path) -> Rebuilt:
    safetensors = needs("safetensors.torch")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise DataError(f"format {config['format']!r}, expected {FORMAT!r}")
        state = safetensors.load_file(str(folder / WEIGHTS))
        state.update({key: state[other] for key, other in config["aliases"].items()})
        return build(
            argparse.Namespace(**config["options"]),
            config["source_vocabulary"],
            config["target_vocabulary"],
            state,
        )
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}") from None
    except Exception as error:  # safetensors and json have errors of their own
        raise DataError(f"{folder}: {one_line(error)}") from None


def _without_aliases(state: Dict[str, Tensor]) -> Any:
    """Return tensors that share no memory, and names of others -> the first name."""
    tensors: Dict[str, Tensor] = {}
    aliases: Dict[str, str] = {}
    first: Dict[Any, str] = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = value.detach().contiguous().clone()
    return tensors, aliases


def _is_plain(value: Any) -> bool:
    """Return True for what JSON can hold."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
