"""Models of checkpoints, PHM or dense, built without their data; needs fairseq."""

from __future__ import annotations

import argparse
import copy
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.data import Dictionary
from fairseq.data.data_utils import infer_language_pair
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY, build_model
from torch import Tensor, nn

from .better_transformer import leave_better_transformer, without_copies
from .checkpoint import options_of
from .errors import DataError, one_line
from .models.base import PREFIX
from .tasks.classification import TASK

SECTIONS = ("encoder", "decoder", "quant_noise")
"""Sections of a Transformer's options in hydra, flat names elsewhere."""
FILES = ("encoder_embed_path", "decoder_embed_path", "user_dir")
"""Options that name files which a trained model does not need."""
BAD_MODEL = (
    DataError, OSError, RuntimeError, ValueError, TypeError, LookupError,
    AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip
"""What building a model raises where its options do not fit."""
OF_TRAINING = (
    "checkpoint_activations", "encoder_freeze_embed", "decoder_freeze_embed",
    "offload_activations",
)  # fmt: skip
"""Options that mean something in training only."""


class Rebuilt(NamedTuple):
    """A model in eval mode, its flat options, and the sizes of its vocabularies."""

    model: nn.Module
    args: argparse.Namespace
    source: int
    target: int


class Vocabularies:
    """What a model asks of a task: dictionaries, here of a size and without words.

    Args:
        source, target: number of symbols, the four special ones included.
    """

    def __init__(self, source: int, target: int) -> None:
        self.source_dictionary = _dictionary(source)
        self.target_dictionary = self.source_dictionary
        if target != source:
            self.target_dictionary = _dictionary(target)
        self.src_dict, self.tgt_dict = self.source_dictionary, self.target_dictionary
        self.dictionary = self.output_dictionary = self.target_dictionary


def _dictionary(size: int) -> Dictionary:
    dictionary = Dictionary()
    for i in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def rebuild(
    checkpoint: Mapping[str, Any], path: Path, data: Optional[Path] = None
) -> Rebuilt:
    """Build the model of a checkpoint and load its parameters.

    Args:
        checkpoint: of :func:`fairseq_phm.checkpoint.read_checkpoint`.
        path: named in errors.
        data: folder with the dictionaries; needed only where the sizes of embeddings
            do not tell those of the vocabularies; default: that of the training.

    Raises:
        DataError: an unknown architecture, or parameters that do not fit its options.
    """
    try:
        args = model_args(checkpoint)
        if task_options(checkpoint).get("_name") == TASK:
            (model,), _, _ = load_model_ensemble_and_task([str(path)])
            return Rebuilt(model.eval(), args, 0, 0)
        sizes = vocabulary_sizes(checkpoint["model"])
        if None in sizes:
            found = [load_dictionary(p) for p in dictionary_paths(checkpoint, data)]
            sizes = len(found[0]), len(found[-1])
        return build(args, *sizes, checkpoint["model"])
    except BAD_MODEL as error:
        raise DataError(f"{path}: {one_line(error)}") from None


def build(
    args: argparse.Namespace,
    source: int,
    target: int,
    state: Optional[Mapping[str, Tensor]] = None,
) -> Rebuilt:
    """Build the model of these options, for vocabularies of these sizes.

    Args:
        args: flat options with ``arch``; not changed.
        source, target: symbols of the vocabularies.
        state: parameters to load; None leaves the random start.

    Raises:
        ValueError: options that do not fit.
        RuntimeError: a state that does not fit.
    """
    args = copy.copy(args)
    model = build_model(args, Vocabularies(source, target))
    leave_better_transformer(model)
    if state is not None:
        model.load_state_dict(without_copies(state))
    return Rebuilt(model.eval(), args, source, target)


def model_args(checkpoint: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options of a checkpoint's model, flat and with ``arch``.

    Raises:
        DataError: there are none, or the architecture is unknown.
    """
    options = _flat(options_of(checkpoint, "model"))
    if not options:
        raise DataError("no options of a model in the checkpoint")
    options.setdefault("criterion", options_of(checkpoint, "criterion").get("_name"))
    arch = options.get("arch") or options.get("_name")
    if arch not in ARCH_MODEL_NAME_REGISTRY and arch not in MODEL_REGISTRY:
        raise DataError(f"unknown architecture {arch!r}")
    options.update(arch=arch, _name=arch)
    options.update({name: None for name in FILES if name in options})
    options.update({name: False for name in OF_TRAINING if name in options})
    options.setdefault("tpu", False)
    return argparse.Namespace(**options)


def _flat(options: Mapping[str, Any]) -> Dict[str, Any]:
    flat = {k: v for k, v in options.items() if k not in SECTIONS}
    for section in SECTIONS:
        for name, value in (options.get(section) or {}).items():
            flat[f"{section}_{name}"] = value
    return flat


def vocabulary_sizes(
    state: Mapping[str, Tensor],
) -> Tuple[Optional[int], Optional[int]]:
    """Return the sizes of the source and the target vocabulary, from a state dict.

    A model with one stack has one vocabulary. None stands for embeddings that do not
    tell: PHM embeddings are padded. A language model may have fewer outputs.
    """
    sizes: Dict[str, Optional[int]] = {}
    outputs = [f"decoder.{name}.weight" for name in ("output_projection", "fc_out")]
    rows = [len(state[key]) for key in outputs if key in state]
    for stack in ("encoder", "decoder"):
        adaptive = re.compile(rf"{stack}\.embed_tokens\.embeddings\.\d+\.0\.weight")
        parts = [len(value) for key, value in state.items() if adaptive.fullmatch(key)]
        if parts:
            sizes[stack] = sum(parts)
        for name in ("embed_tokens", "output_projection", "fc_out"):
            weight = state.get(f"{stack}.{name}.weight")
            if weight is not None:
                sizes.setdefault(stack, weight.size(0))
        if f"{stack}.embed_tokens.blocks" in state:
            sizes.setdefault(stack, None)
    decoder = sizes.get("decoder")
    return sizes.get("encoder", decoder), rows[0] if rows else decoder


def dictionary_paths(
    checkpoint: Mapping[str, Any], data: Optional[Path] = None
) -> List[Path]:
    """Return the files of the dictionaries: source and target, or the only one.

    Args:
        checkpoint: whose task names the folder, and the languages unless fairseq has
            inferred them from the names of the data files, as is done here too.
        data: another folder than that of the training.

    Raises:
        DataError: a file is missing.
    """
    task = task_options(checkpoint)
    folder = data or Path(str(task.get("data") or ".").split(":")[0])
    names = [task.get("source_lang"), task.get("target_lang")]
    if not any(names) and os.path.isdir(folder):
        names = infer_language_pair(str(folder)) or []
    files = [f"dict.{name}.txt" for name in names if name] or ["dict.txt"]
    for name in files:
        if not os.path.isfile(folder / name):
            raise DataError(
                f"{folder / name}: no such dictionary; --data names its folder"
            )
    return [folder / name for name in files]


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary of fairseq.

    Raises:
        DataError: it is none.
    """
    try:
        return Dictionary.load(str(path))
    except (OSError, ValueError, RuntimeError, UnicodeError) as error:
        raise DataError(f"{path}: no dictionary: {str(error)[:80]}") from None


def task_options(checkpoint: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the options of the task, with its name as ``_name``."""
    options = options_of(checkpoint, "task")
    if checkpoint.get("args") is not None:
        options["_name"] = options.get("task", "translation")
    return options


def model_name(args: argparse.Namespace) -> str:
    """Return the name of the model whose architecture ``args.arch`` is."""
    return ARCH_MODEL_NAME_REGISTRY.get(args.arch, args.arch)


def is_phm(rebuilt: Rebuilt) -> bool:
    """Return True for the plugin's models, False for fairseq's own."""
    return model_name(rebuilt.args).startswith(PREFIX)


def longest_source(model: nn.Module) -> int:
    """Return how many tokens a source sentence can have, its end included."""
    positions = model.max_positions()
    return positions[0] if isinstance(positions, tuple) else positions


def longest(model: nn.Module) -> int:
    """Return how many tokens a sentence of a model can have, on either side."""
    positions = model.max_positions()
    return min(positions) if isinstance(positions, tuple) else positions
