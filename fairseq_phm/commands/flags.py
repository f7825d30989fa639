"""``fairseq-phm flags [MODEL]`` lists flags that ``fairseq-train --help`` omits."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from .. import require_fairseq

    require_fairseq("models")
    from fairseq.models import MODEL_REGISTRY

    models = [name for name in MODEL_REGISTRY if name.startswith("phm_")]
    parser.add_argument("model", nargs="?", choices=models, default="phm_transformer")


def run(options: argparse.Namespace) -> None:
    """Print the flags of a model."""
    from fairseq.models import MODEL_REGISTRY

    parser = argparse.ArgumentParser(
        prog=f"fairseq-train DATA --user-dir fairseq_phm --arch {options.model}",
        description=f"Flags of {options.model}, beside those of fairseq-train --help.",
    )
    MODEL_REGISTRY[options.model].add_args(parser)
    parser.print_help()
