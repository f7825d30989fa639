"""Checkpoints of fairseq: read, written, and the factors of PHM layers found in them.

Layers store them in :mod:`fairseq_phm.modules.factors`.
"""

import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

from .errors import DataError
from .files import written_whole
from .modules import PHMLSTM, PHMEmbedding, PHMLinear, PHMLSTMCell
from .modules.factors import STORED
from .safe_load import safe_load
from .spec import RULES
from .substitution.scopes import PAIRS

logger = logging.getLogger(__name__)

LSTM_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
OTHER_FACTORS = {"blocks_u": "low-rank blocks", "rule_u": "a rule of CP rank R"}
"""Keys of layers that have no full rule or no full blocks -> what they have."""


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


class RuleKeys(NamedTuple):
    """Where a state dict has rules and blocks.

    ``layers`` maps the key of a rule to the keys of the blocks that it mixes, of one
    layer or of all that share it. ``problem`` says why some layers are not among them.
    """

    layers: Dict[str, List[str]]
    problem: str


def find_rules(model: Mapping[str, Tensor]) -> RuleKeys:
    """Find full rules, and the blocks that go with each, in a state dict.

    A shared rule is stored once, with one of its layers, and belongs to all layers of
    the same n below some module: it is the one with the most of the path in common; of
    two in one attention block, the one of the same pair, q and k or v and out, to
    which also a fused k and v belongs.
    """
    rules = {parent_of(key): key for key in model if name_of(key) == "rule"}
    layers: Dict[str, List[str]] = {}
    others = [
        f"{parent_of(key)} has {OTHER_FACTORS[name_of(key)]}"
        for key in model
        if name_of(key) in OTHER_FACTORS
    ]
    problem = others[0] if others else ""
    for key, value in model.items():
        parent = parent_of(key)
        if name_of(key) != "blocks" or len(value) == 1:
            continue
        if parent not in rules:
            common = {
                other: len(os.path.commonprefix([parent.split("."), other.split(".")]))
                for other, rule in rules.items()
                if len(model[rule]) == len(value)
            }
            nearest = [o for o in common if common[o] == max(common.values())]
            if len(nearest) > 1:
                pair = _pair(parent, model)
                nearest = [o for o in nearest if _pair(o, model) == pair]
            if len(nearest) != 1:
                problem = problem or f"cannot tell whose rule {parent} shares"
                continue
            parent = nearest[0]
        layers.setdefault(rules[parent], []).append(key)
    return RuleKeys(layers, problem)


def without_fusion(parent: str, model: Mapping[str, Tensor]) -> str:
    """Return the name of a layer; of q, k and v fused, or k and v, that of v."""
    attention, dot, name = parent.rpartition(".")
    v = attention + dot + "v_proj"
    fused = f"{v}.bias" in model and f"{v}.blocks" not in model
    fused = fused and f"{v}.blocks_u" not in model and f"{v}.weight" not in model
    holds = name == "k_proj" or (name == "q_proj" and not _stored(attention, model))
    return v if fused and holds else parent


def _stored(attention: str, model: Mapping[str, Tensor]) -> bool:
    """Return True if an attention block has blocks of its own for k."""
    return any(f"{attention}.k_proj.{one}" in model for one in ("blocks", "blocks_u"))


def _pair(parent: str, model: Mapping[str, Tensor]) -> Optional[str]:
    """Return the pair of a projection of attention that shares a rule, or None."""
    return PAIRS.get(name_of(without_fusion(parent, model)))


def untie_different_rules(model: nn.Module, state_dict: Mapping[str, Any]) -> bool:
    """Give layers rules of their own where a state dict has more than the model.

    Checkpoints have from when rules were not shared by default. Nothing is done where
    all layers that share a rule have the same one in ``state_dict``.

    Returns:
        Whether rules were untied.

    Raises:
        ValueError: they would be, while several processes train: what reduces their
            gradients does not know new parameters.
    """
    repeated = _repeated_rules(model, state_dict)
    if not any(one.differs(state_dict) for one in repeated):
        return False
    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_world_size() > 1:  # DDP has the parameters of now
            raise ValueError(
                "the checkpoint has more rules than are shared by default, which "
                "several processes do not separate"
            )
    for layer in {one.layer for one in repeated}:
        layer.untie_rule()
    logger.info("The checkpoint has more rules than are shared by default")
    return True


