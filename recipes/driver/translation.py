"""Trains PHM-Transformers and their dense twin on pairs, translates, scores."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from tqdm import tqdm

from data_prep import errors_in_one_line
from data_prep.subwords import decode
from data_prep.text import read_lines
from data_prep.workspace import write_json

from ..report.experiments import tables
from ..report.tables import MARK, MARKED, tabulated
from ..score import compare, score
from .data import Data
from .fairseq_process import require_checkpoint
from .hardware import check_machine
from .models import DENSE
from .options import parse_translation, program
from .run import READING, USER_DIR, Run, runs_of, say_where
from .settings import Translation
from .slurm import submit
from .stages import RunError, Stage, digest, in_threads, read_json
from .training_log import converged, lowest_loss
from .transformer_run import TransformerRun, optimizer_flags

LONGEST = 4096  # tokens of a batch at least: the longest sentences have 1024


def main() -> None:
    """Run the recipes for translation."""
    experiment = parse_translation(sys.argv[1:])
    machine, stages = experiment.machine, experiment.stages
    with errors_in_one_line(program("translation")):
        check_machine(machine)
        data = Data(experiment.source, experiment.folder, "parallel")
        runs = runs_of(TranslationRun, experiment, data)
        if machine.launcher and "train" in stages:
            submit([run for run in runs if not run.trained.is_file()])
        dense_first = sorted(runs, key=lambda run: (run.seed, run.model != DENSE))
        in_threads(Run.go, dense_first, machine.jobs)
        if "score" in stages:
            for run in runs:  # those that came before their dense twin, by --jobs
                if not run.result.is_file():
                    run.score()
                    run.note()
            results = [run.noted for run in runs]
            if experiment.size == "quickstart":
                print_comparison(results, [run.title for run in runs])
            else:
                print("\n" + "\n\n".join(tables(results)))
            say_where(experiment)


@dataclass(frozen=True)
class TranslationRun(TransformerRun):
    """A Transformer that learns to translate, from training to score."""

    data: Data
    experiment: Translation

    task = "translation"

    @property
    def source(self) -> str:
        """The source language."""
        return self.data.set.languages[0]

    @property
    def target(self) -> str:
        """The target language."""
        return self.data.set.languages[1]

    @property
    def flags(self) -> List[str]:
        """Of fairseq-train, for model and training."""
        experiment = self.experiment
        return [
            *self.model.flags(experiment.training.arch), "--seed", str(self.seed),
            *training_flags(experiment), *self.extra,
        ]  # fmt: skip

    @property
    def arguments(self) -> List[str]:
        """Of fairseq-train, for data, model and training."""
        longest = max(self.experiment.training.max_tokens, LONGEST)
        return [
            str(self.data.folder / "bin"),
            "--source-lang", self.source, "--target-lang", self.target,
            "--max-tokens-valid", str(longest), *READING, *self.flags,
        ]  # fmt: skip

    @property
    def saving(self) -> List[str]:
        """Of fairseq-train, for its log and for checkpoints and their validations."""
        return self.saving_flags(self.experiment.search.num_checkpoints)

    @property
    def training_arguments(self) -> List[str]:
        """Of fairseq-train, but for the machine, the folder and the length."""
        return [*USER_DIR, *self.saving, *self.arguments]

    @property
    def settings(self) -> List[Any]:
        """What the folder is named after."""
        experiment, training = self.experiment, self.experiment.training
        return [
            self.data.key, training.arch, training.updates, training.save_interval,
            experiment.search.num_checkpoints, experiment.machine.devices,
            [word for word in self.extra if not word.startswith("hydra.")],
            training_flags(experiment),
        ]  # fmt: skip

    @property
    def later_stages(self) -> List[Stage]:
        """The mean of checkpoints, if it is wanted, and the translation."""
        average = Stage("average", self.checkpoint, self.average)
        generate = Stage("generate", self.decoding, self.generate)
        return [average, generate][self.experiment.search.mean == "none" :]

    @property
    def checkpoint(self) -> Path:
        """What translates."""
        search = self.experiment.search
        if search.mean == "none":
            return self.folder / "checkpoint_best.pt"
        return self.folder / f"averaged-{search.mean}{search.num_checkpoints}.pt"

    @property
    def decoding(self) -> Path:
        """Hypotheses and what is known of them."""
        search = self.experiment.search
        how = f"beam{search.beam}-lenpen{search.lenpen}"
        return self.folder / f"test-{self.checkpoint.stem}-{how}.json"

    @property
    def twin(self) -> Optional[Path]:
        """The hypotheses of the dense model of the same seed, if they are there."""
        if not self.single or self.model == DENSE:
            return None
        twin = replace(self, model=DENSE).decoding
        return twin if twin.is_file() else None

    @property
    def result(self) -> Path:
        """The line of results; another one for each translation of the dense twin."""
        twin = self.twin
        kind = f"compared-{digest(twin.read_text('utf-8'))}" if twin else "result"
        return self.decoding.with_name(f"{kind}-{self.decoding.name}")

    def test(self, language: str) -> List[str]:
        """Read the test sentences of a side, as the text was before subwords."""
        return read_lines(self.data.clean / f"test.{language}")

    def train(self) -> None:
        """Fill the folder with checkpoints, or see that a job has filled it."""
        if self.experiment.machine.launcher:
            require_checkpoint(self.folder)
            self.note_training()
        else:
            super().train()

    @property
    def inputs(self) -> int:
        """How many checkpoints the translating one is the mean of.

        They are noted beside it; of former versions those count that are there. A given
        checkpoint may have another file of that name.
        """
        try:
            noted = json.loads(self.checkpoint.with_suffix(".json").read_bytes())
        except (OSError, ValueError):
            noted = None
        if type(noted) is int:
            return noted
        search = self.experiment.search
        if search.mean == "none":
            return 1
        return min(search.num_checkpoints, len(numbered(self.folder)) or 1)

    def average(self) -> None:
        """Average the last checkpoints."""
        search, inputs = self.experiment.search, [self.folder]
        if not numbered(self.folder):
            # fairseq leaves a checkpoint out that falls on the end of an epoch.
            print(f"{self.title}: no checkpoint within epochs, the last one is taken")
            inputs = [self.folder / "checkpoint_last.pt"]
        command = [
            sys.executable, "-m", "fairseq_phm.average", "--inputs", *map(str, inputs),
            "--num-checkpoints", str(search.num_checkpoints),
            "--mean", search.mean, "--output", str(self.checkpoint),
        ]  # fmt: skip
        for line in self.follow(command, "average"):
            print(line, flush=True)
        count = min(search.num_checkpoints, len(numbered(self.folder)))
        write_json(self.checkpoint.with_suffix(".json"), count or 1)

    def generate(self) -> None:
        """Translate the test set."""
        lines = len(self.test(self.source))
        subwords, seconds = self.translate(self.generate_command(), "test", lines)
        hypotheses = decode(self.data.subwords, subwords)
        text = self.decoding.with_suffix(f".{self.target}.txt")
        text.write_text("".join(line + "\n" for line in hypotheses), encoding="utf-8")
        write_json(
            self.decoding,
            {
                "decoding_seconds": seconds,
                "checkpoints": self.inputs,
                "hypotheses": hypotheses,
            },
        )

    def translate(
        self, command: Sequence[str], split: str, lines: int
    ) -> Tuple[List[str], float]:
        """Run fairseq-generate with a progress bar; hypotheses are subwords.

        Args:
            command: the program and its options.
            split: what is translated.
            lines: how many it has.

        Returns:
            Hypotheses in the order of the lines, and the seconds.

        Raises:
            RunError: there are not as many hypotheses as source lines.
        """
        found: Dict[int, str] = {}
        seconds = 0.0
        with tqdm(total=lines, unit="sentence", desc=self.title) as bar:
            for line in self.follow([*command, "--gen-subset", split], "generate"):
                hypothesis = re.match(r"H-(\d+)\t[^\t]*\t?(.*)", line)
                if hypothesis:
                    found[int(hypothesis[1])] = hypothesis[2]
                    bar.update()
                timing = re.search(r"Translated .* in ([\d.]+)s", line)
                seconds = float(timing[1]) if timing else seconds
        if sorted(found) != list(range(lines)):
            raise RunError(
                f"{self.folder}: {len(found)} hypotheses for {lines} {split} lines"
            )
        return [found[number] for number in range(lines)], seconds

    def generate_command(self) -> List[str]:
        """Make the command that translates, but for what it translates."""
        experiment, search = self.experiment, self.experiment.search
        return [
            sys.executable, "-m", "fairseq_cli.generate",
            str(self.data.folder / "bin"), *self.reading,
            "--source-lang", self.source, "--target-lang", self.target,
            "--path", str(self.checkpoint),
            "--beam", str(search.beam), "--lenpen", str(search.lenpen),
            "--max-len-a", "1", "--max-len-b", "50",  # or 200 would be the end
            "--max-tokens", str(max(experiment.training.max_tokens, LONGEST)),
        ]  # fmt: skip

    def scores(self, training: Dict[str, Any]) -> Dict[str, Any]:
        """Score the hypotheses, and compare them with the dense twin's if there are."""
        search = self.experiment.search
        decoding = read_json(self.decoding)
        hypotheses = decoding.pop("hypotheses")
        references = self.test(self.target)
        scores = score(hypotheses, references)
        if self.twin:
            baseline = read_json(self.twin)["hypotheses"]
            scores.update(compare(hypotheses, baseline, references))
        return {
            "languages": [self.source, self.target],
            **self.about(training),
            **scores,
            "mean": search.mean,
            "num_checkpoints": search.num_checkpoints,
            **decoding,
            "beam": search.beam,
            "lenpen": search.lenpen,
        }


