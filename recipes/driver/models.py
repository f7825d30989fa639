"""How ``--models`` spells a model, and all that follows from the spelling.

Needs nothing but Python: options are checked before anything is installed.

========================  ===========================================================
``dense``                 dense maps, n = 1
``dense/N``               dense, inner widths divided by N: about the size of n = N
``quaternion``            n = 4 with Hamilton's rule, frozen
``N``                     PHM with n = N and full learned rules
``NrR``                   PHM with n = N and rules of CP rank R; R = N is the fast one
``4-wide``, ``8r8-wide``  PHM or quaternion of twice the inner widths
``4-whole``               and its embeddings and output projection are PHM as well
========================  ===========================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Tuple

FAMILIES = ("dense", "quaternion", "PHM")
SPELLINGS = "dense, quaternion, 4, 4r4, 4-wide, 4-whole, dense/4"


class Widths(NamedTuple):
    """Inner widths of a Transformer: of attention, of the FFN; and its heads."""

    attention: int
    ffn: int
    heads: int


WIDTHS: Dict[str, Widths] = {
    f"phm_transformer{ending}": widths
    for ending, widths in {
        "": Widths(512, 2048, 8),
        "_iwslt_de_en": Widths(512, 1024, 4),
        "_wmt_en_de": Widths(512, 2048, 8),
        "_wmt_en_de_big": Widths(1024, 4096, 16),
        "_wide": Widths(1024, 4096, 8),
        "_small": Widths(256, 512, 4),
        "_tiny": Widths(128, 512, 4),
    }.items()
}
"""What the architectures have, by name; language models have a decoder only."""

TRANSLATORS = tuple(WIDTHS)
LM = "phm_transformer_lm"
LANGUAGE_MODELS = {
    LM + end: WIDTHS["phm_transformer" + end] for end in ("", "_small", "_tiny")
}
WIDTHS.update(LANGUAGE_MODELS)

CLASSIFIERS = {
    "phm_lstm_classifier": {"LSTM": 300},
    "phm_transformer_classifier": {"attention": 128, "FFN": 512},
}
"""The widths of those that classify, which the spellings do not change."""


def divided_widths(arch: str) -> Dict[str, int]:
    """Name the widths that n divides; none for an architecture that is not known."""
    if arch not in WIDTHS:
        return CLASSIFIERS.get(arch, {})
    return {"attention": WIDTHS[arch].attention, "FFN": WIDTHS[arch].ffn}


@dataclass(frozen=True)
class Model:
    """A model, as ``--models`` names it; ``str`` gives the spelling back.

    Attributes:
        family: one of :data:`FAMILIES`.
        n: of PHM.
        rule_rank: CP rank of the rules; 0: full rules.
        wide: the inner widths are doubled.
        narrow: what the inner widths are divided by.
        whole: embeddings and the output projection are PHM as well.
    """

    family: str
    n: int = 1
    rule_rank: int = 0
    wide: bool = False
    narrow: int = 1
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> Model:
        """Read a spelling.

        Raises:
            ValueError: it is none; the message is one line that begins with it.

        >>> Model.parse("8r8-wide")
        Model(family='PHM', n=8, rule_rank=8, wide=True, narrow=1, whole=False)
        """
        found = re.fullmatch(
            r"(dense)(?:/(\d+))?|(?:(quaternion)|(\d+)(?:r(\d+))?)(-wide)?(-whole)?",
            text,
        )
        if not found:
            raise ValueError(
                f"{text}: dense, quaternion or a whole number n, as in {SPELLINGS}"
            )
        dense, divisor, quaternion, n, rank, wide, whole = found.groups()
        if dense:
            if divisor and int(divisor) < 2:
                raise ValueError(f"{text}: widths are divided by 2 or more")
            return cls(dense, narrow=int(divisor or 1))
        if quaternion:
            return cls(quaternion, n=4, wide=bool(wide), whole=bool(whole))
        if int(n) < 2:
            raise ValueError(f"{text}: n must be at least 2; n = 1 is spelled dense")
        if rank and not 1 <= int(rank) <= int(n) ** 2:
            raise ValueError(f"{text}: the rank R of NrR is 1 to {int(n) ** 2}, n^2")
        return cls("PHM", int(n), int(rank or 0), bool(wide), whole=bool(whole))

    def __str__(self) -> str:
        rank = f"r{self.rule_rank}" if self.rule_rank else ""
        start = f"{self.n}{rank}" if self.family == "PHM" else self.family
        divisor = f"/{self.narrow}" if self.narrow > 1 else ""
        return start + divisor + "-wide" * self.wide + "-whole" * self.whole

    @property
    def name(self) -> str:
        """The model on the screen and in tables.

        >>> [Model.parse(text).name for text in ("4r4-wide", "4-whole", "dense/4")]
        ['PHM n=4, R=4, wide', 'PHM n=4, whole', 'dense, widths / 4']
        """
        parts = [f"PHM n={self.n}" if self.family == "PHM" else self.family]
        parts += [f"R={self.rule_rank}"] if self.rule_rank else []
        parts += ["wide"] if self.wide else []
        parts += ["whole"] if self.whole else []
        parts += [f"widths / {self.narrow}"] if self.narrow > 1 else []
        return ", ".join(parts)

    @property
    def slug(self) -> str:
        """The model in names of folders: ``n4r4-wide``, ``dense-4``."""
        start = "n" if self.family == "PHM" else ""
        return start + str(self).replace("/", "-")

    @property
    def order(self) -> Tuple[Any, ...]:
        """Its place in tables: dense, quaternion, PHM by n; wide, whole ones last."""
        family = FAMILIES.index(self.family)
        return (
            self.wide, self.whole, family, self.narrow, self.n, self.rule_rank
        )  # fmt: skip

    @property
    def share(self) -> float:
        """What it has of the dense model's weights, about."""
        return (1 + self.wide) / (self.n * self.narrow)

    def options(self, arch: str) -> Dict[str, int]:
        """Make the options of fairseq's model, beside the architecture.

        Args:
            arch: an architecture ``phm_...``.

        Raises:
            ValueError: other inner widths than the architecture's or PHM embeddings are
                wanted, and they are not known or cannot be had; one line that begins
                with the spelling.
        """
        options = {} if self.family == "quaternion" else {"phm_n": self.n}
        if self.rule_rank:
            options["phm_rule_rank"] = self.rule_rank
        if self.whole:
            if arch not in WIDTHS:
                raise ValueError(f"{self}: no PHM embeddings are known for {arch}")
            options["phm_embeddings"] = self.n
        if not self.wide and self.narrow == 1:
            return options
        if arch not in WIDTHS:
            raise ValueError(f"{self}: no other inner widths are known for {arch}")
        attention, ffn, heads = WIDTHS[arch]
        if attention % (self.narrow * heads) or ffn % self.narrow:
            raise ValueError(
                f"{self}: {self.narrow} does not divide the inner widths of {arch}, "
                f"attention {attention} ({heads} heads) and FFN {ffn}"
            )
        ffn = ffn * (1 + self.wide) // self.narrow
        attention = attention * (1 + self.wide) // self.narrow
        options["phm_attention_dim"] = attention
        for side in ("encoder", "decoder")[arch.startswith(LM) :]:
            options[f"{side}_ffn_embed_dim"] = ffn
        return options

    def flags(self, arch: str) -> List[str]:
        """Make the flags of fairseq-train that choose the model.

        Args:
            arch: an architecture ``phm_...``, which has a twin ``quaternion_...``.

        Raises:
            ValueError: see :meth:`options`.
        """
        options = self.options(arch)
        if self.family == "quaternion":
            arch = arch.replace("phm_", "quaternion_", 1)
        flags = ["--arch", arch]
        for name, value in options.items():
            flags += [f"--{name.replace('_', '-')}", str(value)]
        return flags

    def peers(self, arch: str) -> List[Model]:
        """List the models to compare a PHM model with, those that ``arch`` allows.

        The same with rules of rank n, the dense twin, and a dense model of about equal
        parameters.
        """
        if self.family != "PHM" or self.n == 1:
            return [DENSE]
        fast = Model("PHM", self.n, self.n, self.wide, whole=self.whole)
        divisor = self.n // (1 + self.wide)
        narrow = [Model("dense", narrow=divisor)] if divisor > 1 else []
        return [peer for peer in (fast, DENSE, *narrow) if peer._fits(arch)]

    def _fits(self, arch: str) -> bool:
        try:
            self.options(arch)
        except ValueError:
            return False
        return True


DENSE = Model("dense")
