"""What all PHM models share: flags, substitution, loading of shared rules.

A model names its ``config`` and its ``substitution``, see :class:`PHMModel`.
"""

import argparse
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Type, get_type_hints

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from ..better_transformer import without_copies
from ..errors import wrong_options_are_data_errors
from ..functional import ALGEBRAS, multiplication_rule
from ..functional.tracing import is_tracing
from ..mismatch import check_named_rule, flags_of, mismatch
from ..modules import PHMEmbedding
from ..modules.batched_weights import batched_weights
from ..modules.lstm import GATES
from ..shared_rules import fit_shared_rules, untie_different_rules
from ..spec import PHMSpec
from ..substitution.scopes import DEFAULT_SHARE_RULE, FORMER_NAMES, SHARE_RULE
from .architectures import writable

PREFIX = "phm_"


class _Options(FairseqDataclass):
    """Flags ``--phm-NAME`` for the fields of :class:`PHMSpec`, and what models add."""

    @classmethod
    def from_args(cls, args: Any) -> "_Options":
        """Return what a namespace or a DictConfig holds, and defaults for the rest."""
        options = cls()
        for name in cls.__dataclass_fields__:
            value = getattr(args, name, None)
            if value is not None:
                setattr(options, name, value)
        return options

    def phm_options(self) -> Dict[str, Any]:
        """Return options ``phm_NAME`` as keywords NAME, those of PHMSpec as ``n``."""
        options = {
            name[len(PREFIX) :]: getattr(self, name)
            for name in self.__dataclass_fields__
            if name.startswith(PREFIX)
        }
        spec = {one.name: options.pop(one.name) for one in fields(PHMSpec)}
        return {"n": PHMSpec(**spec), **options}

    def resolve(self, args: Any) -> Any:
        """Set what the options leave open here and in ``args``, for the checkpoint.

        Returns:
            ``args`` if sharing was left open: then older checkpoints may have more
            rules. Else None.
        """
        return None


def _flag(option: Any) -> Any:
    """Return name, type and field of the flag for a field of PHMSpec."""
    metadata = dict(option.metadata)
    choices = metadata.pop("choices", None)
    kind = get_type_hints(PHMSpec)[option.name]
    if choices:
        kind = ChoiceEnum(list(choices))
    return PREFIX + option.name, kind, field(default=option.default, metadata=metadata)


PHMOptions = make_dataclass(
    "PHMOptions",
    [_flag(option) for option in fields(PHMSpec)],
    bases=(_Options,),
    namespace={"__doc__": _Options.__doc__, "__module__": __name__},
)


@dataclass
class PHMAttentionOptions(PHMOptions):
    """Options of models with attention."""

    phm_share_rule: Optional[ChoiceEnum([*SHARE_RULE, *FORMER_NAMES])] = field(
        default=None,
        metadata={
            "help": "one learned rule per projection (none), for v and out of an "
            "attention block (value), for q and k and for v and out (pairs), per "
            "attention block (attention; block is its former name) - each FFN "
            "projection keeps its own with these -, per layer, per encoder or decoder "
            "(stack), or one in all (model): saves n^3 parameters for each rule that "
            "goes; v and out learn to copy only with one rule; no effect on speed "
            f"(default: {DEFAULT_SHARE_RULE})"
        },
    )

    def resolve(self, args: Any) -> Any:
        """Set the default of sharing, if it is left open."""
        if self.phm_share_rule is not None:
            return None
        self.phm_share_rule = DEFAULT_SHARE_RULE
        with writable(args):
            args.phm_share_rule = DEFAULT_SHARE_RULE
        return args


@dataclass
class PHMTransformerOptions(PHMAttentionOptions):
    """The options of :func:`fairseq_phm.substitute` that need no encoder."""

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
            "k and v of cross-attention (2d x d), as in the paper's text: fewer "
            "rules; building the weights costs somewhat more time"
        },
    )
    phm_attention_dim: Optional[int] = field(
        default=None,
        metadata={
            "help": "inner width of attention (outputs of q, k and v), the embedding "
            "width by default; parameters and time of attention grow with it"
        },
    )
    phm_embeddings: int = field(
        default=0,
        metadata={
            "help": "n of the token embeddings and the output projection: 1/n of their "
            "weights, padded to a multiple of n words; building the weight of the "
            "output projection costs some time. 0: dense"
        },
    )


