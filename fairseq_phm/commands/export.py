"""``fairseq-phm export``: a model in the format of another program."""

import argparse
from importlib import import_module
from pathlib import Path

from ..errors import DataError
from ..exports import QUANTIZATIONS
from ..files import refuse_existing
from .densify import DATA_HELP

DESCRIPTION = (
    "Writes the model of a checkpoint, PHM or dense, in the format of another program, "
    "runs the result on test sentences and compares it with fairseq."
)
FORMATS = ("ctranslate2", "torchscript", "onnx", "safetensors")
FILES = ("torchscript",)
"""Formats that are one file; the others are a folder."""
OF_ONE_FORMAT = {"quantization": "ctranslate2", "dense": "safetensors"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("--to", required=True, choices=FORMATS, help="the format")
    add("input", type=Path, metavar="IN", help="checkpoint of fairseq")
    add(
        "output", type=Path, metavar="OUT",
        help="file (torchscript) or folder (the others) to write",
    )  # fmt: skip
    add("--force", action="store_true", help="replace OUT if it exists")
    add("--data", type=Path, help=DATA_HELP)
    add(
        "--sentences", type=Path, metavar="FILE",
        help="test sentences, one per line, in the model's tokens, or plain text with "
        "--sentencepiece; the first 100 are used (default: random tokens)",
    )  # fmt: skip
    add(
        "--sentencepiece", type=Path, metavar="FILE",
        help="model of SentencePiece; ctranslate2: it is copied into the folder",
    )  # fmt: skip
    add(
        "--quantization", choices=QUANTIZATIONS,
        help="ctranslate2: how weights are stored (default float32)",
    )  # fmt: skip
    add(
        "--dense", action="store_true",
        help="safetensors: the weights H instead of rules and blocks",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Write the export; nothing is left if it fails or differs from fairseq.

    Raises:
        DataError: input that cannot be used, a missing package, another result than
            fairseq's, or an output that exists or cannot be written.
    """
    from .. import require_fairseq
    from ..checkpoint import read_checkpoint
    from ..files import folder_written_whole, written_whole

    require_fairseq("export")
    from ..exports.source import open_source

    for flag, form in OF_ONE_FORMAT.items():
        if getattr(options, flag) and options.to != form:
            raise DataError(f"--{flag} is for --to {form}, not {options.to}")
    if options.sentencepiece and not options.sentences and options.to != "ctranslate2":
        raise DataError("--sentencepiece needs --sentences")
    others = (options.data, options.sentences, options.sentencepiece)
    inputs = [options.input, *filter(None, others)]
    refuse_existing(options.output, options.force, *inputs)
    if options.to in FILES and options.output.is_dir():
        raise DataError(f"{options.output}: is a folder")
    checkpoint = read_checkpoint(options.input)
    source = open_source(
        options.input,
        checkpoint,
        options.data,
        options.sentences,
        options.sentencepiece,
        options.to,
    )
    refuse_existing(options.output, options.force, *source.dictionaries)
    export = import_module(f"fairseq_phm.exports.to_{options.to}").export
    chosen = {
        "ctranslate2": {"quantization": options.quantization or "float32"},
        "safetensors": {"dense": options.dense},
    }.get(options.to, {})
    if options.to in FILES:
        with written_whole(options.output, "wb") as file:
            result = export(source, file, **chosen)
    else:
        with folder_written_whole(options.output) as folder:
            result = export(source, folder, **chosen)
    print(f"{options.output}: {result}")
