"""PHMLinear, a drop-in for ``nn.Linear`` with 1/n of its weights."""

import math
from typing import Any, Callable, List, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import (
    choose_path,
    cp_linear,
    cp_rule,
    dense_linear,
    factored_linear,
    fast_products,
    materialize,
)
from ..functional.dispatch import CP, FACTORED, WEIGHT
from ..functional.tracing import is_autocasting, is_plain, is_tracing
from ..spec import RULE_FACTORS, PHMSpec
from .cache import KeepsWeights, WeightCache, built_weight
from .factors import SCALED, STORED, Factors


class PHMLinear(KeepsWeights, Factors):
    """y = H x + b with H = sum_i kron(A_i, S_i) (Zhang et al., ICLR 2021, equation 2).

    Parameters: ``rule`` (n, n, n) with rule[i] = A_i; ``blocks`` (n, out/n, in/n) with
    blocks[i] = S_i; ``bias`` (out,). They hold out*in/n + n^3 + out numbers; a dense
    layer holds out*in + out. ``weight`` is H, (out, in), computed when it is read.
    With low-rank blocks ``blocks_u`` (n, out/n, r) and ``blocks_v`` (n, r, in/n) are
    the parameters, and ``blocks`` is None; with a rule of CP rank R, A[i, p, q] =
    sum_r u[i, r] v[p, r] w[q, r], they are ``rule_u``, ``rule_v``, ``rule_w`` (n, R),
    and ``rule`` is None. With R = n and the start ``"learned"`` u stays the identity.

    A learned rule has a learning rate of its own, ``rule_lr`` times the optimizer's:
    A = rule_lr * ``scaled_rule``, the parameter, whose gradient is that of A. An
    optimizer whose steps do not depend on the size of a parameter, as Adam or SGD,
    moves A by rule_lr times what it would, and the norm of the gradients, for clipping,
    stays as it is. ``rule`` reads as A, differentiable, and so do checkpoints;
    ``layer.rule = A`` sets it, and a change of what was read is lost. Powers of two are
    exact: saving and loading changes no bit.

    Args:
        in_features, out_features: as in ``nn.Linear``; n divides both.
        n: number of summands, or a :class:`PHMSpec`. n = 1 is the dense layer:
            ``blocks[0]`` is its weight and ``rule`` is None.
        bias: False for a layer without bias.
        std: standard deviation of H at the start; default 1/sqrt(3 in), as nn.Linear.
        generator: source of the random start; default: torch's own.
        device, dtype: of the parameters.
        options: the other fields of :class:`PHMSpec`. ``rule`` is a name, or a tensor
            (n, n, n), which is copied; or a PHMLinear, or the learned ``rule`` of one:
            shared with that layer, stored once in a checkpoint, with one gradient; so
            is an ``nn.Parameter``. A frozen rule is a buffer, a copy of that layer's.

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
        n: Union[int, PHMSpec],
        bias: bool = True,
        *,
        std: Optional[float] = None,
        generator: Optional[torch.Generator] = None,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        spec = PHMSpec.of(n, **options).check(in_features, out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.n = spec.n
        self.rank = spec.rank
        self.rule_rank = spec.rule_rank
        self.rule_lr = spec.rule_lr
        self._start = spec.start
        self._tied: Tuple[str, ...] = ()
        self._rows: Tuple[int, int] = (0, out_features)
        self._cache = WeightCache()
        named = isinstance(spec.rule, str) and spec.freeze_rule and not spec.rank
        self._products = fast_products(spec.rule) if named else None
        height, width = out_features // self.n, in_features // self.n
        self._make_blocks(spec, height, width, device=device, dtype=dtype)
        self.bias = None
        if bias:
            self.bias = nn.Parameter(
                torch.empty(out_features, device=device, dtype=dtype)
            )
        self._make_rule(spec, generator, device, dtype)
        self.reset_parameters(std, generator)

    @property
    def weight(self) -> Tensor:
        """H, of shape (out, in), differentiable in rule and blocks.

        In eval mode without gradients it is built once and kept; do not edit it.
        """
        if not torch.jit.is_scripting():
            if not self.training:
                sources = self._sources()
                return self._cache.get(sources, self.build_weight, self.rule_lr)
            built = self._built()
            if built is not None:
                return built
        return self.build_weight()

    @torch.jit.unused
    def _built(self) -> Optional[Tensor]:
        """Return H, (out, in), if this forward pass has built it with others."""
        return None if is_tracing() else built_weight([self])

    def build_weight(self) -> Tensor:
        """Build H now."""
        return materialize(self.full_rule(), self.full_blocks())

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return self._fastest(input)
        return F.linear(input, self.weight, self.bias)

    @torch.jit.unused
    def _fastest(self, input: Tensor) -> Tensor:
        built = self._built() if self.training else None
        if built is not None:
            return F.linear(input, built, self.bias)
        path, rows = self._path(input), self._rows
        return self._multiply(input, path, self.bias, rows, lambda: self.weight)

    @torch.jit.unused
    def _multiply(
        self,
        input: Tensor,
        path: str,
        bias: Optional[Tensor],
        rows: Tuple[int, int],
        weight: Callable[[], Tensor],
    ) -> Tensor:
        """Compute these rows of H times the input, plus their bias, by a path.

        ``weight`` returns these rows; it is called where they are needed.
        """
        if path == FACTORED:
            return factored_linear(input, self.full_rule(), self.blocks, bias, *rows)
        if path == CP:
            factors, (start, stop) = self._cp_factors(), rows
            if stop - start == self.n * self.blocks.size(1):
                return cp_linear(input, *factors, self.blocks, bias)
            products = cp_linear(input, *factors, self.blocks)
            products = products.narrow(-1, start, stop - start).contiguous()
            return products if bias is None else products + bias
        return dense_linear(input, weight(), bias)

    @torch.jit.unused
    def _path(self, input: Tensor, rows: Optional[Tuple[int, int]] = None) -> str:
        """Choose how these rows (default: all) are computed for this input."""
        if self.n == 1 or self.rank or is_autocasting() or is_tracing():
            return WEIGHT
        if input.size(-1) != self.in_features:
            return WEIGHT  # F.linear explains what is wrong
        start, stop = rows or self._rows
        sizes = (
            input.numel() // self.in_features,
            self.n,
            self.in_features,
            stop - start,
            input.device.type,
            input.dtype,
            not (self.training or torch.is_grad_enabled()),
        )
        path = choose_path(*sizes, self.rule_rank)
        if path == WEIGHT and self._products and self._rule_is_unedited():
            path = choose_path(*sizes, self._products[0].size(1))
        height = self.blocks.size(1)
        if path == CP and stop - start <= (self.n - 1) * height:
            path = WEIGHT  # all products would be computed for a few rows
        return path

    @torch.jit.unused
    def _cp_factors(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Return u, v, w: of a rule of CP rank R, or of the fast products."""
        if self.rule_rank:
            u, v, w = map(self._factor, RULE_FACTORS)
            return u, v, w
        return self._products

    @torch.jit.unused
    def _rule_is_unedited(self) -> bool:
        """Return True if the buffer still holds the named rule; compared on CPUs."""
        rule = self._buffers.get("rule")
        if rule is None or rule.requires_grad:
            return False
        if not is_plain(rule) or rule.dtype != torch.float32:
            return False
        return torch.equal(rule, cp_rule(*self._products))

    @torch.no_grad()
    def reset_parameters(
        self, std: Optional[float] = None, generator: Optional[torch.Generator] = None
    ) -> None:
        """Draw blocks, bias and a learned rule anew; H has zero mean and ``std`` then.

        Entries are uniform, as those of ``nn.Linear``; a final scaling makes the root
        mean square of H equal to ``std`` for every rule, n and rank. A rule that
        started from given values, a frozen or a tied one stays as it is, but what was
        made on the meta device is made again.
        """
        default = 1 / math.sqrt(3 * self.in_features)
        self._draw(default if std is None else std, generator)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            self.bias.copy_(
                (torch.rand(self.bias.shape, generator=generator) * 2 - 1) * bound
            )

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
        if self._tied:
            text += f", shares {' and '.join(self._tied)}"
        return text


