"""PHMLinear, a drop-in for ``nn.Linear`` with 1/n of its weights."""

import copy
import math
import weakref
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..functional import (
    bounded_rank_linear,
    bounded_rank_rule,
    check_rule_lr,
    check_rule_rank,
    check_sizes,
    choose_path,
    default_rule_lr,
    dense_linear,
    exact_rule_factors,
    factored_linear,
    is_start,
    is_whole,
    low_rank_blocks,
    make_rule,
    make_rule_factors,
    materialize,
    times_rate,
)
from ..functional.paths import (
    BOUNDED_RANK,
    FACTORED,
    WEIGHT,
    is_autocasting,
    is_tracing,
)
from .cache import WeightCache

RULE_FACTORS = ("rule_u", "rule_v", "rule_w")
RULES = ("rule", *RULE_FACTORS)
SCALED = {name: f"scaled_{name}" for name in RULES}
"""Learned factor of a rule -> the parameter that it is ``rule_lr`` times."""
BLOCKS = ("blocks", "blocks_u", "blocks_v")
STORED = (*RULES, *BLOCKS)
"""Names of the factors in checkpoints."""
FACTORS = (*STORED, *SCALED.values())
"""Names of the tensors that H is built from; a layer leaves some of them None."""

_saved: Any = WeakIdKeyDictionary()
"""Parameter -> its last entry in a state dict (weak): those who share it find it."""


