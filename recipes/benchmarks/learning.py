"""How a Transformer has learned: its weights, and the signal in its gradients.

python -m recipes.benchmarks.learning CHECKPOINT ... --data data-bin/... [--batches 40]

For each pair of projections, means over the layers: the root mean square of the weight
H, its effective rank over its full one (the exponential of the entropy of the shares of
the squared singular values; Roy and Vetterli, "The effective rank", 2007), and what of
the squared gradient of its parameters is that of the whole training set, the rest being
noise between batches. For dense models and PHM models alike.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, List

import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from tabulate import tabulate
from torch import Tensor, nn

from data_prep import DataError, errors_in_one_line
from fairseq_phm.checkpoint import read_checkpoint
from fairseq_phm.densify import dense_state
from fairseq_phm.errors import one_line
from fairseq_phm.inspection import Layer

PAIRS = {"q_proj": "q, k", "k_proj": "q, k", "v_proj": "v, out", "out_proj": "v, out"}
PLACES = {"self_attn": "self-attention", "encoder_attn": "cross-attention"}
LAYER = re.compile(r"(encoder|decoder)\.layers\.\d+\.(?:(\w+_attn)\.)?(fc\d|\w+_proj)$")


def main() -> None:
    options = parse()
    with errors_in_one_line("learning"):
        for path in options.checkpoints:
            print(f"{path}\n{look(path, options)}\n", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    add("--data", type=Path, required=True, help="binarised, what it was trained on")
    add("--batches", type=int, default=40, help="of the training set, with dropout")
    add("--max-tokens", type=int, default=1500, help="in a batch, of its longer side")
    options = parser.parse_args()
    if options.batches < 2 or options.max_tokens < 1:
        parser.error("--batches must be at least 2 and --max-tokens at least 1")
    return options


def look(path: Path, options: argparse.Namespace) -> str:
    """Measure a checkpoint and format a line for each pair of projections.

    Raises:
        DataError: no Transformer of fairseq, or fewer than two batches of data.
    """
    read_checkpoint(path)  # refuses what is none
    torch.manual_seed(1)
    data = {"data": str(options.data)}
    try:
        (model,), cfg, task = load_model_ensemble_and_task([str(path)], data)
    except Exception as error:  # fairseq raises these, too
        raise DataError(f"{path}: not of {options.data}: {one_line(error)}") from None
    lines: Dict[str, Dict[str, List[float]]] = defaultdict(lambda: defaultdict(list))
    for name, weight in dense_state(model).items():
        place = place_of(name.rpartition(".")[0])
        if place and weight.dim() == 2:
            lines[place]["rms of H"].append(weight.square().mean().sqrt().item())
            values = Layer(name, torch.linalg.svdvals(weight.float()))
            rank = values.effective / min(weight.shape)
            lines[place]["effective rank"].append(rank)
    if not lines:
        raise DataError(f"{path}: has no layers of a Transformer")
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.dataset("train"), max_tokens=options.max_tokens, seed=1,
        max_positions=model.max_positions(),
    ).next_epoch_itr(shuffle=True)  # fmt: skip
    criterion = task.build_criterion(cfg.criterion)
    chosen = islice(batches, options.batches)
    for name, share in signal(model.train(), criterion, chosen).items():
        layer, _, factor = name.rpartition(".")
        place = place_of(layer)
        if place and factor != "bias":
            column = "signal: " + ("rule" if "rule" in factor else "weights")
            lines[place][column].append(share)
    rows = [
        {"": place, **{key: sum(one) / len(one) for key, one in columns.items()}}
        for place, columns in sorted(lines.items(), reverse=True)
    ]
    return tabulate(rows, headers="keys", floatfmt=".3f")


def place_of(layer: str) -> str:
    """Name the place of a projection; nothing for what is none of a Transformer.

    >>> place_of("encoder.layers.0.self_attn.k_proj"), place_of("decoder.layers.2.fc1")
    ('encoder self-attention q, k', 'decoder feed-forward fc1')
    """
    found = LAYER.match(layer)
    if not found:
        return ""
    stack, attention, projection = found.groups()
    kind = PLACES.get(attention, "feed-forward")
    return f"{stack} {kind} {PAIRS.get(projection, projection)}"


def signal(
    model: nn.Module, criterion: nn.Module, batches: Iterable[Any]
) -> Dict[str, float]:
    """Return |E g|^2 / E |g|^2 of the gradient g of each parameter, without bias.

    Raises:
        DataError: there are fewer than two batches.
    """
    sums: Dict[str, Tensor] = {}
    squares: Dict[str, float] = defaultdict(float)
    count = 0
    for sample in batches:
        model.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()
        count += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] = sums.get(name, 0) + parameter.grad
                squares[name] += parameter.grad.square().sum().item()
    if count < 2:
        raise DataError("the training set has fewer than two batches of --max-tokens")
    return {
        name: (total.square().sum().item() / squares[name] - 1) / (count - 1)
        for name, total in sums.items()
        if squares[name]
    }


if __name__ == "__main__":
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*pin_memory")
    main()
