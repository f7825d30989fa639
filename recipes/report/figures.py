"""Quality against parameters, and training curves, of the models of a table."""

from __future__ import annotations

import io
import math
import statistics
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy import interp

from ..driver.models import Model

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

END = 0.65
"""Share of a training after which its end is drawn again, larger."""

APART = 0.03
"""Width of a marker, as a share of the axis of parameters."""


class Drawn(NamedTuple):
    """What is drawn of a model.

    ``scores`` has one of each run, ``curves`` the [updates, loss] of each run's
    validations, ``published`` the paper's parameters and score.
    """

    model: Model
    parameters: float
    scores: List[float]
    curves: Sequence[Sequence[Tuple[float, float]]] = ()
    published: Optional[Tuple[float, float]] = None


def draw(models: Sequence[Drawn], title: str, parameters: str, score: str) -> bytes:
    """Draw an SVG picture: filled markers are ours, hollow ones the paper's.

    Colours are told apart by the colour-blind, and shapes repeat what they say. What is
    not finite, as the perplexity of words of a text without spaces, is left out. Models
    of about equal size are set a little apart, so that none is hidden. The axis of the
    scores is broken where the paper's are far from ours. The picture is the same, byte
    for byte, for the same models and version of matplotlib.

    Args:
        models: from the first to the last of the legend.
        title, parameters, score: words for the picture and its axes.
    """
    models = _finite(models)
    with matplotlib.rc_context(STYLE):
        curves = any(model.curves for model in models)
        figure = Figure(figsize=(9 if curves else 5.4, 4.2), layout="constrained")
        figure.suptitle(title, fontsize=10)
        if not models:
            return _svg(figure)
        left, *right = figure.subfigures(1, 1 + curves, squeeze=False)[0]
        _quality(left, models, parameters, score)
        for part in right:
            _curves(part, models)
        handles = [
            Line2D([], [], color=_color(model), marker=_marker(model), label=model.name,
                   linestyle=_line(model) if curves else "")
            for model, *_ in models
        ]  # fmt: skip
        if any(model.published for model in models):
            handles.append(_papers())
        figure.legend(
            handles=handles, loc="outside lower center", ncols=5 if curves else 3,
            frameon=False,
        )  # fmt: skip
        return _svg(figure)


