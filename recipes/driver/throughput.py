"""Speed of training and of beam search: all models in turn, in one process."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch

from ..benchmarks.timing import Row, interleave, rows
from .fairseq_process import quiet
from .hardware import threads_of_a_job
from .models import Model
from .translation import LONGEST, TranslationRun

BATCHES = 3
"""Of the training set, the same for all models; a round is a step on each of them."""

SENTENCES = 32
"""Of a batch of the test set, at most: its sentences are of about the same length."""

Made = Tuple[Callable[[], None], int]
"""What is timed, and how many tokens or sentences it takes."""


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
    return {
        model: {
            **_ratios(row),
            "tokens_per_second": tokens / (row["ms"] / 1e3),
            "seconds_per_update": row["ms"] / 1e3 / BATCHES,
        }
        for model, (row, tokens) in _in_turn(runs, rounds, _steps).items()
    }


def measure_search(
    runs: Sequence[TranslationRun], rounds: int, sentences: int
) -> Dict[Model, Dict[str, float]]:
    """Time fairseq's beam search on the test set, as :func:`measure` times training.

    The models are not trained. Their hypotheses are as long as the longest reference of
    a batch, so that all do the same work.

    Args:
        runs: one of each model, the dense one among them.
        rounds: that count; two more come before them.
        sentences: evenly spaced in the test set, sorted by length; at most all.

    Returns:
        For each model ``throughput`` and its quartiles, as above; ``sentences``, at
        most ``batch`` at a time, and ``seconds``, the median for all of them.
    """

    def searches(run: TranslationRun) -> Made:
        return _searches(run, sentences)

    return {
        model: {
            **_ratios(row),
            "sentences": count,
            "batch": SENTENCES,
            "seconds": row["ms"] / 1e3,
        }
        for model, (row, count) in _in_turn(runs, rounds, searches).items()
    }


def _ratios(row: Row) -> Dict[str, float]:
    return {
        "throughput": 1 / row["ratio"],
        "throughput_low": 1 / row["high"],
        "throughput_high": 1 / row["low"],
    }


def _in_turn(
    runs: Sequence[TranslationRun],
    rounds: int,
    make: Callable[[TranslationRun], Made],
) -> Dict[Model, Tuple[Row, int]]:
    """Time what is made of each run, with the threads that a training has."""
    machine = runs[0].experiment.machine
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_job(machine))
    try:
        with quiet():
            made = {str(run.model): make(run) for run in runs}
            calls = {name: call for name, (call, _) in made.items()}
            clock = argparse.Namespace(rounds=rounds, device=_device(runs[0]))
            found = rows(interleave(calls, clock))
    finally:
        torch.set_num_threads(threads)
    return {Model.parse(row["what"]): (row, made[row["what"]][1]) for row in found}


def _device(run: TranslationRun) -> str:
    cpu = run.experiment.machine.cpu or not torch.cuda.is_available()
    return "cpu" if cpu else "cuda"


def built(run: TranslationRun) -> Tuple[Any, Any, Any]:
    """Make the configuration of fairseq-train, its task and the model, untrained."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_phm  # noqa: F401, registers the models

    one = ["--distributed-world-size", "1", *["--cpu"] * run.experiment.machine.cpu]
    arguments = options.parse_args_and_arch(
        options.get_training_parser(), [*run.arguments, *one]
    )
    config = convert_namespace_to_omegaconf(arguments)
    torch.manual_seed(run.seed)
    task = tasks.setup_task(config.task)
    return config, task, task.build_model(config.model)


def _steps(run: TranslationRun) -> Made:
    """Take a step on each batch; with the tokens of the batches."""
    from fairseq.trainer import Trainer

    config, task, model = built(run)
    trainer = Trainer(config, task, model, task.build_criterion(config.criterion))
    epoch = trainer.get_train_iterator(epoch=1)
    batches: List[Any] = list(islice(epoch.next_epoch_itr(shuffle=True), BATCHES))
    batches = (batches * BATCHES)[:BATCHES]  # of a training set with fewer
    trainer.begin_epoch(1)

    def steps() -> None:
        for batch in batches:
            trainer.train_step([batch])

    return steps, sum(batch["ntokens"] for batch in batches)


def _searches(run: TranslationRun, sentences: int) -> Made:
    """Translate batches of the test set; with the number of sentences."""
    from fairseq import utils
    from fairseq.data.data_utils import batch_by_size
    from fairseq.sequence_generator import SequenceGenerator

    experiment, device = run.experiment, _device(run)
    _, task, model = built(run)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}
    kinds = [half[name] for name in half if getattr(experiment.machine, name)]
    model.to(device=device, dtype=kinds[0] if kinds else torch.float32).eval()
    model.make_generation_fast_(need_attn=False)  # as fairseq-generate does
    task.load_dataset("test")
    data = task.dataset("test")
    order = data.ordered_indices()
    count = min(sentences, len(order))
    chosen = order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)]
    longest = max(experiment.training.max_tokens, LONGEST)
    batches = [
        data.collater([data[int(index)] for index in batch])
        for batch in batch_by_size(
            chosen, data.num_tokens, max_tokens=longest, max_sentences=SENTENCES
        )
    ]
    if device != "cpu":
        batches = [utils.move_to_cuda(batch) for batch in batches]
    search = experiment.search

    def searches() -> None:
        for batch in batches:
            length = batch["target"].size(1) - 1  # without the end of the sentence
            SequenceGenerator(
                [model], task.target_dictionary, beam_size=search.beam,
                len_penalty=search.lenpen, min_len=length, max_len_a=0,
                max_len_b=length,
            ).generate([model], batch)  # fmt: skip

    return searches, count
