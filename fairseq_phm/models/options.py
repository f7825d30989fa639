"""Options that all PHM models have, as command-line flags and yaml keys."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import DictConfig, open_dict

from ..functional import ALGEBRAS, STARTS
from ..modules.lstm import GATES
from ..substitution import DEFAULT_SHARE_RULE, SHARE_RULE

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
    phm_rule: ChoiceEnum([*STARTS, *ALGEBRAS]) = field(
        default="learned",
        metadata={
            "help": "start of a multiplication rule that learns: an associative "
            "algebra's (learned), random numbers (random), or those of an algebra "
            "(complex n=2, quaternion n=4, octonion n=8, sedenion n=16); no effect on "
            "parameters and speed"
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
            "help": "CP rank R of learned rules, 1 to n^2: the products of a map "
            "with many tokens take R/n^2 of the dense multiply-adds, in training and "
            "generation, and a rule has 3 n R numbers; R = n is fast and learns about "
            "as well. 0: a full rule, n^3, as in the paper"
        },
    )
    phm_rule_lr: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of the rules, in learning rates of the optimizer "
            "(default: by sizes, see fairseq_phm.functional.default_rule_lr; 1: the "
            "same rate); no effect on parameters and speed"
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
class PHMAttentionOptions(PHMOptions):
    """Options of models with attention."""

    phm_share_rule: Optional[ChoiceEnum(list(SHARE_RULE))] = field(
        default=None,
        metadata={
            "help": "one learned rule per map (none), for v and out of an attention "
            "block (value), for q and k and for v and out (pairs), per attention "
            "block (block) - each FFN map keeps its own with these -, per layer, per "
            "encoder or decoder (stack), or one in all (model): saves n^3 parameters "
            "for each rule that goes; v and out learn to copy only with one rule; no "
            f"effect on speed (default: {DEFAULT_SHARE_RULE})"
        },
    )

    def resolve(self, args: Any) -> bool:
        """Set what the options leave open here and in ``args``, for the checkpoint.

        Returns:
            Whether sharing was left open: then older checkpoints may have more rules.
        """
        if self.phm_share_rule is not None:
            return False
        self.phm_share_rule = DEFAULT_SHARE_RULE
        with open_dict(args) if isinstance(args, DictConfig) else nullcontext():
            args.phm_share_rule = DEFAULT_SHARE_RULE
        return True


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