def fit_shared_rules(
    model: nn.Module, state_dict: Mapping[str, Any], share_rule: str
) -> Dict[str, Any]:
    """Return a state dict that the layers of a model with shared rules can load.

    Args:
        model: whose rules are shared, see :data:`fairseq_phm.substitution.SHARE_RULE`.
        state_dict: of the same model, or one from which whole layers were pruned: the
            rule of a stack or model may have gone with them, and is found again.
        share_rule: how far rules reach in the model.

    Raises:
        ValueError: different rules for layers that share one.
    """
    for one in _repeated_rules(model, state_dict):
        if one.differs(state_dict):
            raise ValueError(
                f"the checkpoint has different rules at {one.first} and {one.key}, "
                f"which are one with --phm-share-rule {share_rule}"
            )
    fitted = {**_fixed_factors(model, state_dict), **state_dict}
    if share_rule not in ("stack", "model"):
        return fitted
    return _with_rules_of_pruned_layers(fitted, share_rule)


def _fixed_factors(model: nn.Module, state: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Return u for layers that share v: older checkpoints, where it learned, have one.

    Others may be in the state dict as well.
    """
    found: Dict[str, Tensor] = {}
    known: Dict[int, Tensor] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, PHMLinear) and layer._learns("rule_v"):
            if "rule_u" in layer._buffers:
                key, shared = f"{path}.rule_u", id(layer.stored("rule_v"))
                u = state.get(key, known.get(shared))
                if u is not None:
                    found[key] = known[shared] = u
    return found


class _Repeated(NamedTuple):
    """A rule that a state dict has at two keys, and a model once."""

    layer: PHMLinear
    key: str
    first: str

    def differs(self, state: Mapping[str, Any]) -> bool:
        return not torch.equal(state[self.key], state[self.first])


def _repeated_rules(model: nn.Module, state: Mapping[str, Any]) -> List[_Repeated]:
    repeated = []
    parents: Dict[int, str] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, PHMLinear):
            continue
        for name in RULES:
            key = f"{path}.{name}"
            if key in state and layer._learns(name):
                first = parents.setdefault(id(layer.stored(name)), key)
                if first != key:
                    repeated.append(_Repeated(layer, key, first))
    return repeated


def _with_rules_of_pruned_layers(
    state_dict: Mapping[str, Any], share_rule: str
) -> Dict[str, Any]:
    fitted = dict(state_dict)
    rules: Dict[Any, Tensor] = {}

    def scope(key: str, n: int, name: str) -> Any:
        return key.partition(".")[0] if share_rule == "stack" else "", n, name

    for key, rule in state_dict.items():
        if name_of(key) in RULES:
            rules.setdefault(scope(key, rule.size(0), name_of(key)), rule)
    for key, blocks in state_dict.items():
        if name_of(key) not in ("blocks", "blocks_u"):
            continue
        for name in RULES:
            rule: Optional[Tensor] = rules.get(scope(key, blocks.size(0), name))
            if rule is not None:
                fitted.setdefault(f"{parent_of(key)}.{name}", rule)
    return fitted


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
    elif isinstance(module, PHMLSTMCell):
        made = {name: getattr(module, name) for name in LSTM_NAMES}
    elif isinstance(module, PHMLSTM):
        endings = ("", "_reverse") if module.bidirectional else ("",)
        made = {
            f"{name}_l{layer}{ending}": getattr(module, f"{name}_l{layer}{ending}")
            for layer in range(module.num_layers)
            for ending in endings
            for name in LSTM_NAMES
        }
    else:
        return {}
    return {k: v.detach().clone() for k, v in made.items() if v is not None}
