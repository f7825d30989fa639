"""Replace linear projections of a built model by PHM layers."""

import logging
import sys
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..functional import ALGEBRAS, STARTS, make_rule
from ..functional.rules import is_start
from ..modules import DenseLinear, PHMLinear, PHMLinearRows
from ..spec import PHMSpec
from .projections import (
    FAIRSEQ_PROJECTIONS,
    Projection,
    find_projections,
    in_tuples,
)
from .scopes import DEFAULT_SHARE_RULE, check_share_rule, scope
from .vocabulary import find_vocabularies

logger = logging.getLogger(__name__)


def substitute(
    model: nn.Module,
    n: Union[int, PHMSpec],
    *,
    attention_n: Optional[int] = None,
    ffn_n: Optional[int] = None,
    encoder_n: Optional[int] = None,
    decoder_n: Optional[int] = None,
    share_rule: str = DEFAULT_SHARE_RULE,
    fuse_qkv: bool = False,
    attention_dim: Optional[int] = None,
    embeddings: int = 0,
    projections: Mapping[str, Sequence[str]] = FAIRSEQ_PROJECTIONS,
    **options: Any,
) -> nn.Module:
    """Replace linear projections of a built model, in place, by PHM layers.

    Each layer starts with the standard deviation of the weight that it replaces and
    with a copy of its bias; fairseq's attention becomes :class:`Attention`, also where
    n = 1. Nothing is changed when an argument does not fit.
    LayerNorm stays dense, and so do embeddings and output projection by default.

    Args:
        model: a built model of fairseq, or any other whose projections are named.
        n: PHM n, or a :class:`PHMSpec`; 1 leaves a projection dense.
        attention_n, ffn_n: n of these sublayers; they win over the next two.
        encoder_n, decoder_n: n of these stacks; they win over ``n``.
        share_rule: see :data:`SHARE_RULE`. Only projections with equal n share.
            Attention carries words through by v and out: with one rule, which starts
            closed under products, out can undo what v does; with two it cannot.
        fuse_qkv: q, k, v of self-attention become one PHM layer (3d x d), k and v of
            cross-attention one (2d x d): fewer rules and one larger mixing of outputs.
        attention_dim: inner width of attention (outputs of q, k, v); None keeps it.
        embeddings: n of the token embeddings and the output projection, which become
            :class:`PHMEmbedding` and a layer tied to it if the dense ones are tied,
            with rules of their own and fairseq's start; 0 or 1 leaves them dense.
        projections: kinds of sublayers and names of their projections, see
            :func:`find_projections`; ``maps`` is its former name.
        options: the other fields of :class:`PHMSpec`, as for :class:`PHMLinear`, but
            ``rule`` is no layer; projections with n = 1 have no rule.

    Returns:
        The same model.

    Raises:
        ValueError: no projection found; sizes that n does not divide (the path is
            named); an unknown rule or ``share_rule``; ``rule_rank`` with a given rule;
            a projection with hooks or parametrizations, or under FSDP; two modules with
            one weight; ``embeddings`` with adaptive or character ones, in a model that
            has not fairseq's names, or with ``share_rule="model"``.
    """
    projections = options.pop("maps", projections)
    spec = PHMSpec.of(n, **options)
    by_stack = {"encoder": encoder_n, "decoder": decoder_n}

    def spec_of(projection: Projection) -> PHMSpec:
        own = ffn_n if projection.kind == "ffn" else attention_n
        return spec.with_n(by_stack.get(projection.stack) if own is None else own)

    share_rule = check_share_rule(share_rule)
    _check_rule(spec)
    found = _find(model, projections)
    swaps = _plan(found, spec_of, share_rule, fuse_qkv, attention_dim)
    replaced = {one.module: one.path for swap in swaps for one in swap.group}
    refuse_shared_weights(model, replaced)
    of_words = spec.with_n(embeddings)
    vocabularies = find_vocabularies(model, of_words, share_rule)
    count = _apply(swaps, found)
    for vocabulary in vocabularies:
        vocabulary.replace(of_words)
    if attention_dim is not None:
        for attention in {one.parent for one in found if one.kind != "ffn"}:
            set_inner_width(attention, attention_dim)
    _adopt(model)
    logger.info("PHM layers replace %d of %d projections", count, len(found))
    return model


