"""``phm_transformer_lm``: fairseq's Transformer language model with PHM layers."""

from dataclasses import dataclass
from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer_lm import (
    TransformerLanguageModel,
    TransformerLanguageModelConfig,
)
from fairseq.tasks import FairseqTask

from ..substitution import substitute
from .architectures import (
    LM_SIZES,
    in_sizes,
    phm_transformer_lm,
    register_architectures,
    writable,
)
from .base import PHMModel, PHMTransformerOptions

OF_THE_TASK = ("add_bos_token", "tokens_per_sample", "max_target_positions")
"""Options that a yaml of hydra has under ``task:``."""


@dataclass
class PHMTransformerLanguageModelConfig(
    PHMTransformerOptions, TransformerLanguageModelConfig
):
    """fairseq's TransformerLanguageModelConfig and what the PHM layers add.

    The options of :func:`fairseq_phm.substitute`, with the prefix ``phm_``.
    """


@register_model("phm_transformer_lm")
class PHMTransformerLanguageModel(PHMModel, TransformerLanguageModel):
    """Transformer language model with PHM layers; built as fairseq's, then substituted.

    Command line: ``--task language_modeling --arch phm_transformer_lm``; hydra:
    ``model._name: phm_transformer_lm``.
    """

    config = PHMTransformerLanguageModelConfig
    substitution = staticmethod(substitute)

    @classmethod
    def configure(cls, args: Any) -> PHMTransformerLanguageModelConfig:
        """Return the configuration; the base size where ``args`` leave it open."""
        phm_transformer_lm(args)
        return super().configure(args)

    @classmethod
    def build_dense(
        cls, config: PHMTransformerLanguageModelConfig, args: Any, task: FairseqTask
    ) -> TransformerLanguageModel:
        """Build fairseq's language model; ``args`` learn what the task says."""
        settings = getattr(task, "args", None)
        with writable(args):
            for name in OF_THE_TASK:
                if getattr(args, name, None) is None:
                    setattr(args, name, getattr(settings, name, None))
                setattr(config, name, getattr(args, name))
        config.tpu = bool(getattr(args, "tpu", False))
        return super().build_dense(config, config, task)


register_architectures("phm_transformer_lm", in_sizes(phm_transformer_lm, LM_SIZES))
