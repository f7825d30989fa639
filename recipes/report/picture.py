"""Draw H = A_1 kron S_1 + A_2 kron S_2, the picture of the README."""

from __future__ import annotations

from typing import List, Sequence, Tuple

Matrix = Sequence[Sequence[float]]
Color = Tuple[int, ...]

INKS: Tuple[Color, Color] = ((9, 105, 218), (219, 109, 0))
"""Colours of S_1 and S_2, which colour-blind readers can tell apart."""

RULE: Tuple[Matrix, Matrix] = (((0.9, 0.3), (0.2, 0.8)), ((0.2, 0.8), (0.9, 0.3)))
"""A_1 and A_2 of the picture."""

BLOCKS: Tuple[Matrix, Matrix] = (
    (
        (0.95, 0.20, 0.55, 0.10),
        (0.30, 0.80, 0.15, 0.60),
        (0.65, 0.10, 0.90, 0.35),
        (0.15, 0.50, 0.25, 0.75),
    ),
    (
        (0.15, 0.35, 0.75, 0.95),
        (0.60, 0.90, 0.40, 0.15),
        (0.95, 0.55, 0.10, 0.30),
        (0.25, 0.10, 0.50, 0.80),
    ),
)
"""S_1 and S_2 of the picture, 0 to 1."""

FEATURES = 512  # inputs and outputs of the layers whose weights are counted
WIDTH, HEIGHT = 880, 510
PANELS = (20, 315, 610)  # left ends of the two summands and of H
PANEL = 250  # width of each
SIDE = 84  # of a block
CELL = SIDE / 4
GAP = 4  # between the parts of a matrix
TOP, BOTTOM = 76, 202  # of the two rows of matrices
BARS = 416  # top of the bars
TINTS = ("#eef6ff", "#fff4e8", "#f6f8fa")
TEXT, FAINT, LINE = "#1f2328", "#59636e", "#8c959f"


def draw() -> str:
    """Return the picture as SVG, with text as text, on a light card."""
    card = (
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" '
        'fill="#ffffff" stroke="#d1d9e0"/>'
    )
    panels = [
        f'<rect x="{left}" y="18" width="{PANEL}" height="376" rx="8" fill="{tint}"/>'
        for left, tint in zip(PANELS, TINTS)
    ]
    parts = [*_summand(0), *_summand(1), *_sum(), *_bars()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" font-family="-apple-system, '
            "'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif\">",
            "<title>H = A1 kron S1 + A2 kron S2</title>",
            card,
            *panels,
            *parts,
            "</svg>\n",
        ]
    )


def _summand(index: int) -> List[str]:
    """A_i kron S_i, and under it the four parts of this product."""
    left, ink = PANELS[index] + 21, _hex(INKS[index])
    small, block = FEATURES // 2, left + 124
    rule, name = "A" + "₁₂"[index], "S" + "₁₂"[index]
    parts = [
        _text(left + SIDE / 2, 44, rule, 19),
        _text(left + SIDE / 2, 63, "rule, 2 × 2", 12, FAINT),
        _text(block + SIDE / 2, 44, name, 19, ink),
        _text(block + SIDE / 2, 63, f"block, {small} × {small}", 12, FAINT),
        _text(left + 104, TOP + SIDE / 2 + 9, "⊗", 26),
        _text(left + 104, TOP + SIDE + 29, "=", 24),
        *_cells(block, TOP, _shades(index, 1.0)),
    ]
    half = SIDE / 2
    for row, column, x, y in _parts(PANELS[index]):
        factor = f"{RULE[index][row][column]:.1f}"
        at_x, at_y = left + column * half, TOP + row * half
        parts += [
            _box(at_x, at_y, half, "#ffffff"),
            _text(at_x + half / 2, at_y + half / 2 + 5, factor, 15),
            *_cells(x, y, _shades(index, RULE[index][row][column])),
            *_label(x, y, [f"{factor} {name}"]),
        ]
    sign = _text(PANELS[index + 1] - 22.5, BOTTOM + SIDE + 12, "+="[index], 30)
    return [*parts, sign]


