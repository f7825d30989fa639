"""``fairseq-phm params``: parameters and multiply-adds of a model, PHM and dense."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from torch import nn

from ..errors import DataError, one_line
from ..modules import PHMLSTM, PHMEmbedding, PHMLinear, PHMLSTMCell, WordVectors
from ..modules.factors import Factors
from ..substitution.count import OUTPUTS
from . import aligned

DESCRIPTION = (
    "Lists the trained parameters of a checkpoint, or of an architecture with its "
    "flags, by module, beside those of the same model with dense layers; and the "
    "multiply-adds that one token needs in weights, biases and attention scores left "
    "out. Encoder and cross-attention keys count per source token, the rest per target "
    "token."
)
VOCABULARY = 10000
EMBEDDINGS = "embeddings"
OUTPUT = "output projection"


class Row(NamedTuple):
    """Trained parameters and multiply-adds per token, of a module as it is and dense.

    ``copies`` counts modules of one size that are listed together.
    """

    name: str
    copies: int
    parameters: int
    dense: int
    operations: int
    dense_operations: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "--arch", metavar="NAME",
        help="architecture; its flags follow, as for fairseq-train; no data is needed, "
        "but for classifiers",
    )  # fmt: skip
    add(
        "--vocab-size", type=int, default=VOCABULARY, metavar="N",
        help=f"symbols of the (target) vocabulary, with --arch (default {VOCABULARY})",
    )  # fmt: skip
    add(
        "--source-vocab-size", type=int, metavar="N",
        help="symbols of the source vocabulary (default: the same vocabulary)",
    )  # fmt: skip
    add("--data", type=Path, help="folder with the dictionaries, for a checkpoint")


def parse(
    parser: argparse.ArgumentParser, arguments: Optional[List[str]]
) -> argparse.Namespace:
    """Parse the command's arguments, and with ``--arch`` those of its model."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not any(word.split("=")[0] == "--arch" for word in arguments):
        parser.add_argument(
            "checkpoint", nargs="?", type=Path, help="checkpoint of fairseq; or --arch"
        )
        options = parser.parse_args(arguments)
        if options.checkpoint is None:
            parser.error("a checkpoint or --arch is needed")
        return options
    # A positional argument would take the values of the model's flags.
    options, rest = parser.parse_known_args(arguments)
    options.checkpoint = None
    options.model = _parse_model(parser, options.arch, rest)
    return options