@dataclass
class PHMStackOptions(PHMOptions):
    """Options of models with an encoder and a decoder, whose n may differ."""

    phm_encoder_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the encoder: 1/n of its weights; wins over --phm-n; no "
            "effect on training speed"
        },
    )
    phm_decoder_n: Optional[int] = field(
        default=None,
        metadata={
            "help": "n of the decoder: 1/n of its weights; wins over --phm-n; no "
            "effect on training speed"
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


class PHMModel:
    """Mixed into a model of fairseq, before it in the bases.

    A subclass names ``config``, the flags, and ``substitution``, the function that
    takes the built dense model and the options of the config.
    """

    config: Type[FairseqDataclass]
    substitution: Callable[..., nn.Module]
    share_rule = "none"
    left_open = None
    frozen_rule = ""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the command-line flags of the configuration."""
        gen_parser_from_dataclass(
            parser, cls.config(), delete_default=True, with_prefix=""
        )

    @classmethod
    def configure(cls, args: Any) -> Any:
        """Return the configuration that a namespace or a DictConfig holds."""
        return cls.config.from_args(args)

    @classmethod
    def build_dense(cls, config: Any, args: Any, task: FairseqTask) -> nn.Module:
        """Build the model as fairseq does."""
        return super().build_model(args, task)

    @classmethod
    @wrong_options_are_data_errors()
    def build_model(cls, args: Any, task: FairseqTask) -> Any:
        """Build the model from a namespace, a DictConfig or its configuration.

        Raises:
            DataError: quant-noise is on, or an option does not fit the sizes.
        """
        config = cls.configure(args)
        refuse_quant_noise(config)
        left_open = config.resolve(args)
        dense = cls.build_dense(config, args, task)
        model = cls.substitution(dense, **config.phm_options())
        return model.remember_rules(config, left_open)

    def remember_rules(self, config: Any, left_open: Any) -> "PHMModel":
        """Keep what rules there are, for :meth:`load_state_dict`; return the model.

        Args:
            config: of the model.
            left_open: options to be told when an older checkpoint, with more rules, is
                loaded; None: it is refused.
        """
        self.share_rule = getattr(config, "phm_share_rule", "none")
        self.left_open = left_open
        if config.phm_freeze_rule and config.phm_rule in ALGEBRAS:
            self.frozen_rule = str(config.phm_rule)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, with the weights of all layers built at once on a GPU."""
        compiled = getattr(self, "_compiled_call_impl", None) is not None
        if compiled or is_tracing():  # compilers know no context managers
            return super().__call__(*args, **kwargs)
        with batched_weights(self):
            return super().__call__(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """Load as fairseq does, with :func:`fit_shared_rules`.

        Raises:
            CheckpointMismatch: another rule than the frozen one of this model; layers
                or sizes that differ, with the flags of the checkpoint.
        """
        state_dict = without_copies(state_dict)
        if self.frozen_rule:
            rule = multiplication_rule(self.frozen_rule)
            check_named_rule(self, state_dict, self.frozen_rule, rule)
        words = _entries_of_embeddings(self, state_dict)
        layers = {key: state_dict[key] for key in state_dict if key not in words}
        try:
            if self.left_open is not None and untie_different_rules(self, layers):
                self._share_as_in(state_dict)
            fitted = fit_shared_rules(self, layers, self.share_rule)
            return super().load_state_dict({**fitted, **words}, *args, **kwargs)
        except (RuntimeError, ValueError) as error:
            raise mismatch(self, state_dict, error) from error

    def _share_as_in(self, state_dict: Mapping[str, Tensor]) -> None:
        """Note how rules are shared in what is loaded, for the next checkpoint."""
        flag = flags_of(state_dict).get("sharing", self.share_rule)
        self.share_rule = flag.rpartition(" ")[2]
        for options in (self.left_open, getattr(self, "args", None)):
            if hasattr(options, "phm_share_rule"):
                with writable(options):
                    options.phm_share_rule = self.share_rule


def _entries_of_embeddings(
    model: nn.Module, state_dict: Mapping[str, Tensor]
) -> Dict[str, Tensor]:
    """Return those of PHM embeddings, whose rules no layer shares."""
    starts = tuple(
        f"{path}."
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, PHMEmbedding)
    )
    return {k: value for k, value in state_dict.items() if k.startswith(starts)}


def refuse_quant_noise(config: Any) -> None:
    """Raise ValueError when quant-noise is on, which needs dense weights."""
    noise = getattr(config, "quant_noise", None)
    values = [getattr(noise, name, 0) for name in ("pq", "scalar")]
    values += [getattr(config, f"quant_noise_{name}", 0) for name in ("pq", "scalar")]
    if max(values) > 0:
        raise ValueError(
            "quant-noise does not work with PHM layers: "
            "drop --quant-noise-pq and --quant-noise-scalar"
        )
