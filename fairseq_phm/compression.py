"""Turn the checkpoint of a dense model into one of a PHM model; needs fairseq.

The dense model is built as the PHM model builds it, loaded, and changed by the same
substitution as in training; then rules and blocks get the values whose weights H are
nearest to the dense ones, see :mod:`fairseq_phm.nearest`.
"""

from __future__ import annotations

import copy
import re
from argparse import Namespace
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
    Type,
)

import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from .better_transformer import without_copies
from .errors import DataError, one_line
from .models.base import PREFIX, PHMModel
from .modules import PHMLSTM, PHMLinear, PHMLSTMCell
from .modules.attention import as_dense
from .modules.linear import PHMLinearRows
from .nearest import nearest_blocks, nearest_cp, nearest_rule, rearrange, relative_error
from .rebuild import BAD_MODEL, Vocabularies, model_args, vocabulary_sizes
from .spec import RULE_FACTORS, RULES
from .substitution import count_parameters

ATTENTION_DIM = PREFIX + "attention_dim"
LM = PREFIX + "transformer_lm"


class Layer(NamedTuple):
    """A PHM layer that replaces a dense weight.

    ``error`` is |H - W| / |W| and ``norm`` is |W|, both in the Frobenius norm. Of
    layers that are one PHM layer, as the fused q, k and v, the first names it.
    """

    name: str
    out_features: int
    in_features: int
    n: int
    error: float
    norm: float

    @property
    def energy(self) -> float:
        """The share of |W|^2 that is left, 1 - error^2."""
        return 1 - self.error**2


class Compressed(NamedTuple):
    """A PHM checkpoint, its layers, and the counts of parameters before and after."""

    checkpoint: Dict[str, Any]
    layers: List[Layer]
    dense_parameters: Dict[str, int]
    parameters: Dict[str, int]
    architecture: str

    @property
    def error(self) -> float:
        """|H - W| / |W| over all layers."""
        whole = sum(layer.norm**2 for layer in self.layers)
        off = sum((layer.error * layer.norm) ** 2 for layer in self.layers)
        return (off / whole) ** 0.5 if whole else 0.0


class Weight(NamedTuple):
    """A PHM layer (the whole of a fused one) and the dense weight (out, in) of it."""

    name: str
    layer: PHMLinear
    dense: Tensor


def compress(checkpoint: Dict[str, Any], options: Mapping[str, Any]) -> Compressed:
    """Make the nearest PHM checkpoint of a dense one.

    A learned rule is found together with the blocks, for all layers that share it at
    once; that of an algebra, or a frozen one, is kept, and the blocks are solved for.
    Biases, embeddings and norms are copied; the optimizer's state is left out.

    Args:
        checkpoint: of a ``transformer``, ``transformer_lm`` or ``lstm``, or of their
            PHM models with n = 1. It is not changed.
        options: of the PHM model, ``n``, ``share_rule``, ... without the prefix.

    Raises:
        DataError: a PHM checkpoint, a model that has no PHM model, options that the
            model does not have or that do not fit its sizes, or entries that are not
            those of the model.
    """
    state = without_copies(checkpoint["model"])
    _refuse_phm(state)
    stored = model_args(checkpoint)
    name, architecture = _phm_model(stored.arch)
    if name == LM and not getattr(stored, "decoder_normalize_before", True):
        raise DataError(
            f"its layers normalize after, those of {name} before: train it with "
            "--decoder-normalize-before"
        )
    chosen = _phm_options(name, options, stored)
    try:
        dense, model = _build(name, stored, chosen, state)
    except BAD_MODEL as error:
        raise DataError(one_line(error)) from None
    free = chosen["phm_rule"] == "learned" and not chosen["phm_freeze_rule"]
    layers = fit(list(_weights(dense, model)), free)
    made = _renamed(checkpoint, architecture, chosen)
    made["model"] = _of_type(model.state_dict(), state)
    counts = count_parameters(dense), count_parameters(model)
    return Compressed(made, layers, *counts, architecture)


