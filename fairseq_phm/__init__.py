"""Parameterized hypercomplex multiplication (PHM) layers and models for fairseq."""

from .fairseq_compat import (
    allow_fairseq_checkpoints,
    import_user_dir_once,
    require_fairseq,
)

require_fairseq()
allow_fairseq_checkpoints()
import_user_dir_once(__name__)

from .functional import multiplication_rule, phm_linear  # noqa: E402
from .models import (  # noqa: E402
    PHMLSTMConfig,
    PHMLSTMModel,
    PHMTransformerConfig,
    PHMTransformerModel,
)
from .modules import PHMLSTM, PHMLinear, PHMLSTMCell  # noqa: E402
from .substitution import count_parameters, substitute, substitute_lstm  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "PHMLSTM",
    "PHMLSTMCell",
    "PHMLSTMConfig",
    "PHMLSTMModel",
    "PHMLinear",
    "PHMTransformerConfig",
    "PHMTransformerModel",
    "count_parameters",
    "multiplication_rule",
    "phm_linear",
    "substitute",
    "substitute_lstm",
]
