"""Quality against parameters, and training curves, of the models of a table."""

from __future__ import annotations

import io
import math
import statistics
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

STYLE = {
    "svg.hashsalt": "recipes",  # the same ids, so the same bytes, every time
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
EARLY = 0.25
"""Share of the updates whose losses may leave the panel at the top."""

APART = 0.03
"""Width of a marker, as a share of the axis of parameters."""


class Model(NamedTuple):
    """What is drawn of a model.

    ``model`` is "dense", "quaternion" or n, with "-wide" for the wide ones; ``scores``
    has one of each run, ``curves`` the [updates, loss] of each run's validations,
    ``published`` the paper's parameters and score.
    """

    model: str
    name: str
    parameters: int
    scores: List[float]
    curves: List[List[Tuple[int, float]]]
    published: Optional[Tuple[float, float]]


def draw(models: Sequence[Model], title: str, parameters: str, score: str) -> bytes:
    """An SVG picture: filled markers are ours, hollow ones the paper's.

    Colours are told apart by the colour-blind, and shapes repeat what they say. Models
    of about equal size are set a little apart, so that none is hidden. The axis of the
    scores is broken where the paper's are far from ours. The picture is the same, byte
    for byte, for the same models and version of matplotlib.

    Args:
        models: from the first to the last of the legend.
        title, parameters, score: words for the picture and its axes.
    """
    with matplotlib.rc_context(STYLE):
        curves = any(model.curves for model in models)
        figure = Figure(figsize=(9 if curves else 5.4, 4.2), layout="constrained")
        figure.suptitle(title, fontsize=10)
        left, *right = figure.subfigures(1, 1 + curves, squeeze=False)[0]
        _quality(left, models, parameters, score)
        for part in right:
            _curves(part, models)
        handles = [
            Line2D([], [], color=_color(m.model), marker=_marker(m.model), label=m.name,
                   linestyle=_line(m.model) if curves else "")
            for m in models
        ]  # fmt: skip
        if any(model.published for model in models):
            hollow = dict(color="gray", markerfacecolor="white", linestyle="")
            handles.append(Line2D([], [], marker="o", label="hollow: paper", **hollow))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=5 if curves else 3,
            frameon=False,
        )  # fmt: skip
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _quality(part: Any, models: Sequence[Model], parameters: str, score: str) -> None:
    intervals, shifts = _intervals(models), _shifts(models)
    axes = part.subplots(len(intervals), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (low, high) in zip(axes, reversed(intervals)):
        for model, shift in zip(models, shifts):
            look: Dict[str, Any] = {
                "marker": _marker(model.model), "markersize": 6,
                "color": _color(model.model), "linestyle": "",
            }  # fmt: skip
            mean, deviation = _spread(model.scores)
            x, error = model.parameters * shift, deviation or 0
            panel.errorbar([x], [mean], yerr=[error], capsize=3, **look)
            if model.published:
                x, y = model.published
                panel.plot([x * shift], [y], markerfacecolor="white", zorder=3, **look)
        panel.set(xscale="log", ylim=(low, high))
        panel.yaxis.set_major_locator(MaxNLocator(8 // len(intervals)))
    bottom = axes[-1]
    bottom.set_xlabel(parameters)
    bottom.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bottom.xaxis.set_minor_locator(NullLocator())
    bottom.xaxis.set_major_formatter(FuncFormatter(_short))
    bottom.margins(x=0.08)
    part.supylabel(score, fontsize=9)
    for above, below in zip(axes, axes[1:]):
        above.spines["bottom"].set_visible(False)
        above.tick_params(axis="x", which="both", length=0)
        cut = dict(marker=[(-1, -0.5), (1, 0.5)], markersize=8, color="black",
                   linestyle="none", clip_on=False)  # fmt: skip
        above.plot([0], [0], transform=above.transAxes, **cut)
        below.plot([0], [1], transform=below.transAxes, **cut)


def _shifts(models: Sequence[Model]) -> List[float]:
    """What the parameters of each model are multiplied with to set its marker apart."""
    places = {i: math.log(model.parameters) for i, model in enumerate(models)}
    theirs = [math.log(model.published[0]) for model in models if model.published]
    every = [*places.values(), *theirs]
    step = APART * (max(every) - min(every) or 1)
    shifts = [1.0] * len(models)
    crowd: List[int] = []
    order = sorted(places, key=lambda i: places[i])
    for i, following in zip(order, [*order[1:], None]):
        crowd.append(i)
        if following is None or places[following] - places[i] > step:
            for slot, member in enumerate(sorted(crowd)):
                middle = places[crowd[0]] + (places[crowd[-1]] - places[crowd[0]]) / 2
                place = middle + step * (slot - (len(crowd) - 1) / 2)
                shifts[member] = math.exp(place - places[member])
            crowd = []
    return shifts


def _intervals(models: Sequence[Model]) -> List[Tuple[float, float]]:
    """Ranges of the scores: two when ours and the paper's are far apart, else one."""
    ours = [
        mean + sign * (deviation or 0)
        for mean, deviation in (_spread(model.scores) for model in models)
        for sign in (-1, 1)
    ]
    theirs = [model.published[1] for model in models if model.published]
    ranges = sorted((min(side), max(side)) for side in (ours, theirs) if side)
    spans = [high - low for low, high in ranges]
    if len(ranges) == 2 and ranges[1][0] - ranges[0][1] <= max(spans):
        ranges = [(min(ours + theirs), max(ours + theirs))]
    return [
        (low - margin, high + margin)
        for low, high in ranges
        for margin in [0.15 * (high - low) or 0.5]
    ]


def _curves(part: Any, models: Sequence[Model]) -> None:
    panel = part.subplots()
    points = []
    for model in models:
        look = {"color": _color(model.model), "linestyle": _line(model.model)}
        by_updates: Dict[int, List[float]] = {}
        for curve in model.curves:
            points += curve
            for updates, loss in curve:
                by_updates.setdefault(updates, []).append(loss)
            if len(model.curves) > 1:
                panel.plot(*zip(*curve), linewidth=0.6, alpha=0.4, **look)
        mean = [
            (updates, statistics.mean(losses))
            for updates, losses in sorted(by_updates.items())
            if len(losses) == len(model.curves)
        ]
        if mean:
            few = _marker(model.model) if len(mean) < 4 else None
            panel.plot(*zip(*mean), linewidth=1.6, marker=few, markersize=4, **look)
    last = max(updates for updates, _ in points)
    kept = [loss for updates, loss in points if updates >= EARLY * last]
    margin = 0.05 * (max(kept) - min(kept)) or 0.1
    panel.set(
        xlabel="updates", ylabel="validation loss",
        ylim=(min(kept) - margin, max(kept) + margin),
    )  # fmt: skip
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(FuncFormatter(_short))


def _spread(values: Sequence[float]) -> Tuple[float, Optional[float]]:
    return (
        statistics.mean(values),
        statistics.stdev(values) if len(values) > 1 else None,
    )


def _short(number: float, _: Any = None) -> str:
    """44M for 44,000,000.

    >>> _short(44e6), _short(2500), _short(400)
    ('44M', '2.5K', '400')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def _color(model: str) -> Any:
    n = model.partition("-")[0]
    if n.isdigit():
        return colormaps["viridis"](min(1, (math.log2(int(n)) - 1) / 3) * 0.85)
    return "#d55e00" if n == "quaternion" else "black"


def _marker(model: str) -> str:
    if model.endswith("-wide"):
        return "^"
    return {"dense": "o", "quaternion": "s"}.get(model, "D")


def _line(model: str) -> str:
    return "--" if model.endswith("-wide") else "-"
