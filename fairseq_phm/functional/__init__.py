"""The mathematics of PHM layers: pure functions on tensors, no modules, no fairseq."""

from .bounded_rank import (
    bounded_rank_linear,
    bounded_rank_rule,
    exact_rule_factors,
    make_rule_factors,
    random_rule_factors,
)
from .factored import factored_linear
from .linear import dense_linear, phm_linear
from .paths import choose_path
from .rules import (
    ALGEBRAS,
    STARTS,
    associative_rule,
    check_rule_lr,
    check_rule_rank,
    check_sizes,
    default_rule_lr,
    is_start,
    is_whole,
    make_rule,
    multiplication_rule,
    random_rule,
    times_rate,
)
from .weight import kronecker_sum, kronecker_sums, low_rank_blocks, materialize

__all__ = [
    "ALGEBRAS",
    "STARTS",
    "associative_rule",
    "bounded_rank_linear",
    "bounded_rank_rule",
    "check_rule_lr",
    "check_rule_rank",
    "check_sizes",
    "choose_path",
    "default_rule_lr",
    "dense_linear",
    "exact_rule_factors",
    "factored_linear",
    "is_start",
    "is_whole",
    "kronecker_sum",
    "kronecker_sums",
    "low_rank_blocks",
    "make_rule",
    "make_rule_factors",
    "materialize",
    "multiplication_rule",
    "phm_linear",
    "random_rule",
    "random_rule_factors",
    "times_rate",
]
