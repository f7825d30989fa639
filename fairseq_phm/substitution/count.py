"""Parameter counts as papers give them."""

from __future__ import annotations

from typing import Dict

from torch import nn

from ..modules import PHMLinear, WordVectors
from .maps import find_maps


def count_parameters(model: nn.Module) -> Dict[str, int]:
    """Trained parameters of a model, each counted once however often it is shared.

    Returns:
        ``linear_maps``: weights (rules and blocks, no biases) of the attention and
        feed-forward maps; ``non_embedding``: everything but the embeddings and the
        output projection onto the vocabulary; ``total``.
    """

    def size(parameters) -> int:
        unique = {id(p): p.numel() for p in parameters if p.requires_grad}
        return sum(unique.values())

    maps = [found.module for found in find_maps(model, types=(nn.Linear, PHMLinear))]
    embeddings = [
        parameter
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, WordVectors))
        or name.rpartition(".")[2] in ("output_projection", "adaptive_softmax")
        for parameter in module.parameters()
    ]
    total = size(model.parameters())
    return {
        "linear_maps": size(
            parameter
            for module in maps
            for name, parameter in module.named_parameters()
            if name != "bias"
        ),
        "non_embedding": total - size(embeddings),
        "total": total,
    }
