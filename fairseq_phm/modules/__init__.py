"""Layers: modules that hold the parameters of the functions in ``functional``."""

from .dense import DenseLinear
from .embedding import WordVectors
from .linear import PHMLinear, PHMLinearRows
from .lstm import PHMLSTM, PHMLSTMCell

__all__ = [
    "DenseLinear",
    "PHMLSTM",
    "PHMLSTMCell",
    "PHMLinear",
    "PHMLinearRows",
    "WordVectors",
]
