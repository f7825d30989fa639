"""Times that can be compared: interleaved calls in one process, medians, quartiles."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, Callable, Dict, List

import torch

Row = Dict[str, Any]


def interleave(
    calls: Dict[str, Callable[[], Any]], options: argparse.Namespace
) -> Dict[str, List[float]]:
    """Time each call in each round, after two rounds that do not count."""
    times: Dict[str, List[float]] = {name: [] for name in calls}
    for turn in range(options.rounds + 2):
        for name, call in calls.items():
            start = now(options.device)
            call()
            seconds = now(options.device) - start
            if turn >= 2:
                times[name].append(seconds)
    return times


def now(device: str) -> float:
    """Return seconds, after the device has finished its work.

    On one CPU thread the time of this process, which other programs do not change.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    if device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def rows(times: Dict[str, List[float]], **about: Any) -> List[Row]:
    """Make a row per call: median milliseconds, and time over that of ``dense``."""
    result = []
    for name, seconds in times.items():
        ratios = [mine / other for mine, other in zip(seconds, times["dense"])]
        points = ratios * 2 if len(ratios) == 1 else ratios  # two at least
        low, middle, high = statistics.quantiles(points, n=4, method="inclusive")
        milliseconds = 1e3 * statistics.median(seconds)
        row = {**about, "what": name, "ms": milliseconds, "ratio": middle}
        result.append({**row, "low": low, "high": high})
    return result


def place(options: argparse.Namespace) -> Dict[str, Any]:
    """Device and dtype as keyword arguments."""
    return {"device": options.device, "dtype": getattr(torch, options.dtype)}
