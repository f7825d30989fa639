"""Command lines of the recipes, which become the typed values of ``settings``.

They are checked before anything is installed: this needs nothing but Python.
``python -m recipes.driver.options translation --help``.
"""

from .arguments import program
from .recipes import (
    parse_classification,
    parse_compress,
    parse_language_model,
    parse_quality,
    parse_speed,
    parse_translation,
)

__all__ = [
    "parse_classification",
    "parse_compress",
    "parse_language_model",
    "parse_quality",
    "parse_speed",
    "parse_translation",
    "program",
]
