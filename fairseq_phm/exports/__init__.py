"""Models in the formats of other programs; each result is compared with fairseq's."""

from importlib import import_module
from typing import Any

from ..errors import DataError

QUANTIZATIONS = {"float32": 1e-3, "int8_float32": 0.3, "int8": 0.3}
"""How CTranslate2 stores weights -> mean difference of log-probabilities at most."""


def needs(module: str) -> Any:
    """Import a module of an optional package.

    Raises:
        DataError: it is not installed; the message has the command.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise DataError(
            f"{package} is not installed: pip install {package} "
            "(or, in a clone of fairseq_phm, pip install '.[export]' for all formats)"
        ) from None
