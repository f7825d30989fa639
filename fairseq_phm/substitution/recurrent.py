"""Replace LSTMs of a built model by PHM LSTMs."""

import logging
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import nn

from ..modules import PHMLSTM, PHMLSTMCell
from ..spec import PHMSpec
from .projections import stack_of
from .swap import refuse_hooks, refuse_shared_weights, substitute

logger = logging.getLogger(__name__)

OUTPUT_PROJECTIONS = {
    "self_attention": ("input_proj", "output_proj"),
    "ffn": ("encoder_hidden_proj", "encoder_cell_proj", "additional_fc"),
}
"""fairseq's names of the attention and output projections around a decoder's cells."""


def substitute_lstm(
    model: nn.Module,
    n: Union[int, PHMSpec],
    *,
    encoder_n: Optional[int] = None,
    decoder_n: Optional[int] = None,
    gates: str = "separate",
    output_projections: bool = False,
    **options: Any,
) -> nn.Module:
    """Replace each nn.LSTM and nn.LSTMCell of a built model, in place.

    The new weights start with the standard deviations of those that they replace, the
    one bias with the sum of the two. Nothing is changed when an argument does not fit.

    Args:
        model: a built model.
        n: PHM n, or a :class:`PHMSpec`; 1 leaves an LSTM dense. One that the model
            has in several places stays one.
        encoder_n, decoder_n: n of these stacks; they win over ``n``.
        gates: as for :class:`PHMLSTMCell`.
        output_projections: also replace those of :data:`OUTPUT_PROJECTIONS`;
            ``output_maps`` is its former name.
        options: the other fields of :class:`PHMSpec`; LSTMs with n = 1 have no rule.

    Returns:
        The same model; the new layer if the model is an LSTM itself.

    Raises:
        ValueError: no LSTM found; sizes that n does not divide, an LSTM with a
            projection, hooks or parametrizations, or two modules with one weight (the
            path is named).
    """
    output_projections = options.pop("output_maps", output_projections)
    spec = PHMSpec.of(n, **options)
    found: List[Tuple[str, nn.Module]] = [
        (path, module)
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (nn.LSTM, nn.LSTMCell))
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.LSTM or nn.LSTMCell")
    by_stack = {"encoder": encoder_n, "decoder": decoder_n}
    swaps: List[Tuple[str, nn.Module]] = []
    made: Dict[nn.Module, nn.Module] = {}
    first: Dict[nn.Module, str] = {}
    for path, dense in found:
        own = spec.with_n(by_stack.get(stack_of(path)))
        if own.n == 1 and not own.rank:
            continue
        refuse_hooks(path, dense)
        first.setdefault(dense, path)
        make = _layer if isinstance(dense, nn.LSTM) else _cell
        try:
            if dense not in made:
                made[dense] = make(dense, own, gates).train(dense.training)
            swaps.append((path, made[dense]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    refuse_shared_weights(model, first)
    if output_projections:
        present = {path.rpartition(".")[2] for path, _ in model.named_modules()}
        names = {
            kind: [name for name in names if name in present]
            for kind, names in OUTPUT_PROJECTIONS.items()
        }
        if not any(names.values()):
            raise ValueError(
                f"{type(model).__name__} has neither attention nor an output "
                "projection, for output_projections"
            )
        substitute(
            model, spec, encoder_n=encoder_n, decoder_n=decoder_n, projections=names
        )
    for path, new in swaps:
        parent, _, name = path.rpartition(".")
        if not path:
            model = new
        else:
            setattr(model.get_submodule(parent), name, new)
    dense = {id(module) for _, module in found}
    logger.info("PHM LSTMs replace %d of %d", len(made), len(dense))
    return model


@torch.no_grad()
def _cell(dense: nn.Module, spec: PHMSpec, gates: str, suffix: str = "") -> PHMLSTMCell:
    """Make a cell with the spread and bias of a dense one (or a layer of nn.LSTM)."""
    weights = [getattr(dense, name + suffix) for name in ("weight_ih", "weight_hh")]
    std = None
    if not weights[0].is_meta:
        std = tuple(weight.float().square().mean().sqrt().item() for weight in weights)
    cell = PHMLSTMCell(
        weights[0].size(1),
        dense.hidden_size,
        spec,
        bias=bool(dense.bias),
        gates=gates,
        std=std,
        device=weights[0].device,
        dtype=weights[0].dtype,
    )
    if cell.bias is not None:
        biases = [getattr(dense, name + suffix) for name in ("bias_ih", "bias_hh")]
        cell.bias.copy_(biases[0] + biases[1])
    return cell


def _layer(dense: nn.LSTM, spec: PHMSpec, gates: str) -> PHMLSTM:
    if dense.proj_size:
        raise ValueError(f"proj_size={dense.proj_size}: a PHM LSTM has no projection")
    new = PHMLSTM(
        dense.input_size,
        dense.hidden_size,
        spec,
        dense.num_layers,
        dense.bias,
        dense.batch_first,
        dense.dropout,
        dense.bidirectional,
        gates=gates,
    )
    directions = ("", "_reverse") if dense.bidirectional else ("",)
    new.cells = nn.ModuleList(
        _cell(dense, spec, gates, f"_l{layer}{direction}")
        for layer in range(dense.num_layers)
        for direction in directions
    )
    return new
