"""What the tables of all reports have in common: rows, cells, footnotes."""

from __future__ import annotations

import math
import statistics
from typing import Dict, Iterable, List, NamedTuple, Sequence

from tabulate import tabulate

from ..driver.models import Model
from ..driver.results import Line

MARK = " †"
"""Of models that have not converged."""

MARKED = (
    "† not converged: in a run the loss fell by 0.01 nats or more in the last fifth."
)
LENGTH = "Length: of translations over references; BLEU penalises a shorter one."


class Row(NamedTuple):
    """A row of a table: its runs differ in their seeds only.

    Attributes:
        model: which layers.
        mean: of checkpoints, one of :data:`MEANS`.
        flags: ``--phm-...`` that are not the model's own.
    """

    model: Model
    mean: str
    flags: str

    @property
    def name(self) -> str:
        """The model in tables."""
        return f"{self.model.name} `{self.flags}`" if self.flags else self.model.name


def one_for_each_model(rows: Iterable[Row]) -> List[Row]:
    """Leave out rows of which the same model has one with fewer flags."""
    rows = list(rows)
    fewest = {row.model: row for row in sorted(rows, key=lambda row: -len(row.flags))}
    return [row for row in rows if row == fewest[row.model]]


def tabulated(
    rows: Sequence[Dict[str, str]], words: int = 1, style: str = "github"
) -> str:
    """Make a table of the cells as they are, with their keys as its head.

    Args:
        rows: header -> cell, the same headers in each.
        words: how many columns there are, at the left, that have no numbers.
        style: a ``tablefmt`` of tabulate; ``github`` is Markdown.
    """
    align = ["left"] * words + ["right"] * (len(rows[0]) - words)
    return tabulate(
        rows, headers="keys", tablefmt=style, colalign=align, disable_numparse=True
    )


def difference(
    runs: Sequence[Line], others: Sequence[Line], key: str, form: str
) -> str:
    """Average what runs have more than others of the same seed; "" without any.

    >>> runs = [{"seed": 1, "bleu": 8}, {"seed": 2, "bleu": 9}]
    >>> difference(runs, [{"seed": 2, "bleu": 7}], "bleu", "+.1f")
    '+2.0'
    """
    theirs = {run["seed"]: run[key] for run in others}
    found = [run[key] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]
    return format(statistics.mean(found), form) if found else ""


def spread(values: List[float], form: str = ".2f") -> str:
    """Format the mean, and of several values the sample's standard deviation.

    >>> spread([1.0, 2.0]), spread([2.0]), spread([2.0, math.inf])
    ('1.50 ± 0.71', '2.00', 'inf')
    """
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return format(statistics.mean(values), form)
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"


def p_values(runs: Sequence[Line]) -> str:
    """Format the p-values of BLEU to dense, lowest to highest; "" without any.

    >>> p_values([{"bleu_p": 0.5}, {"bleu_p": 0.0061}, {}])
    '0.0061 to 0.5'
    """
    found = [run["bleu_p"] for run in runs if "bleu_p" in run]
    ends = sorted({min(found), max(found)}) if found else []
    return " to ".join(f"{p:.2g}" for p in ends)


def lengths(runs: Sequence[Line]) -> str:
    """Format the mean length of translations over that of the references, or "".

    >>> lengths([{"length_ratio": 0.75}, {"length_ratio": 0.8}, {}]), lengths([{}])
    ('0.78', '')
    """
    found = [run["length_ratio"] for run in runs if "length_ratio" in run]
    return f"{statistics.mean(found):.2f}" if found else ""


def data_text(run: Line) -> str:
    """Say languages and numbers of sentence pairs, rows or lines, in words.

    Args:
        run: with ``data``, and with ``languages`` if these are of pairs.

    >>> data_text({"data": {"train": 1000, "hash": "abc"}, "languages": ["de", "en"]})
    'de to en, sentence pairs train 1,000 (hash abc)'
    """
    kind = "lines" if "tokens_per_sample" in run else "rows"
    if run.get("languages"):
        kind = f"{' to '.join(run['languages'])}, sentence pairs"
    data = run["data"]
    counts = [f"{key} {n:,}" for key, n in data.items() if isinstance(n, int)]
    known = f" (hash {data['hash']})" if "hash" in data else ""
    return f"{kind} {', '.join(counts)}{known}"