def draw_relative(panels: Mapping[str, Sequence[Drawn]]) -> bytes:
    """Draw scores in per cent of the dense model's against the share of its parameters.

    Args:
        panels: title -> models, at least one panel; parameters as a share, scores in
            per cent of the dense model's.

    Returns:
        An SVG picture; filled markers are ours, hollow ones the paper's.
    """
    with matplotlib.rc_context(STYLE):
        rows = -(-len(panels) // (3 if len(panels) <= 6 else 4))
        columns = -(-len(panels) // rows)
        beside = min(5, 2 * columns)  # names in a line of the legend
        names = {drawn.model for models in panels.values() for drawn in models}
        lines = -(-(len(names) + 1) // beside)
        size = (0.6 + 2.9 * columns, 0.6 + 2.4 * rows + 0.2 * lines)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        handles = {}
        for panel in axes.flat[len(panels) :]:
            panel.set_visible(False)
        for panel, (title, models) in zip(axes.flat, panels.items()):
            panel.set_title(title, fontsize=9)
            panel.axhline(100, color="gray", linewidth=0.7, zorder=1)
            for drawn, shift in zip(models, _shifts(models)):
                look = _point(panel, drawn, shift)
                name = drawn.model.name
                handles[drawn.model] = Line2D([], [], label=name, **look)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(FuncFormatter(_share))
            panel.margins(x=0.12)
        order = sorted(handles, key=lambda model: model.order)
        figure.legend(
            handles=[*(handles[model] for model in order), _papers()],
            loc="outside lower center", ncols=beside, frameon=False,
        )  # fmt: skip
        for panel in axes.flat[max(0, len(panels) - columns) : len(panels)]:
            panel.set_xlabel("parameters, of the dense model's")
            panel.tick_params(labelbottom=True)
        figure.supylabel("score, % of the dense model's", fontsize=9)
        return _svg(figure)


def loss_by_parameters(models: Sequence[Drawn], title: str) -> bytes:
    """Draw validation losses as SVG, one marker a model with its spread.

    Thin lines join models that differ in size only.

    Args:
        models: from the first to the last of the legend.
        title: words for the picture.
    """
    models = _finite(models)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 4.2), layout="constrained")
        panel = figure.subplots()
        kin: Dict[Any, List[Tuple[float, float]]] = {}
        handles = []
        for drawn, shift in zip(models, _shifts(models)):
            model, mean = drawn.model, statistics.mean(drawn.scores)
            family = (model.family, bool(model.rule_rank), model.wide, model.whole)
            kin.setdefault(family, []).append((drawn.parameters * shift, mean))
            look = _point(panel, drawn, shift, 7)
            handles.append(Line2D([], [], label=model.name, **look))
        for points in kin.values():
            panel.plot(*zip(*sorted(points)), color="gray", linewidth=0.7, zorder=1)
        panel.set(xscale="log", ylabel="validation loss, bits a token")
        _parameters(panel, "parameters without embeddings")
        figure.suptitle(f"{title}: equal updates", fontsize=10)
        figure.legend(handles=handles, loc="outside right center", frameon=False)
        return _svg(figure)


def loss_by_time(models: Sequence[Drawn], title: str) -> bytes:
    """Draw validation losses while models train as SVG, means of their runs.

    The panel on the right has the last part of the one on the left.

    Args:
        models: with curves of seconds and loss; the legend has the lowest loss last,
            as the picture does.
        title: words for the picture.
    """
    models = [drawn for drawn in _finite(models) if drawn.curves]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        if not models:
            return _svg(figure)
        whole, end = figure.subplots(1, 2)
        means = {drawn.model: _mean_curve(drawn.curves) for drawn in models}
        last = max(x for mean in means.values() for x, _ in mean)
        unit, name = next(
            pair
            for pair in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
            if last > 3 * pair[0] or pair[0] == 1
        )
        handles = []
        for drawn in sorted(models, key=lambda drawn: -statistics.mean(drawn.scores)):
            look = {"color": _color(drawn.model), "linestyle": _line(drawn.model)}
            times, losses = zip(*means[drawn.model])
            for panel in (whole, end):
                panel.plot([x / unit for x in times], losses, linewidth=1.6, **look)
            label = f"{statistics.mean(drawn.scores):.3f}  {drawn.model.name}"
            handles.append(Line2D([], [], linewidth=1.6, label=label, **look))
        for panel, start in ((whole, EARLY), (end, END)):
            _late(panel, means.values(), start)
            panel.set(xlabel=f"training time, {name}")
        whole.set_ylabel("validation loss, bits a token")
        whole.set_xlim(0, 1.02 * last / unit)
        shortest = min(mean[-1][0] for mean in means.values())
        end.set_xlim(END * shortest / unit, 1.01 * last / unit)
        figure.suptitle(f"{title}: training time", fontsize=10)
        figure.legend(handles=handles, loc="outside right center", frameon=False)
        return _svg(figure)


def _finite(models: Sequence[Drawn]) -> List[Drawn]:
    """Leave out losses and scores that are not finite, and models without another."""
    found = []
    for drawn in models:
        scores = [score for score in drawn.scores if math.isfinite(score)]
        curves = [
            [(place, loss) for place, loss in curve if math.isfinite(loss)]
            for curve in drawn.curves
        ]
        if scores:
            found.append(
                drawn._replace(scores=scores, curves=list(filter(None, curves)))
            )
    return found


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _papers() -> Line2D:
    """The legend's words on the paper's markers."""
    look = dict(color="gray", markerfacecolor="white", linestyle="", marker="o")
    return Line2D([], [], label="hollow: paper", **look)


def _quality(part: Any, models: Sequence[Drawn], parameters: str, score: str) -> None:
    intervals, shifts = _intervals(models), _shifts(models)
    axes = part.subplots(len(intervals), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (low, high) in zip(axes, reversed(intervals)):
        for model, shift in zip(models, shifts):
            _point(panel, model, shift)
        panel.set(xscale="log", ylim=(low, high))
        panel.yaxis.set_major_locator(MaxNLocator(8 // len(intervals)))
    _parameters(axes[-1], parameters)
    part.supylabel(score, fontsize=9)
    for above, below in zip(axes, axes[1:]):
        above.spines["bottom"].set_visible(False)
        above.tick_params(axis="x", which="both", length=0)
        cut = dict(marker=[(-1, -0.5), (1, 0.5)], markersize=8, color="black",
                   linestyle="none", clip_on=False)  # fmt: skip
        above.plot([0], [0], transform=above.transAxes, **cut)
        below.plot([0], [1], transform=below.transAxes, **cut)


def _parameters(panel: Any, label: str) -> None:
    """Set the panel's logarithmic axis of parameters, from one of its ticks to one."""
    panel.set_xlabel(label)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(_short))
    low, high = panel.dataLim.intervalx
    ticks = [k * 10**i for i in range(2, 11) for k in (1, 2, 5)]
    low = max((tick for tick in ticks if tick <= low / 1.05), default=low)
    high = min((tick for tick in ticks if tick >= high * 1.05), default=high)
    panel.set_xlim(low, high)


def _shifts(models: Sequence[Drawn]) -> List[float]:
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
            for slot, member in enumerate(crowd):  # from small to large
                middle = places[crowd[0]] + (places[crowd[-1]] - places[crowd[0]]) / 2
                place = middle + step * (slot - (len(crowd) - 1) / 2)
                shifts[member] = math.exp(place - places[member])
            crowd = []
    return shifts


def _point(panel: Any, drawn: Drawn, shift: float, size: int = 6) -> Dict[str, Any]:
    """Draw the mean score of a model, its spread, and the paper's; give their look."""
    look: Dict[str, Any] = {
        "marker": _marker(drawn.model), "color": _color(drawn.model),
        "linestyle": "", "markersize": size,
    }  # fmt: skip
    mean, deviation = _spread(drawn.scores)
    x = drawn.parameters * shift
    panel.errorbar([x], [mean], yerr=[deviation], capsize=3, **look)
    if drawn.published:
        x, y = drawn.published
        look_of_theirs = {**look, "markersize": 9, "markerfacecolor": "none"}
        panel.plot([x * shift], [y], zorder=3, **look_of_theirs)
    return look


def _intervals(models: Sequence[Drawn]) -> List[Tuple[float, float]]:
    """Ranges of the scores: two when ours and the paper's are far apart, else one."""
    ours = [
        mean + sign * deviation
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


def _curves(part: Any, models: Sequence[Drawn]) -> None:
    panel = part.subplots()
    curves = [curve for model in models for curve in model.curves]
    for model in models:
        look = {"color": _color(model.model), "linestyle": _line(model.model)}
        for curve in model.curves:
            if len(model.curves) > 1:
                panel.plot(*zip(*curve), linewidth=0.6, alpha=0.4, **look)
        mean = _mean_curve(model.curves)
        if mean:
            few = _marker(model.model) if len(mean) < 4 else None
            panel.plot(*zip(*mean), linewidth=1.6, marker=few, markersize=4, **look)
    _late(panel, curves)
    panel.set(xlabel="updates", ylabel="validation loss")
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(FuncFormatter(_short))


def _mean_curve(
    curves: Sequence[Sequence[Tuple[float, float]]],
) -> List[Tuple[float, float]]:
    """The mean loss at the places of the first curve, from where all have begun to
    where the first one ends; between its points a curve is straight.
    """
    curves = [sorted(curve) for curve in curves if curve]
    if not curves:
        return []
    first = max(curve[0][0] for curve in curves)
    last = min(curve[-1][0] for curve in curves)
    places = [place for place, _ in curves[0] if first <= place <= last] or [last]
    losses = [interp(places, *zip(*curve)).tolist() for curve in curves]
    return list(zip(places, map(statistics.mean, zip(*losses))))


def _late(
    panel: Any, curves: Iterable[Sequence[Tuple[float, float]]], start: float = EARLY
) -> None:
    """Let losses before a share of their run leave the panel at the top."""
    kept = [
        loss
        for curve in curves
        for place, loss in curve
        if place >= start * curve[-1][0]
    ]
    margin = 0.05 * (max(kept) - min(kept)) or 0.1
    panel.set_ylim(min(kept) - margin, max(kept) + margin)


def _spread(values: Sequence[float]) -> Tuple[float, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.mean(values), deviation


def _short(number: float, _: Any = None) -> str:
    """44M for 44,000,000.

    >>> _short(44e6), _short(2500), _short(400)
    ('44M', '2.5K', '400')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def _share(share: float, _: Any = None) -> str:
    """1/4 for 0.25.

    >>> _share(0.25), _share(1), _share(2)
    ('1/4', '1', '2')
    """
    return f"{share:g}" if share >= 1 else f"1/{1 / share:g}"


def _color(model: Model) -> Any:
    if model.family == "PHM":
        return colormaps["viridis"](min(1, (math.log2(model.n) - 1) / 3) * 0.85)
    if model.family == "quaternion":
        return "#d55e00"
    return "black" if model.narrow == 1 else "#7f7f7f"


def _marker(model: Model) -> str:
    if model.whole:
        return "*" if model.rule_rank else "X"
    if model.wide:
        return "v" if model.rule_rank else "^"
    if model.family == "PHM":
        return "P" if model.rule_rank else "D"
    return "s" if model.family == "quaternion" else "o"


def _line(model: Model) -> Any:
    if model.whole:
        return "-."
    if model.rule_rank:
        return (0, (5, 1, 1, 1)) if model.wide else ":"
    return "--" if model.wide else "-"