def _parse_model(
    parser: argparse.ArgumentParser, arch: str, flags: List[str]
) -> argparse.Namespace:
    """Return the options of a model from its flags and its architecture's defaults."""
    from .. import require_fairseq

    require_fairseq("params")
    from fairseq.models import (
        ARCH_CONFIG_REGISTRY,
        ARCH_MODEL_REGISTRY,
        MODEL_REGISTRY,
    )

    from ..models.classifier import SentenceClassifier

    model = ARCH_MODEL_REGISTRY.get(arch) or MODEL_REGISTRY.get(arch)
    if model is None:
        near = [name for name in ARCH_MODEL_REGISTRY if "phm_" in name]
        parser.error(f"--arch {arch}: unknown; those with PHM are {', '.join(near)}")
    if issubclass(model, SentenceClassifier):
        parser.error(f"--arch {arch}: its sizes depend on the data: give a checkpoint")
    flag_parser = argparse.ArgumentParser(
        prog=f"{parser.prog} --arch {arch}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    model.add_args(flag_parser)
    args = flag_parser.parse_args(flags)
    args.arch = args._name = arch
    for name in ("criterion", "max_target_positions", "tokens_per_sample"):
        if not hasattr(args, name):
            setattr(args, name, None if name == "criterion" else 1024)
    args.add_bos_token = args.tpu = False
    if arch in ARCH_CONFIG_REGISTRY:
        ARCH_CONFIG_REGISTRY[arch](args)
    return args


def run(options: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        DataError: no model can be built of the input.
    """
    from .. import require_fairseq
    from ..checkpoint import read_checkpoint

    require_fairseq("params")
    from ..rebuild import BAD_MODEL, build, rebuild

    if options.checkpoint:
        checkpoint = read_checkpoint(options.checkpoint)
        model = rebuild(checkpoint, options.checkpoint, options.data).model
    else:
        sizes = (options.source_vocab_size or options.vocab_size, options.vocab_size)
        if min(sizes) < 5:
            raise DataError("a vocabulary has at least 5 symbols, four special ones")
        try:
            model = build(options.model, *sizes).model
        except BAD_MODEL as error:
            raise DataError(f"--arch {options.arch}: {one_line(error)}") from None
    print(table(rows(model)))


def rows(model: nn.Module) -> List[Row]:
    """Return the modules of a model with parameters; layers of one size are one row.

    Each parameter counts once, with the first module that holds it: a shared rule with
    its first layer, tied embeddings as embeddings.
    """
    seen: Set[int] = set()
    found: Dict[Tuple[Any, ...], List[Row]] = {}
    skip: Tuple[str, ...] = ()
    for path, module in model.named_modules():
        if skip and path.startswith(skip):
            continue
        whole = isinstance(module, (PHMLSTM, PHMLSTMCell, nn.LSTM, nn.LSTMCell))
        whole = whole or isinstance(module, (Factors, WordVectors))
        if whole:
            skip += (f"{path}." if path else "",)
        own = module.parameters(recurse=whole)
        parameters = [p for p in own if p.requires_grad]
        if not parameters:
            continue
        count = sum(p.numel() for p in parameters if id(p) not in seen)
        tied = all(id(p) in seen for p in parameters)
        seen.update(id(p) for p in parameters)
        name = re.sub(r"\.\d+(?=\.|$)", ".*", path)
        if isinstance(module, nn.LayerNorm):
            name = "layer norms"
        kind = _kind(path, module)
        costs = _costs(module, count, tied and kind == OUTPUT)
        row = Row(name, 1, count, *costs)
        found.setdefault((kind, name, *row[3:]), []).append(row)
    listed = []
    for (kind, *_), group in found.items():
        sums = [sum(column) for column in list(zip(*group))[2:]]
        listed.append(Row(kind or group[0].name, len(group), *sums))
    return listed


def _kind(path: str, module: nn.Module) -> str:
    """Return the name of a row for parameters that papers do not count."""
    if set(OUTPUTS) & set(path.split(".")):
        return OUTPUT
    embeds = isinstance(module, (nn.Embedding, PHMEmbedding, WordVectors))
    return EMBEDDINGS if embeds else ""


def _costs(module: nn.Module, count: int, tied: bool) -> Tuple[int, int, int]:
    """Return dense parameters, multiply-adds, and those of the dense layer.

    Args:
        module: a layer.
        count: its parameters that no earlier layer holds.
        tied: its weight is that of the embeddings, in the dense model too.
    """
    if isinstance(module, PHMLinear):
        size = module.in_features * module.out_features
        bias = 0 if module.bias is None else module.out_features
        return (0 if tied else size + bias), _operations(module), size
    if isinstance(module, (PHMLSTMCell, PHMLSTM)):
        cells = module.cells if isinstance(module, PHMLSTM) else [module]
        size = sum(
            4 * cell.hidden_size * (cell.input_size + cell.hidden_size)
            for cell in cells
        )
        biases = sum(8 * cell.hidden_size for cell in cells if cell.bias is not None)
        return size + biases, size, size
    if isinstance(module, PHMEmbedding):
        return module.num_embeddings * module.embedding_dim, 0, 0
    if isinstance(module, WordVectors):
        module = module.project
    if isinstance(module, (nn.Linear, nn.LSTM, nn.LSTMCell)):
        weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
        return count, weights, weights
    return count, 0, 0


def _operations(layer: PHMLinear) -> int:
    """Return the multiply-adds of a PHM layer for one of many tokens.

    With a full rule those of H, whose building does not depend on the tokens. With a
    rule of CP rank R up to n^2 / 2, R products of blocks and the sums around them.
    """
    n, rank = layer.n, layer.rule_rank
    size = layer.in_features * layer.out_features
    if not rank or 2 * rank > n * n or layer.rank:
        return size
    return size * rank // (n * n) + rank * (layer.in_features + layer.out_features)


def table(listed: List[Row]) -> str:
    """Return the rows as text, with sums and the ratio of PHM to dense."""
    columns = ("module", "parameters", "dense", "ratio", "multiply-adds", "dense")
    body = [row for row in listed if row.name not in (EMBEDDINGS, OUTPUT)]
    rest = [row for row in listed if row.name in (EMBEDDINGS, OUTPUT)]
    lines = [columns, *map(_cells, body)]
    lines.append(_cells(_sum("all but embeddings and output", body)))
    lines += [_cells(_sum(name, [r for r in rest if r.name == name]))
              for name in dict.fromkeys(r.name for r in rest)]  # fmt: skip
    lines.append(_cells(_sum("total", listed)))
    return aligned(lines)


def _sum(name: str, listed: List[Row]) -> Row:
    sums = [sum(column) for column in list(zip(*listed))[2:]] or [0] * 4
    return Row(name, 1, *sums)


def _cells(row: Row) -> Tuple[str, ...]:
    name = row.name if row.copies == 1 else f"{row.name} ({row.copies})"
    ratio = f"{row.parameters / row.dense:.3f}" if row.dense else "-"
    return (
        name,
        f"{row.parameters:,}",
        f"{row.dense:,}",
        ratio,
        f"{row.operations:,}",
        f"{row.dense_operations:,}",
    )
