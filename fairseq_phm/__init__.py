"""Parameterized hypercomplex multiplication (PHM) layers, and models for fairseq.

The layers need torch alone. Models and tasks register when fairseq is installed.
"""

from importlib import import_module, util
from typing import Any, List

from .errors import DataError
from .functional import multiplication_rule, phm_linear
from .modules import PHMLSTM, PHMEmbedding, PHMLinear, PHMLSTMCell
from .spec import PHMSpec
from .substitution import count_parameters, substitute, substitute_lstm

FAIRSEQ_NAMES = {
    "PHMLSTMClassifier": "models",
    "PHMLSTMConfig": "models",
    "PHMLSTMModel": "models",
    "PHMTransformerClassifier": "models",
    "PHMTransformerConfig": "models",
    "PHMTransformerLanguageModel": "models",
    "PHMTransformerLanguageModelConfig": "models",
    "PHMTransformerModel": "models",
    "TSVClassificationTask": "tasks",
    "load_safetensors": "exports.to_safetensors",
}
"""What needs fairseq -> the package or module that has it."""

__version__ = "0.1.0"
__all__ = [
    "DataError",
    "PHMEmbedding",
    "PHMLSTM",
    "PHMLSTMCell",
    "PHMLinear",
    "PHMSpec",
    "count_parameters",
    "multiplication_rule",
    "phm_linear",
    "substitute",
    "substitute_lstm",
    *FAIRSEQ_NAMES,
]


def __getattr__(name: str) -> Any:
    """Return a model or task; ImportError names the command that installs fairseq."""
    if name not in FAIRSEQ_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_fairseq(name)
    return getattr(import_module(f".{FAIRSEQ_NAMES[name]}", __name__), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})


def require_fairseq(name: str) -> None:
    """Raise ImportError, in one line with the command to run, without fairseq."""
    if not has_fairseq():
        raise ImportError(
            f"fairseq_phm.{name} needs fairseq: pip install 'fairseq_phm[fairseq]' "
            "(or, in a clone, pip install '.[fairseq]')"
        )


def has_fairseq() -> bool:
    """Return True if there is a fairseq; a folder of that name may be in the way."""
    spec = util.find_spec("fairseq")
    return bool(spec and spec.origin)


if has_fairseq():
    from .fairseq_compat import prepare_fairseq

    prepare_fairseq(__name__)
    from . import models, tasks  # noqa: F401, registers them
