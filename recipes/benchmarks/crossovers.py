"""Measures up to how many tokens PHM layers are faster without H; writes the table.

python -m recipes.benchmarks.crossovers [--device cpu] [--dtype float32]
"""

from __future__ import annotations

import argparse
import itertools
import pprint
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
import torch.nn.functional as F

import fairseq_phm.functional.crossovers as table
from fairseq_phm import PHMLinear
from fairseq_phm.functional import factored_linear

SIZES = (128, 512, 2048)
TOKENS = (1, 2, 3, 5, 8, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256)
BYTES = 128e6  # of the weights H that take turns: more than caches hold, as in a model
GAIN = 0.97  # a path is taken where it needs at most this share of the other's time
HEADER = '''"""Up to how many tokens the factored path is faster; measured, do not edit.

(device, dtype, column) -> (n, in, out) -> tokens. Column "kept": than multiplying with
an H that is there (eval mode); "built": forward and backward, H being built.
Made by python -m recipes.benchmarks.crossovers, {made}.
"""

CROSSOVERS = '''


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--n", type=int, nargs="+", default=[2, 4, 8, 16])
    options = parser.parse_args()
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    crossovers = dict(table.CROSSOVERS)
    for column in ("kept", "built"):
        limits: Dict[Tuple[int, int, int], int] = {}
        for n, *sizes in itertools.product(options.n, SIZES, SIZES):
            limits[n, sizes[0], sizes[1]] = limit(n, sizes[0], sizes[1], column, place)
            print(column, n, sizes, limits[n, sizes[0], sizes[1]], flush=True)
        crossovers[options.device, options.dtype, column] = limits
    made = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    text = HEADER.format(made=made) + pprint.pformat(crossovers) + "\n"
    Path(table.__file__).write_text(text, encoding="utf-8")


def limit(n: int, in_features: int, out_features: int, column: str, place) -> int:
    """The most tokens up to which the factored path is faster."""
    count = int(min(64, max(8, BYTES / (4 * in_features * out_features))))
    layers = [
        PHMLinear(in_features, out_features, n, **place).train(column == "built")
        for _ in range(count)
    ]
    faster = 0
    for tokens in TOKENS:
        if ratio(layers, tokens, column, place) > GAIN:
            break
        faster = tokens
    return faster


def ratio(layers: List[PHMLinear], tokens: int, column: str, place) -> float:
    """Time of the factored path over that of H, median of interleaved rounds."""
    x = torch.randn(tokens, layers[0].in_features, requires_grad=True, **place)
    gradient = torch.randn(tokens, layers[0].out_features, **place)

    def factored(layer: PHMLinear) -> torch.Tensor:
        return factored_linear(x, layer.rule, layer.blocks, layer.bias)

    def product(layer: PHMLinear) -> torch.Tensor:
        return F.linear(x, layer.weight, layer.bias)

    def seconds(path: Callable[[PHMLinear], torch.Tensor]) -> float:
        start = time.perf_counter()
        for layer in layers:
            y = path(layer)
            if column == "built":
                y.backward(gradient)
        if place["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.set_grad_enabled(column == "built"):
        pairs = [(seconds(factored), seconds(product)) for _ in range(6)][1:]
    return statistics.median(mine / other for mine, other in pairs)


if __name__ == "__main__":
    main()
