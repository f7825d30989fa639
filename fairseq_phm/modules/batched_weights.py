"""The weights of all PHM layers of a model in a few products, for a step on a GPU."""

from collections import defaultdict
from contextlib import contextmanager
from typing import Any, Dict, Hashable, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..functional import batched_kronecker_sums, cp_rule, times_rate
from ..spec import RULE_FACTORS
from .cache import built_for_a_pass
from .factors import SCALED
from .linear import PHMLinear

DEVICES = ("cuda",)
"""Where the time of a step goes by the number of kernels more than by their work."""

Part = Tuple[nn.Module, ...]  # layers whose weights are used as one


@contextmanager
def batched_weights(model: nn.Module) -> Iterator[None]:
    """Build the weights of a model's PHM layers at once, for a forward pass in it.

    Layers of equal sizes are a batch: one product builds their weights and two their
    gradients, where each layer takes a dozen kernels. All weights are in memory at the
    same time, as those of a dense model are. Only for training on a GPU, and for layers
    with their own rule and blocks as parameters; others build their weights themselves,
    as do those that ``--checkpoint-activations`` computes once more. Not with
    LayerDrop: a layer that is left out would get zeros for a gradient.

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
    """Yield all modules, those together that attention multiplies at once."""
    modules = list(model.modules())
    if any(type(one).__name__ == "LayerDropModuleList" and one.p for one in modules):
        return
    together = {}
    for module in modules:
        for part in getattr(module, "multiplied_at_once", tuple)():
            together.update((layer, part) for layer in part)
    yield from dict.fromkeys(together.get(module, (module,)) for module in modules)


def _kind(layer: nn.Module) -> Optional[Hashable]:
    """Return what layers of a batch have in common; None for what is in no batch."""
    if type(layer) is not PHMLinear or layer.n == 1:
        return None
    blocks = layer._parameters.get("blocks")
    if not layer.training or blocks is None or blocks.device.type not in DEVICES:
        return None
    rates = tuple(rate for _, rate in _rule(layer))
    if None in rates:
        return None
    return blocks.shape, blocks.dtype, blocks.device, layer.rule_rank, rates


def _rule(layer: PHMLinear) -> List[Tuple[Any, Optional[float]]]:
    """List the factors of a rule, and what each is multiplied by.

    None is for what torch computes: pruned and parametrized factors.
    """
    found: List[Tuple[Any, Optional[float]]] = []
    for name in RULE_FACTORS if layer.rule_rank else ("rule",):
        scaled = layer._parameters.get(SCALED[name])
        held = layer.stored(name)
        rate = 1.0 if scaled is None else layer.rule_lr
        found.append((held, None if held is None else rate))
    return found


def _build(layers: Sequence[Any]) -> Tensor:
    """Build H of layers of one kind, one below the other."""
    rules = zip(*map(_rule, layers))  # of each factor, those of all layers
    factors = [
        times_rate(torch.stack([held for held, _ in same]), same[0][1])
        for same in rules
    ]
    rule = cp_rule(*factors) if layers[0].rule_rank else factors[0]
    return batched_kronecker_sums(rule, torch.stack([one.blocks for one in layers]))
