"""``phm_lstm``: fairseq's LSTM encoder-decoder with PHM layers in every gate."""

import argparse
import copy
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from fairseq.models import register_model
from fairseq.models.lstm import (
    LSTMDecoder,
    LSTMModel,
    base_architecture,
    lstm_luong_wmt_en_de,
    lstm_wiseman_iwslt_de_en,
)
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..modules import PHMLSTM, PHMLSTMCell
from ..substitution import substitute_lstm
from .architectures import register_architectures, writable
from .base import PHMGateOptions, PHMModel, PHMStackOptions

WEIGHTS = "phm_lstm_weights"


@dataclass
class PHMLSTMConfig(PHMGateOptions, PHMStackOptions):
    """The options of :func:`fairseq_phm.substitute_lstm`, with the prefix ``phm_``."""

    phm_output_projections: bool = field(
        default=False,
        metadata={
            "help": "PHM layers also in the attention and output of the decoder "
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
        """Return features (batch, time, hidden) and attention, as fairseq's.

        In beam search, where each call is one time step, H stays in incremental_state.
        """
        cells = [cell for cell in self.layers if isinstance(cell, PHMLSTMCell)]
        weights = (incremental_state or {}).get(WEIGHTS)
        if weights is None:
            weights = [(cell.weight_ih, cell.weight_hh) for cell in cells]
        with ExitStack() as stack:
            for cell, built in zip(cells, weights):
                stack.enter_context(cell.using(*built))
            features = super().extract_features(
                prev_output_tokens, encoder_out, incremental_state
            )
        if incremental_state is not None:
            incremental_state[WEIGHTS] = weights
        return features


@register_model("phm_lstm")
class PHMLSTMModel(PHMModel, LSTMModel):
    """LSTM encoder-decoder with PHM layers (Zhang et al., ICLR 2021, section 3.2).

    Built as fairseq's, then changed by :func:`fairseq_phm.substitute_lstm`. TorchScript
    compiles a copy with the weights H.
    """

    config = PHMLSTMConfig
    substitution = staticmethod(substitute_lstm)

    def __prepare_scriptable__(self) -> LSTMModel:
        """Return what ``torch.jit.script`` compiles: fairseq's LSTM with weights H."""
        built = copy.deepcopy(self)
        built.__class__ = LSTMModel
        built.decoder.__class__ = LSTMDecoder
        if isinstance(self.encoder.lstm, PHMLSTM):
            built.encoder.lstm = self.encoder.lstm.built()
        for i, cell in enumerate(self.decoder.layers):
            if isinstance(cell, PHMLSTMCell):
                built.decoder.layers[i] = cell.built()
        return built

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add fairseq's flags for LSTMs and those of :class:`PHMLSTMConfig`."""
        LSTMModel.add_args(parser)
        super().add_args(parser)
        parser.add_argument(
            "--phm-output-maps", action="store_true", dest="phm_output_projections",
            help=argparse.SUPPRESS, default=argparse.SUPPRESS,
        )  # fmt: skip

    @classmethod
    def configure(cls, args: Any) -> PHMLSTMConfig:
        """Return the configuration, also of older checkpoints."""
        with writable(args):
            if getattr(args, "phm_output_maps", False):
                args.phm_output_projections = True
        return super().configure(args)

    @classmethod
    def build_dense(
        cls, config: PHMLSTMConfig, args: Any, task: FairseqTask
    ) -> LSTMModel:
        """Build fairseq's LSTM, with a decoder that builds H once a sequence."""
        with writable(args):
            if not hasattr(args, "criterion"):
                args.criterion = None  # fairseq asks for it; hydra keeps it elsewhere
            model = super().build_dense(config, args, task)
        model.decoder.__class__ = PHMLSTMDecoder
        return model


register_architectures(
    "phm_lstm",
    {
        "": base_architecture,
        "_wiseman_iwslt_de_en": lstm_wiseman_iwslt_de_en,
        "_luong_wmt_en_de": lstm_luong_wmt_en_de,
    },
)
