"""Layers: modules that hold the parameters of the functions in ``functional``."""

from .dense import DenseLinear
from .embedding import WordVectors
from .linear import PHMLinear, PHMLinearRows
from .lstm import PHMLSTM, PHMLSTMCell
from .phm_embedding import PHMEmbedding

__all__ = [
    "DenseLinear",
    "PHMEmbedding",
    "PHMLSTM",
    "PHMLSTMCell",
    "PHMLinear",
    "PHMLinearRows",
    "WordVectors",
]
