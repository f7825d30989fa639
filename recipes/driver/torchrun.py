"""fairseq-train where its command line falls short.

Under torchrun all processes train one model; fairseq-train by itself takes no note of
torchrun where a machine has one GPU or none, and trains a model in each process. With
``--patience`` it would count from 0 after an interruption.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import fairseq_cli.train  # first, for it sets up the format of the log
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed.utils import call_main
from fairseq_cli.train import should_stop_early

from .fairseq_process import trained_updates
from .training_log import log_entry


def main() -> None:
    """Train with the arguments of the command line."""
    arguments = options.parse_args_and_arch(options.get_training_parser())
    if "TORCHELASTIC_RUN_ID" in os.environ:
        join_torchrun(arguments)
    call_main(convert_namespace_to_omegaconf(arguments), train)


def train(config: Any, **more: Any) -> None:
    """Train in this process, unless an earlier one has stopped early."""
    if not patience_is_over(config):
        fairseq_cli.train.main(config, **more)


def patience_is_over(config: Any) -> bool:
    """Take up the count of ``--patience`` where an interrupted training left it.

    Args:
        config: of fairseq; its folder of checkpoints has ``train.log`` as well.

    Returns:
        Whether the training had stopped.
    """
    saving = config.checkpoint
    log = Path(saving.save_dir) / "train.log"
    if saving.patience <= 0 or not log.is_file():
        return False
    updates = trained_updates(log.parent)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {
        int(values["num_updates"]): float(values[saving.best_checkpoint_metric])
        for kind, values in filter(None, map(log_entry, lines))
        if kind == "valid" and int(values["num_updates"]) <= updates
    }
    return any([should_stop_early(config, found[at]) for at in sorted(found)])


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
