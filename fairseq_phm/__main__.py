"""``python -m fairseq_phm [MODEL]`` lists flags that ``fairseq-train --help`` omits."""

import argparse

from . import require_fairseq

require_fairseq("models")

from fairseq.models import MODEL_REGISTRY  # noqa: E402

MODELS = [name for name in MODEL_REGISTRY if name.startswith("phm_")]

choice = argparse.ArgumentParser(prog="python -m fairseq_phm", description=__doc__)
choice.add_argument("model", nargs="?", choices=MODELS, default="phm_transformer")
model = choice.parse_args().model
parser = argparse.ArgumentParser(
    prog=f"fairseq-train DATA --user-dir fairseq_phm --arch {model}",
    description=f"Flags of {model}, beside those of fairseq-train --help.",
)
MODEL_REGISTRY[model].add_args(parser)
parser.print_help()
