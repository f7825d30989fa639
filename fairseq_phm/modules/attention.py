"""fairseq's multi-head attention in fewer and larger steps."""

import math
from typing import Callable, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from ..functional.tracing import is_tracing
from .batched_projections import project_at_once
from .cache import KeepsWeights, WeightCache

State = Dict[str, Dict[str, Optional[Tensor]]]


class Attention(KeepsWeights, MultiheadAttention):
    """``MultiheadAttention`` of fairseq 0.12 with the same parameters and results.

    - q, k, v of the same input are one product where they are PHM layers, see
      :func:`project_at_once`; layers with a CP rule take their own path.
    - Scores, softmax and weighted sum are one call of torch's
      ``scaled_dot_product_attention``, in cross-attention and decoding too, unless
      attention weights are asked for.
    - k and v of cross-attention are computed once per sentence, not per hypothesis:
      source states that repeat are found, and stored once.

    A query that may attend to no key, as all are padding, gets zeros: the output is the
    bias of ``out_proj``, and the weights of attention are zeros.

    fairseq's own method runs where this one has no counterpart: bias_kv, zero
    attention, xFormers, scores before softmax, tracing. TorchScript compiles fairseq's.
    """

    @classmethod
    def adopt(cls, model: nn.Module) -> None:
        """Make every ``MultiheadAttention`` in a model an ``Attention``, in place."""
        for module in model.modules():
            if type(module) is MultiheadAttention:
                module.__class__ = cls
                module._cache = WeightCache()

    def __prepare_scriptable__(self) -> MultiheadAttention:
        plain = MultiheadAttention.__new__(MultiheadAttention)
        plain.__dict__ = {**self.__dict__, "_modules": dict(self._modules)}
        del plain._cache
        return plain

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[State] = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Optional[Tensor] = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Attend as fairseq's.

        Shapes: query (tgt, batch, embed), key and value (src, batch, embed),
        key_padding_mask (batch, src), attn_mask (tgt, src), added to scores.

        Returns:
            Tensor (tgt, batch, embed), and the weights of attention if they are needed:
            (batch, tgt, src), or (heads, batch, tgt, src) with ``need_head_weights``.
        """
        if before_softmax or self._only_fairseq_can(query, key, value, attn_mask):
            options = (need_weights, static_kv, attn_mask, before_softmax)
            masks = (key_padding_mask, incremental_state)
            return super().forward(
                query, key, value, *masks, *options, need_head_weights
            )
        targets, batch, _ = query.shape
        q, k, v, key_padding_mask = self._states(
            query, key, value, key_padding_mask, incremental_state, static_kv, attn_mask
        )
        # The hypotheses of a sentence are further queries of the same keys.
        sentences = k.size(0)
        each = (self.num_heads, batch // max(1, sentences), targets)
        q = q.view(targets, sentences, each[1], self.num_heads, self.head_dim)
        q = q.permute(1, 3, 2, 0, 4).reshape(
            sentences, self.num_heads, each[1] * targets, self.head_dim
        )
        mask, lonely = _mask(key_padding_mask, attn_mask, q)
        attended, weights = self._attend(
            q, k, v, mask, need_weights or need_head_weights
        )
        if lonely is not None:
            attended = attended.masked_fill(lonely, 0.0)
            weights = None if weights is None else weights.masked_fill(lonely, 0.0)
        attended = attended.view(sentences, *each, v.size(-1))
        attended = attended.permute(3, 0, 2, 1, 4).reshape(
            targets, batch, self.num_heads * v.size(-1)
        )
        if weights is not None:
            weights = weights.view(sentences, *each, k.size(2))
            weights = weights.permute(1, 0, 2, 3, 4).reshape(
                self.num_heads, batch, targets, k.size(2)
            )
            weights = weights if need_head_weights else weights.mean(0)
        return self.out_proj(attended), weights

    def _states(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Optional[Tensor],
        incremental_state: Optional[State],
        static_kv: bool,
        attn_mask: Optional[Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
        """Return q, k, v, with what earlier steps stored, and the mask of their keys.

        q has the shape of the query, k and v (sentences, heads, length, width / heads).
        """
        state: Dict[str, Optional[Tensor]] = {}
        if incremental_state is not None:
            state = self._get_input_buffer(incremental_state)
        if static_kv and "prev_key" in state:
            q = self.q_proj(query)
            k, v = state["prev_key"], state["prev_value"]
        else:
            if static_kv and incremental_state is not None and attn_mask is None:
                hypotheses = repeats(key, key_padding_mask)
                key = value = key[:, ::hypotheses]
                if key_padding_mask is not None:
                    key_padding_mask = key_padding_mask[::hypotheses]
                state["hypotheses"] = torch.tensor(hypotheses)
            q, k, v = self._project(query, key, value)
            k, v = self._heads(k), self._heads(v)
            if not static_kv and "prev_key" in state:
                k = torch.cat([state["prev_key"], k], 2)
                v = torch.cat([state["prev_value"], v], 2)
        if incremental_state is not None:
            key_padding_mask = self._append_prev_key_padding_mask(
                key_padding_mask,
                state.get("prev_key_padding_mask"),
                k.size(0),
                k.size(2),
                static_kv,
            )
            state.update(
                prev_key=k, prev_value=v, prev_key_padding_mask=key_padding_mask
            )
            self._set_input_buffer(incremental_state, state)
        return q, k, v, key_padding_mask

    def _only_fairseq_can(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        attn_mask: Optional[Tensor],
    ) -> bool:
        return (
            self.use_xformers
            or self.bias_k is not None
            or self.add_zero_attn
            or self.onnx_trace
            or torch.jit.is_tracing()
            or query.device.type == "xla"
            or (attn_mask is not None and not attn_mask.is_floating_point())
            or (self.self_attention and not (key is query and value is query))
            or (self.encoder_decoder_attention and key is not value)
        )

    def multiplied_at_once(self) -> List[Tuple[nn.Module, ...]]:
        """List the projections that have the same input in training."""
        if self.self_attention:
            return [(self.q_proj, self.k_proj, self.v_proj)]
        return [(self.q_proj,), (self.k_proj, self.v_proj)]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> List[Tensor]:
        projections = [self.q_proj, self.k_proj, self.v_proj]
        if key is query:
            return project_at_once(projections, query, self._cache)
        if key is value:
            k, v = project_at_once(projections[1:], key, self._cache)
            return [self.q_proj(query), k, v]
        return [one(input) for one, input in zip(projections, (query, key, value))]

    def _heads(self, x: Tensor) -> Tensor:
        """Reshape (length, batch, width) to (batch, heads, length, width / heads)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).permute(1, 2, 0, 3)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], weights: bool
    ) -> Tuple[Tensor, Optional[Tensor]]:
        dropout = self.dropout_module
        if not weights:
            drops = self.training or dropout.apply_during_inference
            p = dropout.p if drops else 0.0
            return F.scaled_dot_product_attention(q, k, v, mask, p), None
        scores = q * self.scaling @ k.transpose(2, 3)
        if mask is not None:
            scores = scores + mask
        shares = utils.softmax(scores, dim=-1)
        return dropout(shares.type_as(v)) @ v, shares

    def _adaptive_prune_heads(self, reserve_head_index: List[Tuple[int, int]]) -> None:
        """Prune heads as fairseq does; projections become dense: a rule ties all rows.

        Args:
            reserve_head_index: first row and end of each head that is kept.
        """
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layer = getattr(self, name)
            if not isinstance(layer, nn.Linear):
                setattr(self, name, as_dense(layer))
        super()._adaptive_prune_heads(reserve_head_index)

    def reorder_incremental_state(
        self, incremental_state: Optional[State], new_order: Tensor
    ) -> Optional[State]:
        """Follow the hypotheses that beam search goes on with.

        Args:
            new_order: for each hypothesis the former index of the one it comes from.
        """
        state = dict(self._get_input_buffer(incremental_state))
        if not state:
            return incremental_state
        stored = state.pop("hypotheses", None)
        hypotheses = 1 if stored is None else int(stored)
        if hypotheses > 1 and _stays_in_groups(new_order, hypotheses):
            new_order = new_order[::hypotheses] // hypotheses
        elif hypotheses > 1:
            state = _each(state, lambda x: x.repeat_interleave(hypotheses, 0))
            hypotheses = 1
        sentences = torch.arange(state["prev_key"].size(0), device=new_order.device)
        if not torch.equal(new_order, sentences):
            state = _each(state, lambda x: x.index_select(0, new_order))
        if stored is not None:
            state["hypotheses"] = torch.tensor(hypotheses)
        return self._set_input_buffer(incremental_state, state)


