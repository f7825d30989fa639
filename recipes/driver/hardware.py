"""The machine that trains: GPUs, nodes, precision, CPU threads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Dict, List, Optional

import torch

from .settings import ROOT, Machine
from .stages import RunError


def check_machine(machine: Machine) -> None:
    """Refuse what this machine cannot do, before anything starts.

    Raises:
        RunError: half precision without a GPU, or more GPUs than there are.
    """
    if machine.launcher:  # others train
        return
    there = torch.cuda.device_count()
    if machine.fp16 and not there:
        raise RunError("--fp16 needs a GPU and there is none: leave it out")
    if machine.gpus > max(1, there):
        raise RunError(f"--gpus {machine.gpus}: this machine has {there}")


def threads_of_a_job(machine: Machine) -> int:
    """Share the CPU threads among the trainings that run at the same time."""
    return max(1, torch.get_num_threads() // machine.jobs)


def precision_flags(machine: Machine) -> List[str]:
    """Make the flags of fairseq-train for the type of the numbers."""
    return ["--fp16"] * machine.fp16 + ["--bf16"] * machine.bf16


def train_command(machine: Machine, patience: bool = False) -> List[str]:
    """Make the command that is fairseq-train, with its flags for the machine.

    Args:
        machine: what trains.
        patience: whether the training may stop early.

    One process is fairseq's own affair, as are several GPUs of one machine, for which
    it starts processes itself. Several nodes are torchrun's: each runs the same command
    with its ``--node-rank``.
    """
    device = ["--cpu"] if machine.cpu else []
    if machine.nodes > 1:
        host, _, port = machine.master.partition(":")
        return [
            sys.executable, "-m", "torch.distributed.run",
            "--nnodes", str(machine.nodes), "--nproc-per-node", str(machine.gpus),
            "--node-rank", str(machine.node_rank),
            "--master-addr", host, "--master-port", port or "29500",
            "-m", "recipes.driver.torchrun", *device,
        ]  # fmt: skip
    module = "recipes.driver.torchrun" if patience else "fairseq_cli.train"
    world = [] if machine.cpu else ["--distributed-world-size", str(machine.gpus)]
    if machine.gpus > 1:  # or torch refuses to load the checkpoint of a resumed run
        world += ["--load-checkpoint-on-all-dp-ranks"]
    return [sys.executable, "-m", module, *device, *world]


def provenance(machine: Machine) -> Dict[str, Any]:
    """Name hardware, versions and commit of a training, for the line of a run."""
    import fairseq

    import fairseq_phm

    hardware = f"CPU, {threads_of_a_job(machine)} threads"
    if not machine.cpu and torch.cuda.is_available():
        hardware = torch.cuda.get_device_name()
        several = f"{machine.devices} x " if machine.devices > 1 else ""
        hardware = several + hardware
    if machine.launcher:
        hardware = f"jobs of {machine.launcher}"
    return {
        "hardware": hardware,
        "versions": {
            "fairseq_phm": fairseq_phm.__version__,
            "fairseq": fairseq.__version__,
            "torch": torch.__version__,
        },
        "commit": _commit(),
    }


def _commit() -> Optional[str]:
    """Name the commit of this clone; None without git, or where it is no clone."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
