"""The rows of a table of compression, each a run: how each model is made and scored."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from data_prep import SPLITS
from data_prep.binarize import binarize
from data_prep.workspace import atomic_path, write_json

from .data import Data
from .lock import locked
from .settings import WAYS, Compression
from .stages import RunError, Stage, digest, read_json, stamps, step
from .training_log import converged, log_entry
from .translation import LONGEST, TranslationRun

DENSE_MODEL, COMPRESSED, TRAINED_ON, DISTILLED, FROM_SCRATCH = WAYS


@dataclass(frozen=True)
class Row(TranslationRun):
    """A row of the table: a model that was made in one of the :data:`WAYS`.

    Attributes:
        way: how.
        dense_updates: of the dense model that it comes from, or that it is.
        start: what it is trained on from.
    """

    experiment: Compression
    way: str
    dense_updates: int = 0
    start: Optional[Row] = None

    task = "compression"
    single = False

    @property
    def title(self) -> str:
        """Model, seed and way, as on the screen."""
        return super().title + (f", {self.way}" if self.way != DENSE_MODEL else "")

    @property
    def settings(self) -> List[Any]:
        """What the folder is named after."""
        start = self.start
        came = [start.folder.name, start.checkpoint.name] if start else []
        return [*super().settings, *came]

    @property
    def training_arguments(self) -> List[str]:
        """Of fairseq-train, but for the machine, the folder and the length."""
        start = self.start and ["--finetune-from-model", str(self.start.checkpoint)]
        return [*super().training_arguments, *(start or [])]

    @property
    def checkpoint(self) -> Path:
        """What translates: of a distilled model the last one, if there is no mean.

        The validation set has other targets than a distilled model learns: its lowest
        loss comes long before the model is trained.
        """
        if self.way == DISTILLED and self.experiment.search.mean == "none":
            return self.folder / "checkpoint_last.pt"
        return super().checkpoint

    @property
    def energy(self) -> Optional[float]:
        """What compression has left of the energy of the dense weights, if any."""
        return self.start.energy if self.start else None

    def line(self) -> Dict[str, Any]:
        """All that the table needs."""
        line, trained = super().line(), not isinstance(self, Scored)
        loss = line["validation_loss"]
        return {
            **line,
            "validation_loss": line["curve"][-1][2] if self.way == DISTILLED else loss,
            "way": self.way,
            "dense_updates": self.dense_updates,
            "updates": line["updates"] if trained else 0,
            "lr": line["lr"] if trained else None,
            "energy": self.energy,
            "converged": not trained or converged(self.learned(line["curve"])),
        }

    def learned(self, curve: List[List[Any]]) -> List[List[Any]]:
        """The loss of what is learned: a distilled model's is that of training."""
        if self.way != DISTILLED:
            return curve
        return [[at, loss, loss] for at, loss, _ in curve if loss is not None]


@dataclass(frozen=True)
class Scored(Row):
    """A row that is not trained: the validation loss of its checkpoint is measured."""

    @property
    def later_stages(self) -> List[Stage]:
        """The translation: there is nothing to average."""
        return super().later_stages[-1:]

    def make(self) -> None:
        """Make the checkpoint, if it is not there."""

    def train(self) -> None:
        """Make the checkpoint and measure its loss."""
        self.make()
        curve = [[0, None, self.validate()]]
        found = {"training_seconds": 0.0, "curve": curve, "accuracies": []}
        write_json(self.trained, found)

    def validate(self) -> float:
        """Measure the validation loss as fairseq-train does, bits a token.

        Raises:
            RunError: fairseq-validate gave none.
        """
        command = [
            sys.executable, "-m", "fairseq_cli.validate", str(self.data.folder / "bin"),
            *self.reading, "--source-lang", self.source, "--target-lang", self.target,
            "--path", str(self.checkpoint), "--valid-subset", "valid",
            "--task", "translation", "--log-format", "json",
            "--max-tokens", str(max(self.experiment.training.max_tokens, LONGEST)),
        ]  # fmt: skip
        entries = filter(None, map(log_entry, self.follow(command, "validate")))
        losses = [values["loss"] for kind, values in entries if kind == "valid"]
        if not losses:
            raise RunError(f"{self.folder / 'validate.log'}: no validation loss")
        return float(losses[-1])


