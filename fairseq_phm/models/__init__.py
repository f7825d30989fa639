"""fairseq models and architectures; importing this package registers them."""

from .phm_transformer import PHMTransformerConfig, PHMTransformerModel

__all__ = ["PHMTransformerConfig", "PHMTransformerModel"]
