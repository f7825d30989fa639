"""Swapping linear maps of a built model for PHM layers."""

from __future__ import annotations

import logging
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..fairseq_compat import leave_better_transformer
from ..functional import (
    ALGEBRAS,
    STARTS,
    check_rule_rank,
    check_sizes,
    is_start,
    make_rule,
)
from ..modules import Attention, DenseLinear, PHMLinear, PHMLinearRows
from .maps import FAIRSEQ_MAPS, LinearMap, find_maps

logger = logging.getLogger(__name__)

SHARE_RULE = ("none", "value", "pairs", "block", "layer", "stack", "model")
"""How far a learned rule reaches: one per projection; or one for v and out of an
attention block; one for q and k, one for v and out; one per attention block (FFN
projections keep their own); per layer; per encoder or decoder; one in the model."""

DEFAULT_SHARE_RULE = "pairs"
PAIRS = {"q_proj": "qk", "k_proj": "qk", "v_proj": "vo", "out_proj": "vo"}


def substitute(
    model: nn.Module,
    n: int,
    *,
    attention_n: Optional[int] = None,
    ffn_n: Optional[int] = None,
    encoder_n: Optional[int] = None,
    decoder_n: Optional[int] = None,
    rule: Union[str, Tensor] = "learned",
    freeze_rule: bool = False,
    share_rule: str = DEFAULT_SHARE_RULE,
    fuse_qkv: bool = False,
    rank: int = 0,
    rule_rank: int = 0,
    rule_lr: Optional[float] = None,
    attention_dim: Optional[int] = None,
    maps: Mapping[str, Sequence[str]] = FAIRSEQ_MAPS,
) -> nn.Module:
    """Replace linear maps of a built model, in place, by PHM layers.

    Each layer starts with the standard deviation of the weight that it replaces and
    with a copy of its bias, and fairseq's attention becomes :class:`Attention`, also
    where n = 1. Nothing is changed when an argument does not fit.
    Embeddings, LayerNorm and the output projection stay dense.

    Args:
        model: a built model of fairseq, or any other whose maps ``maps`` names.
        n: PHM n; 1 leaves a map dense.
        attention_n, ffn_n: n of these sublayers; they win over the next two.
        encoder_n, decoder_n: n of these stacks; they win over ``n``.
        rule, freeze_rule, rank, rule_rank, rule_lr: as for :class:`PHMLinear`; a
            tensor is copied; maps with n = 1 have no rule.
        share_rule: see :data:`SHARE_RULE`. Only maps with equal n share. Attention
            carries words through by v and out: with one rule, which starts closed
            under products, out can undo what v does; with two it cannot.
        fuse_qkv: q, k, v of self-attention become one PHM layer (3d x d), k and v of
            cross-attention one (2d x d): fewer rules and one larger mixing of outputs.
        attention_dim: inner width of attention (outputs of q, k, v); None keeps it.
        maps: kinds of sublayers and names of their maps, see :func:`find_maps`.

    Returns:
        The same model.

    Raises:
        ValueError: no map found; sizes that n does not divide (the path is named);
            an unknown rule or ``share_rule``; ``rule_rank`` with a given rule; a map
            under quant-noise or FSDP.
    """
    if share_rule not in SHARE_RULE:
        raise ValueError(
            f"unknown share_rule {share_rule!r}: choose one of {', '.join(SHARE_RULE)}"
        )
    if isinstance(rule, Tensor):
        rule = rule.detach()
    elif rule not in (*STARTS, *ALGEBRAS):
        make_rule(rule, n)
    found = find_maps(model, maps)
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no linear map called "
            + ", ".join(sorted({name for names in maps.values() for name in names}))
        )
    for wrapper in model.modules():
        if type(wrapper).__name__ == "FullyShardedDataParallel":
            raise ValueError(
                "FSDP has wrapped single layers before the PHM substitution: "
                "raise --min-params-to-wrap"
            )

    def n_of(linear_map: LinearMap) -> int:
        sublayer_n = ffn_n if linear_map.kind == "ffn" else attention_n
        stack_n = {"encoder": encoder_n, "decoder": decoder_n}.get(linear_map.stack)
        chosen = sublayer_n if sublayer_n is not None else stack_n
        return chosen if chosen is not None else n

    groups = _group(found, fuse_qkv, n_of)
    new_sizes = [_sizes(group, attention_dim) for group in groups]
    if attention_dim is not None:
        for linear_map in found:
            if linear_map.kind != "ffn":
                _check_inner_width(linear_map, attention_dim)
    for group, (in_features, outs) in zip(groups, new_sizes):
        _check(group, in_features, outs, n_of(group[0]), rule, rule_rank)

    lenders: Dict[Tuple[str, int], PHMLinear] = {}
    built: Dict[Tuple[int, ...], Sequence[PHMLinear]] = {}  # tied maps stay tied
    swapped: List[LinearMap] = []
    for group, (in_features, outs) in zip(groups, new_sizes):
        first = group[0]
        group_n = n_of(first)
        unchanged = (in_features, outs) == _sizes(group, None)
        if group_n == 1 and not rank and unchanged:
            continue
        scope = (_scope(group, share_rule), group_n)
        old = [linear_map.module for linear_map in group]
        tied = tuple(id(dense) for dense in old)
        if tied not in built:
            fused = PHMLinear(
                in_features,
                sum(outs),
                group_n,
                bias=old[0].bias is not None,
                rule=lenders.get(scope, rule) if group_n > 1 else "learned",
                freeze_rule=freeze_rule,
                rank=rank,
                rule_rank=rule_rank if group_n > 1 else 0,
                rule_lr=rule_lr,
                std=_std(old, in_features, outs),
                device=old[0].weight.device,
                dtype=old[0].weight.dtype,
            )
            if not freeze_rule:
                lenders.setdefault(scope, fused)
            built[tied] = [fused]
            if len(group) > 1:
                owner = group.index(min(group, key=found.index))
                built[tied] = PHMLinearRows.split(fused, outs, owner)
            for dense, layer in zip(old, built[tied]):
                if layer.bias is not None and layer.bias.shape == dense.bias.shape:
                    layer.bias.data.copy_(dense.bias.data)
                layer.train(dense.training)
        for linear_map, layer in zip(group, built[tied]):
            setattr(linear_map.owner, linear_map.name, layer)
            swapped.append(linear_map)
    if attention_dim is not None:
        for attention in {m.owner for m in found if m.kind != "ffn"}:
            _set_inner_width(attention, attention_dim)
    leave_better_transformer(model)
    Attention.adopt(model)
    for module in model.modules():
        if hasattr(module, "output_projection"):
            DenseLinear.adopt(module.output_projection)
    logger.info("PHM layers replace %d of %d linear maps", len(swapped), len(found))
    return model


