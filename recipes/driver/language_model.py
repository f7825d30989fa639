"""Trains PHM language models and their dense twin, and tests them by perplexity."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

from data_prep import errors_in_one_line
from data_prep.text import read_lines

from .data import Data
from .hardware import check_machine
from .options import parse_language_model, program
from .run import READING, USER_DIR, go_and_print, runs_of
from .settings import LanguageModel
from .stages import RunError, Stage, read_json
from .transformer_run import TransformerRun, optimizer_flags


def main() -> None:
    """Run the recipe for language models."""
    experiment = parse_language_model(sys.argv[1:])
    with errors_in_one_line(program("language_model")):
        check_machine(experiment.machine)
        data = Data(experiment.source, experiment.folder, "text")
        go_and_print(runs_of(LanguageModelRun, experiment, data))


@dataclass(frozen=True)
class LanguageModelRun(TransformerRun):
    """A language model, from training to perplexity.

    The checkpoint with the lowest validation loss is tested.
    """

    data: Data
    experiment: LanguageModel

    task = "language model"

    @property
    def flags(self) -> List[str]:
        """Of fairseq-train, for model, task and training."""
        experiment, training = self.experiment, self.experiment.training
        depth = ["--decoder-layers", str(training.layers)] if training.layers else []
        return [
            *self.model.flags(training.arch), "--seed", str(self.seed), *depth,
            *self.task_flags, "--share-decoder-input-output-embed",
            "--dropout", f"{training.dropout:g}", *optimizer_flags(experiment),
            *self.extra,
        ]  # fmt: skip

    @property
    def task_flags(self) -> List[str]:
        """Of fairseq-train and fairseq-eval-lm: blocks of the text."""
        length = str(self.experiment.tokens_per_sample)
        return [
            "--task", "language_modeling", "--sample-break-mode", "none",
            "--tokens-per-sample", length,
        ]  # fmt: skip

    @property
    def training_arguments(self) -> List[str]:
        """Of fairseq-train, but for the machine, the folder and the length."""
        return [
            str(self.data.folder / "bin"), *USER_DIR, *READING,
            *self.saving_flags(kept=1), *self.flags,
        ]  # fmt: skip

    @property
    def settings(self) -> List[Any]:
        """What the folder is named after."""
        training = self.experiment.training
        return [
            self.data.key, training.updates, training.save_interval,
            self.experiment.machine.devices, self.flags,
        ]  # fmt: skip

    @property
    def later_stages(self) -> List[Stage]:
        """None: the score needs the checkpoint only."""
        return []

    @property
    def checkpoint(self) -> Path:
        """What is tested."""
        return self.folder / "checkpoint_best.pt"

    @property
    def result(self) -> Path:
        """The line of results."""
        return self.folder / "result.json"

    def scores(self, training: Dict[str, Any]) -> Dict[str, Any]:
        """Measure the perplexity of the test set, by subwords and by words.

        Both count the end of a line; a word is what stands between spaces.

        Raises:
            RunError: not all subwords were evaluated.
        """
        bits, tokens = self.evaluate()
        manifest = read_json(self.data.folder / "manifest.json")
        expected = manifest["steps"]["bin"]["test.txt"]["tokens"]
        if tokens != expected:
            raise RunError(f"{self.folder}: {tokens} of {expected} subwords evaluated")
        lines = read_lines(self.data.clean / "test.txt")
        words = sum(len(line.split()) + 1 for line in lines)
        return {
            **self.about(training),
            "tokens_per_sample": self.experiment.tokens_per_sample,
            "subwords": tokens,
            "words": words,
            "perplexity": perplexity(bits),
            "word_perplexity": perplexity(bits * tokens / words),
        }

    def evaluate(self) -> Tuple[float, int]:
        """Run fairseq-eval-lm: bits for a subword, and how many were evaluated."""
        command = [
            sys.executable, "-m", "fairseq_cli.eval_lm", str(self.data.folder / "bin"),
            *self.reading, *self.task_flags, "--path", str(self.checkpoint),
            "--gen-subset", "test",
            "--max-tokens", str(self.experiment.training.max_tokens),
        ]  # fmt: skip
        said = "\n".join(self.follow(command, "eval"))
        tokens = re.search(r"Evaluated ([\d,]+) tokens", said)
        bits = re.search(r"Loss \(base 2\): ([\d.]+)", said)
        if not (tokens and bits):
            raise RunError(f"{self.folder / 'eval.log'}: no perplexity")
        return float(bits[1]), int(tokens[1].replace(",", ""))


def perplexity(bits: float) -> float:
    """Return 2 to this power; infinite where it is too large.

    As of words where lines have no spaces, so that each line is a word.

    >>> perplexity(3.0), perplexity(3000.0)
    (8.0, inf)
    """
    return 2**bits if bits < sys.float_info.max_exp else math.inf


if __name__ == "__main__":
    main()
