"""The page of ``fairseq-phm inspect``: pictures and the text that explains them.

Needs matplotlib. The page is one file without scripts, its pictures are part of it.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Any, Dict, List, Sequence, Tuple

from matplotlib.figure import Figure

from .inspection import Inspection

RULES = 8
"""Rules that are drawn: half of them the nearest to an algebra, half the furthest."""
WIDTH = 9.0
"""Of a picture, in inches."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto;
  padding: 0 1em; color: #222; }
img { max-width: 100%; display: block; margin: .5em 0 1em; }
h2 { margin-top: 2em; } h3 { margin-bottom: 0; font-size: 1em; }
table { border-collapse: collapse; font-size: 14px; }
td, th { padding: .1em 1em .1em 0; text-align: left; border-bottom: 1px solid #ddd; }
td.n { text-align: right; } code { font-size: 90%; }
"""


def draw(found: Inspection) -> Dict[str, bytes]:
    """Draw all pictures.

    Returns:
        Name of a PNG file -> its bytes: ``rule-1.png``, ..., ``algebras.png``,
        ``spectrum.png``, ``similarity.png``, and ``moves.png`` if starts are known.
    """
    figures = {
        f"rule-{number}.png": _rule(found, i)
        for number, i in enumerate(chosen(found), 1)
    }
    figures["algebras.png"] = _algebras(found)
    figures["spectrum.png"] = _spectrum(found)
    figures["similarity.png"] = _similarity(found)
    if found.moves:
        figures["moves.png"] = _moves(found)
    return {name: _png(figure) for name, figure in figures.items()}


def write(found: Inspection, pictures: Dict[str, bytes], title: str) -> str:
    """Write the page, HTML with all pictures in it.

    Args:
        found: what the text says.
        pictures: as of :func:`draw`.
        title: of the page, the name of the checkpoint.
    """
    title = html.escape(title)
    sections = [
        _summary(found),
        _about_algebras(found, pictures),
        _about_spectra(pictures),
        _about_similarity(found, pictures),
        _about_moves(found, pictures),
        _table(found),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>The rules of {title}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def chosen(found: Inspection) -> List[int]:
    """Return the places of the rules to draw, nearest to an algebra first."""
    order = sorted(
        range(len(found.rules)), key=lambda place: found.matches[place].distance
    )
    if len(order) <= RULES:
        return order
    return order[: RULES // 2] + order[-(RULES // 2) :]


def _summary(found: Inspection) -> str:
    sizes = ", ".join(str(n) for n in sorted(found.random))
    kind = f"of CP rank {found.rank}" if found.rank else "full"
    frozen = {True: " They are frozen.", False: " They are trained.", None: ""}
    return f"""
<p>A PHM layer multiplies its input by a weight H that is built from n matrices
A<sub>1</sub>, ..., A<sub>n</sub> of size n &times; n, the <i>rule</i>, and n larger
matrices S<sub>1</sub>, ..., S<sub>n</sub>, the <i>blocks</i>:
H = A<sub>1</sub> &otimes; S<sub>1</sub> + ... + A<sub>n</sub> &otimes; S<sub>n</sub>.
The rule says how the n parts of the input are mixed into the n parts of the output, as
the multiplication table of the quaternions says how to multiply four numbers by four
numbers.</p>
<p>This model has {len(found.layers)} PHM layers with {len(found.rules)} different
rules, {kind}; n = {sizes}.{frozen[found.frozen]} A rule that several layers share is
called by the first of them.</p>"""


def _about_algebras(found: Inspection, pictures: Dict[str, bytes]) -> str:
    shown = []
    for number, i in enumerate(chosen(found), 1):
        rule, match = found.rules[i], found.matches[i]
        others = len(rule.layers) - 1
        shown.append(
            f"<h3><code>{html.escape(rule.name)}</code>"
            + (f" and {others} more layers" if others else "")
            + f": {html.escape(match.name)}, distance {match.distance:.3f}</h3>"
            + _img(pictures, f"rule-{number}.png")
        )
    few = f"Of {len(found.rules)} rules, {len(shown)} are drawn, the nearest first."
    return f"""
<h2>What the rules look like</h2>
<p>{few} Each square is one matrix A<sub>i</sub>, i = 1 ... n from left to right; red is
positive, blue negative, and white 0.</p>
<ul><li>First row: the rule as the checkpoint has it. It is not unique. The layer stays
the same if the A<sub>i</sub> are mixed and the S<sub>i</sub> are mixed back.</li>
<li>Second row: the same rule in the basis in which it is most like a known
algebra.</li>
<li>Third row: the multiplication table of this algebra.</li></ul>
<p>Where the second and the third row look alike, the layer multiplies as this algebra
does.</p>
{"".join(shown)}
<h2>How near the rules are to known algebras</h2>
<p>A bar is the distance of a rule to the nearest known algebra: 0 is the same, up to
the changes of basis below, and the dashed line is the mean for random rules. A rule at
the line is like no algebra.</p>
{_img(pictures, "algebras.png")}
<p>How it is found: the A<sub>i</sub> are replaced by an orthonormal basis of what they
span, so that any mixing of the summands is allowed. Then rotations of the summands, of
the input's parts and of the output's parts are found in turn, each the best one while
the others are kept (alternating orthogonal Procrustes), from several starts. The
distance is |A &minus; B| / &radic;n with orthonormal A<sub>i</sub> and B<sub>i</sub>.
Changes of basis of inputs and outputs that are no rotations are not tried, and the
search may miss the best rotation: the true distance can be smaller.</p>"""


def _about_spectra(pictures: Dict[str, bytes]) -> str:
    return f"""
<h2>How many of the n summands the layers use</h2>
<p>Cut into n &times; n parts, with each part written as a row, H is a matrix with at
most n singular values that are not 0. A dense weight has up to n&sup2;. The left
picture has a row for each layer, with its n singular values, divided by the largest.
The right picture has the effective number of summands: the exponential of the entropy
of the shares of the squared singular values. It is n where all are equal and 1 where
one summand does all.</p>
{_img(pictures, "spectrum.png")}
<p>Nearly equal values mean that the layer uses all that n summands offer; these layers
would gain the most from more freedom, which is a <i>smaller</i> n (more weights) or a
full rule in place of one of low rank. A fast decrease means that fewer summands
would do. What the n summands leave out cannot be seen in a checkpoint.</p>"""


def _about_similarity(found: Inspection, pictures: Dict[str, bytes]) -> str:
    random = ", ".join(f"1/{n} = {1 / n:.3g} for n = {n}" for n in sorted(found.random))
    return f"""
<h2>Which layers have learned the same rule</h2>
<p>The colour is the mean squared cosine of the principal angles between what the
A<sub>i</sub> of two rules span: 1 for the same span, 0 for orthogonal ones, about
{random} for unrelated random rules. It does not depend on how the A<sub>i</sub> are
mixed, but it does depend on the order and the signs of the input's and output's
parts.</p>
{_img(pictures, "similarity.png")}"""


def _about_moves(found: Inspection, pictures: Dict[str, bytes]) -> str:
    head = "<h2>Which rules moved most in training</h2>"
    if found.frozen:
        return f"{head}\n<p>The rules are frozen: they did not move.</p>"
    if not found.moves:
        return (
            f"{head}\n<p>The rules started {found.start}: how far they moved is "
            "unknown.</p>"
        )
    return f"""{head}
<p>By the options in the checkpoint, each rule started {found.start}. Dark: the change
of its numbers, |A &minus; start| / |start|. Light: the change of what the A<sub>i</sub>
span, 0 for none and 1 for all new (1 minus the similarity above), which mixing does not
count as a change. If the training began from another checkpoint, the
start was another one.</p>
{_img(pictures, "moves.png")}"""


def _table(found: Inspection) -> str:
    moved = {move.name: f"{move.entries:.3f}" for move in found.moves}
    effective = {layer.name: layer.effective for layer in found.layers}
    rows = []
    for rule, match in zip(found.rules, found.matches):
        mean = sum(effective[name] for name in rule.layers) / len(rule.layers)
        cells = [
            f"<td><code>{html.escape(rule.name)}</code></td>",
            f'<td class="n">{len(rule.layers)}</td><td class="n">{rule.n}</td>',
            f"<td>{html.escape(match.name)}</td>",
            f'<td class="n">{match.distance:.3f}</td><td class="n">{mean:.2f}</td>',
            f'<td class="n">{moved.get(rule.name, "unknown")}</td>',
        ]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    return (
        "<h2>All rules</h2>\n<table><tr><th>rule</th><th>layers</th><th>n</th>"
        "<th>nearest algebra</th><th>distance</th><th>effective summands (mean)</th>"
        "<th>moved</th></tr>\n" + "\n".join(rows) + "\n</table>"
    )


def _img(pictures: Dict[str, bytes], name: str) -> str:
    data = base64.b64encode(pictures[name]).decode()
    return f'<img alt="{name}" src="data:image/png;base64,{data}">\n'


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _rule(found: Inspection, place: int) -> Figure:
    rule, match = found.rules[place], found.matches[place]
    n = rule.n
    width = min(WIDTH, 0.4 * n * (n + 1))
    rows = [
        ("as stored", rule.rule),
        ("in the basis of the algebra", match.turned),
        (match.name, match.table),
    ]
    height = 3 * (width * n / (n * (n + 1) - 1) + 0.35)
    figure = Figure(figsize=(max(width, 4.0), height), layout="constrained")
    for axes, (title, matrices) in zip(figure.subplots(3, 1), rows):
        limit = float(matrices.abs().max()) or 1.0
        for i, matrix in enumerate(matrices.tolist()):
            left = i * (n + 1)
            box = (left, left + n, 0, n)
            axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=box)
            axes.plot(
                [left, left + n, left + n, left, left], [0, 0, n, n, 0],
                color="0.6", linewidth=0.8, clip_on=False,
            )  # fmt: skip
        axes.set(xlim=(0, n * (n + 1) - 1), ylim=(0, n), aspect="equal")
        axes.set_axis_off()
        axes.set_title(f"{title} (darkest: {limit:.2f})", fontsize=9, loc="left")
    return figure


def _algebras(found: Inspection) -> Figure:
    names = [rule.name for rule in found.rules]
    figure, axes = _bars(names, "distance to the nearest known algebra")
    kinds = sorted({match.name for match in found.matches})
    places = range(len(names))
    for number, kind in enumerate(kinds):
        own = [i for i in places if found.matches[i].name == kind]
        values = [found.matches[i].distance for i in own]
        axes.barh(own, values, color=f"C{number % 10}", label=kind)
    for n, distance in found.random.items():
        label = f"random rules, n = {n}"
        axes.axvline(distance, color="0.3", linestyle="--", linewidth=1, label=label)
    axes.set_xlim(0, max([1.05 * max(found.random.values()), axes.get_xlim()[1]]))
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    return figure


def _spectrum(found: Inspection) -> Figure:
    names, most = [layer.name for layer in found.layers], max(found.random)
    figure = Figure(figsize=(WIDTH, _height(len(names))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1], sharey=True)
    table = [
        [*(layer.values / (layer.values[0] or 1)).tolist()]
        + [float("nan")] * (most - len(layer.values))
        for layer in found.layers
    ]
    image = left.imshow(table, aspect="auto", vmin=0, vmax=1, cmap="viridis")
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set_xticks(range(most), [str(i + 1) for i in range(most)], fontsize=7)
    left.set_xlabel("singular value, divided by the largest")
    figure.colorbar(image, ax=left, location="top", fraction=0.05, aspect=40)
    right.barh(range(len(names)), [layer.effective for layer in found.layers])
    right.set_xlim(0, most)
    right.set_xlabel("effective number of summands")
    for n in found.random:
        right.axvline(n, color="0.3", linestyle="--", linewidth=1)
    return figure


def _similarity(found: Inspection) -> Figure:
    sizes = [_height(len(table)) for table in found.alike.values()]
    figure = Figure(figsize=(WIDTH, sum(sizes)), layout="constrained")
    all_axes = figure.subplots(len(sizes), 1, squeeze=False, height_ratios=sizes)
    for axes, (n, table) in zip(all_axes[:, 0], found.alike.items()):
        names = [rule.name for rule in found.rules if rule.n == n]
        image = axes.imshow(table.tolist(), vmin=0, vmax=1, cmap="viridis")
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_xticks([])
        axes.set_xlabel(f"the same rules, in the same order (n = {n})")
        figure.colorbar(image, ax=axes, label="similarity")
    return figure


def _moves(found: Inspection) -> Figure:
    names = [move.name for move in found.moves]
    figure, axes = _bars(names, "distance to the start")
    places = range(len(names))
    numbers = [move.entries for move in found.moves]
    spans = [move.span for move in found.moves]
    axes.barh([i - 0.2 for i in places], numbers, 0.4, color="C0", label="numbers")
    axes.barh(
        [i + 0.2 for i in places], spans, 0.4, color="C0", alpha=0.4, label="span"
    )
    axes.set_xlim(left=0)
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    return figure


def _bars(names: Sequence[str], label: str) -> Tuple[Figure, Any]:
    """Return a figure for horizontal bars, one for each name, the first one on top."""
    figure = Figure(figsize=(WIDTH, _height(len(names))), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(label)
    return figure, axes


def _height(rows: int) -> float:
    return 1.3 + 0.2 * rows
