"""Trains PHM-Transformers and their dense twin on pairs, translates, scores."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional

from tabulate import tabulate
from tqdm import tqdm

from data_prep.text import read_lines
from data_prep.workspace import write_json

from ..report import tables
from ..score import compare, score
from .data import Data
from .fairseq_process import (
    RunError,
    digest,
    follow,
    load_parameters,
    provenance,
    read_json,
    read_training,
    tool,
    train,
)
from .hardware import check_machine, precision_flags, train_command
from .models import DENSE, Model
from .options import ROOT, parse_translation
from .slurm import submit
from .stages import (
    Stage,
    errors_in_one_line,
    in_threads,
    record,
    run_stages,
    threads_of_a_job,
)

LONGEST = 4096  # tokens of a batch at least: the longest sentences have 1024
NEVER = str(10**9)


def main() -> None:
    """Command line of the recipes for translation."""
    options = parse_translation(sys.argv[1:])
    with errors_in_one_line(options.name):
        check_machine(options)
        data = Data(options, "parallel")
        data.prepare("prepare" in options.stages)
        runs = [
            Run(model, seed, data, options)
            for seed in options.seeds
            for model in options.models
        ]
        if options.slurm and "train" in options.stages:
            submit([run for run in runs if not run.trained.is_file()])
        dense_first = sorted(runs, key=lambda run: (run.seed, run.model != DENSE))
        in_threads(Run.go, dense_first, options.jobs)
        if "score" in options.stages:
            for run in runs:  # those that came before their dense twin, by --jobs
                if not run.result.is_file():
                    run.score()
            results = [read_json(run.result) for run in runs]
            if options.size == "demo":
                report(results, [run.title for run in runs])
            else:
                print("\n" + "\n\n".join(tables(results)))


@dataclass(frozen=True)
class Run:
    """One model with one seed, from training to score."""

    model: Model
    seed: int
    data: Data
    options: argparse.Namespace

    def go(self) -> None:
        """The wanted stages, but for those that are done."""
        stages = [
            Stage("train", self.trained, self.train),
            Stage("average", self.checkpoint, self.average),
            Stage("generate", self.decoding, self.generate),
            Stage("score", self.result, self.score),
        ]
        if self.options.mean == "none":
            del stages[1]
        run_stages(self.title, stages, self.options.stages)

    @property
    def source(self) -> str:
        """The source language."""
        return self.data.set.languages[0]

    @property
    def target(self) -> str:
        """The target language."""
        return self.data.set.languages[1]

    @property
    def title(self) -> str:
        """The model, as on the screen."""
        seed = f", seed {self.seed}" if len(self.options.seeds) > 1 else ""
        return self.model.name + seed

    @property
    def flags(self) -> List[str]:
        """Of fairseq-train, for model and training."""
        options, extra = self.options, self.options.extra
        return [
            *self.model.flags(options.arch), "--seed", str(self.seed),
            *training_flags(options),
            *(without_phm(extra) if self.model.family == "dense" else extra),
        ]  # fmt: skip

    @property
    def arguments(self) -> List[str]:
        """Of fairseq-train, but for the machine, checkpoints and length."""
        return [
            str(self.data.folder / "bin"),
            "--source-lang", self.source, "--target-lang", self.target,
            "--max-tokens-valid", str(max(self.options.max_tokens, LONGEST)),
            "--required-batch-size-multiple", "1", "--num-workers", "0",
            *self.flags,
        ]  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs are; other settings have another one."""
        options = self.options
        settings = [
            self.data.folder.name, options.arch, options.updates, options.save_interval,
            options.num_checkpoints, options.gpus * options.nodes,
            [word for word in options.extra if not word.startswith("hydra.")],
        ]  # fmt: skip
        key = digest([*settings, training_flags(options)])
        name = f"{self.model.slug}-seed{self.seed}-{key}"
        return options.out / options.name / name

    @property
    def trained(self) -> Path:
        """What a finished training says of itself."""
        return self.folder / "train.json"

    @property
    def checkpoint(self) -> Path:
        """What translates."""
        if self.options.mean == "none":
            return self.folder / "checkpoint_best.pt"
        mean = f"{self.options.mean}{self.options.num_checkpoints}"
        return self.folder / f"averaged-{mean}.pt"

    @property
    def decoding(self) -> Path:
        """Hypotheses and what is known of them."""
        search = f"beam{self.options.beam}-lenpen{self.options.lenpen}"
        return self.folder / f"test-{self.checkpoint.stem}-{search}.json"

    @property
    def twin(self) -> Optional[Path]:
        """The hypotheses of the dense model of the same seed, if they are there."""
        twin = replace(self, model=DENSE).decoding
        return twin if self.model != DENSE and twin.is_file() else None

    @property
    def result(self) -> Path:
        """Scores, and all that the table of results needs."""
        kind = "compared" if self.twin else "result"
        return self.decoding.with_name(f"{kind}-{self.decoding.name}")

    def test(self, language: str) -> List[str]:
        """The test sentences of a side, as the text was before subwords."""
        return read_lines(self.data.folder / "clean" / f"test.{language}")

    def train(self) -> None:
        """Fill the folder with checkpoints."""
        options, interval = self.options, self.options.save_interval
        command = [
            *train_command(options), "--user-dir", str(ROOT / "fairseq_phm"),
            "--log-interval", str(min(20, interval)),
            "--save-interval-updates", str(interval),
            "--validate-interval-updates", str(interval),
            "--keep-interval-updates", str(options.num_checkpoints),
            "--save-interval", NEVER, "--validate-interval", NEVER,  # at epochs' ends
            *self.arguments,
        ]  # fmt: skip
        if not options.slurm:
            train(
                self.title, command, self.folder, updates=options.updates,
                threads=threads_of_a_job(options), node=options.node_rank,
            )  # fmt: skip
        elif not (self.folder / "checkpoint_best.pt").is_file():
            raise RunError(f"{self.folder}: no checkpoint_best.pt after training")
        if options.node_rank == 0:
            found = read_training(self.folder / "train.log")
            write_json(self.trained, found)

    def average(self) -> None:
        """Average the last checkpoints."""
        options, inputs = self.options, [self.folder]
        if not numbered(self.folder):
            # fairseq leaves a checkpoint out that falls on the end of an epoch.
            print(f"{self.title}: no checkpoint within epochs, the last one is taken")
            inputs = [self.folder / "checkpoint_last.pt"]
        command = [
            sys.executable, "-m", "fairseq_phm.average", "--inputs", *map(str, inputs),
            "--num-checkpoints", str(options.num_checkpoints),
            "--mean", options.mean, "--output", str(self.checkpoint),
        ]  # fmt: skip
        for line in follow(command, self.folder / "average.log"):
            print(line, flush=True)

    def generate(self) -> None:
        """Translate the test set.

        Raises:
            RunError: there are not as many hypotheses as source lines.
        """
        options = self.options
        command = [
            tool("fairseq-generate"), str(self.data.folder / "bin"),
            "--user-dir", str(ROOT / "fairseq_phm"),
            "--source-lang", self.source, "--target-lang", self.target,
            "--path", str(self.checkpoint), "--gen-subset", "test",
            "--beam", str(options.beam), "--lenpen", str(options.lenpen),
            "--max-len-a", "1", "--max-len-b", "50",  # or 200 would be the end
            "--remove-bpe", "sentencepiece", "--num-workers", "0",
            "--max-tokens", str(max(options.max_tokens, LONGEST)),
            "--required-batch-size-multiple", "1",
            *(["--cpu"] if options.cpu else []),
        ]  # fmt: skip
        threads = threads_of_a_job(options)
        lines = len(self.test(self.source))
        found: Dict[int, str] = {}
        seconds = 0.0
        with tqdm(total=lines, unit="sentence", desc=self.title) as bar:
            for line in follow(command, self.folder / "generate.log", threads):
                hypothesis = re.match(r"H-(\d+)\t[^\t]*\t?(.*)", line)
                if hypothesis:
                    found[int(hypothesis[1])] = hypothesis[2]
                    bar.update()
                timing = re.search(r"Translated .* in ([\d.]+)s", line)
                seconds = float(timing[1]) if timing else seconds
        if sorted(found) != list(range(lines)):
            raise RunError(
                f"{self.folder}: {len(found)} hypotheses for {lines} test lines"
            )
        hypotheses = [found[number] for number in range(lines)]
        text = self.decoding.with_suffix(f".{self.target}")
        text.write_text("".join(line + "\n" for line in hypotheses), encoding="utf-8")
        averaged = min(options.num_checkpoints, len(numbered(self.folder)) or 1)
        write_json(
            self.decoding,
            {
                "decoding_seconds": seconds,
                "checkpoints": 1 if options.mean == "none" else averaged,
                "hypotheses": hypotheses,
            },
        )

    def score(self) -> None:
        """Score the hypotheses, and compare them with the dense twin's if there are."""
        record(self.scored(), self.result, self.options.out / "results.jsonl")

    def scored(self) -> Dict[str, Any]:
        """Scores of the hypotheses, and what else a line of results has."""
        options, data = self.options, self.data
        decoding, training = (read_json(file) for file in (self.decoding, self.trained))
        hypotheses = decoding.pop("hypotheses")
        references = self.test(self.target)
        scores = score(hypotheses, references)
        if self.twin:
            baseline = read_json(self.twin)["hypotheses"]
            scores.update(compare(hypotheses, baseline, references))
        parameters = load_parameters(self.checkpoint)
        return {
            "experiment": options.name,
            "task": "translation",
            "model": str(self.model),
            "seed": self.seed,
            "size": options.size,
            "languages": [self.source, self.target],
            "data": data.summary,
            "parameters": parameters["non_embedding"],
            "total_parameters": parameters["total"],
            "updates": options.updates,
            "lr": options.lr,
            "validation_loss": lowest_loss(training),
            **scores,
            "mean": options.mean,
            **decoding,
            "beam": options.beam,
            "lenpen": options.lenpen,
            "curve": training["curve"],
            "published": options.published.get(str(self.model), []),
            "training_seconds": training["training_seconds"],
            "flags": shlex.join(self.flags),
            **provenance(
                threads_of_a_job(options),
                0 if options.cpu else options.gpus * options.nodes,
            ),
        }