class PHMLinear(nn.Module):
    """y = H x + b with H = sum_i kron(A_i, S_i) (Zhang et al., ICLR 2021, equation 2).

    Parameters: ``rule`` (n, n, n) with rule[i] = A_i; ``blocks`` (n, out/n, in/n) with
    blocks[i] = S_i; ``bias`` (out,). They hold out*in/n + n^3 + out numbers; a dense
    layer holds out*in + out. ``weight`` is H, (out, in), computed when it is read.

    A learned rule has a learning rate of its own, ``rule_lr`` times the optimizer's:
    A = rule_lr * ``scaled_rule``, the parameter, whose gradient is that of A. An
    optimizer whose steps do not depend on the size of a parameter, as Adam or SGD,
    moves A by rule_lr times what it would, and the norm of the gradients, for clipping,
    stays as it is. ``rule`` reads as A, differentiable, and so do checkpoints;
    ``layer.rule = A`` sets it, and a change of what was read is lost.

    Args:
        in_features, out_features: as in ``nn.Linear``; n divides both.
        n: number of summands. n = 1 is the dense layer: ``blocks[0]`` is its weight
            and ``rule`` is None.
        bias: False for a layer without bias.
        rule: start of a rule that learns: ``"learned"`` (the product of an associative
            algebra, see ``associative_rule``), ``"random"``, the name of an algebra
            (see ``multiplication_rule``) or a tensor (n, n, n), which is copied. Or a
            PHMLinear, or its ``rule``: shared with that layer, stored once in a
            checkpoint, with one gradient; so is an ``nn.Parameter``.
        freeze_rule: the rule is a buffer: neither trained nor counted. The quaternion
            rule then takes 8 products of blocks instead of 16 where that is faster.
        rank: r > 0 gives low-rank blocks S_i = U_i V_i: ``blocks_u`` (n, out/n, r) and
            ``blocks_v`` (n, r, in/n) are the parameters then, and ``blocks`` is None.
            Saves parameters, not time.
        rule_rank: R > 0 gives a learned rule of CP rank R, A[i, p, q] =
            sum_r u[i, r] v[p, r] w[q, r]: ``rule_u``, ``rule_v``, ``rule_w`` (n, R) are
            its factors then, and ``rule`` is None. For many tokens the layer takes
            about R/n^2 of a dense layer's time, see ``bounded_rank_linear``. With R = n
            and the start ``"learned"`` u stays the identity, a buffer.
        rule_lr: learning rate of the rule, or of u, v, w, in learning rates of the
            optimizer; default: see ``default_rule_lr``. 1 keeps ``rule`` itself as the
            parameter. Powers of two are exact: saving and loading changes no bit.
        std: standard deviation of H at the start; default 1/sqrt(3 in), as nn.Linear.
        generator: source of the random start; default: torch's own.
        device, dtype: of the parameters.

    Raises:
        ValueError: sizes that n does not divide, n < 1, an unknown rule, a rule of
            another size, a negative rank, a rule_rank above n^2 or beside a given rule,
            a rule_lr that is not above 0.

    Shapes: input (..., in), output (..., out).

    >>> layer = PHMLinear(512, 2048, n=4)
    >>> layer(torch.zeros(7, 3, 512)).shape
    torch.Size([7, 3, 2048])
    >>> sum(p.numel() for p in layer.parameters()) == 512 * 2048 // 4 + 4**3 + 2048
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        n: int,
        bias: bool = True,
        rule: Union[str, Tensor, "PHMLinear"] = "learned",
        freeze_rule: bool = False,
        rank: int = 0,
        rule_rank: int = 0,
        rule_lr: Optional[float] = None,
        std: Optional[float] = None,
        generator: Optional[torch.Generator] = None,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features, out_features, n)
        if not is_whole(rank) or rank < 0:
            raise ValueError(f"rank must be 0 (full) or more, got {rank!r}")
        self.in_features = in_features
        self.out_features = out_features
        self.n = n
        self.rank = rank
        self.rule_rank = rule_rank
        lender = rule if isinstance(rule, PHMLinear) else getattr(rule, "lender", None)
        check_rule_rank(rule_rank, n, lender is not None or is_start(rule))
        self.start = rule if is_start(rule) and n > 1 else ""
        if rule_lr is None:
            rule_lr = default_rule_lr(in_features, out_features, rule_rank)
        self.rule_lr = check_rule_lr(rule_lr)
        self.borrowed: Tuple[str, ...] = ()
        self.cache = WeightCache()
        self.rows: Tuple[int, int] = (0, out_features)
        named = isinstance(rule, str) and freeze_rule and not rank
        self.exact = exact_rule_factors(rule) if named else None

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        height, width = out_features // n, in_features // n
        self.blocks = None if rank else new(n, height, width)
        self.blocks_u = new(n, height, rank) if rank else None
        self.blocks_v = new(n, rank, width) if rank else None
        self.bias = new(out_features) if bias else None
        made: Dict[str, Tensor] = {}
        if n == 1:
            if lender is None and not is_start(rule):
                make_rule(rule, n)  # refuses what does not fit
        elif lender is not None and freeze_rule:
            lent = {name: getattr(lender, name) for name in RULES}
            made = {
                name: A.detach().clone() for name, A in lent.items() if A is not None
            }
        elif lender is not None:
            self._borrow(lender, dtype)
        elif isinstance(rule, nn.Parameter) and not freeze_rule:
            self._borrow_parameter(rule, dtype)
        elif rule_rank:
            factors = make_rule_factors(rule, n, rule_rank, generator)
            made = dict(zip(RULE_FACTORS, factors))
        else:
            made = {"rule": make_rule(rule, n, generator)}
        for name, values in made.items():
            values = values.to(device, dtype or torch.get_default_dtype())
            fixed = name == "rule_u" and rule_rank == n and rule == "learned"
            self._hold(name, values, freeze_rule or fixed)
        for name, scaled in SCALED.items():
            if not hasattr(self, name):
                self.register_parameter(name, None)
            if scaled not in self._parameters:
                self.register_parameter(scaled, None)
        self.reset_parameters(std, generator)

    def _hold(self, name: str, values: Tensor, frozen: bool) -> None:
        """Keep a factor of the rule as a buffer, or as what ``rule_lr`` asks for."""
        if frozen:
            self.register_buffer(name, values)
        elif self.rule_lr == 1:
            self.register_parameter(name, nn.Parameter(values))
        else:
            scaled = nn.Parameter(values / self.rule_lr)
            scaled.has_rule_lr = True
            self.register_parameter(SCALED[name], scaled)

    def _borrow(self, lender: "PHMLinear", dtype: Optional[torch.dtype]) -> None:
        """Share the rule of another layer, with its learning rate."""
        if (lender.n, lender.rule_rank) != (self.n, self.rule_rank):
            raise ValueError(
                f"the shared rule has n={lender.n}, rule_rank={lender.rule_rank}, "
                f"the layer n={self.n}, rule_rank={self.rule_rank}"
            )
        self.rule_lr = lender.rule_lr
        for name in (*RULES, *SCALED.values()):
            if lender._parameters.get(name) is not None:
                lent = _of_type(lender._parameters[name], dtype)
                self.register_parameter(name, lent)
            elif lender._buffers.get(name) is not None:
                self.register_buffer(name, lender._buffers[name])
        self.borrowed = tuple(name for name in RULES if self._learns(name))

    def _borrow_parameter(
        self, rule: nn.Parameter, dtype: Optional[torch.dtype]
    ) -> None:
        """Share a parameter that is A: its owner's optimizer sets its rate."""
        if rule.shape != (self.n,) * 3:
            make_rule(rule, self.n)
        self.rule_lr = 1.0
        self.register_parameter("rule", _of_type(rule, dtype))
        self.borrowed = ("rule",)

    def own_rule(self) -> None:
        """Go on with a copy of a rule that was shared."""
        for held in (*RULES, *SCALED.values()):
            for kept in (self._parameters, self._buffers):
                if kept.get(held) is not None:
                    kept[held] = copy.deepcopy(kept[held])
        self.borrowed = tuple(name for name in self.borrowed if name not in RULES)

    def __getattr__(self, name: str) -> Any:
        """A learned factor of the rule: its parameter times ``rule_lr``."""
        if name in SCALED:
            scaled = self.__dict__["_parameters"].get(SCALED[name])
            if scaled is not None:
                factor = times_rate(scaled, self.rule_lr)
                factor.lender = self
                return factor
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """``layer.rule = A`` sets A; a new ``nn.Parameter`` becomes the rule itself."""
        if name in SCALED and isinstance(value, Tensor) and "_parameters" in vars(self):
            if isinstance(value, nn.Parameter):
                self._parameters[SCALED[name]] = None
            elif self._learns(name):
                self._set(name, value)
                return
        super().__setattr__(name, value)

    @torch.no_grad()
    def _set(self, name: str, values: Tensor) -> None:
        """Give a factor of the rule these values, whatever holds it."""
        scaled = self._parameters.get(SCALED[name])
        if scaled is None:
            getattr(self, name).copy_(values)
        else:
            scaled.copy_(values / self.rule_lr)

    @property
    def weight(self) -> Tensor:
        """H, of shape (out, in), differentiable in rule and blocks.

        In eval mode without gradients it is built once and kept; do not edit it.
        """
        if not torch.jit.is_scripting():
            if not self.training:
                return self.cache.get(self.sources(), self.build_weight)
        return self.build_weight()

    @torch.jit.unused
    def sources(self) -> List[Tensor]:
        """The tensors that H is built from."""
        held = {**self._parameters, **self._buffers}
        return [held[name] for name in FACTORS if held.get(name) is not None]

    def build_weight(self) -> Tensor:
        """H, computed now."""
        return materialize(self.full_rule(), self.full_blocks())

    def train(self, mode: bool = True) -> "PHMLinear":
        """Set the mode as ``nn.Module`` does; training frees the kept H."""
        if mode:
            self.cache.clear()
        return super().train(mode)

    def full_rule(self) -> Optional[Tensor]:
        """A, of shape (n, n, n): ``rule``, or that of its factors; None for n = 1."""
        lr, v = self.rule_lr, self.scaled_rule_v
        if v is None:
            if self.rule_v is None:
                A = self.scaled_rule
                return self.rule if A is None else times_rate(A, lr)
            return bounded_rank_rule(self.rule_u, self.rule_v, self.rule_w)
        u = self.scaled_rule_u
        return bounded_rank_rule(
            self.rule_u if u is None else times_rate(u, lr),
            times_rate(v, lr),
            times_rate(self.scaled_rule_w, lr),
        )

    def full_blocks(self) -> Tensor:
        """S, of shape (n, out/n, in/n): ``blocks``, or U V for low-rank blocks."""
        if self.blocks is None:
            return low_rank_blocks(self.blocks_u, self.blocks_v)
        return self.blocks

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            path = self.path(input)
            if path == FACTORED:
                factors = self.full_rule(), self.blocks, self.bias
                return factored_linear(input, *factors, *self.rows)
            if path == BOUNDED_RANK:
                return bounded_rank_linear(
                    input, *self.rule_factors(), self.blocks, self.bias
                )
            return dense_linear(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias)

    def path(self, input: Tensor, out_features: Optional[int] = None) -> str:
        """How ``forward`` computes this input, see ``choose_path``."""
        if self.n == 1 or self.rank or is_autocasting() or is_tracing():
            return WEIGHT
        if input.size(-1) != self.in_features:
            return WEIGHT  # F.linear explains what is wrong
        sizes = (
            input.numel() // self.in_features,
            self.n,
            self.in_features,
            out_features or self.out_features,
            input.device.type,
            input.dtype,
            not (self.training or torch.is_grad_enabled()),
        )
        path = choose_path(*sizes, self.rule_rank)
        if path == WEIGHT and self.exact is not None and self._rule_is_exact():
            path = choose_path(*sizes, self.exact[0].size(1))
        return path

    @torch.jit.unused
    def rule_factors(self) -> Tuple[Tensor, Tensor, Tensor]:
        """u, v, w of ``bounded_rank_linear``: parameters, or those of a fixed rule."""
        if self.rule_rank:
            return self.rule_u, self.rule_v, self.rule_w
        return self.exact

    @torch.jit.unused
    def _rule_is_exact(self) -> bool:
        """True unless the buffer of a fixed rule was edited, or is not on the CPU."""
        if not self.rule.is_cpu or self.rule.dtype != torch.float32:
            return False
        return torch.equal(self.rule, bounded_rank_rule(*self.exact))

    @torch.no_grad()
    def reset_parameters(
        self, std: Optional[float] = None, generator: Optional[torch.Generator] = None
    ) -> None:
        """Draw blocks, bias and a learned rule anew; H has zero mean and ``std`` then.

        Entries are uniform, as those of ``nn.Linear``; a final scaling makes the root
        mean square of H equal to ``std`` for every rule, n and rank. A rule with a warm
        start, a frozen or a borrowed one stays as it is.
        """
        made: Dict[str, Tensor] = {}
        if self.start and self.rule_rank:
            factors = make_rule_factors(self.start, self.n, self.rule_rank, generator)
            made = dict(zip(RULE_FACTORS, factors))
        elif self.start:
            made = {"rule": make_rule(self.start, self.n, generator)}
        for name, values in made.items():
            self._set(name, values)
        for factor in (self.blocks, self.blocks_u, self.blocks_v):
            if factor is not None:
                factor.copy_(torch.rand(factor.shape, generator=generator) * 2 - 1)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            self.bias.copy_(
                (torch.rand(self.bias.shape, generator=generator) * 2 - 1) * bound
            )
        if std is None:
            std = 1 / math.sqrt(3 * self.in_features)
        blocks = self.full_blocks().float()
        rule = self.full_rule()
        rule = None if rule is None else rule.float()
        present = materialize(rule, blocks).square().mean().sqrt()
        scale = std / present.clamp_min(torch.finfo(torch.float32).tiny)
        (self.blocks if self.blocks_u is None else self.blocks_u).mul_(scale)

    def extra_repr(self) -> str:
        text = f"{self.in_features}, {self.out_features}, n={self.n}"
        text += f", bias={self.bias is not None}"
        if self.rank:
            text += f", rank={self.rank}"
        if self.rule_rank:
            text += f", rule_rank={self.rule_rank}"
        if any(self._parameters.get(scaled) is not None for scaled in SCALED.values()):
            text += f", rule_lr={self.rule_lr:g}"
        if "rule" in self._buffers or "rule_v" in self._buffers:
            text += ", frozen rule"
        if self.borrowed:
            text += f", shares {' and '.join(self.borrowed)}"
        return text

    # State dicts hold A (or u, v, w), whatever rule_lr is. A borrowed parameter is left
    # out of one that already holds it, under the name of its owner or of another
    # borrower, and may be missing when one is loaded.

    def held(self, name: str) -> Optional[Tensor]:
        """The parameter or buffer behind a factor of :data:`STORED`, or None."""
        kept = {**self._buffers, **self._parameters}
        scaled = kept.get(SCALED.get(name, ""))
        return kept.get(name) if scaled is None else scaled

    def _learns(self, name: str) -> bool:
        return isinstance(self.held(name), nn.Parameter)

    def _save_to_state_dict(
        self, destination: Dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, scaled in SCALED.items():
            value = destination.pop(prefix + scaled, None)
            if value is not None:
                destination[prefix + name] = value * self.rule_lr
        for name in STORED:
            held, key = self.held(name), prefix + name
            if held is None or name in self._buffers:
                continue
            saved = _saved.get(held)
            earlier = None if saved is None else saved()
            if name in self.borrowed and any(
                value is earlier for value in destination.values()
            ):
                del destination[key]
            else:
                _saved[held] = weakref.ref(destination[key])

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
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing,
            unexpected_keys,
            errors,
        )
        optional = {prefix + name for name in self.borrowed}
        missing = [renamed.get(key, key) for key in missing]
        missing_keys += [key for key in missing if key not in optional]
        for message in errors:
            for held, key in renamed.items():
                message = message.replace(held, key)
            error_msgs.append(message)


