"""Parameter counts as papers give them."""

from __future__ import annotations

from typing import Dict, Iterable, Mapping, Sequence

from torch import nn

from ..modules import PHMEmbedding, PHMLinear, WordVectors
from .projections import FAIRSEQ_PROJECTIONS, find_projections

OUTPUTS = ("output_projection", "fc_out", "adaptive_softmax", "lm_head")
"""Names of projections onto the vocabulary, of fairseq and Hugging Face."""


def count_parameters(
    model: nn.Module, projections: Mapping[str, Sequence[str]] = FAIRSEQ_PROJECTIONS
) -> Dict[str, int]:
    """Count the trained parameters of a model, each once however often it is shared.

    Args:
        model: dense, or with PHM layers.
        projections: as :func:`substitute` has them.

    Returns:
        ``projections``: weights (rules and blocks, no biases) of the projections in
        attention and feed-forward sublayers, also under its former name
        ``linear_maps``; ``non_embedding``: all but the embeddings and the output
        projection onto the vocabulary; ``total``.
    """

    def size(parameters: Iterable[nn.Parameter]) -> int:
        unique = {id(p): p.numel() for p in parameters if p.requires_grad}
        return sum(unique.values())

    found = find_projections(model, projections, types=(nn.Linear, PHMLinear))
    maps = size(
        parameter
        for one in found
        for name, parameter in one.module.named_parameters()
        if name != "bias"
    )
    counted = {id(one.module) for one in found}
    embeddings = [
        parameter
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, PHMEmbedding, WordVectors))
        or (name.rpartition(".")[2] in OUTPUTS and id(module) not in counted)
        for parameter in module.parameters()
    ]
    total = size(model.parameters())
    return {
        "projections": maps,
        "linear_maps": maps,
        "non_embedding": total - size(embeddings),
        "total": total,
    }
