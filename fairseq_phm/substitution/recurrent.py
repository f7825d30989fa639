"""Swapping LSTMs of a built model for PHM LSTMs."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from ..modules import PHMLSTM, PHMLSTMCell
from .maps import stack_of
from .swap import substitute

logger = logging.getLogger(__name__)

OUTPUT_MAPS = {
    "self_attention": ("input_proj", "output_proj"),
    "ffn": ("encoder_hidden_proj", "encoder_cell_proj", "additional_fc"),
}
"""fairseq's names of the attention and output maps around a decoder's LSTM cells."""


def substitute_lstm(
    model: nn.Module,
    n: int,
    *,
    encoder_n: Optional[int] = None,
    decoder_n: Optional[int] = None,
    rule: Union[str, Tensor] = "learned",
    freeze_rule: bool = False,
    gates: str = "separate",
    rank: int = 0,
    rule_rank: int = 0,
    rule_lr: Optional[float] = None,
    output_maps: bool = False,
) -> nn.Module:
    """Replace each nn.LSTM and nn.LSTMCell of a built model, in place.

    The new weights start with the standard deviations of those that they replace, the
    one bias with the sum of the two. Nothing is changed when an argument does not fit.

    Args:
        model: a built model.
        n: PHM n; 1 leaves an LSTM dense.
        encoder_n, decoder_n: n of these stacks; they win over ``n``.
        rule, freeze_rule, gates, rank, rule_rank, rule_lr: as for
            :class:`PHMLSTMCell`; LSTMs with n = 1 have no rule.
        output_maps: also replace the maps of :data:`OUTPUT_MAPS`.

    Returns:
        The same model.

    Raises:
        ValueError: no LSTM found; sizes that n does not divide (the path is named).
    """
    found: List[Tuple[str, nn.Module]] = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, (nn.LSTM, nn.LSTMCell))
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.LSTM or nn.LSTMCell")
    options: Dict[str, Any] = dict(
        rule=rule, freeze_rule=freeze_rule, gates=gates, rank=rank, rule_lr=rule_lr
    )
    swaps = []
    for path, dense in found:
        stack_n = {"encoder": encoder_n, "decoder": decoder_n}.get(stack_of(path))
        chosen = n if stack_n is None else stack_n
        if chosen == 1 and not rank:
            continue
        make = _layer if isinstance(dense, nn.LSTM) else _cell
        own = {**options, "rule_rank": rule_rank} if chosen > 1 else dict(options)
        own["rule"] = rule if chosen > 1 else "learned"
        try:
            swaps.append((path, make(dense, chosen, own).train(dense.training)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if output_maps:
        present = {path.rpartition(".")[2] for path, _ in model.named_modules()}
        substitute(
            model,
            n,
            encoder_n=encoder_n,
            decoder_n=decoder_n,
            rule=rule,
            freeze_rule=freeze_rule,
            rank=rank,
            rule_rank=rule_rank,
            rule_lr=rule_lr,
            maps={
                kind: [name for name in names if name in present]
                for kind, names in OUTPUT_MAPS.items()
            },
        )
    for path, new in swaps:
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, new)
    logger.info("PHM LSTMs replace %d of %d", len(swaps), len(found))
    return model


@torch.no_grad()
def _cell(
    dense: nn.Module, n: int, options: Dict[str, Any], suffix: str = ""
) -> PHMLSTMCell:
    """PHM cell with the spread and bias of a dense one (or of a layer of nn.LSTM)."""
    weights = [getattr(dense, name + suffix) for name in ("weight_ih", "weight_hh")]
    cell = PHMLSTMCell(
        weights[0].size(1),
        dense.hidden_size,
        n,
        bias=bool(dense.bias),
        std=tuple(weight.float().square().mean().sqrt().item() for weight in weights),
        device=weights[0].device,
        dtype=weights[0].dtype,
        **options,
    )
    if cell.bias is not None:
        biases = [getattr(dense, name + suffix) for name in ("bias_ih", "bias_hh")]
        cell.bias.copy_(biases[0] + biases[1])
    return cell


def _layer(dense: nn.LSTM, n: int, options: Dict[str, Any]) -> PHMLSTM:
    new = PHMLSTM(
        dense.input_size,
        dense.hidden_size,
        n,
        dense.num_layers,
        dense.bias,
        dense.batch_first,
        dense.dropout,
        dense.bidirectional,
        **options,
    )
    directions = ("", "_reverse") if dense.bidirectional else ("",)
    new.cells = nn.ModuleList(
        _cell(dense, n, options, f"_l{layer}{direction}")
        for layer in range(dense.num_layers)
        for direction in directions
    )
    return new