@torch.no_grad()
def fit(weights: Sequence[Weight], free: bool = True) -> List[Layer]:
    """Give PHM layers the rules and blocks that are nearest to dense weights.

    Args:
        weights: each layer once; layers that share a rule are fitted together.
        free: find learned rules; else the rules stay as they are.

    Returns:
        The errors, in the same order; of the values as the layers hold them.
    """
    shared: Dict[int, List[PHMLinear]] = {}
    dense = {id(weight.layer): weight.dense.double() for weight in weights}
    for _, layer, _ in weights:
        held = layer.stored("rule_v" if layer.rule_rank else "rule")
        learns = isinstance(held, nn.Parameter)
        shared.setdefault(id(held if learns else layer), []).append(layer)
    for layers in shared.values():
        _fit_together(layers, [dense[id(layer)] for layer in layers], free)
    return [_measure(*weight) for weight in weights]


def _fit_together(layers: List[PHMLinear], dense: List[Tensor], free: bool) -> None:
    """Fit layers with one rule, which the first of them holds as the others do."""
    first, n = layers[0], layers[0].n
    each = [rearrange(weight, n) for weight in dense]
    parts = torch.cat(each, dim=1)
    if n == 1:
        blocks = parts
    elif not free:
        blocks = nearest_blocks(parts, first.full_rule().double())
    elif first.rule_rank:
        u, v, w = (getattr(first, name).detach().double() for name in RULE_FACTORS)
        made = nearest_cp(parts, (u, v, w))
        blocks = made.blocks
        for name, values in zip(RULE_FACTORS, made):
            if isinstance(first.stored(name), nn.Parameter):
                setattr(first, name, values)
    else:
        rule, blocks = nearest_rule(parts, first.rule.detach().double())
        first.rule = rule
    sizes = [one.size(1) for one in each]
    for layer, one in zip(layers, blocks.split(sizes, dim=1)):
        layer.blocks.copy_(one.view_as(layer.blocks))


def _measure(name: str, layer: PHMLinear, dense: Tensor) -> Layer:
    rule = layer.full_rule()
    rule = torch.ones(1, 1, 1) if rule is None else rule
    parts = rearrange(dense.double(), layer.n)
    error = relative_error(parts, rule.double(), layer.blocks.double().flatten(1))
    return Layer(name, *dense.shape, layer.n, error, dense.double().norm().item())


