"""The mathematics of PHM layers: pure functions on tensors, no modules, no fairseq."""

from .cp_rules import (
    cp_linear,
    cp_rule,
    fast_products,
    make_cp_factors,
    random_cp_factors,
)
from .dispatch import (
    choose_path,
    dense_linear,
    kronecker_sum,
    materialize,
    phm_linear,
)
from .factored import factored_linear, kronecker_rows
from .rules import (
    ALGEBRAS,
    STARTS,
    associative_rule,
    default_rule_lr,
    make_rule,
    multiplication_rule,
    random_rule,
    times_rate,
)
from .weight import batched_kronecker_sums, kronecker_sums, low_rank_blocks

__all__ = [
    "ALGEBRAS",
    "STARTS",
    "associative_rule",
    "batched_kronecker_sums",
    "choose_path",
    "cp_linear",
    "cp_rule",
    "default_rule_lr",
    "dense_linear",
    "factored_linear",
    "fast_products",
    "kronecker_rows",
    "kronecker_sum",
    "kronecker_sums",
    "low_rank_blocks",
    "make_cp_factors",
    "make_rule",
    "materialize",
    "multiplication_rule",
    "phm_linear",
    "random_cp_factors",
    "random_rule",
    "times_rate",
]
