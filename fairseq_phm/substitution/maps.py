"""Which linear maps of a model are in its attention and feed-forward sublayers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence, Tuple, Type, Union

from torch import nn

ATTENTION_MAPS = ("q_proj", "k_proj", "v_proj", "out_proj")
FAIRSEQ_MAPS: Mapping[str, Sequence[str]] = {
    "self_attention": ATTENTION_MAPS,
    "cross_attention": ATTENTION_MAPS,
    "ffn": ("fc1", "fc2"),
}
"""Kind of sublayer -> the names that its linear maps have in fairseq's modules."""


@dataclass(frozen=True)
class LinearMap:
    """One linear map of a model: ``getattr(owner, name)`` is at ``path``.

    ``stack`` is "encoder", "decoder" or None; ``layer`` is the path of the layer.
    """

    owner: nn.Module
    name: str
    path: str
    kind: str
    stack: Optional[str]
    layer: str

    @property
    def module(self) -> nn.Module:
        return getattr(self.owner, self.name)

    @property
    def owner_path(self) -> str:
        return self.path.rpartition(".")[0]


def find_maps(
    model: nn.Module,
    maps: Mapping[str, Sequence[str]] = FAIRSEQ_MAPS,
    types: Union[Type[nn.Module], Tuple[Type[nn.Module], ...]] = nn.Linear,
) -> List[LinearMap]:
    """Linear maps of the chosen kinds, in the order in which the model registers them.

    A module is of a kind when it has children with all the names that ``maps`` gives
    for that kind. Attention is cross-attention when it says so, as fairseq's does
    (``encoder_decoder_attention``), or is called ``encoder_attn`` or ``cross_attn``.

    Args:
        model: any built model.
        maps: kind ("self_attention", "cross_attention", "ffn") -> names of the maps.
            Leave a kind out to leave its maps alone.
        types: what counts as a linear map.

    Raises:
        ValueError: for a kind that is none of the three.
    """
    unknown = set(maps) - set(FAIRSEQ_MAPS)
    if unknown:
        raise ValueError(
            f"unknown kind of sublayer {', '.join(sorted(unknown))}: "
            f"choose from {', '.join(FAIRSEQ_MAPS)}"
        )
    found, seen = [], set()
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        owner_path, _, name = path.rpartition(".")
        owner = modules[owner_path]
        if not isinstance(module, types) or (id(owner), name) in seen:
            continue
        seen.add((id(owner), name))
        for kind in (_attention_kind(owner, owner_path), "ffn"):
            names = set(maps.get(kind, ()))
            if name in names and names <= owner._modules.keys():
                layer = owner_path if kind == "ffn" else owner_path.rpartition(".")[0]
                found.append(LinearMap(owner, name, path, kind, stack_of(path), layer))
    return found


def _attention_kind(owner: nn.Module, path: str) -> str:
    crosses = getattr(owner, "encoder_decoder_attention", None)
    if crosses is None:
        crosses = path.rpartition(".")[2] in ("encoder_attn", "cross_attn")
    return "cross_attention" if crosses else "self_attention"


def stack_of(path: str) -> Optional[str]:
    """ "encoder" or "decoder" when a part of the module's path says so, else None."""
    for part in path.split("."):
        if part in ("encoder", "decoder"):
            return part
    return None
