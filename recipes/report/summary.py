"""All data sets in one table and one figure: PHM beside dense, and the paper's ratio.

Models that have not converged, or cannot show that they have, are left out.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from data_prep import declaration

from ..driver.models import DENSE, Model
from ..driver.results import Line
from ..driver.training_log import converged, lowest_loss
from .tables import tabulated

Published = Mapping[str, Mapping[str, float]]
"""Experiment -> model -> score in the paper."""

TEXT = (
    "Per data set and size of the dense model the PHM model of the best validation, "
    "over the mean of the dense model trained in the same way; beside it the paper's "
    "ratio for the same n, with full rules. These are the {runs} converged runs of "
    "{cells} cells, a data set and a model; others are left out, and of two sets of "
    "runs of the same data and dense size the one of fewer models. In the figure "
    "filled markers are these, hollow ones the paper's, each in per cent of its dense "
    "model; those of almost the same size are set apart."
)


@dataclass(frozen=True)
class Cell:
    """A model on a data set.

    Attributes:
        experiment: its name is the paper's where the data are.
        score: what is scored.
        model: with dense twins of the same experiment.
        parameters: without embeddings.
        scores: of the test set, one a run.
        valid: mean of the validation; more is better.
    """

    experiment: str
    score: str
    model: Model
    parameters: int
    scores: Tuple[float, ...]
    valid: float

    @property
    def mean(self) -> float:
        """Score of the test set over the runs."""
        return statistics.mean(self.scores)


def comparison(score: str, models: Iterable[Sequence[Line]]) -> List[Cell]:
    """Sum up runs with the same data and settings; without those not converged.

    Args:
        score: ``BLEU`` or ``accuracy``.
        models: lines of results of a model each, one a seed.
    """
    cells = []
    for runs in models:
        curves = [run.get("curve") for run in runs]
        if curves and all(curve and converged(curve) for curve in curves):
            cells.append(_cell(score, runs))
    return cells


def _cell(score: str, runs: Sequence[Line]) -> Cell:
    first = runs[0]
    if score == "BLEU":
        size, test = "parameters", "bleu"
        valid = -statistics.mean(map(lowest_loss, runs))
    else:
        size, test = "encoder_parameters", "accuracy"
        valid = statistics.mean(run["valid_accuracy"] for run in runs)
    return Cell(
        first["experiment"], score, Model.parse(first["model"]), first[size],
        tuple(run[test] for run in runs), valid,
    )  # fmt: skip


def published() -> Published:
    """Read the paper's scores from the declarations of the data sets."""
    papers = [declaration.load(name).paper for name in declaration.names()]
    return {
        paper.name: {model: score for model, (_, score) in paper.published.items()}
        for paper in papers
    }


def summary(
    comparisons: Sequence[Sequence[Cell]], papers: Published
) -> Tuple[str, bytes]:
    """Make the table, as Markdown, and the figure, as SVG; both empty without cells.

    Comparisons without a dense model or without PHM are left out; of those of the same
    experiment and dense size the one of most models counts, the first one of equals.

    Args:
        comparisons: see :func:`comparison`.
        papers: see :func:`published`.
    """
    from .figures import draw_relative  # matplotlib is slow to import

    chosen: Dict[Tuple[str, int], Tuple[Cell, Sequence[Cell]]] = {}
    for cells in sorted(comparisons, key=len, reverse=True):
        base = next((cell for cell in cells if cell.model == DENSE), None)
        if base and base.mean and any(cell.model.family == "PHM" for cell in cells):
            key = base.experiment, base.parameters
            chosen.setdefault(key, (base, cells))
    experiments = [experiment for experiment, _ in chosen]
    rows, panels = [], {}
    for _, (base, cells) in sorted(
        chosen.items(), key=lambda item: (experiments.index(item[0][0]), item[0])
    ):
        paper = papers.get(base.experiment, {})
        phm = [cell for cell in cells if cell.model.family == "PHM"]
        rows.append(_row(base, max(phm, key=lambda cell: cell.valid), paper))
        title = f"{base.experiment}, {base.parameters / 1e6:.1f}M: {base.score}"
        title += f", dense {base.mean:.2f}"
        panels[title] = [_drawn(cell, base, paper) for cell in cells]
    if not rows:
        return "", b""
    used = [cell for _, cells in chosen.values() for cell in cells]
    runs = sum(len(cell.scores) for cell in used)
    text = TEXT.format(cells=len(used), runs=runs)
    return f"{tabulated(rows, words=2)}\n\n{text}", draw_relative(panels)


def _row(base: Cell, best: Cell, paper: Mapping[str, float]) -> Dict[str, str]:
    full = replace(best.model, rule_rank=0)
    return {
        "data set": base.experiment,
        "score": base.score,
        "dense: parameters": f"{base.parameters:,}",
        "dense": f"{base.mean:.2f}",
        "best PHM": best.model.name,
        "of the parameters": f"{best.parameters / base.parameters:.0%}",
        "its score": f"{best.mean:.2f}",
        "ratio": f"{best.mean / base.mean:.3f}",
        "paper: ratio": format(_ratio(full, paper), ".3f")
        if str(full) in paper
        else "",
    }


def _drawn(cell: Cell, base: Cell, paper: Mapping[str, float]) -> Any:
    from .figures import Drawn

    share = cell.parameters / base.parameters
    scores = [100 * score / base.mean for score in cell.scores]
    known = str(cell.model) in paper and cell.model != DENSE  # 100 % by definition
    theirs = (share, 100 * _ratio(cell.model, paper)) if known else None
    return Drawn(cell.model, share, scores, published=theirs)


def _ratio(model: Model, paper: Mapping[str, float]) -> float:
    return paper[str(model)] / paper[str(DENSE)]
