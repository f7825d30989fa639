"""Trains sentence classifiers with several seeds and tests them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List

import torch

from fairseq_phm.tasks.classification import split_file
from fairseq_phm.tasks.tsv import numbered_lines

from .driver import errors_in_one_line, in_threads, model_flags, record
from .options import ROOT, parse_classification
from .report import tables
from .runner import (
    RunError,
    digest,
    follow,
    load_model,
    provenance,
    read_training,
    stamps,
    step,
    tool,
    train,
)


def main() -> None:
    """Command line of the recipes for classification."""
    options = parse_classification(sys.argv[1:])
    threads = max(1, torch.get_num_threads() // options.jobs)
    results: List[Dict[str, Any]] = []
    jobs = [(model, seed) for seed in options.seeds for model in options.models]
    with errors_in_one_line(options.name):
        in_threads(
            lambda job: results.append(run(*job, threads, options)), jobs, options.jobs
        )
    print("\n" + "\n\n".join(tables(results)))


def run(
    model: str, seed: int, threads: int, options: argparse.Namespace
) -> Dict[str, Any]:
    """Train one model and classify the test set; an equal run's result is read back."""
    name = f"{model if model.isalpha() else f'PHM n={model}'}, seed {seed}"
    flags = [
        *model_flags(model, options.arch), "--task", "tsv_classification",
        "--criterion", "sentence_prediction", "--best-checkpoint-metric", "accuracy",
        "--maximize-best-checkpoint-metric", "--seed", str(seed),
        *shlex.split(options.flags), *options.extra,
    ]  # fmt: skip
    if options.vectors:
        flags += ["--vectors", str(options.vectors.absolute())]
    data = options.data.absolute()
    test = split_file(data, "test")
    files = [split_file(data, "train"), split_file(data, "valid"), test]
    files += [options.vectors] if options.vectors else []
    key = digest([stamps(files), options.epochs, flags])
    folder = options.out / options.name / f"{model}-seed{seed}-{key}"
    finished = folder / "result.json"
    if finished.is_file():
        step(f"{name}: using {finished}")
        return json.loads(finished.read_text())
    command = [
        tool("fairseq-train"), str(data), "--user-dir", str(ROOT / "fairseq_phm"),
        "--num-workers", "0", "--required-batch-size-multiple", "1",
        "--log-interval", "20", *flags,
    ]  # fmt: skip
    train(name, command, folder, epochs=options.epochs, threads=threads)
    training = read_training(folder / "train.log")
    predictions = folder / "test.predictions.tsv"
    command = [
        sys.executable, "-m", "fairseq_phm.predict",
        "--path", str(folder / "checkpoint_best.pt"),
        "--input", str(test), "--output", str(predictions),
    ]  # fmt: skip
    for _ in follow(command, folder / "predict.log", threads):
        pass
    encoder = load_model(folder / "checkpoint_best.pt").encoder
    result = {
        "experiment": options.name,
        "task": "classification",
        "model": model,
        "seed": seed,
        "epochs": options.epochs,
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "published": options.published.get(model, []),
        **accuracies(predictions, test, flags, options.by_column),
        "valid_accuracy": max(training["accuracies"]),
        "curve": training["curve"],
        "training_seconds": training["training_seconds"],
        "flags": shlex.join(
            flags[: flags.index("--vectors")] if options.vectors else flags
        ),
        **provenance(threads),
    }
    record(result, finished, options.out / "results.jsonl")
    return result


def accuracies(
    predictions: Path, test: Path, flags: List[str], by_column: int
) -> Dict[str, Any]:
    """Test accuracy in per cent, and for each value of a column of the test set."""
    label = int(flags[flags.index("--label-column") + 1])
    chosen = [line.split("\t")[0] for _, line in numbered_lines(predictions)][1:]
    rows = [line.split("\t") for _, line in numbered_lines(test)]
    if len(chosen) != len(rows):
        raise RunError(f"{predictions}: {len(chosen)} labels for {len(rows)} rows")
    groups: Dict[str, List[bool]] = defaultdict(list)
    for prediction, row in zip(chosen, rows):
        right = prediction == row[label - 1].strip()
        groups["all"].append(right)
        if by_column:
            groups[row[by_column - 1]].append(right)
    scores = {key: 100 * sum(r) / len(r) for key, r in groups.items()}
    result: Dict[str, Any] = {"accuracy": scores.pop("all")}
    if by_column:
        result["accuracy_by"] = {key: scores[key] for key in sorted(scores)}
        result["rows_by"] = {key: len(groups[key]) for key in sorted(scores)}
    return result


if __name__ == "__main__":
    main()
