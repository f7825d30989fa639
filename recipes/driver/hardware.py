"""How fairseq-train is started: GPUs, nodes, precision."""

from __future__ import annotations

import argparse
import sys
from typing import List

import torch

from .fairseq_process import RunError, tool


def check_machine(options: argparse.Namespace) -> None:
    """Refuse what this machine cannot do, before anything starts.

    Raises:
        RunError: half precision without a GPU, or more GPUs than there are.
    """
    if options.slurm:  # other machines train
        return
    there = torch.cuda.device_count()
    if options.fp16 and not there:
        raise RunError("--fp16 needs a GPU and there is none: leave it out")
    if options.gpus > max(1, there):
        raise RunError(f"--gpus {options.gpus}: this machine has {there}")


def precision_flags(options: argparse.Namespace) -> List[str]:
    """Flags of fairseq-train for the type of the numbers."""
    return ["--fp16"] * options.fp16 + ["--bf16"] * options.bf16


def train_command(options: argparse.Namespace) -> List[str]:
    """fairseq-train with the flags of the machine, for all but data and model.

    One process is fairseq's own affair, as are several GPUs of one machine, for which
    it starts processes itself. Several nodes are torchrun's: each runs the same command
    with its ``--node-rank``.
    """
    device = ["--cpu"] if options.cpu else []
    if options.nodes > 1:
        host, _, port = options.master.partition(":")
        return [
            sys.executable, "-m", "torch.distributed.run",
            "--nnodes", str(options.nodes), "--nproc-per-node", str(options.gpus),
            "--node-rank", str(options.node_rank),
            "--master-addr", host, "--master-port", port or "29500",
            "-m", "recipes.driver.torchrun", *device,
        ]  # fmt: skip
    command = [tool("fairseq-train")]
    if options.bf16:
        command = [sys.executable, "-m", "recipes.driver.torchrun"]
    world = [] if options.cpu else ["--distributed-world-size", str(options.gpus)]
    if options.gpus > 1:  # or torch refuses to load the checkpoint of a resumed run
        world += ["--load-checkpoint-on-all-dp-ranks"]
    return [*command, *device, *world]
