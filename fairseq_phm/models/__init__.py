"""fairseq models and architectures; importing this package registers them."""

from .phm_lstm import PHMLSTMConfig, PHMLSTMModel
from .phm_transformer import PHMTransformerConfig, PHMTransformerModel

__all__ = [
    "PHMLSTMConfig",
    "PHMLSTMModel",
    "PHMTransformerConfig",
    "PHMTransformerModel",
]
