"""Tables and figures of the quality benchmark, from its JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from data_prep import DataError
from data_prep.workspace import atomic_path

from ..driver.results import Line, write_tables
from ..driver.settings import VIEWS
from .quality_runs import EQUAL_TIME, EQUAL_UPDATES, TWIN, Runs, benchmarks
from .tables import (
    LENGTH,
    MARK,
    MARKED,
    Row,
    data_text,
    difference,
    lengths,
    p_values,
    spread,
    tabulated,
)

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
    for number, runs in enumerate(benchmarks(lines), start=1):
        if not runs.of(TWIN, EQUAL_UPDATES):
            trained = any(line["model"] == str(TWIN.model) for line in runs.lines)
            lacks = f"{runs.title}: no run of the dense model"
            lacks += " that did not diverge" * trained
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
