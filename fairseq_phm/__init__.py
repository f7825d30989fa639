"""Parameterized hypercomplex multiplication (PHM) layers and models for fairseq."""

from .fairseq_compat import (
    allow_fairseq_checkpoints,
    import_user_dir_once,
    require_fairseq,
    show_in_one_line,
    warn_of_optimizers_that_scale,
)

require_fairseq()
allow_fairseq_checkpoints()
import_user_dir_once(__name__)
warn_of_optimizers_that_scale()

from .functional import multiplication_rule, phm_linear  # noqa: E402
from .models import (  # noqa: E402
    PHMLSTMClassifier,
    PHMLSTMConfig,
    PHMLSTMModel,
    PHMTransformerClassifier,
    PHMTransformerConfig,
    PHMTransformerModel,
)
from .modules import PHMLSTM, PHMLinear, PHMLSTMCell  # noqa: E402
from .substitution import count_parameters, substitute, substitute_lstm  # noqa: E402
from .tasks import DataError, TSVClassificationTask  # noqa: E402

show_in_one_line(DataError)

__version__ = "0.1.0"
__all__ = [
    "DataError",
    "PHMLSTM",
    "PHMLSTMCell",
    "PHMLSTMClassifier",
    "PHMLSTMConfig",
    "PHMLSTMModel",
    "PHMLinear",
    "PHMTransformerClassifier",
    "PHMTransformerConfig",
    "PHMTransformerModel",
    "TSVClassificationTask",
    "count_parameters",
    "multiplication_rule",
    "phm_linear",
    "substitute",
    "substitute_lstm",
]
