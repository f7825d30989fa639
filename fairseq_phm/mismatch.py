"""What differs between a model and a checkpoint that does not fit it, as flags."""

import functools
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Set, Tuple

import torch
from torch import Tensor, nn

from .checkpoint import name_of, parent_of, read_checkpoint
from .errors import DataError, one_line, show_data_errors_in_one_line
from .modules.factors import Factors
from .substitution.projections import ATTENTION, Projection, stack_of
from .substitution.scopes import (
    DEFAULT_SHARE_RULE,
    SHARE_RULE,
    check_share_rule,
    scope,
)

FFN = ("fc1", "fc2")
OUTPUT = ("input_proj", "output_proj")
"""Projections of an LSTM decoder that ``--phm-output-projections`` replaces."""
WORDS = ("embed_tokens", "output_projection")
DENSE = "--phm-n 1"


class CheckpointMismatch(DataError, RuntimeError):
    """A checkpoint that does not fit the model; torch raises RuntimeError for it."""


class Layer(NamedTuple):
    """A PHM or dense projection of a state dict: its n and its size (out, in)."""

    n: int
    out: int
    inputs: int


def mismatch(
    model: nn.Module, state: Mapping[str, Tensor], reason: Exception
) -> CheckpointMismatch:
    """Return the error for a state dict that a model could not load, in one line.

    Args:
        model: of this plugin, or of fairseq and dense.
        state: of the checkpoint.
        reason: what the loading raised; said where no flag differs.
    """
    ours, theirs = flags_of(model.state_dict()), flags_of(state)
    sharing = _sharing_of(model)
    if not sharing or sharing in _possible_sharing(state):
        theirs.pop("sharing", None)
    else:
        ours["sharing"] = sharing
    if DENSE in (ours["n"], theirs["n"]):
        ours, theirs = ({"n": flags["n"]} for flags in (ours, theirs))
    different = [one for one in theirs if one in ours and ours[one] != theirs[one]]
    if not different:
        return CheckpointMismatch(_without_flags(model, state, reason))
    there, here = (" ".join(one[name] for name in different) for one in (theirs, ours))
    advice = "give the flags of the checkpoint"
    if there == DENSE:
        there, advice = f"dense layers ({DENSE})", f"{advice}, or fairseq-phm compress"
    elif here == DENSE and not any(isinstance(m, Factors) for m in model.modules()):
        here, advice = "dense layers", f"{advice}, or fairseq-phm densify"
        given = [
            flag
            for flag in flags_of(state).values()
            if not flag.startswith("no ") and not flag.endswith(" 0")
        ]
        there = f"PHM layers ({' '.join(given)})"
    return CheckpointMismatch(
        f"the checkpoint has {there}, this model {here}: {advice}"
    )


def flags_of(state: Mapping[str, Tensor]) -> Dict[str, str]:
    """Return the flags of PHM layers that the state dict of a model shows.

    Returns:
        What they say -> flags, as ``{"n": "--phm-n 4"}``. Nothing where it cannot be
        told: n is always there, the others have no meaning without PHM layers.
    """
    layers = dict(_layers(state))
    flags = {"n": _n(layers)}
    for name, what, flag in (
        ("rule_v", "rank of rules", "--phm-rule-rank"),
        ("blocks_v", "rank of blocks", "--phm-rank"),
    ):
        ranks = {v.size(1) for key, v in state.items() if name_of(key) == name}
        flags[what] = f"{flag} {max(ranks, default=0)}"
    attention = {
        path: one for path, one in layers.items() if name_of(path) in ATTENTION
    }
    if attention:
        wide = [
            one.inputs
            for path, one in attention.items()
            if name_of(path) == "out_proj" and one.inputs != one.out
        ]
        width = f"--phm-attention-dim {wide[0]}" if wide else "no --phm-attention-dim"
        flags["width of attention"] = width
        parents = {parent_of(path) for path in attention}
        fused = any(f"{parent}.v_proj" not in attention for parent in parents)
        flags["fusion"] = "--phm-fuse-qkv" if fused else "no --phm-fuse-qkv"
        possible = _possible_sharing(state)
        if possible:
            default = _share_rule(DEFAULT_SHARE_RULE)
            flags["sharing"] = default if default in possible else possible[0]
    if any(name_of(path) in WORDS for path in layers):
        n = max(one.n for path, one in layers.items() if name_of(path) in WORDS)
        flags["embeddings"] = f"--phm-embeddings {n if n > 1 else 0}"
    if any(path.endswith("ih.0") for path in layers):
        separate = any(path.endswith("ih.1") for path in layers)
        flags["gates"] = f"--phm-gates {'separate' if separate else 'fused'}"
    output = [one.n for path, one in layers.items() if name_of(path) in OUTPUT]
    if output:
        replaced = "" if max(output) > 1 else "no "
        flags["output projections"] = f"{replaced}--phm-output-projections"
    return flags


