"""Layers: thin modules that hold the parameters of the functions in ``functional``."""

from .linear import PHMLinear, PHMLinearRows

__all__ = ["PHMLinear", "PHMLinearRows"]
