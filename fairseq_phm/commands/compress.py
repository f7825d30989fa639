"""``fairseq-phm compress IN OUT --n N``: the nearest PHM checkpoint of a dense one."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from .. import require_fairseq
from ..checkpoint import read_checkpoint, refuse_not_finite, write_checkpoint
from ..errors import DataError
from ..files import refuse_existing, written_whole
from ..functional import ALGEBRAS
from ..modules.lstm import GATES
from ..substitution.scopes import SHARE_RULE
from . import aligned

if TYPE_CHECKING:
    from ..compression import Compressed

OPTIONS = (
    "n", "attention_n", "ffn_n", "encoder_n", "decoder_n", "rule", "rule_rank",
    "freeze_rule", "share_rule", "fuse_qkv", "gates", "output_projections",
)  # fmt: skip
"""Of the PHM model; those that are not given are the model's defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="dense checkpoint")
    add("output", type=Path, metavar="OUT", help="PHM checkpoint to write")
    add("--n", type=int, required=True, help="layers keep 1/n of their weights")
    for kind in ("attention", "ffn", "encoder", "decoder"):
        add(f"--{kind}-n", type=int, metavar="N", help=f"n of the {kind}")
    add(
        "--rule", choices=("learned", *ALGEBRAS),
        help="learned (default): the nearest rule is found; an algebra's is kept as it "
        "is here, and learns in further training",
    )  # fmt: skip
    add("--rule-rank", type=int, metavar="R", help="rules of CP rank R")
    add(
        "--freeze-rule", action="store_const", const=True,
        help="the rule is not trained: that of --rule, or an associative algebra's",
    )  # fmt: skip
    add("--share-rule", choices=SHARE_RULE, help="which layers have one rule")
    add(
        "--fuse-qkv", action="store_const", const=True,
        help="one layer for q, k and v, and one for k and v of cross-attention",
    )  # fmt: skip
    add("--gates", choices=GATES, help="of an LSTM: a layer for each, or one for all")
    add(
        "--output-projections", action="store_const", const=True,
        help="of an LSTM: also the attention and output projections",
    )  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the errors there, too")
    add("--force", action="store_true", help="replace existing files")


def run(options: argparse.Namespace) -> None:
    """Write the PHM checkpoint, and print the errors.

    Raises:
        DataError: IN is no dense checkpoint of a known model, the options do not fit,
            or a file exists or cannot be written.
    """
    refuse_existing(options.output, options.force, options.input)
    if options.json:
        refuse_existing(options.json, options.force, options.input)
        if options.json.resolve() == options.output.resolve():
            raise DataError(f"--json {options.json}: is OUT, the checkpoint")
    require_fairseq("compression")
    checkpoint = read_checkpoint(options.input)
    refuse_not_finite(checkpoint["model"], options.input)
    from ..compression import LM, compress

    chosen = {name: getattr(options, name) for name in OPTIONS}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    try:
        made = compress(checkpoint, chosen)
    except DataError as error:
        raise DataError(f"{options.input}: {error}") from None
    if options.json:
        with written_whole(options.json, encoding="utf-8") as file:
            file.write(json.dumps(as_json(made), indent=1) + "\n")
            file.flush()  # there is room for it: now for the checkpoint
            write_checkpoint(made.checkpoint, options.output)
    else:
        write_checkpoint(made.checkpoint, options.output)
    print(table(made))
    flags = [f"--phm-{name.replace('_', '-')}" for name in chosen]
    words = [
        flag if value is True else f"{flag} {value}"
        for flag, value in zip(flags, chosen.values())
    ]
    if made.architecture.startswith(LM):
        words.insert(0, "--task language_modeling")
    print(
        f"\nTo train it on: fairseq-train DATA --user-dir fairseq_phm "
        f"--arch {made.architecture} {' '.join(words)} "
        f"--finetune-from-model {shlex.quote(str(options.output))} (and the sizes of "
        "the dense model, where they are not those of the architecture)"
    )


def as_json(made: Compressed) -> Dict[str, Any]:
    """Return the errors as JSON values."""
    layers = [{**one._asdict(), "energy": one.energy} for one in made.layers]
    return {
        "architecture": made.architecture,
        "layers": layers,
        "error": made.error,
        "energy": 1 - made.error**2,
        "dense_parameters": made.dense_parameters,
        "parameters": made.parameters,
    }


def table(made: Compressed) -> str:
    """Return a table of the errors of all layers, and in total."""
    rows: List[Sequence[str]] = [("layer", "size", "n", "error", "energy kept")]
    for layer in made.layers:
        size = f"{layer.out_features} x {layer.in_features}"
        kept = f"{layer.energy:.1%}"
        rows.append((layer.name, size, str(layer.n), f"{layer.error:.2e}", kept))
    total = f"{made.error:.2e}", f"{1 - made.error**2:.1%}"
    rows.append(("all PHM layers", "", "", *total))
    dense, phm = made.dense_parameters["total"], made.parameters["total"]
    note = "error: |H - W| / |W| (Frobenius); energy kept: 1 - error^2"
    counts = f"parameters: {dense:,} dense, {phm:,} with PHM layers"
    return "\n".join([aligned(rows), note, counts])
