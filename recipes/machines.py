"""How fairseq-train is started: processes, GPUs, precision."""

from __future__ import annotations

import argparse
import sys
from typing import List

import torch

from .runner import RunError, tool


def check_machine(options: argparse.Namespace) -> None:
    """Refuse what this machine cannot do, before anything starts.

    Raises:
        RunError: half precision without a GPU, or more GPUs than there are.
    """
    there = torch.cuda.device_count()
    if options.fp16 and not there:
        raise RunError("--fp16 needs a GPU and there is none: leave it out")
    if options.gpus > max(1, there):
        raise RunError(f"--gpus {options.gpus}: this machine has {there}")


def precision_flags(options: argparse.Namespace) -> List[str]:
    """Flags of fairseq-train for the type of the numbers."""
    return ["--fp16"] * options.fp16 + ["--bf16"] * options.bf16


def train_command(options: argparse.Namespace) -> List[str]:
    """fairseq-train with the flags of the machine, for all but data and model."""
    command = [tool("fairseq-train")]
    if options.bf16:
        command = [sys.executable, "-m", "recipes.launch"]
    if options.cpu:
        return [*command, "--cpu"]
    return [*command, "--distributed-world-size", str(options.gpus)]