@dataclass(frozen=True)
class Swap:
    """A PHM layer to make, and the projections that it replaces.

    ``outputs`` are those of each projection; ``scope`` names the projections that share
    a rule.
    """

    group: Sequence[Projection]
    spec: PHMSpec
    in_features: int
    outputs: Sequence[int]
    scope: str

    @property
    def old(self) -> List[nn.Linear]:
        """The dense layers."""
        return [projection.module for projection in self.group]

    def make(self, rule: Union[str, Tensor, PHMLinear]) -> PHMLinear:
        """Make the layer, with the standard deviation of the old weights."""
        first = self.old[0]
        return PHMLinear(
            self.in_features,
            sum(self.outputs),
            self.spec,
            bias=first.bias is not None,
            rule=rule,
            std=self._std(),
            device=first.weight.device,
            dtype=first.weight.dtype,
        )

    @torch.no_grad()
    def _std(self) -> Optional[float]:
        """Return that of the old weights, smaller, as Xavier's, for a wider layer.

        None on the meta device, where weights have no numbers.
        """
        old = self.old
        if old[0].weight.is_meta:
            return None
        squares = torch.stack([dense.weight.float().square().mean() for dense in old])
        std = squares.mean().sqrt().item()
        fans = old[0].in_features + old[0].out_features
        return std * (fans / (self.in_features + self.outputs[0])) ** 0.5


def _check_rule(spec: PHMSpec) -> None:
    """Raise ValueError for an unknown name of a rule."""
    named = isinstance(spec.rule, str) and spec.rule in (*STARTS, *ALGEBRAS)
    if not named and not isinstance(spec.rule, Tensor):
        make_rule(spec.rule, spec.n)


def _find(
    model: nn.Module, projections: Mapping[str, Sequence[str]]
) -> List[Projection]:
    """Find the projections, and refuse a model that has none or is sharded."""
    found = find_projections(model, projections)
    if not found:
        named = in_tuples(projections)
        raise ValueError(
            f"{type(model).__name__} has no linear projection called "
            + ", ".join(sorted({n for names in named.values() for n in names}))
        )
    for wrapper in model.modules():
        if type(wrapper).__name__ == "FullyShardedDataParallel":
            raise ValueError(
                "FSDP has wrapped single layers before the PHM substitution: "
                "raise --min-params-to-wrap"
            )
    return found


def _plan(
    found: List[Projection],
    spec_of: Callable[[Projection], PHMSpec],
    share_rule: str,
    fuse_qkv: bool,
    attention_dim: Optional[int],
) -> List[Swap]:
    """List the layers to make, all of them checked."""
    if attention_dim is not None:
        for projection in found:
            if projection.kind != "ffn":
                _check_inner_width(projection, attention_dim)
    swaps = []
    for group in _groups(found, fuse_qkv, spec_of):
        spec, sizes = spec_of(group[0]), _sizes(group, attention_dim)
        _check(group, spec, *sizes)
        if spec.n > 1 or spec.rank or sizes != _sizes(group, None):
            swaps.append(Swap(group, spec, *sizes, scope(group, share_rule)))
    return swaps


def _apply(swaps: List[Swap], found: List[Projection]) -> int:
    """Make all layers, then put them in place; return the number of projections."""
    sources: Dict[Tuple[str, int], PHMLinear] = {}
    built: Dict[Tuple[int, ...], Sequence[PHMLinear]] = {}  # tied weights stay tied
    for swap in swaps:
        tied = tuple(map(id, swap.old))
        if tied not in built:
            key = swap.scope, swap.spec.n
            alike = swap.spec.freeze_rule and not is_start(swap.spec.rule)
            made = swap.make(sources.get(key, swap.spec.rule))
            if swap.spec.n > 1 and not alike:
                sources.setdefault(key, made)
            built[tied] = [made]
            if len(swap.group) > 1:
                parent = swap.group.index(min(swap.group, key=found.index))
                built[tied] = PHMLinearRows.split(made, list(swap.outputs), parent)
            for dense, layer in zip(swap.old, built[tied]):
                if layer.bias is not None and layer.bias.shape == dense.bias.shape:
                    layer.bias.data.copy_(dense.bias.data)
                layer.train(dense.training)
    layers = [built[tuple(map(id, swap.old))] for swap in swaps]
    for swap, made in zip(swaps, layers):
        for projection, layer in zip(swap.group, made):
            setattr(projection.parent, projection.name, layer)
    return sum(len(swap.group) for swap in swaps)


def _groups(
    found: List[Projection], fuse_qkv: bool, spec_of: Callable[[Projection], PHMSpec]
) -> List[List[Projection]]:
    """List what becomes one PHM layer, in order: single ones, or the fused q, k, v."""
    if not fuse_qkv:
        return [[projection] for projection in found]
    order = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
    fused = {"self_attention": set(order), "cross_attention": {"k_proj", "v_proj"}}
    groups: Dict[object, List[Projection]] = {}
    for projection in found:
        key: object = projection.path
        if projection.name in fused.get(projection.kind, ()):
            if spec_of(projection).n > 1:
                dense = projection.module
                sizes = dense.in_features, dense.bias is None
                key = id(projection.parent), sizes
        groups.setdefault(key, []).append(projection)
    for group in groups.values():
        group.sort(key=lambda projection: order.get(projection.name, 0))
    return list(groups.values())