def _n(layers: Mapping[str, Layer]) -> str:
    """Return the flags for the n of attention, FFN and LSTM cells."""
    found = [
        ("attention" if name_of(path) in ATTENTION else "ffn", stack_of(path), layer.n)
        for path, layer in layers.items()
        if name_of(path) not in (*WORDS, *OUTPUT)
    ]
    every = sorted({n for *_, n in found})
    if len(every) < 2:
        return f"--phm-n {max(every, default=1)}"
    for by_kind in (("attention", "ffn"), (), ("attention",), ("ffn",)):
        groups: Dict[str, Set[int]] = {kind: set() for kind in by_kind}
        for kind, stack, n in found:
            groups.setdefault(kind if kind in by_kind else str(stack), set()).add(n)
        if all(len(group) == 1 for group in groups.values()):
            return " ".join(f"--phm-{one}-n {min(groups[one])}" for one in groups)
    return "--phm-n " + " and ".join(map(str, every))


def _sharing_of(model: nn.Module) -> str:
    """Return the flag that says how a model shares rules; nothing without any."""
    names = {
        name
        for path, module in model.named_modules()
        if isinstance(module, Factors) and name_of(path) in (*ATTENTION, *FFN)
        for name in ("rule", "rule_v")
        if module.stored(name) is not None
    }
    if not names:
        return ""
    frozen = any(
        module._buffers.get(name) is not None
        for module in model.modules()
        for name in names
    )
    rule = getattr(model, "share_rule", "none")
    return "--phm-freeze-rule" if frozen else _share_rule(check_share_rule(rule))


def _share_rule(name: str) -> str:
    return f"--phm-share-rule {name}"


def _possible_sharing(state: Mapping[str, Tensor]) -> List[str]:
    """Return the flags for which the rules of a Transformer are stored where they are.

    Rules that are each stored with their layer may be frozen; equal ones fit any flag.
    """
    layers = {
        path: layer
        for path, layer in _layers(state)
        if name_of(path) in (*ATTENTION, *FFN)
    }
    rules = {
        parent_of(key): rule
        for key, rule in state.items()
        if name_of(key) in ("rule", "rule_v") and parent_of(key) in layers
    }
    found = []
    for share_rule in SHARE_RULE:
        stored: Dict[Tuple[str, int], str] = {}
        for path, layer in layers.items():
            key = scope(_group(path, layers), share_rule), layer.n
            stored.setdefault(key, path)
        if rules.keys() == {path for (_, n), path in stored.items() if n > 1}:
            found.append(_share_rule(share_rule))
    if _share_rule("none") not in found:
        return found
    first = next(iter(rules.values()), None)
    if all(first.shape == one.shape and first.equal(one) for one in rules.values()):
        found = list(map(_share_rule, SHARE_RULE))
    return [*found, "--phm-freeze-rule"]


def _group(path: str, layers: Mapping[str, Layer]) -> List[Projection]:
    """Return the projections whose factors are stored at this path, one or fused."""
    parent, name = parent_of(path), name_of(path)
    names = [name]
    if name == "k_proj":
        names += [n for n in ("q_proj", "v_proj") if f"{parent}.{n}" not in layers]
    kind = "ffn" if name in FFN else "self_attention"
    layer = parent if kind == "ffn" else parent_of(parent)
    return [
        Projection(nn.Module(), one, path, kind, stack_of(path), layer) for one in names
    ]


