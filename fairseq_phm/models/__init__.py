"""fairseq models and architectures; importing this package registers them."""

from .classifier import PHMLSTMClassifier, PHMTransformerClassifier
from .phm_lstm import PHMLSTMConfig, PHMLSTMModel
from .phm_transformer import PHMTransformerConfig, PHMTransformerModel

__all__ = [
    "PHMLSTMClassifier",
    "PHMLSTMConfig",
    "PHMLSTMModel",
    "PHMTransformerClassifier",
    "PHMTransformerConfig",
    "PHMTransformerModel",
]
