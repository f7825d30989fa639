"""Measures up to how many tokens PHM layers are faster without H; writes the table.

python -m recipes.benchmarks.crossovers [--device cpu] [--dtype float32]
"""

from __future__ import annotations

import argparse
import itertools
import pprint
import statistics
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
import torch.nn.functional as F

import fairseq_phm.functional.crossovers as table
from fairseq_phm import PHMLinear
from fairseq_phm.functional import bounded_rank_linear, factored_linear

from .timing import now

SIZES = (128, 512, 2048)
FEW = (1, 2, 3, 5, 8, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256)
MANY = (320, 80, 20, 8, 3, 1)
BYTES = 128e6  # of the weights H that take turns: more than caches hold, as in a model
GAIN = 0.9  # a path is taken where it needs at most this share of the other's time
COLUMNS = (("factored", "kept"), ("bounded rank", "kept"), ("bounded rank", "built"))
HEADER = '''"""How many tokens each path needs, or bears, to be the faster; do not edit.

(device, dtype, column) -> (n, in, out, R of the rule or 0) -> tokens. "factored": up to
so many tokens it is faster than H; "bounded rank": from so many on; 0: never. "kept":
than an H that is there, forward; "built": forward and backward, H being built.
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
    others = (options.device, options.dtype)
    crossovers = {k: v for k, v in table.CROSSOVERS.items() if k[:2] != others}
    for path, had in COLUMNS:
        limits: Dict[Tuple[int, ...], int] = {}
        for n, *sizes in itertools.product(options.n, SIZES, SIZES):
            for rank in (n, n * n // 2) if path == "bounded rank" else (0,):
                key = (n, *sizes, rank)
                limits[key] = limit(*key, had == "kept", place)
                print(path, had, key, limits[key], flush=True)
        crossovers[options.device, options.dtype, f"{path}, {had}"] = limits
        made = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
        text = HEADER.format(made=made) + pprint.pformat(crossovers) + "\n"
        Path(table.__file__).write_text(text, encoding="utf-8")


def limit(
    n: int, in_features: int, out_features: int, rank: int, kept: bool, place
) -> int:
    """The most tokens up to which, or least from which on, the path is faster."""
    count = int(min(64, max(8, BYTES / (4 * in_features * out_features))))
    layers = [
        PHMLinear(in_features, out_features, n, rule_rank=rank, **place).train(not kept)
        for _ in range(count)
    ]
    ladder = MANY if rank else FEW
    won, lost = -1, len(ladder)
    while lost - won > 1:
        middle = (won + lost) // 2
        tokens = ladder[middle]
        if ratio(layers[: max(2, 2000 // tokens)], tokens, kept, place) <= GAIN:
            won = middle
        else:
            lost = middle
    return ladder[won] if won >= 0 else 0


def ratio(layers: List[PHMLinear], tokens: int, kept: bool, place) -> float:
    """Time of the path over that of H, median of interleaved rounds."""
    x = torch.randn(tokens, layers[0].in_features, requires_grad=True, **place)
    gradient = torch.randn(tokens, layers[0].out_features, **place)

    def without_weight(layer: PHMLinear) -> torch.Tensor:
        if layer.rule_rank:
            factors = (layer.rule_u, layer.rule_v, layer.rule_w)
            return bounded_rank_linear(x, *factors, layer.blocks, layer.bias)
        return factored_linear(x, layer.rule, layer.blocks, layer.bias)

    def with_weight(layer: PHMLinear) -> torch.Tensor:
        return F.linear(x, layer.weight, layer.bias)

    def seconds(path: Callable[[PHMLinear], torch.Tensor]) -> float:
        start = now(place["device"])
        for layer in layers:
            y = path(layer)
            if not kept:
                y.backward(gradient)
        return now(place["device"]) - start

    with torch.set_grad_enabled(not kept):
        pairs = [(seconds(without_weight), seconds(with_weight)) for _ in range(5)][1:]
    return statistics.median(mine / other for mine, other in pairs)


if __name__ == "__main__":
    main()
