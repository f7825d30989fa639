"""The options of PHM layers: one value, from the command line to the layer."""

import math
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, Dict, Optional, Union

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .functional.cp_rules import make_cp_factors
from .functional.rules import ALGEBRAS, STARTS, default_rule_lr, is_start, make_rule

RULE_FACTORS = ("rule_u", "rule_v", "rule_w")
RULES = ("rule", *RULE_FACTORS)
"""Names of the factors of a rule, in layers and in checkpoints."""

READ_FROM: Any = WeakIdKeyDictionary()
"""A learned factor that was read, a product -> its layer."""


def _option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True, eq=False)
class PHMSpec:
    """The options of PHM layers.

    The ``help`` of each field is its description, here as on the command line, where a
    field ``NAME`` is the flag ``--phm-NAME``. :class:`PHMLinear`, :class:`PHMLSTMCell`,
    :class:`PHMLSTM`, :func:`substitute` and :func:`substitute_lstm` take a PHMSpec in
    place of ``n``, or ``n`` and the other fields as keywords.

    >>> PHMSpec.of(8, rule_rank=8)
    PHMSpec(n=8, rule='learned', freeze_rule=False, rank=0, rule_rank=8, rule_lr=None)
    >>> PHMSpec.of(PHMSpec(4, rank=2), rank=3).rank
    3
    """

    n: int = _option(
        4,
        "n of the PHM layers: each projection keeps 1/n of its weights (plus n^3 for a "
        "rule); a training step takes about the time of the dense one. 1: dense",
    )
    rule: Union[str, Tensor, Any] = _option(
        "learned",
        "start of a multiplication rule that learns: an associative algebra's "
        "(learned), random numbers (random), or those of an algebra (complex n=2, "
        "quaternion n=4, octonion n=8, sedenion n=16); no effect on parameters and "
        "speed",
        choices=(*STARTS, *ALGEBRAS),
    )
    freeze_rule: bool = _option(
        False,
        "do not train the rule: its numbers are no parameters, and the backward pass "
        "is slightly cheaper",
    )
    rank: int = _option(
        0,
        "rank r of the blocks S_i = U_i V_i: a projection has r (in + out) weights "
        "instead of in out / n; one more small matrix product per projection. "
        "0: full rank",
    )
    rule_rank: int = _option(
        0,
        "CP rank R of learned rules, 1 to n^2: up to n^2 / 2 the products of a "
        "projection with many tokens take R/n^2 of the dense multiply-adds, in "
        "training and generation, and a rule has at most 3 n R numbers; R = n is "
        "fast. 0: a full rule, n^3, as in the paper",
    )
    rule_lr: Optional[float] = _option(
        None,
        "learning rate of the rules, in learning rates of the optimizer (default: by "
        "sizes, see fairseq_phm.functional.default_rule_lr; 1: the same rate); no "
        "effect on parameters and speed",
    )

    @classmethod
    def of(cls, n: "Union[int, PHMSpec]", **options: Any) -> "PHMSpec":
        """Return a spec from ``n`` or another spec, and fields that replace its own.

        Raises:
            TypeError: an option that is no field.
        """
        known = {one.name for one in fields(cls)}
        for name in options:
            if name not in known:
                raise TypeError(
                    f"unknown option {name!r}: choose of {', '.join(sorted(known))}"
                )
        if isinstance(n, cls):
            return replace(n, **options)
        return cls(n, **options)

    def with_n(self, n: Optional[int]) -> "PHMSpec":
        """Return the spec with another n, or itself for None; n = 1 has no rule."""
        n = self.n if n is None else n
        dense: Dict[str, Any] = {"rule": "learned", "rule_rank": 0} if n == 1 else {}
        return replace(self, n=n, **dense)

    @property
    def start(self) -> str:
        """The name in ``STARTS`` of how a learned rule starts, or nothing."""
        return self.rule if is_start(self.rule) and self.n > 1 else ""

    @property
    def source(self) -> Optional[nn.Module]:
        """The layer that the rule is shared with: ``rule``, or where it was read."""
        if isinstance(self.rule, nn.Module):
            return self.rule
        return READ_FROM.get(self.rule) if isinstance(self.rule, Tensor) else None

    def check(self, in_features: int, out_features: int) -> "PHMSpec":
        """Return the spec, with its default learning rate filled in for these sizes.

        Raises:
            ValueError: sizes that n does not divide, n < 1, an unknown rule, a rule of
                another size or layer that has none of this n and rank, a negative rank,
                a rule_rank above n^2 or beside a given rule, a rule_lr that is not
                above 0.
        """
        check_sizes(in_features, out_features, self.n)
        if not is_int(self.rank) or self.rank < 0:
            raise ValueError(f"rank must be 0 (full) or more, got {self.rank!r}")
        source = self.source
        learned = source is not None or is_start(self.rule)
        check_rule_rank(self.rule_rank, self.n, learned)
        if source is not None and self.n > 1:
            if not hasattr(source, "rule_rank"):
                kind = type(source).__name__
                raise ValueError(f"no PHM layer to take the rule of: {kind}")
            if (source.n, source.rule_rank) != (self.n, self.rule_rank):
                raise ValueError(
                    f"the shared rule has n={source.n}, rule_rank={source.rule_rank}, "
                    f"the layer n={self.n}, rule_rank={self.rule_rank}"
                )
        if self.n > 1 and not learned:
            make_rule(self.rule, self.n)
        rate = self.rule_lr
        if rate is None:
            rate = default_rule_lr(in_features, out_features, self.rule_rank)
        return replace(self, rule_lr=check_rule_lr(rate))

    def make_rule(
        self, generator: Optional[torch.Generator] = None
    ) -> Dict[str, Tensor]:
        """Make a new rule: ``rule`` (n, n, n), or its factors ``rule_u``, ... (n, R).

        Args:
            generator: source of random numbers; default: torch's own.

        Raises:
            ValueError: an unknown rule, or one of another size.
        """
        if self.rule_rank:
            factors = make_cp_factors(self.rule, self.n, self.rule_rank, generator)
            return dict(zip(RULE_FACTORS, factors))
        return {"rule": make_rule(self.rule, self.n, generator)}

    def is_fixed(self, factor: str) -> bool:
        """Return True for the factors of a rule that are not trained."""
        redundant = factor == "rule_u" and self.rule_rank == self.n
        return self.freeze_rule or (redundant and self.start == "learned")


