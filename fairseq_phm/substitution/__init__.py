"""Which projections of a model become PHM layers; how they are replaced and counted."""

from .count import count_parameters
from .projections import FAIRSEQ_PROJECTIONS, Projection, find_projections
from .recurrent import substitute_lstm
from .scopes import DEFAULT_SHARE_RULE, SHARE_RULE
from .swap import substitute

__all__ = [
    "DEFAULT_SHARE_RULE",
    "FAIRSEQ_PROJECTIONS",
    "Projection",
    "SHARE_RULE",
    "count_parameters",
    "find_projections",
    "substitute",
    "substitute_lstm",
]
