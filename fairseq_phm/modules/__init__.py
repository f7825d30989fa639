"""Layers: thin modules that hold the parameters of the functions in ``functional``."""

from .embedding import WordVectors
from .linear import PHMLinear, PHMLinearRows
from .lstm import PHMLSTM, PHMLSTMCell

__all__ = ["PHMLSTM", "PHMLSTMCell", "PHMLinear", "PHMLinearRows", "WordVectors"]
