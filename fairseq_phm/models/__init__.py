"""fairseq models and architectures; importing this package registers them."""

from .classifier import PHMLSTMClassifier, PHMTransformerClassifier
from .phm_lstm import PHMLSTMConfig, PHMLSTMModel
from .phm_transformer import PHMTransformerConfig, PHMTransformerModel
from .phm_transformer_lm import (
    PHMTransformerLanguageModel,
    PHMTransformerLanguageModelConfig,
)

__all__ = [
    "PHMLSTMClassifier",
    "PHMLSTMConfig",
    "PHMLSTMModel",
    "PHMTransformerClassifier",
    "PHMTransformerConfig",
    "PHMTransformerLanguageModel",
    "PHMTransformerLanguageModelConfig",
    "PHMTransformerModel",
]
