"""Trains sentence classifiers with several seeds and tests them."""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from data_prep import errors_in_one_line
from data_prep.declaration import DataSet
from fairseq_phm.tasks.classification import split_file
from fairseq_phm.tasks.tsv import numbered_lines

from .data import Data, GivenTables
from .fairseq_process import load_model
from .flags import values_of
from .hardware import check_machine, precision_flags
from .options import parse_classification, program
from .run import READING, USER_DIR, Run, go_and_print, runs_of
from .settings import Classification
from .stages import RunError, Stage, stamps


def main() -> None:
    """Run the recipes for classification."""
    experiment = parse_classification(sys.argv[1:])
    source, given = experiment.source, experiment.tables
    with errors_in_one_line(program("classification")):
        check_machine(experiment.machine)
        data = (
            GivenTables(given, source.data_set)
            if given
            else Data(source, experiment.folder, "table")
        )
        runs = runs_of(ClassificationRun, experiment, data)
        go_and_print(runs)


@dataclass(frozen=True)
class ClassificationRun(Run):
    """A classifier of sentences, from training to accuracy.

    The checkpoint with the best validation accuracy is kept.
    """

    experiment: Classification

    task = "classification"

    @property
    def flags(self) -> List[str]:
        """Of fairseq-train, for model, task and training."""
        experiment = self.experiment
        return [
            *self.model.flags(experiment.arch), "--task", "tsv_classification",
            "--criterion", "sentence_prediction", "--best-checkpoint-metric",
            "accuracy", "--maximize-best-checkpoint-metric", "--seed", str(self.seed),
            *declared_flags(self.data.set), *shlex.split(experiment.flags),
            *precision_flags(experiment.machine), *self.extra,
        ]  # fmt: skip

    @property
    def training_arguments(self) -> List[str]:
        """Of fairseq-train, but for the machine, the folder and the length."""
        vectors = self.experiment.vectors
        return [
            str(self.data.clean), *USER_DIR, *READING, "--log-interval", "20",
            *self.flags, *(["--vectors", str(vectors.absolute())] if vectors else []),
        ]  # fmt: skip

    @property
    def length(self) -> Dict[str, int]:
        """Of the training, in epochs."""
        return {"epochs": self.experiment.epochs}

    @property
    def settings(self) -> List[Any]:
        """What the folder is named after."""
        experiment = self.experiment
        vectors = stamps(experiment.vectors)
        devices = experiment.machine.devices
        return [self.data.key, vectors, experiment.epochs, devices, self.flags]

    @property
    def later_stages(self) -> List[Stage]:
        """The labels of the test set."""
        return [Stage("generate", self.predictions, self.generate)]

    @property
    def predictions(self) -> Path:
        """Labels of the test set, with their probabilities."""
        return self.folder / "test.predictions.tsv"

    @property
    def result(self) -> Path:
        """The line of results."""
        return self.folder / "result.json"

    def generate(self) -> None:
        """Classify the test set."""
        command = [
            sys.executable, "-m", "fairseq_phm.predict",
            "--path", str(self.folder / "checkpoint_best.pt"),
            "--input", str(split_file(self.data.clean, "test")),
            "--output", str(self.predictions),
            *["--cpu"] * self.experiment.machine.cpu,
        ]  # fmt: skip
        list(self.follow(command, "predict"))

    def scores(self, training: Dict[str, Any]) -> Dict[str, Any]:
        """Compare the labels with the true ones."""
        vectors = self.experiment.vectors
        encoder = load_model(self.folder / "checkpoint_best.pt").encoder
        return {
            "epochs": self.experiment.epochs,
            "vectors": vectors.name if vectors else "",
            "trained_epochs": len(training["curve"]),  # fewer with --patience
            "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
            **self.accuracies(),
            "valid_accuracy": max(training["accuracies"]),
        }

    def accuracies(self) -> Dict[str, Any]:
        """Count right labels: in per cent, and for each value of a column.

        Raises:
            RunError: there are not as many labels as rows.
        """
        by = self.experiment.groups
        place = self.data.set.columns.index(by) if by else 0
        flags = values_of(self.flags)
        label = int(flags.get("--label-column", ["3"])[0])
        lines = [line.split("\t") for _, line in numbered_lines(self.predictions)][1:]
        test = split_file(self.data.clean, "test")
        rows = [line.split("\t") for _, line in numbered_lines(test)]
        rows = rows["--header" in flags :]
        if len(lines) != len(rows):
            raise RunError(
                f"{self.predictions}: {len(lines)} labels for {len(rows)} rows"
            )
        if min(map(len, rows), default=0) <= place:
            by = ""  # rows that are taken as they are may lack it
        groups: Dict[str, List[bool]] = defaultdict(list)
        for (prediction, *_), row in zip(lines, rows):
            right = prediction == row[label - 1].strip()
            groups["all"].append(right)
            if by:
                groups[row[place]].append(right)
        scores = {key: 100 * sum(r) / len(r) for key, r in groups.items()}
        result: Dict[str, Any] = {"accuracy": scores.pop("all")}
        if by:
            order = sorted(scores, key=lambda key: (key.zfill(20), key))
            result["accuracy_by"] = {key: scores[key] for key in order}
            result["rows_by"] = {key: len(groups[key]) for key in order}
            result["rows_by_name"] = f"number of {by}"
        return result


def declared_flags(data_set: Optional[DataSet]) -> List[str]:
    """Make the flags of the task for the columns and labels of a declared data set."""
    if not data_set:
        return []
    label = data_set.columns.index("label")
    texts = ",".join(str(place + 1) for place in range(label))
    return [
        "--text-columns", texts, "--label-column", str(label + 1),
        "--labels", ",".join(data_set.labels),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
