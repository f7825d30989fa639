"""The weights of all PHM layers of a model in a few products, for a step on a GPU."""

from collections import defaultdict
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Dict, Hashable, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..functional import batched_kronecker_sums, choose_path, cp_rule, times_rate
from ..functional.dispatch import WEIGHT
from ..functional.tracing import is_ordinary
from ..spec import RULE_FACTORS
from .cache import built_for_a_pass
from .factors import SCALED
from .linear import PHMLinear

DEVICES = ("cuda",)
"""Where the time of a step goes by the number of kernels more than by their work."""

MANY = 4096
"""Tokens of a batch: for so many the path of a layer is asked."""

Part = Tuple[PHMLinear, ...]  # layers whose weights are used as one


@contextmanager
def batched_weights(model: nn.Module) -> Iterator[None]:
    """Build the weights of a model's PHM layers at once, for a forward pass in it.

    Layers of equal sizes are a batch: one product builds their weights and two their
    gradients, where each layer takes a dozen kernels. All weights are in memory at the
    same time, as those of a dense model are, and later their gradients: those of the
    blocks are ready when the last of the batch is.

    Only for training on a GPU, and for layers with their own rule and blocks as
    parameters and without hooks before them; others build their weights themselves, as
    do those that a checkpointed part computes once more. Not with LayerDrop: a layer
    that is left out would get zeros for a gradient.

    Args:
        model: in training; otherwise nothing is built.
    """
    weights: Dict[Tuple[int, ...], Tensor] = {}
    first = next(model.parameters(), None)
    on_a_gpu = first is not None and first.device.type in DEVICES
    if on_a_gpu and model.training and torch.is_grad_enabled():
        weights = _weights(model)
    with built_for_a_pass(weights):
        yield


def _weights(model: nn.Module) -> Dict[Tuple[int, ...], Tensor]:
    """Build the weights of each part: ids of its layers -> H, one below the other."""
    batches: Dict[Hashable, List[Part]] = defaultdict(list)
    for part in _parts(model):
        kinds = {_kind(layer) for layer in part}
        if len(kinds) == 1 and None not in kinds:
            batches[kinds.pop()].append(part)
    made: Dict[Tuple[int, ...], Tensor] = {}
    for parts in batches.values():
        rows = [sum(layer.out_features for layer in part) for part in parts]
        weights = _build([layer for part in parts for layer in part])
        made.update(zip((tuple(map(id, part)) for part in parts), weights.split(rows)))
    return made


def _parts(model: nn.Module) -> Iterator[Part]:
    """Yield the layers, those together that attention multiplies at once."""
    together: Dict[nn.Module, Part] = {}
    layers: List[PHMLinear] = []
    for module in model.modules():
        if type(module) is PHMLinear and module.n > 1:
            layers.append(module)
        elif hasattr(type(module), "multiplied_at_once"):
            for part in module.multiplied_at_once():
                together.update((layer, part) for layer in part)
        elif type(module).__name__ == "LayerDropModuleList" and module.p:
            return
    yield from dict.fromkeys(together.get(layer, (layer,)) for layer in layers)


def _kind(layer: nn.Module) -> Optional[Hashable]:
    """Return what layers of a batch have in common; None for what is in no batch."""
    if type(layer) is not PHMLinear or not layer.training or layer._forward_pre_hooks:
        return None
    blocks = layer._parameters.get("blocks")
    if blocks is None or blocks.device.type not in DEVICES:
        return None
    rule = _rule(layer)
    if not all(held is not None and is_ordinary(held) for held in (blocks, *rule)):
        return None  # torch computes it: pruned, parametrized, sharded
    sizes = (layer.n, layer.in_features, layer.out_features, blocks.device.type)
    path = choose_path(MANY, *sizes, blocks.dtype, False, layer.rule_rank)
    rates = tuple(rule.values())
    place = (blocks.dtype, blocks.device)
    return None if path != WEIGHT else (*sizes, *place, layer.rule_rank, rates)


def _rule(layer: PHMLinear) -> Dict[Any, float]:
    """Return the stored factors of a rule, (n, n, n) or (n, R), and their rates."""
    found = {}
    for name in RULE_FACTORS if layer.rule_rank else ("rule",):
        scaled = layer._parameters.get(SCALED[name])
        found[layer.stored(name)] = 1.0 if scaled is None else layer.rule_lr
    return found


def _build(layers: Sequence[PHMLinear]) -> Tensor:
    """Build H of layers of one kind, (number of layers * out, in)."""
    rates = _rule(layers[0]).values()
    factors = [
        times_rate(_stacked(same), rate)
        for same, rate in zip(zip(*map(_rule, layers)), rates)
    ]
    rule = cp_rule(*factors) if layers[0].rule_rank else factors[0]
    return batched_kronecker_sums(rule, torch.stack([one.blocks for one in layers]))


def _stacked(factors: Sequence[Tensor]) -> Tensor:
    """Stack factors of rules, and each once where neighbours share it, as in pairs."""
    runs = [list(run) for _, run in groupby(factors, id)]
    times = len(runs[0])
    if any(len(run) != times for run in runs):
        return torch.stack(list(factors))
    return torch.stack([run[0] for run in runs]).repeat_interleave(times, 0)
