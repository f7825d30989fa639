"""fairseq-train where its command line falls short: an entry for torchrun.

Under torchrun all processes train one model; fairseq-train by itself takes no note of
torchrun where a machine has one GPU or none, and trains a model in each process. With
``--bf16`` it would train on a TPU.
"""

from __future__ import annotations

import argparse
import os

import fairseq_cli.train  # first, for it sets up the format of the log
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed.utils import call_main


def main() -> None:
    """Train with the arguments of the command line."""
    arguments = options.parse_args_and_arch(options.get_training_parser())
    arguments.tpu = False
    if "TORCHELASTIC_RUN_ID" in os.environ:
        join_torchrun(arguments)
    call_main(convert_namespace_to_omegaconf(arguments), fairseq_cli.train.main)


def join_torchrun(arguments: argparse.Namespace) -> None:
    """Set fairseq's distributed arguments to what torchrun says in the environment."""
    arguments.distributed_init_method = "env://"
    arguments.distributed_no_spawn = True
    arguments.distributed_world_size = int(os.environ["WORLD_SIZE"])
    arguments.distributed_rank = int(os.environ["RANK"])
    arguments.device_id = int(os.environ["LOCAL_RANK"])
    # A resumed run would send its checkpoint as a pickle, which torch refuses to load.
    arguments.load_checkpoint_on_all_dp_ranks = True
    if arguments.cpu or not torch.cuda.is_available():
        arguments.distributed_backend = "gloo"
        arguments.ddp_backend = "legacy_ddp"


if __name__ == "__main__":
    main()
