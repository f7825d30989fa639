"""Which linear maps of a model become PHM layers; how they are swapped, counted."""

from .count import count_parameters
from .maps import FAIRSEQ_MAPS, LinearMap, find_maps
from .recurrent import substitute_lstm
from .swap import SHARE_RULE, substitute

__all__ = [
    "FAIRSEQ_MAPS",
    "SHARE_RULE",
    "LinearMap",
    "count_parameters",
    "find_maps",
    "substitute",
    "substitute_lstm",
]