def print_comparison(results: List[Dict[str, Any]], titles: List[str]) -> None:
    """Print the table of the quickstart."""
    rows = [
        {
            "model": title + MARK * (not converged(result["curve"])),
            "parameters, non-embedding": f"{result['parameters']:,}",
            "total": f"{result['total_parameters']:,}",
            "validation loss": f"{lowest_loss(result):.3f}",
            "BLEU": f"{result['bleu']:.2f}",
            "training": f"{result['training_seconds']:.0f} s",
            "decoding": f"{result['decoding_seconds']:.1f} s",
        }
        for result, title in zip(results, titles)
    ]
    print(f"\n{tabulated(rows, style='simple')}")
    if any(MARK in row["model"] for row in rows):
        print(MARKED)
    print(f"BLEU: {results[0]['bleu_signature']}")


def training_flags(experiment: Translation) -> List[str]:
    """Make the flags of fairseq-train that all models of an experiment have."""
    training = experiment.training
    depth = str(training.layers)
    layers = ["--encoder-layers", depth, "--decoder-layers", depth]
    return [
        "--encoder-normalize-before", "--decoder-normalize-before",
        "--share-all-embeddings", "--dropout", f"{training.dropout:g}",
        "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
        *optimizer_flags(experiment), *(layers if training.layers else []),
    ]  # fmt: skip


def numbered(folder: Path) -> List[Path]:
    """List the checkpoints that carry a number of updates."""
    return list(folder.glob("checkpoint_*_*.pt"))


if __name__ == "__main__":
    main()