def report(results: List[Dict[str, Any]], titles: List[str]) -> None:
    """Print the table of the quickstart."""
    rows = [
        {
            "model": title,
            "parameters, non-embedding": f"{result['parameters']:,}",
            "total": f"{result['total_parameters']:,}",
            "validation loss": f"{lowest_loss(result):.3f}",
            "BLEU": f"{result['bleu']:.2f}",
            "training": f"{result['training_seconds']:.0f} s",
            "decoding": f"{result['decoding_seconds']:.1f} s",
        }
        for result, title in zip(results, titles)
    ]
    align = ["left"] + ["right"] * 6
    print("\n" + tabulate(rows, headers="keys", colalign=align, disable_numparse=True))
    print(f"BLEU: {results[0]['bleu_signature']}")


def lowest_loss(training: Dict[str, Any]) -> float:
    """The lowest validation loss of a ``curve``; fairseq logs bits a token."""
    losses = [loss for _, _, loss in training["curve"] if not math.isnan(loss)]
    return min(losses, default=math.nan)


def training_flags(options: argparse.Namespace) -> List[str]:
    """Flags of fairseq-train that all models of an experiment have."""
    depth = str(options.layers or "")
    layers = depth and ["--encoder-layers", depth, "--decoder-layers", depth]
    return [
        "--encoder-normalize-before", "--decoder-normalize-before",
        "--share-all-embeddings", "--dropout", "0.1",
        "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
        "--optimizer", "adam", "--lr", str(options.lr),
        "--warmup-updates", str(options.warmup_updates),
        "--max-tokens", str(options.max_tokens), *shlex.split(options.flags),
        *precision_flags(options), *layers,
    ]  # fmt: skip


def without_phm(flags: List[str]) -> List[str]:
    """The flags of fairseq-train without --phm-... and their values: the dense twin."""
    kept, dropping = [], False
    for flag in flags:
        if flag.startswith("--"):
            dropping = flag.startswith("--phm-")
        if not dropping:
            kept.append(flag)
    return kept


def numbered(folder: Path) -> List[Path]:
    """The checkpoints that carry a number of updates."""
    return list(folder.glob("checkpoint_*_*.pt"))


if __name__ == "__main__":
    main()
