"""Time against tokens, a line for each path."""

from __future__ import annotations

import logging
from typing import List

from .timing import Row


def plot(measured: List[Row], file: str) -> None:
    """Draw the rows of ``paths``, a panel for each size, into ``file``."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq logs all
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in measured if row["benchmark"] == "paths"]
    sizes = list(dict.fromkeys(row["in x out"] for row in measured))
    figure, panels = pyplot.subplots(
        1, len(sizes), figsize=(4.5 * len(sizes), 4), sharey=True, squeeze=False
    )
    for panel, size in zip(panels[0], sizes):
        here = [row for row in measured if row["in x out"] == size]
        for name in dict.fromkeys(row["what"] for row in here):
            line = [row for row in here if row["what"] == name]
            (drawn,) = panel.plot(
                [row["tokens"] for row in line],
                [row["ratio"] for row in line],
                marker="o",
                markersize=4,
                label=name,
                color="black" if name == "dense" else None,
            )
            panel.fill_between(
                [row["tokens"] for row in line],
                [row["low"] for row in line],
                [row["high"] for row in line],
                alpha=0.15,
                color=drawn.get_color(),
            )
        panel.set(xscale="log", yscale="log", xlabel="tokens")
        panel.set_title(f"in x out = {size.replace('x', ' x ')}, {here[0]['mode']}")
        panel.set_xticks(tokens := sorted({row["tokens"] for row in here}), tokens)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    shares = (0.1, 0.2, 0.5, 1, 2, 5, 10)
    panels[0][0].set_yticks(shares, shares)
    panels[0][0].set_ylabel("forward time / dense")
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
