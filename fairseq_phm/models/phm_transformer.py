"""``phm_transformer``: fairseq's Transformer with PHM layers in attention and FFN."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.tasks import FairseqTask

from ..substitution import substitute
from .architectures import phm_transformer, register_transformers
from .base import PHMAttentionOptions, PHMModel, PHMStackOptions


@dataclass
class PHMTransformerConfig(PHMAttentionOptions, PHMStackOptions, TransformerConfig):
    """fairseq's TransformerConfig and what the PHM layers add.

    The options of :func:`fairseq_phm.substitute`, with the prefix ``phm_``.
    """

    phm_attention_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the attention projections, which are a third of the base "
            "model's linear weights in each encoder layer and half in each decoder "
            "layer; wins over --phm-encoder-n, --phm-decoder-n and --phm-n; no effect "
            "on speed"
        },
    )
    phm_ffn_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the feed-forward projections, the other linear weights; wins "
            "over --phm-encoder-n, --phm-decoder-n and --phm-n; no effect on speed"
        },
    )
    phm_fuse_qkv: bool = field(
        default=False,
        metadata={
            "help": "one PHM layer for q, k and v of self-attention (3d x d), one for "
            "k and v of cross-attention (2d x d), as in the paper's text: saves 2 n^3 "
            "and n^3 parameters a block; building the weights costs somewhat more time"
        },
    )
    phm_attention_dim: Optional[int] = field(
        default=None,
        metadata={
            "help": "inner width of attention (outputs of q, k and v), the embedding "
            "width by default; parameters and time of attention grow with it"
        },
    )


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
        """Build fairseq's Transformer."""
        return super().build_dense(config, config, task)


register_transformers()