@dataclass(frozen=True)
class Given(Scored):
    """The dense model of ``--checkpoint``."""

    making = "validate"

    @property
    def checkpoint(self) -> Path:
        """What translates."""
        return self.experiment.checkpoint

    @property
    def settings(self) -> List[Any]:
        """What the folder is named after."""
        return [self.data.key, stamps(self.checkpoint)]


@dataclass(frozen=True)
class Compressed(Scored):
    """The nearest PHM model of a dense one.

    Attributes:
        dense: where it comes from.
        options: of ``fairseq-phm compress``.
    """

    dense: Optional[Row] = None
    options: Tuple[str, ...] = ()

    making = "compress"

    @property
    def settings(self) -> List[Any]:
        """What the folder is named after."""
        return [self.dense.folder.name, self.dense.checkpoint.name, self.options]

    @property
    def flags(self) -> List[str]:
        """The line of results has them."""
        return list(self.options)

    @property
    def checkpoint(self) -> Path:
        """What translates."""
        return self.folder / "compressed.pt"

    @property
    def errors(self) -> Path:
        """How far the layers are from the dense ones."""
        return self.folder / "errors.json"

    @property
    def energy(self) -> float:
        """What compression has left of the energy of the dense weights."""
        return read_json(self.errors)["energy"]

    def make(self) -> None:
        """Compress the dense model."""
        command = [
            sys.executable, "-m", "fairseq_phm.__main__", "compress",
            str(self.dense.checkpoint), str(self.checkpoint), *self.options,
            "--json", str(self.errors), "--force",
        ]  # fmt: skip
        list(self.follow(command, "compress"))


class Distilled(Data):
    """Data whose training targets are a dense model's own translations.

    Args:
        data: prepared.
        dense: the model.
    """

    def __init__(self, data: Data, dense: Row) -> None:
        self.set, self.raw, self.clean = data.set, None, data.clean
        self.origin, self.dense = data, dense
        digits = digest([data.key, dense.folder.name, dense.decoding.name])
        self.key = f"distilled-{digits}"
        self.folder = data.folder.with_name(self.key)
        self.subwords = data.subwords

    @property
    def summary(self) -> Dict[str, Any]:
        """That of the data: only the targets of the training set differ."""
        return self.origin.summary

    def prepare(self, wanted: bool) -> None:
        """Translate the training set and binarize it, unless that is done.

        Raises:
            RunError: fairseq-generate failed.
            DataError: fairseq-preprocess failed.
        """
        if self.folder.is_dir():
            step(f"{self.dense.title}: distill: using {self.folder}")
            return
        step(f"{self.dense.title}: distill")
        source, target = self.set.languages
        given = self.origin.folder / "encoded"
        lines = self.summary["train"]
        with locked(self.dense.folder), atomic_path(self.folder) as made:
            command = self.dense.generate_command()
            hypotheses, _ = self.dense.translate(command, "train", lines)
            for folder in ("encoded", "bin"):
                (made / folder).mkdir(parents=True)
            for name in (f"{s}.{side}" for s in SPLITS for side in (source, target)):
                file = made / "encoded" / name
                if name == f"train.{target}":
                    text = "".join(f"{hypothesis}\n" for hypothesis in hypotheses)
                    file.write_text(text, encoding="utf-8")
                else:
                    os.link(given / name, file)
            binarize(
                made / "encoded", (source, target),
                self.origin.folder / "subwords" / "dict.txt", made / "bin", workers=1,
            )  # fmt: skip
