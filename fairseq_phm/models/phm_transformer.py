"""``phm_transformer``: fairseq's Transformer with PHM layers in attention and FFN."""

from dataclasses import dataclass
from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.tasks import FairseqTask

from ..substitution import substitute
from .architectures import SIZES, in_sizes, phm_transformer, register_architectures
from .base import PHMModel, PHMStackOptions, PHMTransformerOptions


@dataclass
class PHMTransformerConfig(PHMTransformerOptions, PHMStackOptions, TransformerConfig):
    """fairseq's TransformerConfig and what the PHM layers add.

    The options of :func:`fairseq_phm.substitute`, with the prefix ``phm_``.
    """


@register_model("phm_transformer")
class PHMTransformerModel(PHMModel, TransformerModelBase):
    """Transformer with PHM layers (Zhang et al., ICLR 2021, section 3.3).

    Built as fairseq's Transformer, then changed by :func:`fairseq_phm.substitute`.
    Command line: ``--arch phm_transformer``; hydra: ``model._name: phm_transformer``;
    Python: ``PHMTransformerModel.from_pretrained(directory, ...)``.
    """

    config = PHMTransformerConfig
    substitution = staticmethod(substitute)

    def __init__(self, cfg: Any, encoder: Any, decoder: Any) -> None:
        super().__init__(PHMTransformerConfig.from_namespace(cfg), encoder, decoder)
        self.args = self.cfg  # as fairseq's TransformerModel has it

    @classmethod
    def configure(cls, args: Any) -> PHMTransformerConfig:
        """Return the configuration; the base size where ``args`` leave it open."""
        if not isinstance(args, PHMTransformerConfig):
            phm_transformer(args)
        return PHMTransformerConfig.from_namespace(args)

    @classmethod
    def build_dense(
        cls, config: PHMTransformerConfig, args: Any, task: FairseqTask
    ) -> TransformerModelBase:
        """Build fairseq's Transformer.

        Raises:
            ValueError: pretrained embeddings, which PHM embeddings would replace.
        """
        paths = (config.encoder.embed_path, config.decoder.embed_path)
        if config.phm_embeddings > 1 and any(paths):
            raise ValueError(
                "--phm-embeddings start at random: drop --encoder-embed-path and "
                "--decoder-embed-path"
            )
        return super().build_dense(config, config, task)


register_architectures("phm_transformer", in_sizes(phm_transformer, SIZES))