def _of_type(rule: nn.Parameter, dtype: Optional[torch.dtype]) -> nn.Parameter:
    if dtype is not None and rule.dtype != dtype:
        raise ValueError(f"the shared rule is {rule.dtype}, the layer {dtype}")
    return rule


class PHMLinearRows(PHMLinear):
    """A slice of the outputs of a wider PHM layer, as a layer of its own.

    The layers of one ``split`` share rule and blocks; each has its own bias. This is
    how the queries, keys and values of attention become one PHM layer (3d x d) while
    the attention module goes on calling three.
    """

    def __init__(self, fused: PHMLinear, start: int, stop: int, borrow: bool) -> None:
        nn.Module.__init__(self)
        self.in_features = fused.in_features
        self.out_features = stop - start
        self.n = fused.n
        self.rank = fused.rank
        self.rule_rank = fused.rule_rank
        self.rule_lr = fused.rule_lr
        self.exact = fused.exact
        self.rows = (start, stop)
        self.start = ""
        self.cache = WeightCache()
        for name in FACTORS:
            if name in fused._buffers:
                self.register_buffer(name, fused._buffers[name])
            elif name in BLOCKS or name in fused._parameters:
                self.register_parameter(name, fused._parameters.get(name))
        self.bias = (
            None
            if fused.bias is None
            else nn.Parameter(fused.bias.detach()[start:stop].clone())
        )
        self.borrowed = (
            tuple(name for name in STORED if self._learns(name))
            if borrow
            else fused.borrowed
        )

    @classmethod
    def split(
        cls, fused: PHMLinear, sizes: List[int], owner: int = 0
    ) -> List["PHMLinearRows"]:
        """Layers for the first sizes[0] outputs of ``fused``, the next sizes[1], ...

        Args:
            fused: layer (sum(sizes), in); its rule and blocks live on in the results.
            sizes: number of outputs of each result.
            owner: which result a checkpoint stores rule and blocks with; take the one
                that the model registers first.

        Raises:
            ValueError: unless the sizes add up to the outputs of ``fused``.

        >>> fused = PHMLinear(8, 24, n=4)
        >>> query, key, value = PHMLinearRows.split(fused, [8, 8, 8])
        >>> query.weight.equal(fused.weight[:8]), value.weight.equal(fused.weight[16:])
        (True, True)
        """
        if sum(sizes) != fused.out_features or min(sizes) < 1:
            raise ValueError(
                f"sizes {sizes} do not add up to out_features={fused.out_features}"
            )
        stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [
            cls(fused, stop - size, stop, borrow=i != owner)
            for i, (size, stop) in enumerate(zip(sizes, stops))
        ]

    def build_weight(self) -> Tensor:
        """H of these outputs, of shape (stop - start, in), computed now."""
        return self.build_rows(self.rows[0], self.rows[1])

    def build_rows(self, start: int, stop: int) -> Tensor:
        """H of any outputs of the fused layer, of shape (stop - start, in)."""
        return materialize(self.full_rule(), self.full_blocks(), start, stop)

    def reset_parameters(
        self, std: Optional[float] = None, generator: Optional[torch.Generator] = None
    ) -> None:
        raise RuntimeError("reset the fused layer before it is split, not its rows")

    def path(self, input: Tensor, out_features: Optional[int] = None) -> str:
        """As for the whole layer; all R products would be computed for a few rows."""
        path = super().path(input, out_features)
        return WEIGHT if path == BOUNDED_RANK else path
