"""Forward + backward time of PHMLinear over nn.Linear, interleaved, in one run.

python -m recipes.benchmarks.layer [--tokens 4096] [--device cuda] [--dtype float16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Callable, Dict, List

import torch
from tabulate import tabulate
from torch import nn

from fairseq_phm import PHMLinear

SIZES = ((512, 512), (2048, 512), (512, 2048))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--n", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    rows = []
    for in_features, out_features in SIZES:
        layers: Dict[str, nn.Module] = {
            "dense": nn.Linear(in_features, out_features, **place)
        }
        for n in options.n:
            layers[f"n={n}"] = PHMLinear(in_features, out_features, n, **place)
        x = torch.randn(options.tokens, in_features, requires_grad=True, **place)
        gradient = torch.randn(options.tokens, out_features, **place)

        def step(layer: nn.Module, x=x, gradient=gradient) -> None:
            layer(x).backward(gradient)

        times = interleave({k: lambda v=v: step(v) for k, v in layers.items()}, options)
        dense = times.pop("dense")
        row = {"in x out": f"{in_features} x {out_features}"}
        row["dense ms"] = f"{statistics.median(dense) * 1e3:.2f}"
        for name, seconds in times.items():
            ratios = [mine / other for mine, other in zip(seconds, dense)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            row[name] = f"{middle:.3f} ({low:.3f}-{high:.3f})"
        rows.append(row)
    print(
        f"{options.tokens} tokens, {options.dtype}, {options.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; "
        "time over dense: median (quartiles)"
    )
    print(tabulate(rows, headers="keys"))


def interleave(
    calls: Dict[str, Callable[[], None]], options: argparse.Namespace
) -> Dict[str, List[float]]:
    """Seconds of each call in each round, after three rounds that do not count."""
    times: Dict[str, List[float]] = {name: [] for name in calls}
    for turn in range(options.rounds + 3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if turn >= 3:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
