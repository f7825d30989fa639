"""Shared rules of a model and those in a checkpoint."""

from __future__ import annotations

import logging
from typing import Any, Dict, Mapping

import torch
from torch import Tensor, nn

from ..modules import PHMLinear
from ..modules.linear import RULES

logger = logging.getLogger(__name__)


def fit_shared_rules(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    share_rule: str,
    separate: bool = False,
) -> Dict[str, Any]:
    """A state dict that the layers of a model with shared rules can load.

    Args:
        model: whose rules are shared, see :data:`fairseq_phm.substitution.SHARE_RULE`.
        state_dict: of the same model, or one from which whole layers were pruned: the
            rule of a stack or model may have gone with them, and is found again.
        share_rule: how far rules reach in the model.
        separate: layers whose rules differ in ``state_dict`` get rules of their own,
            as checkpoints have from when rules were not shared by default.

    Raises:
        ValueError: different rules for layers that share one, unless ``separate``.
    """
    owners: Dict[int, str] = {}
    apart = 0
    for path, module in model.named_modules():
        if not isinstance(module, PHMLinear):
            continue
        keys = {
            name: f"{path}.{name}" for name in RULES if f"{path}.{name}" in state_dict
        }
        different = {
            keys[name]: owner
            for name, owner in (
                (name, owners.setdefault(id(module.held(name)), key))
                for name, key in keys.items()
            )
            if not torch.equal(state_dict[keys[name]], state_dict[owner])
        }
        if different and separate:
            module.own_rule()
            apart += 1
        elif different:
            key, owner = next(iter(different.items()))
            raise ValueError(
                f"the checkpoint has different rules at {owner} and {key}, which are "
                f"one with --phm-share-rule {share_rule}"
            )
    if apart:
        logger.info("The checkpoint has rules of their own for %d more layers", apart)
    if share_rule not in ("stack", "model"):
        return dict(state_dict)
    return _with_rules_of_pruned_layers(state_dict, share_rule)


def _with_rules_of_pruned_layers(
    state_dict: Mapping[str, Any], share_rule: str
) -> Dict[str, Any]:
    fitted = dict(state_dict)
    rules: Dict[Any, Tensor] = {}

    def scope(key: str, n: int, name: str) -> Any:
        return key.partition(".")[0] if share_rule == "stack" else "", n, name

    for key, rule in state_dict.items():
        name = key.rpartition(".")[2]
        if name in RULES:
            rules.setdefault(scope(key, rule.size(0), name), rule)
    for key, blocks in state_dict.items():
        path, _, last = key.rpartition(".")
        if last not in ("blocks", "blocks_u"):
            continue
        for name in RULES:
            rule = rules.get(scope(key, blocks.size(0), name))
            if rule is not None:
                fitted.setdefault(f"{path}.{name}", rule)
    return fitted
