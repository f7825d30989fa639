"""One model with one seed, from training to a line of results.

What translation and classification have in common; each adds its own stages.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Sequence, Type, TypeVar

from data_prep.workspace import write_json

from ..report.experiments import tables
from .data import AnyData
from .fairseq_process import follow, train
from .flags import split_phm, values_of
from .hardware import provenance, threads_of_a_job, train_command
from .lock import locked
from .models import Model
from .results import note
from .settings import ROOT, Experiment
from .stages import RunError, Stage, digest, in_threads, read_json, run_stages
from .training_log import read_training

USER_DIR = ["--user-dir", str(ROOT / "fairseq_phm")]
READING = ["--num-workers", "0", "--required-batch-size-multiple", "1"]
"""Flags of all tools of fairseq that read batches."""


@dataclass(frozen=True)
class Run(ABC):
    """One model with one seed.

    A stage whose output is there is skipped; other settings have another folder.
    """

    model: Model
    seed: int
    data: AnyData
    experiment: Experiment

    task: ClassVar[str]
    """As ``report`` knows it."""

    single: ClassVar[bool] = True
    """Noted by itself and compared with its dense twin; else part of a benchmark."""

    making: ClassVar[str] = "train"
    """The stage that makes the checkpoint."""

    @property
    @abstractmethod
    def flags(self) -> List[str]:
        """Of fairseq-train, for model and training; the line of results has them."""

    @property
    def extra(self) -> List[str]:
        """The user's flags of fairseq-train; a dense model has none of PHM's."""
        extra = list(self.experiment.extra)
        return split_phm(extra)[1] if self.model.family == "dense" else extra

    @property
    @abstractmethod
    def training_arguments(self) -> List[str]:
        """Of fairseq-train, but for the machine, the folder and the length."""

    @property
    @abstractmethod
    def length(self) -> Dict[str, int]:
        """Of the training, in ``updates`` or ``epochs``."""

    @property
    @abstractmethod
    def settings(self) -> Sequence[Any]:
        """What the folder is named after, beside model and seed; JSON values."""

    @property
    @abstractmethod
    def later_stages(self) -> List[Stage]:
        """The stages between training and score."""

    @property
    @abstractmethod
    def result(self) -> Path:
        """The line of results, in a file of its own."""

    @abstractmethod
    def scores(self, training: Dict[str, Any]) -> Dict[str, Any]:
        """Score the test set, for the line of results.

        Args:
            training: see :func:`read_training`.
        """

    @property
    def title(self) -> str:
        """The model, and the seed if there are several, as on the screen."""
        seed = f", seed {self.seed}" if len(self.experiment.seeds) > 1 else ""
        return self.model.name + seed

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs are."""
        name = f"{self.model.slug}-seed{self.seed}-{digest(self.settings)}"
        return self.experiment.folder / name

    @property
    def trained(self) -> Path:
        """What a finished training says of itself."""
        return self.folder / "train.json"

    def go(self) -> None:
        """Run the wanted stages, but for those that are done.

        Raises:
            RunError: a stage failed, or another program is at work on this run.
        """
        stages = [
            Stage(self.making, self.trained, self.train),
            *self.later_stages,
            Stage("score", self.result, self.score),
        ]
        with locked(self.folder, self.experiment.machine.node_rank):
            self.require_same_data()
            self.require_checkpoints()
            run_stages(self.title, stages, self.experiment.stages)
            if "score" in self.experiment.stages:
                self.note()

    def require_same_data(self) -> None:
        """Refuse a folder whose training had other data, prepared by other code.

        Raises:
            RunError: it had.
        """
        file, summary = self.folder / "data.json", self.data.summary
        known = read_json(file) if file.is_file() else summary
        if known != summary:
            raise RunError(
                f"{self.folder}: trained on other data, hash {known['hash']} and not "
                f"{summary['hash']}: remove it, or choose another --out"
            )
        if not self.experiment.machine.node_rank:
            write_json(file, summary)

    def require_checkpoints(self) -> None:
        """Refuse a finished training whose checkpoints are gone, where they are needed.

        Raises:
            RunError: they are.
        """
        finished = self.making == "train" and self.trained.is_file()
        needed = set(self.experiment.stages) - {"prepare", "train"}
        if not finished or not needed or self.result.is_file():
            return
        if not any(self.folder.glob("*.pt")):
            raise RunError(
                f"{self.folder}: trained, but the checkpoints are gone: remove the "
                "folder to train again"
            )

    def train(self) -> None:
        """Fill the folder with checkpoints."""
        machine, arguments = self.experiment.machine, self.training_arguments
        patience = "--patience" in values_of(arguments)
        train(
            self.title, [*train_command(machine, patience), *arguments],
            self.folder, threads=threads_of_a_job(machine), node=machine.node_rank,
            **self.length,
        )  # fmt: skip
        if machine.node_rank == 0:
            self.note_training()

    def follow(self, command: List[str], name: str) -> Iterator[str]:
        """Yield the lines of a program, which ``NAME.log`` gets, too.

        Args:
            command: what runs, with the CPU threads of a training.
            name: of the log.
        """
        threads = threads_of_a_job(self.experiment.machine)
        return follow(command, self.folder / f"{name}.log", threads)

    @property
    def reading(self) -> List[str]:
        """Of fairseq's tools that read a checkpoint and batches."""
        return [*USER_DIR, *READING, *["--cpu"] * self.experiment.machine.cpu]

    def note_training(self) -> None:
        """Write what the log says of a finished training."""
        found = read_training(self.folder / "train.log")
        write_json(self.trained, {**found, **provenance(self.experiment.machine)})

    def score(self) -> None:
        """Write the line of results."""
        write_json(self.result, self.line())

    def note(self) -> None:
        """Append the line of results, if any, to those of all runs."""
        if self.single and self.result.is_file():
            note(self.noted, self.experiment.out / "results.jsonl")

    @property
    def names(self) -> Dict[str, Any]:
        """What the experiment is called, which makes no other run."""
        published = self.experiment.published.get(str(self.model), [])
        return {
            "experiment": self.experiment.name,
            "size": self.experiment.size,
            "published": published,
        }

    @property
    def noted(self) -> Dict[str, Any]:
        """The line of results, under the names of this call."""
        return {**read_json(self.result), **self.names}

    def line(self) -> Dict[str, Any]:
        """All that tables of results need, see :mod:`recipes.report.experiments`."""
        experiment, training = self.experiment, read_json(self.trained)
        devices, here = experiment.machine.devices, provenance(experiment.machine)
        return {
            **self.names,
            "task": self.task,
            "model": str(self.model),
            "seed": self.seed,
            "data": self.data.summary,
            **({"devices": devices} if devices > 1 else {}),
            **self.scores(training),
            "curve": training["curve"],
            "training_seconds": training["training_seconds"],
            "flags": shlex.join(self.flags),
            **{k: training.get(k, v) for k, v in here.items()},
        }


AnyRun = TypeVar("AnyRun", bound=Run)


def runs_of(kind: Type[AnyRun], experiment: Experiment, data: AnyData) -> List[AnyRun]:
    """Prepare the data, or see that they are, and list the runs: seeds, then models.

    Raises:
        RunError: the data are not prepared and shall not be.
    """
    data.prepare("prepare" in experiment.stages)
    return [
        kind(model, seed, data, experiment)
        for seed in experiment.seeds
        for model in experiment.models
    ]


def go_and_print(runs: Sequence[Run]) -> None:
    """Run all stages of all runs of an experiment, and print the tables of scores.

    Raises:
        RunError: a stage failed; the other runs end.
    """
    experiment = runs[0].experiment
    in_threads(Run.go, runs, experiment.machine.jobs)
    if "score" in experiment.stages:
        print("\n" + "\n\n".join(tables([run.noted for run in runs])))
        say_where(experiment)


def say_where(experiment: Experiment) -> None:
    """Print where the runs of an experiment have left what they made."""
    print(f"\nCheckpoints, outputs and logs: {experiment.folder}")
    print(f"Lines of results: {experiment.out / 'results.jsonl'}")