def repeats(states: Tensor, padding: Optional[Tensor] = None) -> int:
    """Count how often each column of states is repeated by its neighbours.

    Beam search repeats the states of a sentence for each of its hypotheses.

    Args:
        states: (length, columns, width).
        padding: (columns, length); columns with other padding are not equal.

    Returns:
        The largest number that divides the lengths of all runs of equal columns.

    >>> repeats(torch.arange(6.0).view(1, 3, 2).repeat_interleave(5, 1))
    5
    """
    same = (states[:, 1:] == states[:, :-1]).all(2).all(0)
    if padding is not None:
        same &= (padding[1:] == padding[:-1]).all(1)
    ends = [i for i, goes_on in enumerate([*same.tolist(), False], 1) if not goes_on]
    return math.gcd(*(end - start for start, end in zip([0, *ends], ends)))


def as_dense(layer: nn.Module) -> nn.Linear:
    """Make a dense layer (..., in) -> (..., out) with the weight and bias of another.

    Args:
        layer: a PHM layer, or another one with a weight (out, in) and a bias or None.
    """
    weight, bias = layer.weight.detach(), layer.bias
    outputs, inputs = weight.shape
    dense = nn.Linear(inputs, outputs, bias is not None)
    dense.weight = nn.Parameter(weight.clone())
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().clone())
    return dense


def _stays_in_groups(new_order: Tensor, size: int) -> bool:
    """Return True when the hypotheses of each group all come from one group."""
    if new_order.numel() % size:
        return False
    groups = new_order.view(-1, size) // size
    return torch.equal(groups, groups[:, :1].expand_as(groups))


def _each(
    state: Dict[str, Optional[Tensor]], change: Callable[[Tensor], Tensor]
) -> Dict[str, Optional[Tensor]]:
    return {name: None if x is None else change(x) for name, x in state.items()}


def _mask(
    padding: Optional[Tensor], added: Optional[Tensor], like: Tensor
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Return what is added to scores, and which queries may attend to no key.

    Returns:
        Mask (batch, 1, 1, src), (tgt, src), both, or None. And True, (batch, 1, tgt or
        1, 1), for the queries without a key, where the mask is 0 so that all numbers
        stay finite; None where there is none of them.
    """
    if added is not None:
        added = added.to(like.dtype)
    if padding is None:
        return added, None
    mask = torch.zeros_like(padding, dtype=like.dtype)
    mask = mask.masked_fill_(padding.bool(), -math.inf)[:, None, None]
    mask = mask if added is None else mask + added
    lonely = mask.eq(-math.inf).all(3, keepdim=True)
    if lonely.is_cpu and not is_tracing() and not lonely.any():
        return mask, None
    return mask.masked_fill(lonely, 0.0), lonely
