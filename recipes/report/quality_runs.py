"""The runs of the quality benchmark: which of its JSON lines count in which part."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, List, Mapping, Optional, Sequence

from ..driver.flags import split_phm, values_of
from ..driver.models import DENSE, Model
from ..driver.results import Line, grouped, read_lines, united
from ..driver.settings import SIZES
from .tables import Row, one_for_each_model

SWEEP, EQUAL_UPDATES, EQUAL_TIME = "sweep", "equal updates", "equal time"
KEY = ("benchmark", "model", "extra", "seed", "lr", "updates")
"""What lines of the same run have in common."""

NEEDED = (
    "experiment", "model", "extra", "seed", "size", "updates", "lr", "diverged",
    "converged", "part_of", "dense_updates", "benchmark",
)  # fmt: skip
NEEDED_OF_A_SCORE = (
    "validation_loss", "parameters", "total_parameters", "bleu", "curve", "data",
)  # fmt: skip
TWIN = Row(DENSE, "", "")
"""What the others are compared with."""


@dataclass(frozen=True)
class Runs:
    """The runs of one benchmark: the same data, settings and dense model."""

    lines: Sequence[Line]

    @property
    def rows(self) -> List[Row]:
        """All models and what they add of PHM's flags, in the order of tables."""
        found = {_row(line) for line in self.lines}
        return sorted(found, key=lambda row: (row.model.order, row.flags))

    @property
    def title(self) -> str:
        """The experiment and its size, and what is not as that size has it."""
        dense = [x for x in self.lines if x["model"] == str(DENSE) and "flags" in x]
        line = (dense or self.lines)[0]
        size, flags = line["size"], values_of(shlex.split(line.get("flags", "")))
        title = f"{line['experiment']}, size {size}"
        arch = " ".join(flags.get("--arch", []))
        if arch and size in SIZES and arch != SIZES[size].arch:
            title += f", {arch}"
        depth = " + ".join(
            word for side in "encoder decoder".split()
            for word in flags.get(f"--{side}-layers", [])
        )  # fmt: skip
        return title + (f", {depth} layers" if depth else "")

    def of(self, row: Row, part: str) -> List[Line]:
        """List the runs of a row in a part, without those that diverged."""
        return [line for line in self._all_of(row, part) if not line["diverged"]]

    def rows_of(self, part: str) -> List[Row]:
        """List the rows with a run in that part."""
        return [row for row in self.rows if self.of(row, part)]

    def compared(self, part: str) -> List[Row]:
        """List one row for each model: that of the fewest flags."""
        return one_for_each_model(self.rows_of(part))

    def diverged(self, row: Row, part: str) -> int:
        """Count the runs of a row in that part that diverged."""
        return len(self._all_of(row, part)) - len(self.of(row, part))

    def rates(self, row: Row) -> List[float]:
        """List the learning rates that were tried."""
        return sorted(line["lr"] for line in self._all_of(row, SWEEP))

    def _all_of(self, row: Row, part: str) -> List[Line]:
        """List those at the row's own rate; a later sweep may have found another."""
        rate = None if part == SWEEP else self.best_rate(row)
        found = [
            line
            for line in self.lines
            if part in line["part_of"]
            and _row(line) == row
            and rate in (None, line["lr"])
        ]
        return self._of_last_measurement(row, found) if part == EQUAL_TIME else found

    def _of_last_measurement(self, row: Row, found: List[Line]) -> List[Line]:
        """List one run a seed: by another throughput they are of another length.

        Those of equal updates have the throughput that was measured last.
        """
        known = [line for line in self.of(row, EQUAL_UPDATES) if "throughput" in line]
        last = {line["seed"]: line["throughput"] for line in known}
        other = known[-1]["throughput"] if known else None

        def is_last(line: Line) -> bool:
            return line.get("throughput") == last.get(line["seed"], other)

        ordered = sorted(found, key=is_last)
        return list({line["seed"]: line for line in ordered}.values())

    def best_rate(self, row: Row) -> Optional[float]:
        """Choose the rate of the lowest validation loss of all that were tried, if any.

        None: all diverged.
        """
        return best_rate(
            {line["lr"]: line["validation_loss"] for line in self.of(row, SWEEP)}
        )


def read(paths: Sequence[Path]) -> List[Line]:
    """Read the runs in ``results.jsonl`` files, or in folders with one.

    Raises:
        DataError: a line that is no run of the benchmark.
    """

    def needed(line: Line) -> Sequence[str]:
        if "diverged" not in line or line["diverged"]:
            return NEEDED
        return (*NEEDED, *NEEDED_OF_A_SCORE)

    return read_lines(paths, needed)


def benchmarks(lines: Iterable[Line]) -> List[Runs]:
    """Part lines by their benchmark; those of the same run are one."""
    return [Runs(group) for group in grouped(united(lines, KEY), "benchmark")]


def at_equal_updates(lines: Sequence[Line]) -> Iterator[List[List[Line]]]:
    """Yield the runs of each benchmark, by model; without a model that diverged."""
    for runs in benchmarks(lines):
        yield [
            runs.of(row, EQUAL_UPDATES)
            for row in runs.compared(EQUAL_UPDATES)
            if not runs.diverged(row, EQUAL_UPDATES)
        ]


def best_rate(losses: Mapping[float, Optional[float]]) -> Optional[float]:
    """Choose the learning rate of the lowest validation loss; None if all diverge.

    Args:
        losses: of each learning rate, None if it diverges.

    >>> best_rate({0.002: 4.67, 0.004: 4.39, 0.008: None})
    0.004
    """
    finite = {lr: loss for lr, loss in sorted(losses.items()) if loss is not None}
    return min(finite, key=finite.get) if finite else None


def row_of(model: Model, extra: Sequence[str]) -> Row:
    """Name the row of a model with further flags of fairseq-train."""
    return Row(model, "", shlex.join(split_phm(extra)[0]))


def _row(line: Line) -> Row:
    return row_of(Model.parse(line["model"]), shlex.split(line["extra"]))
