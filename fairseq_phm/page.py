"""The page of ``fairseq-phm inspect``: pictures and the text that explains them.

Needs matplotlib. The page is one file without scripts, its pictures are part of it.
"""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from typing import Any, Dict, List, Sequence, Tuple

from matplotlib.figure import Figure
from torch import Tensor

from .algebras import STARTS
from .inspection import Inspection

RULES = 8
"""Rules that are drawn: half of them the nearest to an algebra, half the furthest."""
ROWS = 40
"""Rows of a picture at most: of more, those at both ends are drawn."""
WIDTH = 9.0
"""Of a picture, in inches."""
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto;
  padding: 0 1em; color: #222; background: #fff; overflow-wrap: anywhere; }
h2 { margin-top: 2em; } h3 { margin: 1.5em 0 .3em; font-size: 1em; }
img { display: block; background: #fff; }
.rule { display: flex; flex-wrap: wrap; gap: .5em 1.2em; }
figure { margin: 0; } figcaption { font-size: 14px; }
.rule img { max-width: 100%; }
.wide { overflow-x: auto; margin: .5em 0 1em; }
.wide img { width: 100%; min-width: 700px; }
.scale { max-width: 18em; font-size: 14px; display: flex;
  justify-content: space-between; border-top: 1em solid; border-image:
  linear-gradient(to right, #053061, #4393c3, #f7f7f7, #d6604d, #67001f) 1; }
table { border-collapse: collapse; font-size: 14px; overflow-wrap: normal; }
td, th { padding: .1em 1em .1em 0; text-align: left; border-bottom: 1px solid #8886; }
td.n { text-align: right; } code { font-size: 90%; }
summary { cursor: pointer; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; }
  .wide img { padding: 4px; box-sizing: border-box; }
}
"""


def draw(found: Inspection) -> Dict[str, bytes]:
    """Draw all pictures.

    Returns:
        Name of a PNG file -> its bytes: ``rule-1-stored.png``, ``rule-1-turned.png``,
        ``rule-1-algebra.png``, ..., ``algebras.png``, ``spectrum.png``,
        ``similarity.png``, and ``moves.png`` if starts are known.
    """
    figures = {
        f"rule-{number}-{kind}.png": _matrices(matrices)
        for number, i in enumerate(chosen(found), 1)
        for kind, _, matrices in _views(found, i)
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
        _about_spectra(found, pictures),
        _about_similarity(found, pictures),
        _about_moves(found, pictures),
        _table(found),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>The rules of {title}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def chosen(found: Inspection) -> List[int]:
    """Return the places of the rules to draw, nearest to an algebra first."""
    return _ends(_by_distance(found), RULES)


def _by_distance(found: Inspection) -> List[int]:
    places = range(len(found.rules))
    return sorted(places, key=lambda place: found.matches[place].distance)


def _ends(order: Sequence[int], most: int = ROWS) -> List[int]:
    """Return all, or of more than ``most`` as many from both ends."""
    if len(order) <= most:
        return list(order)
    return [*order[: most // 2], *order[-(most // 2) :]]


def _shown(rows: Sequence[Any], what: str, first: str, last: str) -> str:
    """Say which rows a picture has, if not all."""
    if len(rows) <= ROWS:
        return ""
    first, last = (f"the {ROWS // 2} {one}" for one in (first, last))
    return f" Of {len(rows)} {what}, {first} and {last} are drawn."


def _summary(found: Inspection) -> str:
    sizes = ", ".join(str(n) for n in sorted(found.random))
    kind = f"of CP rank {found.rank}" if found.rank else "full"
    frozen = {True: " They are frozen.", False: " They are trained.", None: ""}
    return f"""
<p>A PHM layer multiplies its input by a weight H that is built from n matrices
A<sub>1</sub>, ..., A<sub>n</sub> of size n &times; n, the <i>rule</i>, and n larger
matrices S<sub>1</sub>, ..., S<sub>n</sub>, the <i>blocks</i>: H = A<sub>1</sub>
&otimes; S<sub>1</sub> + ... + A<sub>n</sub> &otimes; S<sub>n</sub>. Each A<sub>i</sub>
&otimes; S<sub>i</sub> (Kronecker product: n &times; n copies of S<sub>i</sub>, each
times an entry of A<sub>i</sub>) is a <i>summand</i>. Input and output are cut into n
parts, and the rule says which part of the input goes into which part of the output, as
the multiplication table of the quaternions says how to multiply four numbers by four
numbers.</p>
<p>This model has {len(found.layers)} PHM layers with {len(found.rules)} different
rules, {kind}; n = {sizes}.{frozen[found.frozen]} A rule that several layers share is
called by the first of them.</p>
<h2>In short</h2>
<ul>{"".join(f"<li>{line}</li>" for line in _short(found))}</ul>"""


def _short(found: Inspection) -> List[str]:
    """Return what the pictures say, in a line each."""
    counts = Counter(match.name for match in found.matches).most_common()
    kinds = ", ".join(f"{html.escape(name)} ({count})" for name, count in counts)
    distances = [match.distance for match in found.matches]
    low, high = min(distances), max(distances)
    random = ", ".join(f"{one:.2f} (n = {n})" for n, one in found.random.items())
    lines = [
        f"The known algebra nearest to each rule: {kinds}. Distances are {low:.2f} to "
        f"{high:.2f}; 0 is the same algebra, and random rules have {random}."
    ]
    for n in found.random:
        rules = [one for one in found.rules if one.n == n]
        names = {name for one in rules for name in one.layers}
        used = sorted((one.effective, one.name) for one in found.layers
                      if one.name in names)  # fmt: skip
        lines.append(
            f"Layers use {used[0][0]:.1f} to {used[-1][0]:.1f} of their n = {n} "
            f"summands, least <code>{html.escape(used[0][1])}</code>."
        )
    if found.moves and not found.frozen:
        first = found.moves[0]
        lines.append(
            f"<code>{html.escape(first.name)}</code> moved most in training, by "
            f"{first.entries:.0%} of its start."
        )
    return lines


def _about_algebras(found: Inspection, pictures: Dict[str, bytes]) -> str:
    shown = []
    for number, i in enumerate(chosen(found), 1):
        rule, match = found.rules[i], found.matches[i]
        others = len(rule.layers) - 1
        figures = "".join(
            f"<figure><figcaption>{title}; darkest: {matrices.abs().max():.2f}"
            "</figcaption>"
            + _img(pictures, f"rule-{number}-{kind}.png", f"{rule.name}, {title}")
            + "</figure>"
            for kind, title, matrices in _views(found, i)
        )
        shown.append(
            f"<h3><code>{html.escape(rule.name)}</code>"
            + (f" and {others} more layer{'s' * (others > 1)}" if others else "")
            + f": {html.escape(match.name)}, distance {match.distance:.3f}</h3>"
            + f'<div class="rule">{figures}</div>'
        )
    few = f"Of {len(found.rules)} rules, {len(shown)} are drawn, the nearest to a known"
    few += " algebra first"
    if len(found.rules) > len(shown):
        few += f": the {RULES // 2} nearest and the {RULES // 2} furthest"
    ends = _shown(found.rules, "rules", "nearest", "furthest")
    return f"""
<h2>What the rules look like</h2>
<p>{few}. A group of squares is a rule, and each square one matrix A<sub>i</sub>, from
A<sub>1</sub> to A<sub>n</sub>. Rows are parts of the output, columns parts of the
input.</p>
<div class="scale"><span>negative</span><span>0</span><span>positive</span></div>
<ul><li><b>As stored</b>: the rule of the checkpoint. A layer has many equal rules: it
stays the same if the A<sub>i</sub> are mixed and the S<sub>i</sub> are mixed back.</li>
<li><b>In the algebra's basis</b>: the same rule, mixed and rotated until it is as much
like a known algebra as it can be.</li>
<li><b>The algebra</b>: its multiplication table.</li></ul>
<p>Where the last two look alike, the layer multiplies as this algebra does.</p>
{"".join(shown)}
<h2>How near the rules are to known algebras</h2>
<p>A bar is the distance of a rule to the nearest known algebra: 0 is the same, but for
the basis, and the dashed line is the mean of random rules. A rule at the line is like
no known algebra.{ends}</p>
{_wide(pictures, "algebras.png")}
<p>How it is found: any mixing of the summands is allowed, so each rule is first
replaced by an orthonormal basis of what its A<sub>i</sub> span. Then three rotations
are found, of the summands, of the input's parts and of the output's parts, one at a
time, each the best while the others stay (orthogonal Procrustes problems), from
{STARTS} starts and for each algebra of this n. The distance is |A &minus; B| /
&radic;n, with the A<sub>i</sub> and the algebra's B<sub>i</sub> orthonormal; it is at
most &radic;2. The search may miss the best rotation, and changes of basis that are no
rotations are not tried: the true distance can be smaller.</p>"""


def _about_spectra(found: Inspection, pictures: Dict[str, bytes]) -> str:
    shown = _shown(found.layers, "layers", "with the least", "with the most")
    return f"""
<h2>How many of the n summands the layers use</h2>
<p>Written with as few summands as possible, how strong is each? The left picture has a
row for each layer: the strength of its summands, the strongest first, which is 1. The
right one counts them: n where all are equally strong, 1 where one does all.{shown}</p>
{_wide(pictures, "spectrum.png")}
<ul><li>A count far below n: fewer summands would do, and a <i>larger</i> n (fewer
weights) would lose little in this layer.</li>
<li>A count near n: the layer uses all it has. More freedom could help it: a
<i>smaller</i> n (more weights), or a full rule in place of one of CP rank R.</li></ul>
<p>How it is found: H is cut into n &times; n parts, and each part is written as a row.
This matrix has at most n singular values that are not 0 (of a dense weight up to
n&sup2;): they are the strengths. The count is the exponential of the entropy of the
shares of their squares. What n summands leave out, a checkpoint does not tell.</p>"""


def _about_similarity(found: Inspection, pictures: Dict[str, bytes]) -> str:
    random = ", ".join(f"1/{n} = {1 / n:.3g} for n = {n}" for n in sorted(found.random))
    return f"""
<h2>Which layers have learned the same rule</h2>
<p>Each square compares two rules, with the same order from top to bottom and from left
to right: 1 (yellow) if mixing the A<sub>i</sub> turns one into the other, 0 (dark) if
they have nothing in common. Unrelated random rules have about {random}.</p>
{_wide(pictures, "similarity.png")}
<p>It is the mean squared cosine of the principal angles between what the A<sub>i</sub>
of both span. Unlike the distance above it depends on the order and the signs of the
input's and output's parts.</p>"""


def _about_moves(found: Inspection, pictures: Dict[str, bytes]) -> str:
    head = "<h2>Which rules moved most in training</h2>"
    if found.frozen:
        return f"{head}\n<p>The rules are frozen: they did not move.</p>"
    if not found.moves:
        return (
            f"{head}\n<p>The rules started {found.start}: how far they moved is "
            "unknown.</p>"
        )
    few = ""
    if len(found.moves) > ROWS:
        few = f" Of {len(found.moves)} rules, the {ROWS} that moved most are drawn."
    return f"""{head}
<p>By the options in the checkpoint, each rule started {found.start}. Dark: the change
of its numbers, |A &minus; start| / |start|. Light: the part of it that mixing the
A<sub>i</sub> cannot undo, 0 for none and 1 for all new (1 minus the similarity above).
If the training began from another checkpoint, the start was another one.{few}</p>
{_wide(pictures, "moves.png")}"""


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
    head = "rule,layers,n,nearest algebra,distance,summands used (mean),moved"
    heads = "".join(f"<th>{name}</th>" for name in head.split(","))
    return (
        f"<h2>All rules</h2>\n<details{' open' * (len(rows) <= ROWS)}>"
        f'<summary>{len(rows)} rules</summary><div class="wide">\n<table>'
        f"<tr>{heads}</tr>\n" + "\n".join(rows) + "\n</table></div></details>"
    )


def _img(pictures: Dict[str, bytes], name: str, says: str) -> str:
    data = base64.b64encode(pictures[name]).decode()
    return f'<img alt="{html.escape(says)}" src="data:image/png;base64,{data}">\n'


def _wide(pictures: Dict[str, bytes], name: str) -> str:
    """Return a picture that keeps its size on narrow screens, and scrolls there."""
    return f'<div class="wide">{_img(pictures, name, name)}</div>'


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _views(found: Inspection, place: int) -> List[Tuple[str, str, Tensor]]:
    """Return what is drawn of a rule: name, title and matrices (n, n, n)."""
    match = found.matches[place]
    return [
        ("stored", "as stored", found.rules[place].rule),
        ("turned", "in the algebra's basis", match.turned),
        ("algebra", "the algebra", match.table),
    ]


def _matrices(matrices: Tensor) -> Figure:
    """Draw the matrices of a rule in a row; three of them have a line for n <= 4."""
    n = len(matrices)
    width = 2.8 if n <= 4 else WIDTH
    scale = n * (n + 1) - 1
    figure = Figure(figsize=(width, width * (n + 0.2) / (scale + 0.2)))
    axes = figure.add_axes((0, 0, 1, 1))
    limit = float(matrices.abs().max()) or 1.0
    for i, matrix in enumerate(matrices.tolist()):
        left = i * (n + 1)
        box = (left, left + n, 0, n)
        axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=box)
        axes.plot(
            [left, left + n, left + n, left, left], [0, 0, n, n, 0],
            color="0.6", linewidth=0.8,
        )  # fmt: skip
    axes.set(xlim=(-0.1, scale + 0.1), ylim=(-0.1, n + 0.1), aspect="equal")
    axes.set_axis_off()
    return figure


def _algebras(found: Inspection) -> Figure:
    places = sorted(_ends(_by_distance(found)))
    names = [found.rules[place].name for place in places]
    figure, axes = _bars(names, "distance to the nearest known algebra")
    matches = [found.matches[place] for place in places]
    for number, kind in enumerate(sorted({match.name for match in matches})):
        own = [i for i, match in enumerate(matches) if match.name == kind]
        values = [matches[i].distance for i in own]
        axes.barh(own, values, color=f"C{number % 10}", label=kind)
    for n, distance in found.random.items():
        label = f"random rules, n = {n}"
        axes.axvline(distance, color="0.3", linestyle="--", linewidth=1, label=label)
    axes.set_xlim(0, max([1.05 * max(found.random.values()), axes.get_xlim()[1]]))
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    return figure


def _spectrum(found: Inspection) -> Figure:
    order = sorted(range(len(found.layers)), key=lambda i: found.layers[i].effective)
    layers = [found.layers[i] for i in sorted(_ends(order))]
    names, most = [layer.name for layer in layers], max(found.random)
    figure = Figure(figsize=(WIDTH, _height(len(names))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1], sharey=True)
    table = [
        [*(layer.values / (layer.values[0] or 1)).tolist()]
        + [float("nan")] * (most - len(layer.values))
        for layer in layers
    ]
    image = left.imshow(table, aspect="auto", vmin=0, vmax=1, cmap="viridis")
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set_xticks(range(most), [str(i + 1) for i in range(most)], fontsize=7)
    left.set_xlabel("summand, the strongest first")
    figure.colorbar(
        image, ax=left, location="top", fraction=0.05, aspect=40,
        label="strength, divided by that of the strongest",
    )  # fmt: skip
    right.barh(range(len(names)), [layer.effective for layer in layers])
    right.set_xlim(0, most)
    right.set_xlabel("summands used")
    for n in found.random:
        right.axvline(n, color="0.3", linestyle="--", linewidth=1)
    return figure


def _similarity(found: Inspection) -> Figure:
    sizes = [_height(min(len(one), ROWS)) for one in found.alike.values()]
    figure = Figure(figsize=(WIDTH, sum(sizes)), layout="constrained")
    all_axes = figure.subplots(len(sizes), 1, squeeze=False, height_ratios=sizes)
    for axes, (n, table) in zip(all_axes[:, 0], found.alike.items()):
        names = [rule.name for rule in found.rules if rule.n == n]
        image = axes.imshow(table.tolist(), vmin=0, vmax=1, cmap="viridis")
        each = -(-len(names) // ROWS)  # a name for some of many rows
        axes.set_yticks(range(0, len(names), each), names[::each], fontsize=7)
        axes.set_xticks([])
        axes.set_xlabel(f"the same rules, in the same order (n = {n})")
        figure.colorbar(image, ax=axes, label="similarity")
    return figure


def _moves(found: Inspection) -> Figure:
    moves = found.moves[:ROWS]
    figure, axes = _bars([move.name for move in moves], "change since the start")
    places = range(len(moves))
    numbers = [move.entries for move in moves]
    spans = [move.span for move in moves]
    for offset, values, alpha, label in (
        (-0.2, numbers, 1.0, "of the numbers"),
        (0.2, spans, 0.4, "that mixing cannot undo"),
    ):
        heights = [place + offset for place in places]
        axes.barh(heights, values, 0.4, color="C0", alpha=alpha, label=label)
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
