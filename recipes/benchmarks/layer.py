"""One layer over nn.Linear: forward in eval mode, and forward + backward."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Callable, Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_phm import PHMLinear
from fairseq_phm.functional import cp_linear, factored_linear, kronecker_sum
from fairseq_phm.spec import RULE_FACTORS

from .peers import BroadcastKron, KronLoop
from .timing import Row, interleave, place, rows

SIZES = ((512, 512), (2048, 512), (512, 2048))


def layer(options: argparse.Namespace) -> List[Row]:
    """Measure time over dense, for each size, number of tokens, and n."""
    result = []
    for sizes in options.sizes:
        for tokens in options.tokens:
            for mode in options.modes:
                made = _layers(sizes, tokens if mode == "forward" else 0, options)
                times = interleave(_calls(made, tokens, mode, options), options)
                for name, seconds in times.items():
                    times[name] = [second / len(made[name]) for second in seconds]
                size = "x".join(map(str, sizes))
                about = {"benchmark": "layer", "in x out": size, "tokens": tokens}
                result += rows(times, **about, mode=mode)
    return result


def _layers(
    sizes: tuple, tokens: int, options: argparse.Namespace
) -> Dict[str, List[nn.Module]]:
    """Make layers that take turns, filling ``weights_mb`` of dense weights for few
    tokens, since a model's weights do not stay in caches from one step to the next."""
    bytes_each = 4 * sizes[0] * sizes[1]
    count = 1
    if 0 < tokens <= 64:
        count = max(1, int(options.weights_mb * 1e6 / bytes_each))
    kinds: Dict[str, Callable[[], nn.Module]] = {
        "dense": lambda: nn.Linear(*sizes, **place(options))
    }
    for n in options.n:
        kinds[f"n={n}"] = lambda n=n: PHMLinear(*sizes, n, **place(options))
        kinds[f"n={n} R={n}"] = lambda n=n: PHMLinear(
            *sizes, n, rule_rank=n, **place(options)
        )
    n = options.n[len(options.n) // 2]
    kinds[f"torch.kron loop n={n}"] = lambda: KronLoop(*sizes, n, **place(options))
    kinds[f"broadcast kron n={n}"] = lambda: BroadcastKron(*sizes, n, **place(options))
    return {
        name: [make() for _ in range(1 if "kron" in name else count)]
        for name, make in kinds.items()
    }


def _calls(
    made: Dict[str, List[nn.Module]], tokens: int, mode: str, options
) -> Dict[str, Callable[[], None]]:
    first = made["dense"][0]
    backward = mode == "forward + backward"
    x = torch.randn(tokens, first.in_features, **place(options))
    gradient = torch.randn(tokens, first.out_features, **place(options))
    x.requires_grad_(backward)

    def run(layers: List[nn.Module]) -> None:
        with torch.set_grad_enabled(backward):
            for layer in layers:
                y = layer(x)
                if backward:
                    y.backward(gradient)

    for layers in made.values():
        for one in layers:
            one.train(backward)
    return {name: lambda layers=layers: run(layers) for name, layers in made.items()}


def paths(options: argparse.Namespace) -> List[Row]:
    """Measure the forward time of each path, over tokens, for the plot."""
    result = []
    n = options.n[len(options.n) // 2]
    for sizes in options.sizes:
        size = "x".join(map(str, sizes))
        about = {"benchmark": "paths", "in x out": size, "mode": f"n={n}"}
        ways = _ways(sizes, n, options)
        for tokens in options.tokens:
            x = torch.randn(tokens, sizes[0], **place(options))
            calls = {name: partial(way, x) for name, way in ways.items()}
            with torch.no_grad():
                times = interleave(calls, options)
            result += rows(times, **about, tokens=tokens)
    return result


def _ways(
    sizes: tuple, n: int, options: argparse.Namespace
) -> Dict[str, Callable[[Tensor], Tensor]]:
    dense = nn.Linear(*sizes, **place(options))
    full = PHMLinear(*sizes, n, **place(options)).eval()
    low = PHMLinear(*sizes, n, rule_rank=n, **place(options)).eval()
    factors = (full.rule, full.blocks, full.bias)
    cp_factors = [getattr(low, name) for name in RULE_FACTORS]
    return {
        "dense": dense,
        "H built": lambda x: F.linear(x, kronecker_sum(*factors[:2]), full.bias),
        "H kept": lambda x: F.linear(x, full.weight, full.bias),
        "factored": lambda x: factored_linear(x, *factors),
        f"CP rank R={n}": lambda x: cp_linear(x, *cp_factors, low.blocks, low.bias),
    }
