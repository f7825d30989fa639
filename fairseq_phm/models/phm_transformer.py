"""``phm_transformer``: fairseq's Transformer with PHM attention and FFN maps."""

import argparse
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..modules import PHMLinear
from ..substitution import SHARE_RULE, substitute
from .architectures import phm_transformer, register_architectures
from .options import PHMStackOptions


@dataclass
class PHMTransformerConfig(PHMStackOptions, TransformerConfig):
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
    phm_share_rule: ChoiceEnum(list(SHARE_RULE)) = field(
        default="none",
        metadata={
            "help": "one learned rule per map (none), per attention block while each "
            "FFN map keeps its own (block), per layer, per encoder or decoder (stack), "
            "or one in all (model): saves n^3 parameters for each rule that goes, "
            "which matters from n=16; no effect on speed"
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
        return substitute(super().build_model(cfg, task), **cfg.phm_options())

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """Load as fairseq does; shared rules survive the pruning of whole layers.

        Raises:
            ValueError: different rules for layers that share one in this model.
        """
        state_dict = dict(state_dict)
        share = self.cfg.phm_share_rule
        rules: Dict[Any, Tensor] = {}
        owners: Dict[int, str] = {}
        for path, module in self.named_modules():
            key = f"{path}.rule"
            if not isinstance(module, PHMLinear) or key not in state_dict:
                continue
            owner = owners.setdefault(id(module.rule), key)
            if not torch.equal(state_dict[key], state_dict[owner]):
                raise ValueError(
                    f"the checkpoint has different rules at {owner} and {key}, which "
                    f"are one with --phm-share-rule {share}"
                )
        if share in ("stack", "model"):
            for key, rule in state_dict.items():
                if key.endswith(".rule"):
                    stack = key.partition(".")[0] if share == "stack" else ""
                    rules.setdefault((stack, rule.size(0)), rule)
            for key, blocks in list(state_dict.items()):
                path, _, name = key.rpartition(".")
                stack = key.partition(".")[0] if share == "stack" else ""
                rule = rules.get((stack, blocks.size(0) if blocks.dim() else 0))
                if name in ("blocks", "blocks_u") and rule is not None:
                    state_dict.setdefault(f"{path}.rule", rule)
        return super().load_state_dict(state_dict, *args, **kwargs)


register_architectures()
