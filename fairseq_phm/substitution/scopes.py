"""Which projections share a learned rule."""

from typing import Sequence

from .projections import Projection

SHARE_RULE = ("none", "value", "pairs", "attention", "layer", "stack", "model")
"""How far a learned rule reaches: one for each projection; one for v and out of an
attention block; one for q and k, one for v and out; one for each attention block; one
for each layer; for the encoder and for the decoder; one in the model. Projections of
the FFN keep their own with the first four."""

DEFAULT_SHARE_RULE = "pairs"
FORMER_NAMES = {"block": "attention"}
PAIRS = {"q_proj": "qk", "k_proj": "qk", "v_proj": "vo", "out_proj": "vo"}
"""Name of a projection of attention -> the pair that shares a rule."""


def check_share_rule(share_rule: str) -> str:
    """Return the name in :data:`SHARE_RULE`, also for a former one.

    Raises:
        ValueError: it is none.

    >>> check_share_rule("block")
    'attention'
    """
    share_rule = FORMER_NAMES.get(share_rule, share_rule)
    if share_rule not in SHARE_RULE:
        raise ValueError(
            f"unknown share_rule {share_rule!r}: choose one of {', '.join(SHARE_RULE)}"
        )
    return share_rule


def scope(group: Sequence[Projection], share_rule: str) -> str:
    """Return a name for the projections that share the rule of this group.

    Args:
        group: one projection, or several that become one fused layer, which has one
            rule: with "value" and "pairs" it is the one of v and out.
        share_rule: one of :data:`SHARE_RULE`.
    """
    first = group[0]
    if first.kind != "ffn" and share_rule == "attention":
        return first.parent_path
    if first.kind != "ffn" and share_rule in ("value", "pairs"):
        pair = max(PAIRS.get(member.name, "") for member in group)
        if pair == "vo" or (pair and share_rule == "pairs"):
            return f"{first.parent_path}.{pair}"
    scopes = {"layer": first.layer, "stack": first.stack or "", "model": ""}
    return scopes.get(share_rule, first.path)
