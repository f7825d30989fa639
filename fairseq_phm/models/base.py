"""What all PHM models share: flags, and loading of checkpoints with shared rules."""

import argparse
from typing import Any, Dict, Type

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from torch import Tensor

from ..checkpoint import fit_shared_rules


class PHMModel:
    """Mixed into a model of fairseq: a ``config`` is its flags.

    A subclass sets ``may_separate_rules`` of a model whose sharing of rules is the
    default: then checkpoints with more rules load too.
    """

    config: Type[FairseqDataclass]
    share_rule = "none"
    may_separate_rules = False

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the command-line flags of the configuration."""
        gen_parser_from_dataclass(
            parser, cls.config(), delete_default=True, with_prefix=""
        )

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """Load as fairseq does, with :func:`fit_shared_rules`.

        Raises:
            ValueError: different rules for layers that share one in this model, because
                ``--phm-share-rule`` says so.
        """
        fitted = fit_shared_rules(
            self, state_dict, self.share_rule, self.may_separate_rules
        )
        return super().load_state_dict(fitted, *args, **kwargs)


def refuse_quant_noise(args: Any) -> None:
    """Raise ValueError when quant-noise is on, which needs dense weights.

    Args:
        args: a model's namespace or configuration, with flat names or sections.
    """
    section = getattr(args, "quant_noise", None)
    for name in ("pq", "scalar"):
        value = getattr(section, name, None) or getattr(args, f"quant_noise_{name}", 0)
        if value and value > 0:
            raise ValueError(
                "quant-noise does not work with PHM layers: "
                "drop --quant-noise-pq and --quant-noise-scalar"
            )