class PHMLinearRows(PHMLinear):
    """A slice of the outputs of a wider PHM layer, as a layer of its own.

    The layers of one ``split`` share rule and blocks; each has its own bias. So the
    queries, keys and values of attention become one PHM layer (3d x d) while the
    attention module goes on calling three.
    """

    def __init__(self, fused: Factors, start: int, stop: int, tied: bool) -> None:
        nn.Module.__init__(self)
        self.out_features = stop - start
        self._share(fused)
        self._rows = (start, stop)
        self._cache = WeightCache()
        self.bias = (
            None
            if fused.bias is None
            else nn.Parameter(fused.bias.detach()[start:stop].clone())
        )
        self._tied = (
            tuple(name for name in STORED if self._learns(name))
            if tied
            else fused._tied
        )

    @classmethod
    def split(
        cls, fused: PHMLinear, sizes: List[int], parent: int = 0
    ) -> List["PHMLinearRows"]:
        """Make layers of the first sizes[0] outputs, the next sizes[1], and so on.

        Args:
            fused: layer (sum(sizes), in); its rule and blocks live on in the results.
            sizes: number of outputs of each result.
            parent: which result a checkpoint stores rule and blocks with; take the one
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
            cls(fused, stop - size, stop, tied=i != parent)
            for i, (size, stop) in enumerate(zip(sizes, stops))
        ]

    def build_weight(self) -> Tensor:
        """Build H of these outputs, of shape (stop - start, in)."""
        return self._build_rows(self._rows[0], self._rows[1])

    def _build_rows(self, start: int, stop: int) -> Tensor:
        """Build H of any outputs of the fused layer, of shape (stop - start, in)."""
        return materialize(self.full_rule(), self.full_blocks(), start, stop)

    def reset_parameters(
        self, std: Optional[float] = None, generator: Optional[torch.Generator] = None
    ) -> None:
        raise RuntimeError("reset the fused layer before it is split, not its rows")
