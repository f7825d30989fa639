"""fairseq-train, where its command line falls short: ``python -m recipes.launch ...``.

It takes ``--bf16`` for a wish to train on a TPU.
"""

from __future__ import annotations

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed.utils import call_main
from fairseq_cli.train import main


def launch() -> None:
    """Train with the arguments of the command line."""
    arguments = options.parse_args_and_arch(options.get_training_parser())
    arguments.tpu = False
    call_main(convert_namespace_to_omegaconf(arguments), main)


if __name__ == "__main__":
    launch()
