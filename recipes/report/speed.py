"""The table of speed, from its JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Sequence

from ..driver.models import DENSE, Model
from ..driver.results import Line, grouped, read_lines
from .tables import data_text, tabulated

NEEDED = (
    "experiment", "model", "size", "arch", "benchmark", "data", "max_tokens", "beam",
    "rounds", "parameters", "training", "search", "published", "hardware", "layers",
    "precision",
)  # fmt: skip
OVER_DENSE = ("throughput_low", "throughput", "throughput_high")
PARTS = {
    "training": (*OVER_DENSE, "seconds_per_update"),
    "search": (*OVER_DENSE, "seconds", "sentences", "batch"),
}
"""What the measurements of a row have to say."""

NOTE = (
    "`{arch}`{depth}, {precision}, untrained, on {hardware}. Data: {data}. Training: "
    "seconds of 100 updates, by three a round, fairseq's step with clipping and Adam, "
    "batches of at most {max_tokens:,} tokens. Search: seconds for {sentences} "
    "sentences of the test set, at most {batch} a batch, beam {beam}, hypotheses as "
    "long as the longest reference of their batch. Medians of {rounds} rounds in which "
    "the models take turns; times over the dense model's with their quartiles. "
    "Parameters without embeddings."
)


def read(paths: Sequence[Path]) -> List[Line]:
    """Read the rows in ``results.jsonl`` files, or in folders with one.

    Raises:
        DataError: a line that is no row.
    """

    def needed(line: Line) -> Sequence[str]:
        for part, keys in PARTS.items():
            lacking = [key for key in keys if key not in line.get(part, keys)]
            if lacking:
                raise ValueError(f"{part!r} has no {lacking[0]!r}")
        return NEEDED

    return read_lines(paths, needed)


def tables(lines: Sequence[Line], heading: str = "#") -> str:
    """Make a table as Markdown of each benchmark, with a heading and a caption.

    Args:
        lines: rows, one a model.
        heading: of the tables.
    """
    parts = []
    for group in grouped(lines, "benchmark"):
        first = group[0]
        note = NOTE.format(
            **{**first, "data": data_text(first)},
            depth=" of {0} + {0} layers".format(first["layers"])
            * bool(first["layers"]),
            **{key: first["search"][key] for key in ("sentences", "batch")},
        )
        title = f"Speed: {first['experiment']}, size {first['size']}"
        parts += [f"{heading} {title}", note, _table(group)]
    return "\n\n".join(parts)


def _table(lines: Sequence[Line]) -> str:
    theirs = next((x["published"] for x in lines if x["model"] == str(DENSE)), [])
    rows = []
    for line in sorted(lines, key=lambda line: Model.parse(line["model"]).order):
        seconds = {
            "training": 100 * line["training"]["seconds_per_update"],
            "search": line["search"]["seconds"],
        }
        model = Model.parse(line["model"])
        row = {"model": model.name, "parameters": f"{line['parameters']:,}"}
        for which, part in enumerate(seconds):
            row[f"{part}, s"] = f"{seconds[part]:.3g}"
            row[f"{part} / dense"] = _over_dense(line[part])
            if theirs:
                mine = line["published"]
                row[f"{part}, paper"] = (
                    f"{mine[which] / theirs[which]:.2f}" if mine else ""
                )
        rows.append(row)
    return tabulated(rows)


def _over_dense(speed: Dict[str, float]) -> str:
    high, middle, low = (1 / speed[key] for key in OVER_DENSE)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})" if low != high else f"{middle:.2f}"
