"""PHMLinear, a drop-in for ``nn.Linear`` with 1/n of its weights."""

import math
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import (
    bounded_rank_linear,
    bounded_rank_rule,
    check_rule_rank,
    check_sizes,
    choose_path,
    dense_linear,
    exact_rule_factors,
    factored_linear,
    is_whole,
    low_rank_blocks,
    make_rule,
    materialize,
    random_rule_factors,
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
FACTORS = ("rule", *RULE_FACTORS, "blocks", "blocks_u", "blocks_v")
"""Names of the tensors that H is built from; a layer leaves some of them None."""


class PHMLinear(nn.Module):
    """y = H x + b with H = sum_i kron(A_i, S_i) (Zhang et al., ICLR 2021, equation 2).

    Parameters: ``rule`` (n, n, n) with rule[i] = A_i; ``blocks`` (n, out/n, in/n) with
    blocks[i] = S_i; ``bias`` (out,). They hold out*in/n + n^3 + out numbers; a dense
    layer holds out*in + out. ``weight`` is H, (out, in), computed when it is read.

    Args:
        in_features, out_features: as in ``nn.Linear``; n divides both.
        n: number of summands. n = 1 is the dense layer: ``blocks[0]`` is its weight
            and ``rule`` is None.
        bias: False for a layer without bias.
        rule: ``"learned"`` starts at random; the name of an algebra (see
            ``multiplication_rule``) or a tensor (n, n, n) is a warm start that goes on
            learning; an ``nn.Parameter`` is not copied but shared with its owner:
            stored once in a checkpoint, with one gradient.
        freeze_rule: the rule is a buffer: neither trained nor counted. The quaternion
            rule then takes 8 products of blocks instead of 16 where that is faster.
        rank: r > 0 gives low-rank blocks S_i = U_i V_i: ``blocks_u`` (n, out/n, r) and
            ``blocks_v`` (n, r, in/n) are the parameters then, and ``blocks`` is None.
            Saves parameters, not time.
        rule_rank: R > 0 gives a learned rule of tensor rank R, A[i, p, q] =
            sum_r u[i, r] v[p, r] w[q, r]: ``rule_u``, ``rule_v``, ``rule_w`` (n, R) are
            its parameters then, and ``rule`` is None. For many tokens the layer takes
            about R/n^2 of a dense layer's time, see ``bounded_rank_linear``.
        std: standard deviation of H at the start; default 1/sqrt(3 in), as nn.Linear.
        generator: source of the random start; default: torch's own.
        device, dtype: of the parameters.

    Raises:
        ValueError: sizes that n does not divide, n < 1, an unknown rule, a rule of
            another size, a negative rank, a rule_rank above n^2 or beside a given rule.

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
        rule: Union[str, Tensor] = "learned",
        freeze_rule: bool = False,
        rank: int = 0,
        rule_rank: int = 0,
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
        learned = isinstance(rule, str) and rule == "learned"
        check_rule_rank(rule_rank, n, learned)
        self.redraw_rule = learned and n > 1
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
        self.rule_u = self.rule_v = self.rule_w = None
        if rule_rank:
            self.rule = None
            factors = random_rule_factors(n, rule_rank, generator)
            for name, factor in zip(RULE_FACTORS, factors):
                factor = factor.to(device, dtype or torch.get_default_dtype())
                delattr(self, name)
                if freeze_rule:
                    self.register_buffer(name, factor)
                else:
                    self.register_parameter(name, nn.Parameter(factor))
        elif n == 1:
            if not learned:
                make_rule(rule, n)  # refuses what does not fit
            self.rule = None
        elif isinstance(rule, nn.Parameter) and not freeze_rule:
            if rule.shape != (n, n, n):
                make_rule(rule, n)
            if dtype is not None and rule.dtype != dtype:
                raise ValueError(f"the shared rule is {rule.dtype}, the layer {dtype}")
            self.rule = rule
            self.borrowed = ("rule",)
        else:
            values = make_rule(rule, n, generator).to(
                device=device, dtype=dtype or torch.get_default_dtype()
            )
            if freeze_rule:
                self.register_buffer("rule", values)
            else:
                self.rule = nn.Parameter(values)
        self.reset_parameters(std, generator)

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
        found = [getattr(self, name) for name in FACTORS]
        return [factor for factor in found if factor is not None]

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
        if self.rule_u is None:
            return self.rule
        return bounded_rank_rule(self.rule_u, self.rule_v, self.rule_w)

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
        if self.redraw_rule and self.rule_rank:
            factors = random_rule_factors(self.n, self.rule_rank, generator)
            for name, factor in zip(RULE_FACTORS, factors):
                getattr(self, name).copy_(factor)
        elif self.redraw_rule:
            self.rule.copy_(make_rule("learned", self.n, generator))
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
        if "rule" in self._buffers or "rule_u" in self._buffers:
            text += ", frozen rule"
        if self.borrowed:
            text += f", shares {' and '.join(self.borrowed)}"
        return text

    # A borrowed parameter is left out of a state dict that already holds it, under the
    # name of its owner or of another borrower, and may be missing when one is loaded.

    def _save_to_state_dict(
        self, destination: Dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.borrowed:
            key = prefix + name
            address = destination[key].data_ptr()
            if any(
                other != key
                and other.endswith("." + name)
                and destination[other].data_ptr() == address
                for other in destination
            ):
                del destination[key]

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
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        for name in self.borrowed:
            if prefix + name in missing_keys:
                missing_keys.remove(prefix + name)


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
        self.exact = fused.exact
        self.rows = (start, stop)
        self.redraw_rule = False
        self.cache = WeightCache()
        for name in FACTORS:
            if name in fused._buffers:
                self.register_buffer(name, getattr(fused, name))
            else:
                self.register_parameter(name, getattr(fused, name))
        self.bias = (
            None
            if fused.bias is None
            else nn.Parameter(fused.bias.detach()[start:stop].clone())
        )
        self.borrowed = (
            tuple(name for name in FACTORS if self._parameters.get(name) is not None)
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
