"""Options that all PHM models have, as command-line flags and yaml keys."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..functional import ALGEBRAS
from ..modules.lstm import GATES

PREFIX = "phm_"


@dataclass
class PHMOptions(FairseqDataclass):
    """Which n and rule the PHM layers of a model have."""

    phm_n: int = field(
        default=4,
        metadata={
            "help": "n of the PHM layers: each map keeps 1/n of its weights (plus n^3 "
            "for a rule); a training step takes about the time of the dense one. "
            "1: dense"
        },
    )
    phm_rule: ChoiceEnum(["learned", *ALGEBRAS]) = field(
        default="learned",
        metadata={
            "help": "multiplication rule: learned from a random start, or learned from "
            "the start of an algebra (complex n=2, quaternion n=4, octonion n=8, "
            "sedenion n=16); no effect on parameters and speed"
        },
    )
    phm_freeze_rule: bool = field(
        default=False,
        metadata={
            "help": "do not train the rule: n^3 fewer parameters per rule and a "
            "slightly cheaper backward pass"
        },
    )
    phm_rank: int = field(
        default=0,
        metadata={
            "help": "rank r of the blocks S_i = U_i V_i: a map has r (in + out) "
            "weights instead of in out / n; one more small matrix product per map. "
            "0: full rank"
        },
    )
    phm_rule_rank: int = field(
        default=0,
        metadata={
            "help": "tensor rank R of learned rules, 1 to n^2: the products of a map "
            "with many tokens take R/n^2 of the dense multiply-adds, in training and "
            "generation, and a rule has 3 n R numbers. 0: a full rule, n^3, as in the "
            "paper"
        },
    )

    @classmethod
    def from_args(cls, args: Any) -> "PHMOptions":
        """What a namespace or a DictConfig holds, and defaults for the rest."""
        options = cls()
        for name in cls.__dataclass_fields__:
            value = getattr(args, name, None)
            if value is not None:
                setattr(options, name, value)
        return options

    def phm_options(self) -> Dict[str, Any]:
        """The options ``phm_NAME`` as keyword arguments NAME."""
        return {
            name[len(PREFIX) :]: getattr(self, name)
            for name in self.__dataclass_fields__
            if name.startswith(PREFIX)
        }


@dataclass
class PHMStackOptions(PHMOptions):
    """Options of models with an encoder and a decoder, whose n may differ."""

    phm_encoder_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the encoder's maps: 1/n of their weights; wins over --phm-n; "
            "no effect on training speed"
        },
    )
    phm_decoder_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the decoder's maps: 1/n of their weights; wins over --phm-n; "
            "no effect on training speed"
        },
    )


@dataclass
class PHMGateOptions(PHMOptions):
    """Options of models with LSTM cells."""

    phm_gates: ChoiceEnum(list(GATES)) = field(
        default="separate",
        metadata={
            "help": "separate: each gate has its own PHM layer and rule, eight a cell, "
            "as in the paper's parameter counts; fused: one of four times the outputs "
            "for the input and one for the hidden state, as in its text: 6 n^3 fewer "
            "parameters a cell; no effect on speed"
        },
    )