def _sum() -> List[str]:
    """H, whose parts are mixtures of the two blocks."""
    middle = PANELS[2] + PANEL / 2
    parts = [
        _text(middle, 44, "H", 19),
        _text(middle, 63, f"weight, {FEATURES} × {FEATURES}", 12, FAINT),
        _text(middle, 112, "All four parts are made", 14),
        _text(middle, 132, "of the same two blocks,", 14),
        _text(middle, 152, "mixed by the rule.", 14),
    ]
    for row, column, x, y in _parts(PANELS[2]):
        one, other = (RULE[index][row][column] for index in range(2))
        mixed = [
            [_on_top(*pair) for pair in zip(*rows)]
            for rows in zip(_shades(0, one), _shades(1, other))
        ]
        words = [f"{one:.1f} S₁", f"+ {other:.1f} S₂"]
        parts += [*_cells(x, y, mixed), *_label(x, y, words)]
    return parts


def _bars() -> List[str]:
    """Weights of a dense layer and of PHM layers, each with a bar."""
    dense = FEATURES**2
    parts = []
    for row, n in enumerate((1, 2, 4)):
        y, width = BARS + 27 * row, 280 / n
        side = FEATURES // n
        name, count = f"PHM, n = {n}", dense // n + n**3
        made = f"{n} blocks {side} × {side} and a rule {n} × {n} × {n}"
        if n == 1:
            name, count, made = "dense", dense, f"{side} × {side}"
        fills = [_hex(ink) for ink in INKS] if n == 2 else [LINE]
        share = width / len(fills)
        parts += [
            _text(116, y + 15, name, 14, anchor="end"),
            *(
                f'<rect x="{128 + place * share:g}" y="{y}" width="{share:g}" '
                f'height="19" fill="{fill}"/>'
                for place, fill in enumerate(fills)
            ),
            _text(136 + width, y + 15, f"{count:,} weights", 14, anchor="start"),
            _text(860, y + 15, made, 13, FAINT, "end"),
        ]
    return parts


def _parts(panel: float) -> List[Tuple[int, int, float, float]]:
    """Row, column and place of the parts of a large matrix in a panel."""
    left = panel + (PANEL - 2 * SIDE - GAP) / 2
    step = SIDE + GAP
    return [
        (row, column, left + column * step, BOTTOM + row * step)
        for row in range(2)
        for column in range(2)
    ]


def _shades(index: int, factor: float) -> List[List[Color]]:
    """The colours of ``factor`` times a block."""
    return [
        [
            tuple(round(255 - value * factor * (255 - part)) for part in INKS[index])
            for value in row
        ]
        for row in BLOCKS[index]
    ]


def _on_top(one: Color, other: Color) -> Color:
    """The colour of two inks on the same paper."""
    return tuple(round(a * b / 255) for a, b in zip(one, other))


def _cells(x: float, y: float, colors: Sequence[Sequence[Color]]) -> List[str]:
    cells = [
        f'<rect x="{x + column * CELL:g}" y="{y + row * CELL:g}" width="{CELL:g}" '
        f'height="{CELL:g}" fill="{_hex(color)}"/>'
        for row, line in enumerate(colors)
        for column, color in enumerate(line)
    ]
    return [*cells, _box(x, y, SIDE, "none")]


def _box(x: float, y: float, side: float, fill: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="{fill}" '
        f'stroke="{LINE}"/>'
    )


def _label(x: float, y: float, lines: Sequence[str]) -> List[str]:
    """Words on a light plate in the middle of a block."""
    middle, height = x + SIDE / 2, 19 * len(lines) + 3
    top = y + (SIDE - height) / 2
    plate = (
        f'<rect x="{middle - 29:g}" y="{top:g}" width="58" height="{height}" rx="4" '
        'fill="#ffffff" fill-opacity="0.86"/>'
    )
    words = [
        _text(middle, top + 16 + 19 * number, line, 14)
        for number, line in enumerate(lines)
    ]
    return [plate, *words]


def _text(
    x: float,
    y: float,
    words: str,
    size: int,
    color: str = TEXT,
    anchor: str = "middle",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" '
        f'text-anchor="{anchor}">{words}</text>'
    )


def _hex(color: Color) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)
