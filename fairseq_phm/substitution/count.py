"""Parameter counts as papers give them."""

from __future__ import annotations

from typing import Dict, Iterable

from torch import nn

from ..modules import PHMEmbedding, PHMLinear, WordVectors
from .projections import find_projections


def count_parameters(model: nn.Module) -> Dict[str, int]:
    """Count the trained parameters of a model, each once however often it is shared.

    Returns:
        ``projections``: weights (rules and blocks, no biases) of the projections in
        attention and feed-forward sublayers, also under its former name
        ``linear_maps``; ``non_embedding``: all but the embeddings and the output
        projection onto the vocabulary; ``total``.
    """

    def size(parameters: Iterable[nn.Parameter]) -> int:
        unique = {id(p): p.numel() for p in parameters if p.requires_grad}
        return sum(unique.values())

    found = find_projections(model, types=(nn.Linear, PHMLinear))
    projections = size(
        parameter
        for one in found
        for name, parameter in one.module.named_parameters()
        if name != "bias"
    )
    embeddings = [
        parameter
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, PHMEmbedding, WordVectors))
        or name.rpartition(".")[2] in ("output_projection", "adaptive_softmax")
        for parameter in module.parameters()
    ]
    total = size(model.parameters())
    return {
        "projections": projections,
        "linear_maps": projections,
        "non_embedding": total - size(embeddings),
        "total": total,
    }
