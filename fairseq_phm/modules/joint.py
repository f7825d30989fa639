"""Several linear maps of one input as one product."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..functional import (
    bounded_rank_linear,
    dense_linear,
    factored_linear,
    kronecker_sums,
)
from ..functional.paths import BOUNDED_RANK, FACTORED, WEIGHT
from .cache import WeightCache
from .linear import FACTORS, PHMLinear, PHMLinearRows


class JointProduct:
    """Maps of the same input, such as q, k and v of self-attention, in one product.

    For PHM layers with equal sizes whose weights are built: their weights are built one
    above the other and the input is multiplied once. For the slices of one fused
    layer: the fused layer is computed, by any of its paths. Other maps are called one
    by one. Holds no parameters, only, in eval mode on the CPU, the weight.
    """

    def __init__(self) -> None:
        self.cache = WeightCache()

    def clear(self) -> None:
        """Free the kept weight."""
        self.cache.clear()

    def __call__(self, layers: Sequence[nn.Module], input: Tensor) -> List[Tensor]:
        """What the layers make of the input, each (..., out)."""
        if not _alike(layers):
            return [layer(input) for layer in layers]
        first = layers[0]
        rows = first.rows[0], layers[-1].rows[1]
        fused = isinstance(first, PHMLinearRows)
        if not fused:
            rows, path = None, first.path(input)
            if path != WEIGHT:
                return [layer(input) for layer in layers]
        else:
            path = PHMLinear.path(first, input, rows[1] - rows[0])
            if path == BOUNDED_RANK and rows != (0, first.n * first.blocks.size(1)):
                path = WEIGHT
        bias = None
        if first.bias is not None:
            bias = torch.cat([layer.bias for layer in layers])
        if path == FACTORED:
            factors = first.full_rule(), first.blocks, bias
            output = factored_linear(input, *factors, *rows)
        elif path == BOUNDED_RANK:
            factors = first.rule_factors()
            output = bounded_rank_linear(input, *factors, first.blocks, bias)
        else:
            output = dense_linear(input, self._weight(layers, rows), bias)
        return list(output.split([layer.out_features for layer in layers], -1))

    def _weight(
        self, layers: Sequence[PHMLinear], rows: Optional[Tuple[int, int]]
    ) -> Tensor:
        def build() -> Tensor:
            if rows is not None:
                return layers[0].build_rows(*rows)
            rules = [layer.full_rule() for layer in layers]
            return kronecker_sums(rules, [layer.full_blocks() for layer in layers])

        if layers[0].training:
            return build()
        owners = layers if rows is None else layers[:1]
        return self.cache.get([s for owner in owners for s in owner.sources()], build)


def _alike(layers: Sequence[nn.Module]) -> bool:
    """True for PHM layers with a rule and equal sizes, all or none with a bias; of
    slices, only for neighbours from one fused layer."""
    kinds = set()
    for i, layer in enumerate(layers):
        if not isinstance(layer, PHMLinear) or layer.n == 1:
            return False
        sizes = (layer.n, layer.in_features, layer.out_features, layer.rank)
        kind = (*sizes, layer.rule_rank, layer.bias is None, layer.training)
        if isinstance(layer, PHMLinearRows):
            if i and layer.rows[0] != layers[i - 1].rows[1]:
                return False
            kind += tuple(id(getattr(layer, name)) for name in FACTORS)
        kinds.add(kind)
    return len(kinds) == 1
