"""Rule and blocks of a PHM layer: parameters, sharing between layers, state dicts."""

import copy
import threading
import weakref
from dataclasses import replace
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..functional import (
    cp_rule,
    low_rank_blocks,
    make_rule,
    materialize,
    times_rate,
)
from ..functional.rules import is_start
from ..functional.tracing import is_tracing
from ..spec import READ_FROM, RULES, PHMSpec

SCALED = {name: f"scaled_{name}" for name in RULES}
"""Learned factor of a rule -> the parameter that it is ``rule_lr`` times."""
BLOCKS = ("blocks", "blocks_u", "blocks_v")
STORED = (*RULES, *BLOCKS)
"""Names of the factors in checkpoints."""
FACTORS = (*STORED, *SCALED.values())
"""Names of the tensors that H is built from; a layer leaves some of them None."""

_saving = threading.local()
"""``entries`` of each thread: parameter -> its last entry in a state dict (weak), for
the layers that share it."""

_loading = threading.local()
"""The last ``load_state_dict`` of each thread; see :func:`_loaded_by`."""

_assigned: Any = WeakIdKeyDictionary()
"""Parameter -> what ``load_state_dict(assign=True)`` put in its place (weak)."""


class Factors(nn.Module):
    """Holds the factors of H: a rule, or u, v, w of a CP rule; blocks, or U and V.

    A learned factor of a rule is ``rule_lr`` times its parameter ``scaled_...``, and
    reads as the product. State dicts hold the product, whatever ``rule_lr`` is. A tied
    factor, one that is shared with another layer, is left out of a state dict that
    already holds it, and may be missing in one that has it for the other layer.
    """

    _unmade = None
    _tied_on_meta = False

    def _make_blocks(
        self, spec: PHMSpec, height: int, width: int, **place: Any
    ) -> None:
        """Register blocks (n, height, width), or their factors of rank r, unfilled."""

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, **place))

        n, rank = spec.n, spec.rank
        self.blocks = None if rank else new(n, height, width)
        self.blocks_u = new(n, height, rank) if rank else None
        self.blocks_v = new(n, rank, width) if rank else None

    def _make_rule(
        self,
        spec: PHMSpec,
        generator: Optional[torch.Generator],
        device: Any,
        dtype: Optional[torch.dtype],
    ) -> None:
        """Register the rule of a spec: new, frozen, or tied to another layer's.

        Raises:
            ValueError: a rule that does not fit.
        """
        made: Dict[str, Tensor] = {}
        if spec.n == 1:
            if spec.source is None and not is_start(spec.rule):
                make_rule(spec.rule, 1)  # refuses what does not fit
        elif spec.source is not None and not spec.freeze_rule:
            self._tie(spec.source, dtype)
        elif isinstance(spec.rule, nn.Parameter) and not spec.freeze_rule:
            self._tie_parameter(spec.rule, dtype)
        else:
            made = _values(spec, generator)
            if self.full_blocks().is_meta:
                self._unmade = _without_gradients(spec)
        for name, values in made.items():
            values = values.to(device, dtype or torch.get_default_dtype())
            self._hold(name, values, spec.is_fixed(name))
        for name, scaled in SCALED.items():
            if not hasattr(self, name):
                self.register_parameter(name, None)
            if scaled not in self._parameters:
                self.register_parameter(scaled, None)

    def _hold(self, name: str, values: Tensor, frozen: bool) -> None:
        """Register a factor of the rule as a buffer, a parameter or a scaled one."""
        if frozen:
            self.register_buffer(name, values)
        elif self.rule_lr == 1:
            self.register_parameter(name, nn.Parameter(values))
        else:
            scaled = nn.Parameter(values / self.rule_lr)
            scaled.has_rule_lr = True
            self.register_parameter(SCALED[name], scaled)

    def _tie(self, source: "Factors", dtype: Optional[torch.dtype]) -> None:
        """Share the rule of another layer, with its learning rate."""
        self.rule_lr = source.rule_lr
        for name in (*RULES, *SCALED.values()):
            if source._parameters.get(name) is not None:
                shared = _of_type(source._parameters[name], dtype)
                self.register_parameter(name, shared)
            elif source._buffers.get(name) is not None:
                self.register_buffer(name, source._buffers[name].clone())
        self._tied = tuple(name for name in RULES if self._learns(name))
        self._tied_on_meta = source.full_blocks().is_meta

    def _tie_parameter(self, rule: nn.Parameter, dtype: Optional[torch.dtype]) -> None:
        """Share a parameter that is A: its optimizer sets its rate."""
        if rule.shape != (self.n,) * 3:
            make_rule(rule, self.n)
        self.rule_lr = 1.0
        self.register_parameter("rule", _of_type(rule, dtype))
        self._tied = ("rule",)
        self._tied_on_meta = rule.is_meta

    def _share(self, source: "Factors") -> None:
        """Hold the factors and sizes of another layer, with its learning rate."""
        self.in_features = source.in_features
        self.n = source.n
        self.rank = source.rank
        self.rule_rank = source.rule_rank
        self.rule_lr = source.rule_lr
        self._products = source._products
        self._start, self._unmade = source._start, source._unmade
        self._tied_on_meta = source._tied_on_meta
        for name in FACTORS:
            if name in source._buffers:
                self.register_buffer(name, source._buffers[name])
            elif name in BLOCKS or name in source._parameters:
                self.register_parameter(name, source._parameters.get(name))

    def untie_rule(self) -> None:
        """Replace a shared rule by a copy of its own."""
        for held in (*RULES, *SCALED.values()):
            for kept in (self._parameters, self._buffers):
                if kept.get(held) is not None:
                    kept[held] = copy.deepcopy(kept[held])
        self._tied = tuple(name for name in self._tied if name not in RULES)

    def __getattr__(self, name: str) -> Any:
        """Return a learned factor of the rule: its parameter times ``rule_lr``."""
        if name in SCALED:
            scaled = getattr(self, SCALED[name], None)
            if scaled is not None:
                factor = times_rate(scaled, self.rule_lr)
                if not is_tracing():
                    READ_FROM[factor] = self
                return factor
        return super().__getattr__(name)

    @torch.jit.unused
    def _factor(self, name: str) -> Tensor:
        """Return a factor of the rule, as reading it does, without a note of it."""
        scaled = getattr(self, SCALED[name], None)
        return (
            getattr(self, name) if scaled is None else times_rate(scaled, self.rule_lr)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set A by ``layer.rule = A``; an ``nn.Parameter`` becomes the rule itself."""
        if name in SCALED and isinstance(value, Tensor) and "_parameters" in vars(self):
            held = self.stored(name)
            if held is not None and held.shape != value.shape:
                raise ValueError(
                    f"{name} has the shape {tuple(held.shape)}, "
                    f"not {tuple(value.shape)}"
                )
            if isinstance(value, nn.Parameter):
                self._parameters[SCALED[name]] = None
            elif self._learns(name):
                self._set(name, value)
                return
        super().__setattr__(name, value)

    def _new_rule(self, generator: Optional[torch.Generator]) -> Dict[str, Tensor]:
        """Return what a reset draws; all of the rule if it was on the meta device."""
        if self._tied_on_meta and not self.full_blocks().is_meta:
            raise RuntimeError(
                "the rule was shared on the meta device, and to_empty parts what is "
                "shared: make the model where it shall be, or with a rule a layer"
            )
        if self._unmade is not None and not self.full_blocks().is_meta:
            values, self._unmade = _values(self._unmade, generator), None
            return {name: A for name, A in values.items() if not A.is_meta}
        if not self._start:
            return {}
        made = PHMSpec(self.n, self._start, rule_rank=self.rule_rank)
        values = made.make_rule(generator)
        return {name: A for name, A in values.items() if self._learns(name)}

    @torch.no_grad()
    def _draw(self, std: float, generator: Optional[torch.Generator]) -> None:
        """Draw a learned rule and uniform blocks; H has this root mean square then."""
        for name, values in self._new_rule(generator).items():
            self._set(name, values)
        for factor in (self.blocks, self.blocks_u, self.blocks_v):
            if factor is not None:
                factor.copy_(torch.rand(factor.shape, generator=generator) * 2 - 1)
        blocks = self.full_blocks().float()
        rule = self.full_rule()
        rule = None if rule is None else rule.float()
        present = materialize(rule, blocks).square().mean().sqrt()
        scale = std / present.clamp_min(torch.finfo(torch.float32).tiny)
        (self.blocks if self.blocks_u is None else self.blocks_u).mul_(scale)

    @torch.no_grad()
    def _set(self, name: str, values: Tensor) -> None:
        """Give a learned factor of the rule these values."""
        scaled = self._parameters.get(SCALED[name])
        if scaled is None:
            getattr(self, name).copy_(values)
        else:
            scaled.copy_(values / self.rule_lr)

    def full_rule(self) -> Optional[Tensor]:
        """Return A (n, n, n): ``rule``, or that of its factors; None for n = 1."""
        lr = self.rule_lr
        u, v, w = self.scaled_rule_u, self.scaled_rule_v, self.scaled_rule_w
        if v is None:
            if self.rule_v is None:
                A = self.scaled_rule
                return self.rule if A is None else times_rate(A, lr)
        return cp_rule(
            self.rule_u if u is None else times_rate(u, lr),
            self.rule_v if v is None else times_rate(v, lr),
            self.rule_w if w is None else times_rate(w, lr),
        )

    def full_blocks(self) -> Tensor:
        """Return S (n, out/n, in/n): ``blocks``, or U V for low-rank blocks."""
        if self.blocks is None:
            return low_rank_blocks(self.blocks_u, self.blocks_v)
        return self.blocks

    @torch.jit.unused
    def _sources(self) -> List[Tensor]:
        """Return the tensors that H is built from.

        Factors that torch computes, pruned or parametrized ones, are attributes.
        """
        held = {**self._parameters, **self._buffers}
        for name in FACTORS:
            if name not in held and held.get(SCALED.get(name, "")) is None:
                held[name] = getattr(self, name, None)
        return [held[name] for name in FACTORS if held.get(name) is not None]

    def stored(self, name: str) -> Optional[Tensor]:
        """Return the parameter or buffer behind a factor of :data:`STORED`, or None."""
        kept = {**self._buffers, **self._parameters}
        scaled = kept.get(SCALED.get(name, ""))
        return kept.get(name) if scaled is None else scaled

    def _learns(self, name: str) -> bool:
        return isinstance(self.stored(name), nn.Parameter)

    def _save_to_state_dict(
        self, destination: Dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, scaled in SCALED.items():
            value = destination.pop(prefix + scaled, None)
            if value is not None:
                destination[prefix + name] = value * self.rule_lr
        if not hasattr(_saving, "entries"):
            _saving.entries = WeakIdKeyDictionary()
        for name in STORED:
            held, key = self.stored(name), prefix + name
            if held is None or name in self._buffers:
                continue
            saved = _saving.entries.get(held)
            earlier = None if saved is None else saved()
            if name in self._tied and any(
                value is earlier for one, value in destination.items() if one != key
            ):
                del destination[key]
            else:
                _saving.entries[held] = weakref.ref(destination[key])

    def _load_from_state_dict(
        self,
        state_dict: Dict[str, Any],
        prefix: str,
        local_metadata: Dict[str, Any],
        strict: bool,
        missing_keys: List[str],
        unexpected_keys: List[str],
        error_msgs: List[str],
    ) -> None:
        loaded = _loaded_by(error_msgs)
        conflicts = self._conflicts(state_dict, prefix, loaded)
        optional = {prefix + name for name in self._tied if self.stored(name) in loaded}
        if strict:
            error_msgs += conflicts
        renamed = {
            prefix + SCALED[name]: prefix + name
            for name in RULES
            if self._parameters.get(SCALED[name]) is not None
        }
        for held, key in renamed.items():
            if isinstance(state_dict.get(key), Tensor):
                state_dict[held] = state_dict.pop(key) / self.rule_lr
        missing: List[str] = []
        errors: List[str] = []
        earlier = {name: self.stored(name) for name in STORED if self._learns(name)}
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing,
            unexpected_keys,
            errors,
        )
        if local_metadata.get("assign_to_params_buffers"):
            self._follow(earlier)
        missing = [renamed.get(key, key) for key in missing]
        missing_keys += [key for key in missing if key not in optional]
        for message in errors:
            for held, key in renamed.items():
                message = message.replace(held, key)
            error_msgs.append(message)

    def _conflicts(
        self, state_dict: Dict[str, Any], prefix: str, loaded: Any
    ) -> List[str]:
        """Find entries that give a tied factor another value than an earlier layer's.

        Args:
            loaded: of :func:`_loaded_by`; gets the entries of this layer.
        """
        found = []
        for name in STORED:
            held, entry = self.stored(name), state_dict.get(prefix + name)
            if not self._learns(name) or not isinstance(entry, Tensor):
                continue
            kept = entry if name in RULES else None
            key, other = loaded.setdefault(held, (prefix + name, kept))
            if kept is other or entry.is_meta:
                continue
            if not torch.equal(entry, other):
                found.append(f"{key} and {prefix + name} are one here and differ there")
        return found

    def _follow(self, earlier: Dict[str, Tensor]) -> None:
        """Note which parameters were replaced, and replace tied ones by the same."""
        for name, before in earlier.items():
            now = self.stored(name)
            if now is not before:
                _assigned[before] = weakref.ref(now)
            elif name in self._tied and before in _assigned:
                owned = _assigned[before]()
                for held, kept in self._parameters.items():
                    if kept is before and owned is not None:
                        self._parameters[held] = owned


def _loaded_by(call: List[str]) -> Any:
    """Return parameter -> its key, and entry if it is small, in what has been loaded.

    Args:
        call: list of errors of a ``load_state_dict``, the same one in all layers.
    """
    if getattr(_loading, "call", None) is not call:
        _loading.call, _loading.loaded = call, WeakIdKeyDictionary()
    return _loading.loaded


def _values(spec: PHMSpec, generator: Optional[torch.Generator]) -> Dict[str, Tensor]:
    """Make a rule; a layer's, frozen, is a copy."""
    if spec.source is None:
        return spec.make_rule(generator)
    found = {name: getattr(spec.source, name) for name in RULES}
    return {name: A.detach().clone() for name, A in found.items() if A is not None}


def _without_gradients(spec: PHMSpec) -> PHMSpec:
    """Return the spec with a rule that can be copied and pickled."""
    given = spec.source if spec.source is not None else spec.rule
    return replace(spec, rule=given.detach() if isinstance(given, Tensor) else given)


def _of_type(rule: nn.Parameter, dtype: Optional[torch.dtype]) -> nn.Parameter:
    if dtype is not None and rule.dtype != dtype:
        raise ValueError(f"the shared rule is {rule.dtype}, the layer {dtype}")
    return rule