def check_sizes(in_features: int, out_features: int, n: int) -> None:
    """Raise ValueError, naming the nearest n that fit, unless n divides both sizes.

    >>> check_sizes(512, 2048, 3)
    Traceback (most recent call last):
    ...
    ValueError: n=3 does not fit in_features=512, out_features=2048: n must be at \
least 1 and divide both; nearest n that fit: 2, 4
    """
    sizes = f"in_features={in_features}, out_features={out_features}"
    for size in (in_features, out_features):
        if not is_int(size) or size < 1:
            raise ValueError(f"sizes must be whole numbers of at least 1, got {sizes}")
    common = math.gcd(in_features, out_features)
    if is_int(n) and n >= 1 and common % n == 0:
        return
    fitting = [d for d in range(1, common + 1) if common % d == 0]
    number = n if isinstance(n, (float, Integral)) else 1
    nearest = [d for d in fitting if d < number][-1:]
    nearest += [d for d in fitting if d > number][:1]
    raise ValueError(
        f"n={n!r} does not fit {sizes}: n must be at least 1 and divide both; "
        f"nearest n that fit: {', '.join(map(str, nearest)) or 1}"
    )


def check_rule_rank(rule_rank: int, n: int, learned: bool) -> None:
    """Raise ValueError unless a rule of n can have this CP rank; 0 means a full rule.

    >>> check_rule_rank(5, 2, learned=True)
    Traceback (most recent call last):
    ...
    ValueError: rule_rank=5 does not fit n=2: choose 1 to 4 (any rule has rank n^2 at \
most), or 0 for a full rule
    """
    if is_int(rule_rank) and rule_rank == 0:
        return
    if not is_int(rule_rank) or n == 1 or not 1 <= rule_rank <= n * n:
        fits = f"choose 1 to {n * n} (any rule has rank n^2 at most), or"
        raise ValueError(
            f"rule_rank={rule_rank!r} does not fit n={n}: "
            f"{fits if n > 1 else 'a dense layer has no rule;'} 0 for a full rule"
        )
    if not learned:
        raise ValueError(
            f"rule_rank={rule_rank} is for learned rules: drop it, or the given rule"
        )


def check_rule_lr(rule_lr: float) -> float:
    """Return the number as a float.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    number = isinstance(rule_lr, Real) and not isinstance(rule_lr, bool)
    if not (number and 0 < rule_lr < math.inf):
        raise ValueError(f"rule_lr must be a number above 0, got {rule_lr!r}")
    return float(rule_lr)


def is_int(number: object) -> bool:
    """Return True for Python's and NumPy's integers, False for bool and all else."""
    return isinstance(number, Integral) and not isinstance(number, bool)