def _refuse_phm(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        name = key.rpartition(".")[2]
        if name in ("blocks_u", *RULES) or (name == "blocks" and len(value) > 1):
            raise DataError("is a PHM checkpoint already; compress takes a dense one")


def _phm_model(given: str) -> Tuple[str, str]:
    """Return the names of the PHM model and of its architecture of the same size."""
    model = ARCH_MODEL_NAME_REGISTRY.get(given, given)
    name = model if model.startswith(PREFIX) else PREFIX + model
    kind = MODEL_REGISTRY.get(name)
    if not (isinstance(kind, type) and issubclass(kind, PHMModel)):
        raise DataError(f"there is no PHM model of {model}")
    if not hasattr(kind, "substitution"):
        raise DataError(f"compress does not know how to change a {model}")
    same = re.sub("^(phm_|quaternion_)?", PREFIX, given)
    return name, same if ARCH_MODEL_REGISTRY.get(same) is kind else name


def _phm_options(
    name: str, options: Mapping[str, Any], stored: Namespace
) -> Dict[str, Any]:
    """Return all options ``phm_...`` of the model, defaults filled in."""
    config = MODEL_REGISTRY[name].config()
    for option, value in options.items():
        if PREFIX + option not in config.__dataclass_fields__:
            raise DataError(f"--{option.replace('_', '-')} is no option of {name}")
        setattr(config, PREFIX + option, value)
    if hasattr(config, ATTENTION_DIM):
        setattr(config, ATTENTION_DIM, getattr(stored, ATTENTION_DIM, None))
    config.resolve(Namespace())
    names = [one for one in config.__dataclass_fields__ if one.startswith(PREFIX)]
    return {one: getattr(config, one) for one in names}


def _build(
    name: str, stored: Namespace, chosen: Mapping[str, Any], state: Dict[str, Tensor]
) -> Tuple[nn.Module, nn.Module]:
    """Build the dense model, loaded, and a PHM model with all that is no PHM layer."""
    kind: Type[Any] = MODEL_REGISTRY[name]
    plain = kind.config()
    without = {one: getattr(plain, one) for one in chosen if one != ATTENTION_DIM}
    vars(stored).update({**chosen, **without, "phm_n": 1})
    sizes = vocabulary_sizes(state)
    if None in sizes:
        raise DataError("there are no embeddings in the checkpoint")
    dense = kind.build_model(copy.copy(stored), Vocabularies(*sizes))
    dense.load_state_dict(dict(state))
    _unwrap(dense)
    vars(stored).update(chosen)
    options = kind.configure(stored).phm_options()
    return dense, kind.substitution(copy.deepcopy(dense), **options)


def _unwrap(model: nn.Module) -> None:
    """Replace PHM layers with n = 1, which have an inner width, by dense ones."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, PHMLinear):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, as_dense(layer))


def _weights(dense: nn.Module, model: nn.Module) -> Iterator[Weight]:
    """List the PHM layers of a model, and what they replace in the dense one."""
    seen = set()
    fused: Dict[int, List[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, PHMLSTM):
            directions = 2 if module.bidirectional else 1
            for i, cell in enumerate(module.cells):
                suffix = f"_l{i // directions}" + "_reverse" * (i % directions)
                seen.add(cell)
                old = dense.get_submodule(path)
                yield from _of_cell(f"{path}.cells.{i}", cell, old, suffix)
        elif isinstance(module, PHMLSTMCell) and module not in seen:
            yield from _of_cell(path, module, dense.get_submodule(path))
        elif isinstance(module, PHMLinearRows):
            fused.setdefault(id(module.blocks), []).append(path)
        elif isinstance(module, PHMLinear) and not re.search(r"\.[ih]h\.\d+$", path):
            yield Weight(path, module, dense.get_submodule(path).weight)
    for paths in fused.values():
        paths.sort(key=lambda path: model.get_submodule(path)._rows)
        rows = [dense.get_submodule(path).weight for path in paths]
        yield Weight(paths[0], model.get_submodule(paths[0]), torch.cat(rows))


def _of_cell(
    path: str, cell: PHMLSTMCell, dense: nn.Module, suffix: str = ""
) -> Iterator[Weight]:
    for name, layers in ("ih", cell.ih), ("hh", cell.hh):
        gates = getattr(dense, f"weight_{name}{suffix}").chunk(len(layers))
        for i, (layer, gate) in enumerate(zip(layers, gates)):
            yield Weight(f"{path}.{name}.{i}", layer, gate)


def _of_type(
    made: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Dict[str, Tensor]:
    """Return the entries in the type of the checkpoint's, if they have one type."""
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    return {
        key: value.to(kind) if value.is_floating_point() else value
        for key, value in made.items()
    }


def _renamed(
    checkpoint: Mapping[str, Any], name: str, chosen: Mapping[str, Any]
) -> Dict[str, Any]:
    """Return the checkpoint with the options of the PHM model, without dense states."""
    made = dict(checkpoint)
    made.pop("last_optimizer_state", None)
    if made.get("args") is not None:
        made["args"] = _changed(made["args"], name, chosen)
    if made.get("cfg") and made["cfg"].get("model"):
        model = _changed(made["cfg"]["model"], name, chosen)
        made["cfg"] = {**made["cfg"], "model": model}
    if isinstance(made.get("extra_state"), dict):
        extra = made["extra_state"].items()
        made["extra_state"] = {k: v for k, v in extra if not k.startswith("ema")}
    return made


def _changed(options: Any, name: str, chosen: Mapping[str, Any]) -> Any:
    """Return a copy of a namespace or a dictionary, for that PHM architecture."""
    found = dict(options if isinstance(options, Mapping) else vars(options))
    named = {one: name for one in ("arch", "_name") if found.get(one)}
    found.update({**named, **chosen})
    return found if isinstance(options, Mapping) else Namespace(**found)
