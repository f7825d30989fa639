"""``python -m fairseq_phm`` lists flags that ``fairseq-train --help`` leaves out."""

import argparse

from .models import PHMTransformerModel

parser = argparse.ArgumentParser(
    prog="fairseq-train DATA --user-dir fairseq_phm --arch phm_transformer",
    description="Flags of phm_transformer, beside those of fairseq-train --help.",
)
PHMTransformerModel.add_args(parser)
parser.print_help()
