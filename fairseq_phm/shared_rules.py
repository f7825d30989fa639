"""Shared rules in state dicts: found without a model, and fitted to the layers of one.

Layers store their factors as in :mod:`fairseq_phm.modules.factors`.
"""

import logging
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import torch
from torch import Tensor, distributed, nn

from .checkpoint import name_of, parent_of
from .modules import PHMLinear
from .spec import RULES
from .substitution.scopes import PAIRS

logger = logging.getLogger(__name__)

OTHER_FACTORS = {"blocks_u": "low-rank blocks", "rule_u": "a rule of CP rank R"}
"""Keys of layers that have no full rule or no full blocks -> what they have."""


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
