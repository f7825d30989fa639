"""Several projections of one input as one product."""

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..functional import kronecker_sums
from ..functional.dispatch import WEIGHT
from .cache import WeightCache, built_weight
from .factors import STORED
from .linear import PHMLinear, PHMLinearRows


def project_at_once(
    layers: Sequence[nn.Module], input: Tensor, cache: WeightCache
) -> List[Tensor]:
    """Compute projections of the same input, such as q, k and v, in one product.

    PHM layers with equal sizes whose weights are built: their weights are built one
    below the other, and the input is multiplied once. Slices of one fused layer: the
    fused layer is computed, by any of its paths. Other projections are called one by
    one.

    Args:
        layers: (..., in) -> (..., out).
        input: (..., in).
        cache: keeps the weight in eval mode, as a layer does.

    Returns:
        The outputs of the layers, each (..., out).
    """
    if not _alike(layers):
        return [layer(input) for layer in layers]
    first = layers[0]
    rows = None
    if isinstance(first, PHMLinearRows):
        rows = first._rows[0], layers[-1]._rows[1]
    path = first._path(input, rows)
    if rows is None and path != WEIGHT:
        return [layer(input) for layer in layers]
    bias = None
    if first.bias is not None:
        bias = torch.cat([layer.bias for layer in layers])

    def weight() -> Tensor:
        return _weight(layers, rows, cache)

    output = first._multiply(input, path, bias, rows or first._rows, weight)
    return list(output.split([layer.out_features for layer in layers], -1))


def _weight(
    layers: Sequence[PHMLinear], rows: Optional[Tuple[int, int]], cache: WeightCache
) -> Tensor:
    """Return H of the layers, one below the other: these rows of a fused one."""

    def build() -> Tensor:
        if rows is not None:
            return layers[0]._build_rows(*rows)
        rules = [layer.full_rule() for layer in layers]
        return kronecker_sums(rules, [layer.full_blocks() for layer in layers])

    if layers[0].training:
        built = built_weight(layers)
        return build() if built is None else built
    parts = layers if rows is None else layers[:1]
    sources = [source for part in parts for source in part._sources()]

    def joined() -> Tensor:
        cache.join(layer._cache for layer in layers)
        return build()

    rates = tuple(part.rule_lr for part in parts)
    return cache.get(sources, joined, (rows, rates))


def _alike(layers: Sequence[nn.Module]) -> bool:
    """Return True for PHM layers with a rule, without hooks, of equal sizes and kind.

    Slices must be neighbours of one fused layer.
    """
    kinds = set()
    for i, layer in enumerate(layers):
        if not isinstance(layer, PHMLinear) or layer.n == 1:
            return False
        hooks = (layer._forward_pre_hooks, layer._forward_hooks)
        if any(hooks) or layer._backward_hooks or layer._backward_pre_hooks:
            return False
        sizes = (layer.n, layer.in_features, layer.out_features, layer.rank)
        kind = (*sizes, layer.rule_rank, layer.bias is None)
        if isinstance(layer, PHMLinearRows):
            if i and layer._rows[0] != layers[i - 1]._rows[1]:
                return False
            kind += tuple(id(layer.stored(name)) for name in STORED)
        kinds.add(kind)
    return len(kinds) == 1
