"""The dense copies of weights that fairseq 0.12.2 has in its encoder layers."""

import functools
from typing import Dict, Mapping

import torch
from torch import Tensor, nn

BETTER_TRANSFORMER_COPIES = tuple(
    f"{name}_{part}"
    for name in ("in_proj", "out_proj", "fc1", "fc2")
    for part in ("weight", "bias")
)


def without_copies(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return the entries of a state dict but for these copies."""
    copies = BETTER_TRANSFORMER_COPIES
    return {k: v for k, v in state.items() if k.rpartition(".")[2] not in copies}


def leave_better_transformer(model: nn.Module) -> None:
    """Take the copies out of the encoder layers of a model.

    That version registers eight more parameters in each ``TransformerEncoderLayerBase``
    for torch's fused inference layer, which knows dense weights only, and which fails
    when source sentences are padded. Other versions are left as they are.
    """
    for layer in model.modules():
        if not hasattr(layer, "load_to_BT"):
            continue
        for name in BETTER_TRANSFORMER_COPIES:
            if layer._parameters.pop(name, None) is not None:
                setattr(layer, name, torch.empty(0))
        layer.can_use_fastpath = False
        layer._load_from_state_dict = functools.partial(
            nn.Module._load_from_state_dict, layer
        )
