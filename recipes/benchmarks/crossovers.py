"""Measures up to how many tokens PHM layers are faster without H; writes the table.

python -m recipes.benchmarks.crossovers [--device cpu] [--dtype float32] [--paths ...]
"""

from __future__ import annotations

import argparse
import itertools
import pprint
import statistics
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
import torch.nn.functional as F

import fairseq_phm.functional.crossovers as table
from fairseq_phm import PHMLinear
from fairseq_phm.functional import bounded_rank_linear, dense_linear, factored_linear
from fairseq_phm.functional.linear import weight_first
from fairseq_phm.functional.paths import has_triton
from fairseq_phm.functional.weight import kronecker_sums_by_bmm

from .timing import now

SIZES = (128, 512, 2048)
OUTPUTS = (*SIZES, 8192)  # the last one stands for a vocabulary
FEW = (1, 2, 3, 5, 8, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256)
MANY = (320, 80, 20, 8, 3, 1)
BYTES = 64e6  # of the weights H that take turns: more than caches hold, as in a model
GAIN = 0.9  # a path is taken where it needs at most this share of the other's time
COLUMNS = (
    ("weight first", "kept"),
    ("factored", "kept"),
    ("bounded rank", "kept"),
    ("bounded rank", "built"),
    ("triton", "built"),  # on CUDA only
)
HEADER = '''"""How many tokens each path needs, or bears, to be the faster; do not edit.

(device, dtype, column) -> (n, in, out, R of the rule or 0) -> tokens. "weight first":
from two up to so many tokens H x^T is faster than x H^T; "factored": up to so many it
is faster than H; "bounded rank": from so many on; 0: never. "kept": than an H that is
there, forward; "built": forward and backward, H being built. "triton", 1 or 0: H and
its gradients alone, built by Triton kernels or not, for any number of tokens.
Made by python -m recipes.benchmarks.crossovers, {made}.
"""

CROSSOVERS = '''


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--paths", nargs="+", choices=sorted({p for p, _ in COLUMNS}))
    parser.add_argument("--n", type=int, nargs="+", default=[2, 4, 8, 16])
    options = parser.parse_args()
    by_triton = options.device.startswith("cuda") and has_triton()
    if "triton" in (options.paths or ()) and not by_triton:
        parser.error("--paths triton needs --device cuda and triton 3")
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    crossovers = dict(table.CROSSOVERS)
    for path, had in COLUMNS:
        if path not in (options.paths or path) or (path == "triton" and not by_triton):
            continue
        limits: Dict[Tuple[int, ...], int] = {}
        for key in keys(path, options.n):
            limits[key] = limit(path, key, had == "kept", place)
            print(path, had, key, limits[key], flush=True)
        crossovers[options.device, options.dtype, f"{path}, {had}"] = limits
        made = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
        text = HEADER.format(made=made) + pprint.pformat(crossovers) + "\n"
        Path(table.__file__).write_text(text, encoding="utf-8")


def keys(path: str, all_n: List[int]) -> Iterator[Tuple[int, ...]]:
    """(n, in, out, R of the rule or 0) of what is measured for a path."""
    if path == "weight first":
        yield from ((1, *sizes, 0) for sizes in itertools.product(SIZES, OUTPUTS))
        return
    for n, *sizes in itertools.product(all_n, SIZES, SIZES):
        for rank in (n, n * n // 2) if path == "bounded rank" else (0,):
            yield (n, *sizes, rank)


def limit(path: str, key: Tuple[int, ...], kept: bool, place: Dict[str, Any]) -> int:
    """The most tokens up to which, or least from which on, the path is faster.

    Of "triton", which no number of tokens changes, 1 where it is faster, else 0.
    """
    n, in_features, out_features, rank = key
    count = int(min(64, max(4, BYTES / (4 * in_features * out_features))))
    layers = [
        PHMLinear(in_features, out_features, n, rule_rank=rank, **place).train(not kept)
        for _ in range(count)
    ]

    def wins(tokens: int) -> bool:
        few = layers[: max(2, 2000 // tokens)]
        return ratio(path, few, tokens, kept, place) <= GAIN

    if path == "triton":
        return int(wins(in_features))
    if path == "weight first":  # no faster for one token, and not always in one stretch
        return max(itertools.takewhile(wins, FEW[1:]), default=0)
    ladder = MANY if rank else FEW
    won, lost = -1, len(ladder)
    while lost - won > 1:
        middle = (won + lost) // 2
        if wins(ladder[middle]):
            won = middle
        else:
            lost = middle
    return ladder[won] if won >= 0 else 0


def ratio(
    path: str,
    layers: List[PHMLinear],
    tokens: int,
    kept: bool,
    place: Dict[str, Any],
) -> float:
    """Time of the path over that of H, median of interleaved rounds."""
    x = torch.randn(tokens, layers[0].in_features, requires_grad=True, **place)
    gradient = torch.randn(tokens, layers[0].out_features, **place)
    if path == "triton":  # H alone
        from fairseq_phm.functional.triton_weight import kronecker_sums_by_triton

        gradient = gradient.t().contiguous()

    def measured(layer: PHMLinear) -> torch.Tensor:
        if path == "triton":
            return kronecker_sums_by_triton([layer.rule], [layer.blocks])
        if path == "weight first":
            return weight_first(x, layer.weight, layer.bias)
        if path == "factored":
            return factored_linear(x, layer.rule, layer.blocks, layer.bias)
        factors = (layer.rule_u, layer.rule_v, layer.rule_w)
        return bounded_rank_linear(x, *factors, layer.blocks, layer.bias)

    def with_weight(layer: PHMLinear) -> torch.Tensor:
        if path == "triton":
            return kronecker_sums_by_bmm([layer.rule], [layer.blocks])
        product = F.linear if path == "weight first" else dense_linear
        return product(x, layer.weight, layer.bias)

    def seconds(way: Callable[[PHMLinear], torch.Tensor]) -> float:
        start = now(place["device"])
        for layer in layers:
            y = way(layer)
            if not kept:
                y.backward(gradient)
        return now(place["device"]) - start

    with torch.set_grad_enabled(not kept):
        pairs = [(seconds(measured), seconds(with_weight)) for _ in range(5)][1:]
    return statistics.median(mine / other for mine, other in pairs)


if __name__ == "__main__":
    main()
