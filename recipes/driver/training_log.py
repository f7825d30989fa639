"""What the log of fairseq-train says."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

LAST = 0.2
"""Share of a run at whose end a loss that has come to rest no longer falls."""

AT_REST = 0.01 / math.log(2)
"""0.01 nats in fairseq's bits: a fall of the loss that is less is none."""


def log_entry(line: str) -> Optional[Tuple[str, Dict[str, str]]]:
    """Read ``train``, ``train_inner`` or ``valid`` and the values of a line."""
    entry = re.search(r"\| (train|train_inner|valid) \| (\{.*\})", line)
    if not entry:
        return None
    kind, prefix = entry[1], re.compile("^(train|valid)_")
    return kind, {prefix.sub("", k): v for k, v in json.loads(entry[2]).items()}


def read_training(log: Path) -> Dict[str, Any]:
    """Read what a training says of itself, over all its interruptions.

    Returns:
        ``training_seconds``, validation included, by the clock (fairseq's ``wall``
        stays 0 once a training is resumed); ``curve``: [update, mean of the training
        losses that were logged since the one before, validation loss] for each
        validation; and the ``accuracies`` of the validations in per cent, where there
        are any. fairseq logs the loss of the last 20 updates, of fewer after a resume.
    """
    seconds, part = 0.0, 0.0
    begun: Optional[datetime] = None
    curve: Dict[int, List[Any]] = {}
    accuracies = []
    losses: List[float] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if "| training on " in line:  # the training was started, or started again
            seconds, part, begun, losses = seconds + part, 0.0, _time(line), []
        kind, values = log_entry(line) or ("", {})
        now = _time(line) if kind else None
        if now and begun:
            part = (now - begun).total_seconds()
        if kind == "train_inner":
            losses.append(float(values["loss"]))
        if kind == "valid":
            updates = int(values["num_updates"])
            mean = round(sum(losses) / len(losses), 4) if losses else None
            curve[updates] = [updates, mean, float(values["loss"])]
            losses = []
            if "accuracy" in values:
                accuracies.append(float(values["accuracy"]))
    return {
        "training_seconds": seconds + part,
        "curve": [curve[updates] for updates in sorted(curve)],
        "accuracies": accuracies,
    }


def _time(line: str) -> Optional[datetime]:
    """Read the time at the beginning of a line, without fractions of a second."""
    found = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)
    return datetime.fromisoformat(found[0]) if found else None


def lowest_loss(training: Dict[str, Any]) -> float:
    """Find the lowest validation loss of a ``curve``; fairseq logs bits a token."""
    losses = [loss for _, _, loss in training["curve"] if not math.isnan(loss)]
    return min(losses, default=math.nan)


def converged(curve: Sequence[Sequence[Any]]) -> bool:
    """Say whether the validation loss had come to rest.

    It had if it was at its lowest before the last fifth of the run, or fell by less
    than 0.01 nats there.

    Args:
        curve: [update, training loss, validation loss in bits] of each validation.

    >>> converged([[80, 0, 5.0], [90, 0, 4.999], [100, 0, 4.995]])
    True
    """
    points = [(updates, loss) for updates, _, loss in curve]
    start = (1 - LAST) * points[-1][0]
    before = [loss for updates, loss in points if updates <= start]
    for (x, first), (following, second) in zip(points, points[1:]):
        if x < start < following:
            before.append(first + (second - first) * (start - x) / (following - x))
    if not before or not all(math.isfinite(loss) for _, loss in points):
        return False
    return min(before) - min(loss for _, loss in points) < AT_REST
