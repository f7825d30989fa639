"""Dense models with the weights of PHM models, and their checkpoints; needs fairseq."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Mapping

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_REGISTRY
from fairseq.modules import MultiheadAttention
from omegaconf import OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from .errors import DataError
from .models.base import PREFIX
from .modules import PHMLSTM, PHMEmbedding, PHMLinear, PHMLSTMCell
from .modules.attention import as_dense
from .rebuild import Rebuilt, build, longest, model_name, task_options
from .substitution.swap import set_inner_width


def densified(rebuilt: Rebuilt, any_width: bool = False) -> Rebuilt:
    """Return fairseq's own model with the weights H of a PHM model.

    Args:
        rebuilt: the PHM model.
        any_width: ``--phm-attention-dim`` may be another width than the embeddings';
            fairseq's options cannot say it, so that its tools do not load the model.

    Raises:
        DataError: a model that is not PHM, or without a counterpart in fairseq.
    """
    name = model_name(rebuilt.args)
    if not name.startswith(PREFIX):
        raise DataError(f"a dense model, {rebuilt.args.arch}: there is nothing to do")
    stock = name[len(PREFIX) :]
    if stock not in MODEL_REGISTRY:
        raise DataError(f"{name} has no counterpart in fairseq")
    widths = _inner_widths(rebuilt.model)
    if widths and not any_width:
        raise DataError(
            f"--phm-attention-dim {min(widths.values())} is not the width of the "
            "embeddings: fairseq's attention has no such width"
        )
    options = {k: v for k, v in vars(rebuilt.args).items() if not k.startswith(PREFIX)}
    options.update(arch=stock, _name=stock)
    if options.get("base_shuffle") is False:
        options["base_shuffle"] = 0  # fairseq's default for it is no number
    made = build(argparse.Namespace(**options), rebuilt.source, rebuilt.target)
    for path, width in widths.items():
        attention = made.model.get_submodule(path)
        for name, layer in rebuilt.model.get_submodule(path).named_children():
            if isinstance(layer, PHMLinear):
                setattr(attention, name, as_dense(layer))
        set_inner_width(attention, width)
    made.model.load_state_dict(dense_state(rebuilt.model))
    return made


def _inner_widths(model: nn.Module) -> Dict[str, int]:
    """Return path -> width of attention whose width is not that of the embeddings."""
    return {
        path: module.q_proj.out_features
        for path, module in model.named_modules()
        if isinstance(module, MultiheadAttention)
        and module.q_proj.out_features != module.out_proj.out_features
    }


@torch.no_grad()
def dense_state(model: nn.Module) -> Dict[str, Tensor]:
    """Return the state dict of the dense model that computes the same.

    Each PHM layer is its weight H (out, in), under the name that ``nn.Linear`` has;
    each PHM LSTM has the names of ``nn.LSTM``, its one bias and zeros.

    Args:
        model: with PHM layers; take eval mode, and float32 for exact weights.
    """
    state = dict(model.state_dict())
    dense: Dict[str, Tensor] = {}
    done: List[str] = []
    modules = list(model.named_modules(remove_duplicate=False))
    for path, module in tqdm(modules, "weights", disable=None, leave=False):
        if any(path.startswith(other) for other in done):
            continue
        made = _dense_entries(module)
        if not made:
            continue
        if not path:
            return made
        prefix = f"{path}."
        done.append(prefix)
        for key in [key for key in state if key.startswith(prefix)]:
            del state[key]
        dense.update({prefix + name: value for name, value in made.items()})
    return {**state, **dense}


def _dense_entries(module: nn.Module) -> Dict[str, Tensor]:
    """Return what a dense layer has in the place of a PHM layer; else nothing."""
    if isinstance(module, PHMLinear):
        made = {"weight": module.build_weight(), "bias": module.bias}
    elif isinstance(module, PHMEmbedding):
        made = {"weight": module.weight}
    elif isinstance(module, (PHMLSTM, PHMLSTMCell)):
        made = module.built().state_dict()
    else:
        return {}
    return {k: v.detach().clone() for k, v in made.items() if v is not None}


@torch.no_grad()
def largest_difference(one: Rebuilt, other: Rebuilt) -> float:
    """Return the largest difference of log-probabilities for random sentences.

    They are four at most, with 3 to 12 tokens, if they can be so long.

    It is not a number where one of them is none.

    Args:
        one, other: models in eval mode with the same vocabularies.
    """
    random = torch.Generator().manual_seed(1)
    worst = []
    for length in sorted({min(length, longest(one.model)) for length in (3, 5, 8, 12)}):
        source = torch.randint(4, one.source, (1, length), generator=random)
        source[0, -1] = 2  # the end of a sentence
        target = torch.randint(4, one.target, (1, length), generator=random)
        target[0, 0] = 2
        inputs = (source, torch.tensor([length]), target)
        if not hasattr(one.model, "encoder"):
            inputs = (target,)
        scores = []
        for rebuilt in (one, other):
            output = rebuilt.model(*inputs)[0]
            if output.size(-1) == one.target:  # else features, with adaptive softmax
                output = output.log_softmax(-1)
            scores.append(output)
        worst.append((scores[0] - scores[1]).abs().max())
    return float(torch.stack(worst).max())


def stock_checkpoint(
    checkpoint: Mapping[str, Any], dense: Rebuilt, namespace: bool = False
) -> Dict[str, Any]:
    """Return a checkpoint of a dense model, without the state of its training.

    Args:
        checkpoint: of the PHM model: task, updates and all but the model are of it.
        dense: of :func:`densified`.
        namespace: the options are a namespace under ``args``, as old fairseq writes
            and other programs read them, and not a dictionary under ``cfg``, which
            ``torch.load`` reads without a list of allowed types.
    """
    options = dict(vars(dense.args))
    cfg = _cfg(checkpoint, options)
    made = {
        "args": None,
        "cfg": {**cfg, "model": options},
        "model": dense.model.state_dict(),
        "optimizer_history": _history(checkpoint),
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    if namespace:
        task = task_options(checkpoint)
        task["task"] = task.pop("_name", "translation")
        others = {k: v for k, v in task.items() if not k.startswith(PREFIX)}
        options = {**others, **options, "task": task["task"], "user_dir": None}
        made["args"] = argparse.Namespace(**options)
        made["cfg"] = None
    return made


def _history(checkpoint: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Return the last entry of the optimizers' history, with all that fairseq reads."""
    last = (checkpoint.get("optimizer_history") or [{}])[-1]
    defaults = {
        "criterion_name": "",
        "optimizer_name": "",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return [{**defaults, **last}]


def _cfg(checkpoint: Mapping[str, Any], options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the configuration of the training; the plugin is not named in it."""
    cfg = checkpoint.get("cfg")
    if checkpoint.get("args") is not None:
        made = convert_namespace_to_omegaconf(argparse.Namespace(**options))
        made.model = None
        cfg = OmegaConf.to_container(made, resolve=True, enum_to_str=True)
    cfg = dict(cfg or {})
    cfg["common"] = {**(cfg.get("common") or {}), "user_dir": None}
    return cfg