def _sizes(
    group: Sequence[Projection], attention_dim: Optional[int]
) -> Tuple[int, List[int]]:
    """Return the inputs, and the outputs of each projection, with that inner width."""
    in_features = group[0].module.in_features
    outputs = [projection.module.out_features for projection in group]
    if attention_dim is None or group[0].kind == "ffn":
        return in_features, outputs
    if group[0].name == "out_proj":
        return attention_dim, outputs
    return in_features, [attention_dim] * len(outputs)


def _check(
    group: Sequence[Projection], spec: PHMSpec, in_features: int, outputs: List[int]
) -> None:
    """Raise ValueError, with the path, for what cannot be replaced."""
    for projection in group:
        refuse_hooks(projection.path, projection.module)
    try:
        spec.check(in_features, sum(outputs))
    except ValueError as error:
        raise ValueError(f"{group[0].path}: {error}") from None


def refuse_hooks(path: str, dense: nn.Module) -> None:
    """Raise ValueError for a layer with hooks or parametrizations, which would go."""
    for hooks in (
        dense._forward_pre_hooks,
        dense._forward_hooks,
        dense._backward_hooks,
        dense._backward_pre_hooks,
    ):
        for hook in hooks.values():
            raise ValueError(f"{path} has {_described(hook)}")
    if is_parametrized(dense):
        raise ValueError(
            f"{path} has parametrizations, which a PHM layer would lose: call "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )


def refuse_shared_weights(model: nn.Module, replaced: Mapping[nn.Module, str]) -> None:
    """Raise ValueError if a weight of these layers is another module's as well.

    Args:
        model: that they are in.
        replaced: layer -> its path.
    """
    owners = {
        id(parameter): (layer, path)
        for layer, path in reversed(list(replaced.items()))  # the first owner counts
        for name, parameter in layer.named_parameters(recurse=False)
        if name.startswith("weight")
    }
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            layer, owner = owners.get(id(parameter), (module, ""))
            if layer is not module:
                raise ValueError(
                    f"{owner} and {path} are two layers with one weight: "
                    "make them one layer, which stays one"
                )


def _described(hook: Any) -> str:
    """Say what a forward hook is, and how to go on without it."""
    name = getattr(hook, "__qualname__", type(hook).__name__)
    if "quant_noise" in getattr(hook, "__module__", ""):
        return "the hook of quant-noise, which needs dense weights: turn it off"
    known = {"WeightNorm": "weight norm", "SpectralNorm": "spectral norm"}
    if name in known:
        remove = f"torch.nn.utils.remove_{known[name].replace(' ', '_')}"
        return f"the hook of {known[name]}, which PHM layers have not: call {remove}"
    return f"the hook {name}, which a PHM layer would lose: remove it first"


def _check_inner_width(projection: Projection, width: int) -> None:
    """Raise ValueError unless the attention can have this inner width."""
    attention, path = projection.parent, projection.parent_path
    heads = getattr(attention, "num_heads", 0)
    if not hasattr(attention, "_set_skip_embed_dim_check") or (
        attention.bias_k is not None or attention.use_xformers
    ):
        raise ValueError(
            f"{path}: attention_dim needs fairseq's MultiheadAttention without "
            "bias_kv and xFormers"
        )
    if width < 1 or width % heads:
        raise ValueError(
            f"{path}: attention_dim={width} is not a multiple of its {heads} heads"
        )


def set_inner_width(attention: nn.Module, width: int) -> None:
    """Make fairseq's MultiheadAttention compute with heads of width / num_heads.

    It can since heads can be pruned: with the embedding width unchecked, embed_dim is
    the width of the concatenated heads.
    """
    attention.embed_dim = width
    attention.head_dim = width // attention.num_heads
    attention.scaling = attention.head_dim**-0.5
    attention._set_skip_embed_dim_check()


def _adopt(model: nn.Module) -> None:
    """Replace the methods of attention and of the output projection by faster ones."""
    for module in model.modules():
        if hasattr(module, "output_projection"):
            DenseLinear.adopt(module.output_projection)
    if sys.modules.get("fairseq"):  # else there is nothing of it in the model
        from ..better_transformer import leave_better_transformer
        from ..modules.attention import Attention

        leave_better_transformer(model)
        Attention.adopt(model)
