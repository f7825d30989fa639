"""Tables and figures of the quality benchmark, from its JSON lines."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from data_prep import DataError
from data_prep.workspace import atomic_path

from ..driver.flags import split_phm, values_of
from ..driver.models import DENSE, Model
from ..driver.results import Line, grouped, read_lines, united, write_tables
from ..driver.settings import SIZES, VIEWS
from .tables import (
    LENGTH,
    MARK,
    MARKED,
    Row,
    data_text,
    difference,
    lengths,
    one_for_each_model,
    p_values,
    spread,
    tabulated,
)

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

NOTE = (
    "Mean ± standard deviation over the seeds; differences to dense are of the same "
    "seeds. Validation loss: label-smoothed, bits a token as fairseq logs it, of the "
    "best checkpoint; BLEU of the test set. Each model at the learning rate of its "
    "lowest validation loss (first seed). Parameters without embeddings. Throughput of "
    "training over the dense model's, measured in the same run. "
    f"{MARKED} * at the edge of the sweep."
)
P_VALUES = (
    " p: approximate randomisation of BLEU against the dense model of the same seed, "
    "lowest to highest."
)
PICTURED = (
    " In the figures markers of almost the same size are set apart, and a model has "
    "its row of the fewest flags. Time is measured seconds of an update times updates; "
    "lines are means over the runs, and the losses of the legend those of the table."
)
READING = f"{NOTE}{P_VALUES} {LENGTH}{PICTURED}"
"""How to read the tables, with all columns that there can be."""

PICTURES = {
    "loss-parameters": "Validation loss against parameters",
    "loss-time": "Validation loss against training time",
}
MISSING = {
    "parameters": "No dense model is as small as a PHM model, as `dense/4` would be.",
    "time": "No dense model has runs of equal time.",
}
"""What tables say in the place of a view that there is not."""
SAME_SIZE = "Differences are to the dense model of about the same size."


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


def at_equal_updates(lines: Sequence[Line]) -> Iterator[List[List[Line]]]:
    """Yield the runs of each benchmark, by model; without a model that diverged."""
    for runs in map(Runs, grouped(united(lines, KEY), "benchmark")):
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


def report(lines: Sequence[Line], folder: Path, views: Sequence[str] = VIEWS) -> str:
    """Write ``tables.md`` and the two figures of each benchmark; others go.

    Args:
        lines: of one benchmark or several, which have a section each.
        folder: for the files: ``loss-parameters.svg``, ``loss-time.svg``, with a number
            after them for the benchmarks after the first.
        views: the tables to make.

    Returns:
        The tables.

    Raises:
        DataError: there is no run of the dense model, or none at all.
    """
    text, files = render(lines, views=views)
    for file in folder.glob("loss-*.svg"):
        if file.name not in files:
            file.unlink()
    for name, picture in files.items():
        with atomic_path(folder / name) as partial:
            partial.write_bytes(picture)
    write_tables(folder, text)
    return text


def render(
    lines: Sequence[Line],
    prefix: str = "",
    heading: str = "#",
    views: Sequence[str] = VIEWS,
    explained: bool = True,
) -> Tuple[str, Dict[str, bytes]]:
    """Make tables as Markdown, and the pictures that they link.

    Args:
        lines: of one benchmark or several, which have a section each.
        prefix: of the pictures' names.
        heading: of the sections.
        views: the tables to make.
        explained: say how to read the tables.

    Raises:
        DataError: the first one has no run of the dense model, or there is none.
    """
    texts: List[str] = []
    files: Dict[str, bytes] = {}
    if not lines:
        raise DataError("no results of the benchmark")
    groups = grouped(united(lines, KEY), "benchmark")
    for number, group in enumerate(groups, start=1):
        runs = Runs(group)
        if not runs.of(TWIN, EQUAL_UPDATES):
            lacks = f"{runs.title}: no run of the dense model"
            if number == 1:
                raise DataError(lacks)
            texts.append(f"{heading} {lacks}")
            continue
        texts.append(tables(runs, heading, views, explained))
        for name, picture in pictures(runs).items():
            file = f"{prefix}{name}{f'-{number}' if number > 1 else ''}.svg"
            files[file] = picture
            texts.append(f"![{PICTURES[name]}: {runs.title}]({file})")
    return "\n\n".join(texts), files


def tables(
    runs: Runs,
    heading: str = "#",
    views: Sequence[str] = VIEWS,
    explained: bool = True,
) -> str:
    """Make the tables of those views that there are, as Markdown."""
    parts = [f"{heading} Quality: {runs.title}", _caption(runs)]
    if explained:
        length = f" {LENGTH}" if lengths(runs.lines) else ""
        parts.append(f"{NOTE}{P_VALUES * _tested(runs)}{length}")
    shares: Dict[float, List[Row]] = {}
    for row in runs.rows_of(EQUAL_UPDATES):
        shares.setdefault(row.model.share, []).append(row)
    groups = [g for g in shares.values() if g[0].model.family == "dense" and len(g) > 1]
    made = {
        "updates": _equal_updates(runs),
        "parameters": _equal_parameters(runs, groups) if groups else "",
        "time": _equal_time(runs) if runs.of(TWIN, EQUAL_TIME) else "",
    }
    for view in (view for view in VIEWS if view in views):
        if made[view] or explained:
            parts += [f"{heading}# Equal {view}", made[view] or MISSING[view]]
    return "\n\n".join(parts)


def pictures(runs: Runs) -> Dict[str, bytes]:
    """Draw ``loss-parameters`` and ``loss-time`` as SVG."""
    from .figures import Drawn, loss_by_parameters, loss_by_time

    part = EQUAL_TIME if runs.of(TWIN, EQUAL_TIME) else EQUAL_UPDATES
    by_parameters = [
        Drawn(
            row.model,
            runs.of(row, EQUAL_UPDATES)[0]["parameters"],
            [line["validation_loss"] for line in runs.of(row, EQUAL_UPDATES)],
        )
        for row in runs.compared(EQUAL_UPDATES)
    ]
    found = {"loss-parameters": loss_by_parameters(by_parameters, runs.title)}
    second = runs.of(TWIN, EQUAL_UPDATES)[0].get("seconds_per_update")
    if not (second and all("throughput" in line for line in runs.lines)):
        return found
    by_time = []
    for row in runs.compared(part):
        lines = runs.of(row, part)
        seconds = second / lines[0]["throughput"]
        curves = [
            [(updates * seconds, loss) for updates, _, loss in line["curve"]]
            for line in lines
        ]
        losses = [line["validation_loss"] for line in lines]
        by_time.append(Drawn(row.model, lines[0]["parameters"], losses, curves))
    return {**found, "loss-time": loss_by_time(by_time, runs.title)}


def _caption(runs: Runs) -> str:
    line = runs.of(TWIN, EQUAL_UPDATES)[0]
    seeds = len({line["seed"] for line in runs.lines})
    text = f"{line['dense_updates']:,} updates, {seeds} seed{'s' * (seeds > 1)}. "
    text += f"Data: {data_text(line)}."
    text += f" Flags: `{line['extra']}`." if line.get("extra") else ""
    if "tokens_per_second" in line:
        text += f" Dense: {line['tokens_per_second']:,.0f} tokens a second"
        text += f" ({line['hardware']})." if "hardware" in line else "."
    return text


def _tested(runs: Runs) -> bool:
    return any("bleu_p" in line for line in runs.lines)


def _equal_updates(runs: Runs) -> str:
    def cells(row: Row) -> Dict[str, str]:
        return {
            **_sizes(runs, row),
            "learning rate": _rate(runs, row),
            **_scores(runs, row, EQUAL_UPDATES, TWIN),
            "throughput": _throughput(runs, row),
        }

    return _table(runs.rows_of(EQUAL_UPDATES), cells)


def _equal_parameters(runs: Runs, groups: Sequence[Sequence[Row]]) -> str:
    def cells(row: Row) -> Dict[str, str]:
        (reference,) = [g[0] for g in groups if row in g]
        return {**_sizes(runs, row), **_scores(runs, row, EQUAL_UPDATES, reference)}

    table = _table([row for group in groups for row in group], cells)
    return f"{table}\n\n{SAME_SIZE}"


def _equal_time(runs: Runs) -> str:
    def cells(row: Row) -> Dict[str, str]:
        return {
            "updates": _updates(runs.of(row, EQUAL_TIME)),
            **_scores(runs, row, EQUAL_TIME, TWIN),
            "throughput": _throughput(runs, row),
        }

    return _table(runs.rows_of(EQUAL_TIME), cells)


def _table(rows: Sequence[Row], cells: Callable[[Row], Dict[str, str]]) -> str:
    return tabulated([{"model": row.name, **cells(row)} for row in rows])


def _sizes(runs: Runs, row: Row) -> Dict[str, str]:
    """Cells for the parameters without embeddings, and for all."""
    line = runs.of(row, EQUAL_UPDATES)[0]
    return {
        "parameters": f"{line['parameters']:,}",
        "with embeddings": f"{line['total_parameters']:,}",
    }


def _scores(runs: Runs, row: Row, part: str, reference: Row) -> Dict[str, str]:
    """Cells for loss and BLEU, and how much they are above a dense model's."""
    lines, diverged = runs.of(row, part), runs.diverged(row, part)
    loss = spread([line["validation_loss"] for line in lines], ".3f")
    loss += "" if all(line["converged"] for line in lines) else MARK
    loss += f" ({diverged} diverged)" if diverged else ""

    others = [] if row == reference else runs.of(reference, part)
    tested = _tested(runs) and reference == TWIN
    return {
        **_count(runs, part, lines),
        "validation loss": loss,
        "to dense": difference(lines, others, "validation_loss", "+.3f"),
        "BLEU": spread([line["bleu"] for line in lines]),
        "BLEU to dense": difference(lines, others, "bleu", "+.2f"),
        **({"length": lengths(lines)} if lengths(runs.lines) else {}),
        **({"p": _p_values(lines, others)} if tested else {}),
    }


def _p_values(lines: Sequence[Line], dense: Sequence[Line]) -> str:
    """Format them but for those against a dense run that a later sweep replaced."""
    rates = {line["lr"] for line in dense}
    return p_values([x for x in lines if {x.get("twin_lr")} <= {None, *rates}])


def _updates(lines: Sequence[Line]) -> str:
    """Format the length of runs, which two machines may have measured otherwise."""
    counts = [line["updates"] for line in lines]
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def _count(runs: Runs, part: str, lines: Sequence[Line]) -> Dict[str, str]:
    """A cell for the number of runs, where models have not all the same."""
    counts = {len(runs.of(row, part)) for row in runs.rows_of(part)}
    return {"runs": str(len(lines))} if len(counts) > 1 else {}


def _rate(runs: Runs, row: Row) -> str:
    rate, tried = runs.of(row, EQUAL_UPDATES)[0]["lr"], runs.rates(row)
    at_edge = len(tried) > 1 and rate in (tried[0], tried[-1])
    return f"{rate:g}" + " *" * at_edge


def _throughput(runs: Runs, row: Row) -> str:
    ratio = runs.of(row, EQUAL_UPDATES)[0].get("throughput")
    return f"{ratio:.2f}" if ratio else ""
