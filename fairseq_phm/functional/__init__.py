"""The mathematics of PHM layers: pure functions on tensors, no modules, no fairseq."""

from .factored import factored_linear
from .linear import phm_linear
from .paths import few_tokens
from .rules import (
    ALGEBRAS,
    check_sizes,
    is_whole,
    make_rule,
    multiplication_rule,
    random_rule,
)
from .weight import kronecker_sum, low_rank_blocks, materialize

__all__ = [
    "ALGEBRAS",
    "check_sizes",
    "factored_linear",
    "few_tokens",
    "is_whole",
    "kronecker_sum",
    "low_rank_blocks",
    "make_rule",
    "materialize",
    "multiplication_rule",
    "phm_linear",
    "random_rule",
]
