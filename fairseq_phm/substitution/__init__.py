"""Which linear maps of a model become PHM layers; how they are swapped, counted."""

from .count import count_parameters
from .maps import FAIRSEQ_MAPS, LinearMap, find_maps
from .recurrent import substitute_lstm
from .sharing import fit_shared_rules
from .swap import DEFAULT_SHARE_RULE, SHARE_RULE, substitute

__all__ = [
    "DEFAULT_SHARE_RULE",
    "FAIRSEQ_MAPS",
    "SHARE_RULE",
    "LinearMap",
    "count_parameters",
    "find_maps",
    "fit_shared_rules",
    "substitute",
    "substitute_lstm",
]
