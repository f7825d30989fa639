"""Throughput of training: real steps of all models, in turn, in one process."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch

from ..benchmarks.timing import interleave, rows
from .fairseq_process import quiet
from .hardware import threads_of_a_job
from .models import DENSE, Model
from .translation import TranslationRun

BATCHES = 3
"""Of the training set, the same for all models; a round is a step on each of them."""


def measure(
    runs: Sequence[TranslationRun], rounds: int
) -> Dict[Model, Dict[str, float]]:
    """Time fairseq's training step: loss, gradients, clipping, Adam.

    The models take turns, so that what else the machine does hits all of them, with the
    CPU threads that a training has. Their weights, gradients and Adam's state are in
    memory at the same time.

    Args:
        runs: one of each model, the dense one among them.
        rounds: that count; two more come before them.

    Returns:
        For each model ``throughput``, over the dense model's, median of the rounds,
        with its quartiles ``throughput_low`` and ``throughput_high``;
        ``tokens_per_second`` of the target and ``seconds_per_update``, medians.
    """
    machine = runs[0].experiment.machine
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_job(machine))
    try:
        with quiet():
            made = {str(run.model): _round(run) for run in runs}
            calls = {name: call for name, (call, _) in made.items()}
            device = "cpu" if machine.cpu or not torch.cuda.is_available() else "cuda"
            clock = argparse.Namespace(rounds=rounds, device=device)
            found = rows(interleave(calls, clock), str(DENSE))
    finally:
        torch.set_num_threads(threads)
    return {
        Model.parse(row["what"]): {
            "throughput": 1 / row["ratio"],
            "throughput_low": 1 / row["high"],
            "throughput_high": 1 / row["low"],
            "tokens_per_second": made[row["what"]][1] / (row["ms"] / 1e3),
            "seconds_per_update": row["ms"] / 1e3 / BATCHES,
        }
        for row in found
    }


def _round(run: TranslationRun) -> Tuple[Callable[[], None], int]:
    """A function that takes a step on each batch, and the tokens of the batches."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    import fairseq_phm  # noqa: F401, registers the models

    one = ["--distributed-world-size", "1", *["--cpu"] * run.experiment.machine.cpu]
    arguments = options.parse_args_and_arch(
        options.get_training_parser(), [*run.arguments, *one]
    )
    arguments.tpu = False
    config = convert_namespace_to_omegaconf(arguments)
    torch.manual_seed(run.seed)
    task = tasks.setup_task(config.task)
    model = task.build_model(config.model)
    criterion = task.build_criterion(config.criterion)
    trainer = Trainer(config, task, model, criterion)
    epoch = trainer.get_train_iterator(epoch=1)
    batches: List[Any] = list(islice(epoch.next_epoch_itr(shuffle=True), BATCHES))
    trainer.begin_epoch(1)

    def steps() -> None:
        for batch in batches:
            trainer.train_step([batch])

    return steps, sum(batch["ntokens"] for batch in batches)