def _group(
    found: List[LinearMap], fuse_qkv: bool, n_of: Callable[[LinearMap], int]
) -> List[List[LinearMap]]:
    """Maps that become one PHM layer, in order: single ones, or the fused q, k, v."""
    if not fuse_qkv:
        return [[linear_map] for linear_map in found]
    order = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
    groups: Dict[object, List[LinearMap]] = {}
    for linear_map in found:
        names = {"self_attention": order, "cross_attention": ("k_proj", "v_proj")}
        fuses = linear_map.name in names.get(linear_map.kind, ()) and (
            n_of(linear_map) > 1
        )
        sizes = linear_map.module.in_features, linear_map.module.bias is None
        key = (id(linear_map.owner), sizes) if fuses else linear_map.path
        groups.setdefault(key, []).append(linear_map)
    for group in groups.values():
        group.sort(key=lambda linear_map: order.get(linear_map.name, 0))
    return list(groups.values())


def _sizes(
    group: List[LinearMap], attention_dim: Optional[int]
) -> Tuple[int, List[int]]:
    """Inputs, and outputs of each map of the group, after the substitution."""
    in_features = group[0].module.in_features
    outs = [linear_map.module.out_features for linear_map in group]
    if attention_dim is None or group[0].kind == "ffn":
        return in_features, outs
    if group[0].name == "out_proj":
        return attention_dim, outs
    return in_features, [attention_dim] * len(outs)


def _check(
    group: List[LinearMap],
    in_features: int,
    outs: List[int],
    n: int,
    rule: Union[str, Tensor],
    rule_rank: int,
) -> None:
    path = group[0].path
    for linear_map in group:
        if linear_map.module._forward_pre_hooks or linear_map.module._forward_hooks:
            raise ValueError(
                f"{linear_map.path} has a hook, as of quant-noise, that PHM layers "
                "do not support: turn quant-noise off"
            )
    try:
        check_sizes(in_features, sum(outs), n)
        if n > 1:
            check_rule_rank(rule_rank, n, is_start(rule))
            if not is_start(rule):
                make_rule(rule, n)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _scope(group: List[LinearMap], share_rule: str) -> str:
    """Name of the maps that share the rule of this one, or of these fused ones.

    Fused maps have one rule by themselves: with "value" and "pairs" it is the one of v
    and out.
    """
    linear_map = group[0]
    if linear_map.kind != "ffn" and share_rule in ("value", "pairs", "block"):
        pair = max(PAIRS.get(member.name, "") for member in group)
        if share_rule == "block":
            return linear_map.owner_path
        if pair == "vo" or (pair and share_rule == "pairs"):
            return f"{linear_map.owner_path}.{pair}"
    scopes = {
        "layer": linear_map.layer,
        "stack": linear_map.stack or "",
        "model": "",
    }
    return scopes.get(share_rule, linear_map.path)


def _std(old: List[nn.Linear], in_features: int, outs: List[int]) -> float:
    """Standard deviation of the old weights, shrunk as Xavier's when the map grows."""
    with torch.no_grad():
        squares = torch.stack([dense.weight.float().square().mean() for dense in old])
        std = squares.mean().sqrt().item()
    fans = old[0].in_features + old[0].out_features
    return std * (fans / (in_features + outs[0])) ** 0.5


def _check_inner_width(linear_map: LinearMap, width: int) -> None:
    attention = linear_map.owner
    heads = getattr(attention, "num_heads", 0)
    if not hasattr(attention, "_set_skip_embed_dim_check") or (
        attention.bias_k is not None or attention.use_xformers
    ):
        raise ValueError(
            f"{linear_map.owner_path}: attention_dim needs fairseq's "
            "MultiheadAttention without bias_kv and xFormers"
        )
    if width < 1 or width % heads:
        raise ValueError(
            f"{linear_map.owner_path}: attention_dim={width} is not a multiple of "
            f"its {heads} heads"
        )


def _set_inner_width(attention: nn.Module, width: int) -> None:
    """Make fairseq's MultiheadAttention compute with heads of width / num_heads.

    It can since heads can be pruned: with the embedding width unchecked, embed_dim is
    the width of the concatenated heads.
    """
    attention.embed_dim = width
    attention.head_dim = width // attention.num_heads
    attention.scaling = attention.head_dim**-0.5
    attention._set_skip_embed_dim_check()
