"""``phm_lstm``: fairseq's LSTM encoder-decoder with PHM maps in every gate."""

import argparse
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.lstm import (
    LSTMDecoder,
    LSTMModel,
    base_architecture,
    lstm_luong_wmt_en_de,
    lstm_wiseman_iwslt_de_en,
)
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from ..modules import PHMLSTMCell
from ..substitution import substitute_lstm
from .architectures import QUATERNION, fill
from .options import PHMGateOptions, PHMStackOptions

WEIGHTS = "phm_lstm_weights"


@dataclass
class PHMLSTMConfig(PHMGateOptions, PHMStackOptions):
    """The options of :func:`fairseq_phm.substitute_lstm`, with the prefix ``phm_``."""

    phm_output_maps: bool = field(
        default=False,
        metadata={
            "help": "PHM layers also in the attention and output maps of the decoder "
            "(not in the projection onto the vocabulary): 1/n of their weights; these "
            "are built at every time step, which takes time"
        },
    )


class PHMLSTMDecoder(LSTMDecoder):
    """fairseq's LSTMDecoder that builds H once a sequence, not once a time step."""

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Tuple[Tensor, Tensor, Tensor, Tensor]] = None,
        incremental_state: Optional[Dict[str, Dict[str, Optional[Tensor]]]] = None,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Features (batch, time, hidden) and attention, as fairseq's.

        In beam search, where each call is one time step, H stays in incremental_state.
        """
        cells = [cell for cell in self.layers if isinstance(cell, PHMLSTMCell)]
        weights = (incremental_state or {}).get(WEIGHTS)
        if weights is None:
            weights = {}
            for i, cell in enumerate(cells):
                weights[f"ih{i}"], weights[f"hh{i}"] = cell.weight_ih, cell.weight_hh
        with ExitStack() as stack:
            for i, cell in enumerate(cells):
                stack.enter_context(cell.using(weights[f"ih{i}"], weights[f"hh{i}"]))
            features = super().extract_features(
                prev_output_tokens, encoder_out, incremental_state
            )
        if incremental_state is not None:
            incremental_state[WEIGHTS] = weights
        return features


@register_model("phm_lstm")
class PHMLSTMModel(LSTMModel):
    """LSTM encoder-decoder with PHM layers (Zhang et al., ICLR 2021, section 3.2).

    Built as fairseq's, then changed by :func:`fairseq_phm.substitute_lstm`.
    """

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Add fairseq's flags for LSTMs and those of :class:`PHMLSTMConfig`."""
        LSTMModel.add_args(parser)
        gen_parser_from_dataclass(
            parser, PHMLSTMConfig(), delete_default=True, with_prefix=""
        )

    @classmethod
    def build_model(cls, args: Any, task: FairseqTask) -> "PHMLSTMModel":
        """Build the model from a namespace or a DictConfig.

        Raises:
            ValueError: an option does not fit the sizes.
        """
        with open_dict(args) if OmegaConf.is_config(args) else ExitStack():
            if not hasattr(args, "criterion"):
                args.criterion = None  # fairseq asks for it; hydra keeps it elsewhere
            model = super().build_model(args, task)
        model.decoder.__class__ = PHMLSTMDecoder
        options = PHMLSTMConfig.from_args(args)
        return substitute_lstm(model, **options.phm_options())


def set_lstm_defaults(args: Any, size: Any, defaults: Dict[str, Any]) -> None:
    """Set what ``defaults`` and fairseq's architecture function ``size`` leave open."""
    fill(args, defaults)
    with open_dict(args) if OmegaConf.is_config(args) else ExitStack():
        size(args)


SIZES: List[Tuple[str, Any]] = [
    ("", base_architecture),
    ("_wiseman_iwslt_de_en", lstm_wiseman_iwslt_de_en),
    ("_luong_wmt_en_de", lstm_luong_wmt_en_de),
]
for family, common in (("phm_lstm", {}), ("quaternion_lstm", QUATERNION)):
    for suffix, size in SIZES:
        register_model_architecture("phm_lstm", family + suffix)(
            partial(set_lstm_defaults, size=size, defaults=common)
        )
