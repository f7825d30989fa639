"""Time, memory, and sizes of gradients, of PHM layers over dense ones, in one run.

python -m recipes.benchmarks [layer] [paths] [lstm] [training] [decoding] [memory]
                             [overhead] [precision]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import List

import torch
from tabulate import tabulate

from .layer import SIZES, layer, paths
from .lstm import lstm
from .memory import memory
from .models import decoding, overhead, training
from .plot import plot
from .precision import precision
from .timing import Row

BENCHMARKS = {
    "layer": layer,
    "paths": paths,
    "lstm": lstm,
    "training": training,
    "decoding": decoding,
    "memory": memory,
    "overhead": overhead,
    "precision": precision,
}
MODES = ("forward", "forward + backward")


def main() -> None:
    try:
        run(parse())
    except (ValueError, OSError) as error:
        sys.exit(f"benchmarks: {error}")


def run(options: argparse.Namespace) -> None:
    """Measure, print the tables and write the files."""
    print(", ".join(f"{k} {v}" for k, v in about(options).items()))
    measured: List[Row] = []
    for name in options.benchmarks:
        measured += (found := BENCHMARKS[name](options))
        print(f"\n{name}: over dense, median (quartiles)\n{table(found)}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**about(options), "rows": measured}, file, indent=1)
    if options.plot:
        plot(measured, options.plot)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("benchmarks", nargs="*", metavar="BENCHMARK", help="default: all")
    add("--tokens", type=int, nargs="+", default=[1, 5, 20, 320, 512, 4096])
    add("--n", type=int, nargs="+", default=[2, 4, 8, 16])
    add("--sizes", nargs="+", type=size, default=SIZES, help="as 512x2048: in x out")
    add("--modes", nargs="+", choices=MODES, default=MODES)
    add("--rounds", type=int, default=15)
    add("--weights-mb", type=float, default=64, help="dense weights that take turns, "
        "as those of a model do, for up to 64 tokens; 0: one layer, which stays in "
        "caches")  # fmt: skip
    add("--loss-scale", type=float, default=128, help="of the benchmark precision")
    add("--device", type=device, default="cpu")
    add("--dtype", type=dtype, default="float32")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", help="file for all figures")
    add("--plot", help="file for a picture of the paths (with the benchmark paths)")
    options = parser.parse_args()
    options.benchmarks = options.benchmarks or list(BENCHMARKS)
    if unknown := set(options.benchmarks) - set(BENCHMARKS):
        parser.error(f"unknown {', '.join(unknown)}: choose of {', '.join(BENCHMARKS)}")
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.plot and "paths" not in options.benchmarks:
        parser.error("--plot needs the benchmark paths")
    for file in filter(None, (options.json, options.plot)):
        if not (folder := Path(file).absolute().parent).is_dir():
            parser.error(f"{file}: no folder {folder}")
    torch.set_num_threads(options.threads)
    return options


def size(text: str) -> tuple:
    """Parse a text like 512x2048: (in, out)."""
    in_features, out_features = map(int, text.split("x"))
    return in_features, out_features


def device(text: str) -> str:
    """Check that torch has this device."""
    try:
        torch.empty(0, device=text)
    except (AssertionError, RuntimeError) as error:  # of a torch without CUDA
        message = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text}: {message}") from None
    return text


def dtype(text: str) -> str:
    """Check that torch has floating-point numbers of this name."""
    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(text)
    return text


def about(options: argparse.Namespace) -> dict:
    cuda = options.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "torch": torch.__version__,
        "rounds": options.rounds,
        "weights_mb": options.weights_mb,
    }


def table(measured: List[Row]) -> str:
    """Format a line for each setting, a column for each layer."""
    lines = {}
    for row in measured:
        setting = row["in x out"], row["tokens"], row["mode"]
        unit = next(unit for unit in ("MB", "bits", "ms") if unit in row)
        spread = f" ({row['low']:.2f}-{row['high']:.2f})" if "low" in row else ""
        line = lines.setdefault(
            setting, dict(zip(("in x out", "tokens", "mode"), setting))
        )
        if row["what"] == "dense":
            line[f"dense {unit}"] = f"{row[unit]:.3g}"
        else:
            infinite = " inf" if row.get("overflows") else ""
            line[row["what"]] = f"{row['ratio']:.3f}{spread}{infinite}"
    return tabulate(list(lines.values()), headers="keys")


if __name__ == "__main__":
    main()
