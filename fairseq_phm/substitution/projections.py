"""Find the linear projections in attention and feed-forward sublayers of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

from torch import nn

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
FAIRSEQ_PROJECTIONS: Mapping[str, Sequence[str]] = {
    "self_attention": ATTENTION,
    "cross_attention": ATTENTION,
    "ffn": ("fc1", "fc2"),
}
"""Kind of sublayer -> names of its projections in fairseq and in many other models."""


@dataclass(frozen=True)
class Projection:
    """One projection of a model: ``getattr(parent, name)`` is at ``path``.

    ``stack`` is "encoder", "decoder" or None; ``layer`` is the path of the layer.
    """

    parent: nn.Module
    name: str
    path: str
    kind: str
    stack: Optional[str]
    layer: str

    @property
    def module(self) -> nn.Module:
        return getattr(self.parent, self.name)

    @property
    def parent_path(self) -> str:
        return self.path.rpartition(".")[0]


def find_projections(
    model: nn.Module,
    projections: Mapping[str, Sequence[str]] = FAIRSEQ_PROJECTIONS,
    types: Union[Type[nn.Module], Tuple[Type[nn.Module], ...]] = nn.Linear,
) -> List[Projection]:
    """Find projections of the chosen kinds, in the order in which they are registered.

    A module is of a kind when it has children with all the names of that kind.
    Attention is cross-attention when it says so, as fairseq's does
    (``encoder_decoder_attention``), or is called ``encoder_attn`` or ``cross_attn``.

    Args:
        model: any built model.
        projections: kind ("self_attention", "cross_attention", "ffn") -> names. A kind
            that is left out is left alone.
        types: what counts as a projection.

    Raises:
        ValueError: for a kind that is none of the three.
    """
    projections = in_tuples(projections)
    unknown = set(projections) - set(FAIRSEQ_PROJECTIONS)
    if unknown:
        raise ValueError(
            f"unknown kind of sublayer {', '.join(sorted(unknown))}: "
            f"choose from {', '.join(FAIRSEQ_PROJECTIONS)}"
        )
    found, seen = [], set()
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        parent_path, _, name = path.rpartition(".")
        parent = modules[parent_path]
        if not isinstance(module, types) or (id(parent), name) in seen:
            continue
        seen.add((id(parent), name))
        for kind in (_attention_kind(parent, parent_path), "ffn"):
            names = set(projections.get(kind, ()))
            if name in names and names <= parent._modules.keys():
                layer = parent_path if kind == "ffn" else parent_path.rpartition(".")[0]
                found.append(
                    Projection(parent, name, path, kind, stack_of(path), layer)
                )
    return found


def in_tuples(
    projections: Mapping[str, Sequence[str]],
) -> Dict[str, Tuple[str, ...]]:
    """Return the names of each kind as a tuple; a string is one name.

    >>> in_tuples({"ffn": "linear1"})
    {'ffn': ('linear1',)}
    """
    return {
        kind: (names,) if isinstance(names, str) else tuple(names)
        for kind, names in projections.items()
    }


def _attention_kind(parent: nn.Module, path: str) -> str:
    crosses = getattr(parent, "encoder_decoder_attention", None)
    if crosses is None:
        crosses = path.rpartition(".")[2] in ("encoder_attn", "cross_attn")
    return "cross_attention" if crosses else "self_attention"


def stack_of(path: str) -> Optional[str]:
    """Return "encoder" or "decoder", whichever is a part of the path, else None."""
    for part in path.split("."):
        if part in ("encoder", "decoder"):
            return part
    return None