def _layers(state: Mapping[str, Tensor]) -> Iterator[Tuple[str, Layer]]:
    """Yield the path and size of projections, LSTM weights and embeddings."""
    for key, value in state.items():
        path, name = parent_of(key), name_of(key)
        if name == "blocks":
            n, out, inputs = value.shape
            yield path, Layer(n, n * out, n * inputs)
        elif name == "blocks_u" and f"{path}.blocks_v" in state:
            n, out, _ = value.shape
            yield path, Layer(n, n * out, n * state[f"{path}.blocks_v"].size(2))
        elif re.fullmatch(r"weight_ih(_l\d+(_reverse)?)?", name):
            yield path, Layer(1, *value.shape)
        elif name == "weight" and name_of(path) in (*ATTENTION, *FFN, *OUTPUT, *WORDS):
            yield path, Layer(1, *value.shape)


def _without_flags(
    model: nn.Module, state: Mapping[str, Tensor], reason: Exception
) -> str:
    """Say which entry does not fit, where no flag of PHM layers says why."""
    for key, value in model.state_dict().items():
        if key in state and state[key].shape != value.shape:
            sizes = ["x".join(map(str, one.shape)) for one in (state[key], value)]
            return f"{key} is {sizes[0]} in the checkpoint, {sizes[1]} in this model"
    for kind, which in (("Missing", "the checkpoint"), ("Unexpected", "this model")):
        key = re.search(rf'{kind} key\(s\) in state_dict: "([^"]+)"', str(reason))
        if key:
            return f"{which} has no {key[1]}"
    return one_line(reason)


def check_named_rule(
    model: nn.Module, state: Mapping[str, Tensor], name: str, rule: Tensor
) -> None:
    """Refuse a state dict that would change the frozen rule of an algebra.

    Args:
        model: whose rules are all frozen and of this name.
        state: to load.
        name: of the algebra.
        rule: its rule, (n, n, n).

    Raises:
        CheckpointMismatch: the state dict has another rule.
    """
    for path, module in model.named_modules():
        if not isinstance(module, Factors):
            continue
        found = state.get(f"{path}.rule")
        if found is None or found.shape != rule.shape:
            continue
        if not torch.equal(found.to(rule), rule):
            raise CheckpointMismatch(
                f"--phm-rule {name} --phm-freeze-rule, or a quaternion_ architecture, "
                f"asks for the rule {name}, and the checkpoint has another at {path}: "
                "leave the flags out, with a phm_ architecture, to train that rule on"
            )


def say_why_checkpoints_do_not_fit() -> None:
    """Let fairseq's trainer end with what a checkpoint lacks, in one line.

    It puts an error of its own, which gives no reason, in the place of any other, and
    does not compare the words and labels of classifiers, see
    :meth:`fairseq_phm.TSVClassificationTask.refuse_other_words`.
    """
    from fairseq.trainer import Trainer

    load = Trainer.load_checkpoint

    @functools.wraps(load)
    def load_or_say_why(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            loaded = load(self, filename, *args, **kwargs)
        except Exception as error:
            reason = error.__context__
            if isinstance(reason, (RuntimeError, KeyError)):  # 0.12.2: KeyError
                reason = _mismatch_with_dense(self.model, filename, reason)
            if not isinstance(reason, CheckpointMismatch):
                raise
            raise CheckpointMismatch(f"{filename}: {reason}") from None
        refuse = getattr(self.task, "refuse_other_words", None)
        if refuse and loaded is not None and self.is_data_parallel_master:
            refuse(filename)  # others may not have the file
        return loaded

    Trainer.load_checkpoint = load_or_say_why


def _mismatch_with_dense(model: nn.Module, path: str, reason: Exception) -> Exception:
    """Return the reason, or a better one: PHM layers are to go into a dense model."""
    if isinstance(reason, CheckpointMismatch):
        return reason
    try:
        state = read_checkpoint(path)["model"]
    except DataError:
        return reason
    if not any(key.endswith((".blocks", ".blocks_u")) for key in state):
        return reason
    show_data_errors_in_one_line()
    return mismatch(model, state, reason)
