"""The table of compression, from its JSON lines."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from ..driver.models import DENSE, Model
from ..driver.results import Line, grouped, read_lines
from ..driver.settings import WAYS
from .tables import MARK, MARKED, data_text, difference, spread, tabulated

NEEDED = (
    "experiment", "model", "seed", "size", "way", "dense_updates", "updates", "lr",
    "energy", "converged", "validation_loss", "parameters", "bleu", "data",
    "comparison",
)  # fmt: skip
NOTE = (
    "Energy: share of the dense weights' sum of squares that compression keeps. "
    "Updates: of the dense model that a row comes from, then of its own training. "
    "Validation loss: label-smoothed, bits a token as fairseq logs it, of the best "
    "checkpoint; BLEU of the test set. Parameters without embeddings. Distilled: "
    "trained on with the dense model's translations of the training set as targets; "
    "the loss, of real ones, and BLEU are of the last checkpoint, and the loss of "
    "training says whether it has converged. "
    f"{MARKED}"
)


def read(paths: Sequence[Path]) -> List[Line]:
    """Read the rows in ``results.jsonl`` files, or in folders with one.

    Raises:
        DataError: a line that is no row.
    """

    def needed(line: Line) -> Sequence[str]:
        if line.get("way") not in WAYS:
            raise ValueError(f"'way' is none of {', '.join(WAYS)}")
        return NEEDED

    return read_lines(paths, needed)


def tables(lines: Sequence[Line], heading: str = "#") -> str:
    """Make a table as Markdown of each comparison, with a heading and a caption.

    Args:
        lines: rows; those of different seeds are one.
        heading: of the tables.
    """
    parts = []
    for group in grouped(lines, "comparison"):
        models = {Model.parse(line["model"]) for line in group} - {DENSE}
        names = " and ".join(m.name for m in sorted(models, key=lambda m: m.order))
        title = "Compression" + f" to {names}" * bool(names)
        title += f": {group[0]['experiment']}, size {group[0]['size']}"
        parts += [f"{heading} {title}", _caption(group), _table(group)]
    return "\n\n".join(parts)


def _table(lines: Sequence[Line]) -> str:
    found: Dict[Tuple[Model, str], List[Line]] = {}
    for line in lines:
        found.setdefault((Model.parse(line["model"]), line["way"]), []).append(line)
    dense = next((runs for (_, way), runs in found.items() if way == WAYS[0]), [])
    rows = [
        {
            "model": model.name,
            "made": "" if way == WAYS[0] else way,
            "parameters": f"{runs[0]['parameters']:,}",
            "energy": _energy(runs),
            "updates, dense": f"{runs[0]['dense_updates']:,}",
            "then": f"{runs[0]['updates']:,}" if way != WAYS[0] else "",
            "validation loss": spread([run["validation_loss"] for run in runs], ".3f")
            + MARK * (not all(run["converged"] for run in runs)),
            "to dense": _difference(runs, dense, "validation_loss", "+.3f"),
            "BLEU": spread([run["bleu"] for run in runs]),
            "BLEU to dense": _difference(runs, dense, "bleu", "+.2f"),
        }
        for (model, way), runs in sorted(
            found.items(), key=lambda item: (item[0][0].order, WAYS.index(item[0][1]))
        )
    ]
    return tabulated(rows, words=2)


def _energy(runs: Sequence[Line]) -> str:
    found = [run["energy"] for run in runs if run["energy"] is not None]
    return f"{statistics.mean(found):.1%}" if found else ""


def _difference(
    runs: Sequence[Line], dense: Sequence[Line], key: str, form: str
) -> str:
    if not dense or runs is dense:
        return ""
    if dense[0]["lr"] is None:  # not trained here: a given checkpoint
        dense = [{**dense[0], "seed": run["seed"]} for run in runs]
    return difference(runs, dense, key, form)


def _caption(lines: Sequence[Line]) -> str:
    seeds = len({line["seed"] for line in lines})
    rates = {line["way"]: line["lr"] for line in lines if line["lr"]}
    said = ", ".join(f"{way} {rates[way]:g}" for way in WAYS if way in rates)
    text = f"{seeds} seed{'s' * (seeds > 1)}. Data: {data_text(lines[0])}. "
    text += f"Peak learning rates: {said}. " if said else ""
    return text + NOTE
