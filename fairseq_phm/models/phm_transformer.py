"""``phm_transformer``: fairseq's Transformer with PHM attention and FFN maps."""

import argparse
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..substitution import fit_shared_rules, substitute
from .architectures import phm_transformer, register_architectures
from .options import PHMAttentionOptions, PHMStackOptions


@dataclass
class PHMTransformerConfig(PHMAttentionOptions, PHMStackOptions, TransformerConfig):
    """fairseq's TransformerConfig and what the PHM layers add.

    The options of :func:`fairseq_phm.substitute`, with the prefix ``phm_``.
    """

    phm_attention_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the attention maps, which are a third of the base model's "
            "linear weights in each encoder layer and half in each decoder layer; "
            "wins over --phm-encoder-n, --phm-decoder-n and --phm-n; no effect on speed"
        },
    )
    phm_ffn_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the feed-forward maps, the other linear weights; wins over "
            "--phm-encoder-n, --phm-decoder-n and --phm-n; no effect on speed"
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
class PHMTransformerModel(TransformerModelBase):
    """Transformer with PHM layers (Zhang et al., ICLR 2021, section 3.3).

    Built as fairseq's Transformer, then changed by :func:`fairseq_phm.substitute`.
    Command line: ``--arch phm_transformer``; hydra: ``model._name: phm_transformer``;
    Python: ``PHMTransformerModel.from_pretrained(directory, ...)``.
    """

    may_separate_rules = False

    def __init__(self, cfg: Any, encoder: Any, decoder: Any) -> None:
        super().__init__(PHMTransformerConfig.from_namespace(cfg), encoder, decoder)

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the command-line flags of :class:`PHMTransformerConfig`."""
        gen_parser_from_dataclass(
            parser, PHMTransformerConfig(), delete_default=True, with_prefix=""
        )

    @classmethod
    def build_model(cls, args: Any, task: FairseqTask) -> "PHMTransformerModel":
        """Build the model from a namespace, a DictConfig or a PHMTransformerConfig.

        Raises:
            ValueError: quant-noise is on, or an option does not fit the sizes.
        """
        if not isinstance(args, PHMTransformerConfig):
            phm_transformer(args)
        cfg = PHMTransformerConfig.from_namespace(args)
        if cfg.quant_noise.pq > 0 or cfg.quant_noise.scalar > 0:
            raise ValueError(
                "quant-noise does not work with PHM layers: "
                "drop --quant-noise-pq and --quant-noise-scalar"
            )
        by_default = cfg.resolve(args)
        model = substitute(super().build_model(cfg, task), **cfg.phm_options())
        model.may_separate_rules = by_default
        return model

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """Load as fairseq does, with :func:`fit_shared_rules`.

        Raises:
            ValueError: different rules for layers that share one in this model, because
                ``--phm-share-rule`` says so.
        """
        share, separate = self.cfg.phm_share_rule, self.may_separate_rules
        fitted = fit_shared_rules(self, state_dict, share, separate)
        return super().load_state_dict(fitted, *args, **kwargs)


register_architectures()
