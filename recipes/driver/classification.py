"""Trains sentence classifiers with several seeds and tests them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from data_prep.declaration import load
from data_prep.workspace import write_json
from fairseq_phm.tasks.classification import split_file
from fairseq_phm.tasks.tsv import numbered_lines

from ..report import tables
from .data import Data
from .fairseq_process import (
    RunError,
    digest,
    follow,
    load_model,
    provenance,
    read_json,
    read_training,
    stamps,
    train,
)
from .hardware import check_machine, precision_flags, train_command
from .models import Model
from .options import ROOT, parse_classification
from .stages import (
    Stage,
    errors_in_one_line,
    in_threads,
    record,
    run_stages,
    threads_of_a_job,
)


def main() -> None:
    """Command line of the recipes for classification."""
    options = parse_classification(sys.argv[1:])
    with errors_in_one_line(options.name):
        check_machine(options)
        data = None
        if not options.data:
            data = Data(options, "table")
            data.prepare("prepare" in options.stages)
        runs = [
            Run(model, seed, data, options)
            for seed in options.seeds
            for model in options.models
        ]
        in_threads(Run.go, runs, options.jobs)
        if "score" in options.stages:
            print("\n" + "\n\n".join(tables([read_json(run.result) for run in runs])))


@dataclass(frozen=True)
class Run:
    """One model with one seed, from training to accuracy.

    ``data`` is None when ``options.data`` is a folder to take as it is.
    """

    model: Model
    seed: int
    data: Optional[Data]
    options: argparse.Namespace

    def go(self) -> None:
        """The wanted stages, but for those that are done."""
        stages = [
            Stage("train", self.folder / "train.json", self.train),
            Stage("generate", self.predictions, self.generate),
            Stage("score", self.result, self.score),
        ]
        run_stages(self.title, stages, self.options.stages)

    @property
    def title(self) -> str:
        """The model and the seed, as on the screen."""
        return f"{self.model.name}, seed {self.seed}"

    @property
    def flags(self) -> List[str]:
        """Of fairseq-train, for model, task and training."""
        options = self.options
        return [
            *self.model.flags(options.arch), "--task", "tsv_classification",
            "--criterion", "sentence_prediction", "--best-checkpoint-metric",
            "accuracy", "--maximize-best-checkpoint-metric", "--seed", str(self.seed),
            *declared_flags(options.data_set), *shlex.split(options.flags),
            *precision_flags(options), *options.extra,
        ]  # fmt: skip

    @property
    def tables(self) -> Path:
        """The folder with the rows."""
        if self.data:
            return self.data.folder / "clean"
        return self.options.data.absolute()

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs are; other settings have another one."""
        options, vectors = self.options, self.options.vectors
        files = [split_file(self.tables, s) for s in ("train", "valid", "test")]
        data = self.data.folder.name if self.data else stamps(files)
        settings = [data, stamps([vectors] if vectors else [])]
        key = digest(
            [*settings, options.epochs, options.gpus * options.nodes, self.flags]
        )
        name = f"{self.model.slug}-seed{self.seed}-{key}"
        return options.out / options.name / name

    @property
    def predictions(self) -> Path:
        """Labels of the test set, with their probabilities."""
        return self.folder / "test.predictions.tsv"

    @property
    def result(self) -> Path:
        """Accuracies, and all that the table of results needs."""
        return self.folder / "result.json"

    def train(self) -> None:
        """Train, and keep the checkpoint with the best validation accuracy."""
        options = self.options
        vectors = options.vectors and ["--vectors", str(options.vectors.absolute())]
        command = [
            *train_command(options), str(self.tables),
            "--user-dir", str(ROOT / "fairseq_phm"), "--num-workers", "0",
            "--required-batch-size-multiple", "1", "--log-interval", "20",
            *self.flags, *(vectors or []),
        ]  # fmt: skip
        train(
            self.title, command, self.folder, epochs=options.epochs,
            threads=threads_of_a_job(options), node=options.node_rank,
        )  # fmt: skip
        if options.node_rank == 0:
            found = read_training(self.folder / "train.log")
            write_json(self.folder / "train.json", found)

    def generate(self) -> None:
        """Classify the test set."""
        command = [
            sys.executable, "-m", "fairseq_phm.predict",
            "--path", str(self.folder / "checkpoint_best.pt"),
            "--input", str(split_file(self.tables, "test")),
            "--output", str(self.predictions),
            *(["--cpu"] if self.options.cpu else []),
        ]  # fmt: skip
        threads = threads_of_a_job(self.options)
        for _ in follow(command, self.folder / "predict.log", threads):
            pass

    def score(self) -> None:
        """Compare the labels with the true ones."""
        options = self.options
        training = read_json(self.folder / "train.json")
        encoder = load_model(self.folder / "checkpoint_best.pt").encoder
        result = {
            "experiment": options.name,
            "task": "classification",
            "model": str(self.model),
            "seed": self.seed,
            "size": options.size,
            **({"data": self.data.summary} if self.data else {}),
            "epochs": options.epochs,
            "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
            "published": options.published.get(str(self.model), []),
            **self.accuracies(),
            "valid_accuracy": max(training["accuracies"]),
            "curve": training["curve"],
            "training_seconds": training["training_seconds"],
            "flags": shlex.join(self.flags),
            **provenance(
                threads_of_a_job(options),
                0 if options.cpu else options.gpus * options.nodes,
            ),
        }
        record(result, self.result, options.out / "results.jsonl")

    def accuracies(self) -> Dict[str, Any]:
        """Test accuracy in per cent, and for each value of ``options.by_column``."""
        test, by_column = split_file(self.tables, "test"), self.options.by_column
        label = int(self.flags[self.flags.index("--label-column") + 1])
        lines = [line.split("\t") for _, line in numbered_lines(self.predictions)][1:]
        rows = [line.split("\t") for _, line in numbered_lines(test)]
        if len(lines) != len(rows):
            raise RunError(
                f"{self.predictions}: {len(lines)} labels for {len(rows)} rows"
            )
        groups: Dict[str, List[bool]] = defaultdict(list)
        for (prediction, *_), row in zip(lines, rows):
            right = prediction == row[label - 1].strip()
            groups["all"].append(right)
            if by_column:
                groups[row[by_column - 1]].append(right)
        scores = {key: 100 * sum(r) / len(r) for key, r in groups.items()}
        result: Dict[str, Any] = {"accuracy": scores.pop("all")}
        if by_column:
            result["accuracy_by"] = {key: scores[key] for key in sorted(scores)}
            result["rows_by"] = {key: len(groups[key]) for key in sorted(scores)}
            if self.options.data_set:
                columns = load(self.options.data_set).columns
                result["rows_by_name"] = f"number of {columns[by_column - 1]}"
        return result


def declared_flags(data_set: Optional[str]) -> List[str]:
    """Flags of the task for the columns and labels of a declared data set."""
    if not data_set:
        return []
    declared = load(data_set)
    label = declared.columns.index("label")
    texts = ",".join(str(place + 1) for place in range(label))
    return [
        "--text-columns", texts, "--label-column", str(label + 1),
        "--labels", ",".join(declared.labels),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
