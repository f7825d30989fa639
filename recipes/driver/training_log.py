"""What the log of fairseq-train says."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple


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
        ``training_seconds``, validation included; ``curve``: [update, mean training
        loss since the one before, validation loss] for each validation; and the
        ``accuracies`` of the validations in per cent, where there are any.
    """
    seconds, part = 0.0, 0.0
    curve: Dict[int, List[Any]] = {}
    accuracies = []
    losses: List[float] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):  # the training was started, or started again
            seconds, part, losses = seconds + part, 0.0, []
        kind, values = log_entry(line) or ("", {})
        if kind == "train_inner":
            losses.append(float(values["loss"]))
        if "wall" in values:
            part = float(values["wall"])
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


def lowest_loss(training: Dict[str, Any]) -> float:
    """Find the lowest validation loss of a ``curve``; fairseq logs bits a token."""
    losses = [loss for _, _, loss in training["curve"] if not math.isnan(loss)]
    return min(losses, default=math.nan)
