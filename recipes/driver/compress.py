"""Compresses dense Transformers to PHM and trains them on, beside PHM from scratch.

Each row of the table is a run: the dense model; the PHM model right after compression;
the same, trained on; trained on with the dense model's own translations as targets; and
a PHM model from scratch, for as many updates as the dense model and the training on
have together.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from data_prep import SPLITS, errors_in_one_line
from data_prep.binarize import binarize
from data_prep.workspace import atomic_path, write_json

from ..report.compress import read, tables
from .data import Data
from .hardware import check_machine
from .lock import locked
from .models import DENSE, Model
from .options import parse_compress, program
from .results import Line, add_lines, write_tables
from .settings import WAYS, Compression
from .stages import (
    RunError,
    Stage,
    digest,
    in_threads,
    read_json,
    stamps,
    step,
)
from .training_log import converged, log_entry
from .translation import LONGEST, TranslationRun, training_flags

DENSE_MODEL, COMPRESSED, TRAINED_ON, DISTILLED, FROM_SCRATCH = WAYS
PHM = "--phm-"
LOSS = ("label_smoothed_cross_entropy", 0.1)
NOT_OF_WEIGHTS = ("--phm-rule-lr",)
"""Flags of a PHM model that say nothing of what its weights can be."""


def main() -> None:
    """Run the recipe."""
    experiment = parse_compress(sys.argv[1:])
    with errors_in_one_line(program("compress")):
        check_machine(experiment.machine)
        options = {m: compress_options(m, experiment.extra) for m in experiment.models}
        data = Data(experiment.source, experiment.folder, "parallel")
        data.prepare(True)
        comparison = Comparison(experiment, data, options)
        comparison.go()
        text = tables(comparison.known())
        write_tables(comparison.folder, text)
        print("\n" + text)


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
        return [self.data.key, stamps([self.checkpoint])]


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


class Comparison:
    """The rows of the table, in the folder of the experiment.

    Args:
        experiment: of :func:`recipes.driver.options.parse_compress`.
        data: prepared.
        options: model -> what :func:`compress_options` gives for it.

    Raises:
        DataError: a dense checkpoint that is not one, or was not trained on the data.
    """

    def __init__(
        self, experiment: Compression, data: Data, options: Dict[Model, Tuple[str, ...]]
    ) -> None:
        self.experiment, self.data, self.options = experiment, data, options
        self.folder = experiment.folder
        self.dense_updates = experiment.training.updates
        if experiment.checkpoint:
            known = updates_of_dense(experiment.checkpoint, data)
            self.dense_updates = experiment.updates_of_checkpoint or known
            if not self.dense_updates:
                raise RunError(f"{experiment.checkpoint}: after how many --updates?")

    def go(self) -> None:
        """Do the wanted rows that are not done; ``results.jsonl`` gets those that are.

        Raises:
            RunError: a run failed.
        """
        wanted = set(self.experiment.ways)
        if {TRAINED_ON, DISTILLED} & wanted:
            wanted.add(COMPRESSED)
        if wanted - {FROM_SCRATCH}:
            wanted.add(DENSE_MODEL)
        try:
            for ways in ((DENSE_MODEL,), (COMPRESSED,), WAYS[2:]):
                rows = [row for row in self.rows if row.way in wanted & set(ways)]
                for row in rows:
                    if row.way == DISTILLED:
                        row.data.prepare(True)
                in_threads(Row.go, rows, self.experiment.machine.jobs)
        finally:
            self.record()

    @cached_property
    def rows(self) -> List[Row]:
        """All rows, wanted or not, each once."""
        return list({row.folder: row for row in self._rows()}.values())

    def _rows(self) -> Iterator[Row]:
        experiment, updates = self.experiment, self.dense_updates
        first, *_ = experiment.seeds
        on = replace(experiment, training=experiment.on)
        whole = experiment.training.of_length(
            updates + experiment.on.updates, experiment.validations
        )
        whole = replace(experiment, training=whole)
        for seed in experiment.seeds:
            if experiment.checkpoint:
                kind, dense_seed = Given, first
            else:
                kind, dense_seed = Row, seed
            data = self.data
            dense = kind(DENSE, dense_seed, data, experiment, DENSE_MODEL, updates)
            yield dense
            yield Row(DENSE, seed, data, on, TRAINED_ON, updates, dense)
            distilled = Distilled(data, dense)
            for model in experiment.models:
                start = Compressed(
                    model, dense_seed, data, experiment, COMPRESSED, updates,
                    dense=dense, options=self.options[model],
                )  # fmt: skip
                yield start
                yield Row(model, seed, data, on, TRAINED_ON, updates, start)
                yield Row(model, seed, distilled, on, DISTILLED, updates, start)
                yield Row(model, seed, data, whole, FROM_SCRATCH)

    @property
    def key(self) -> str:
        """What all calls have in common whose rows are in one table."""
        experiment, devices = self.experiment, self.experiment.machine.devices
        return digest(
            [
                self.data.key, experiment.training.arch, experiment.extra,
                self.dense_updates,
                stamps([experiment.checkpoint] if experiment.checkpoint else []),
                vars(experiment.on), vars(experiment.search),
                training_flags(experiment), *([devices] if devices > 1 else []),
            ]
        )  # fmt: skip

    def record(self) -> None:
        """Write ``results.jsonl``; lines of other rows and settings stay in it."""
        lines = [
            {
                **read_json(row.result),
                "dense_updates": row.dense_updates,  # a given checkpoint's are told
                "comparison": self.key,
            }
            for row in self.rows
            if row.result.is_file()
        ]
        key = ("comparison", "model", "way", "seed")
        add_lines(self.folder / "results.jsonl", lines, key)

    def known(self) -> List[Line]:
        """Read ``results.jsonl``, the lines of these settings first."""
        return sorted(read([self.folder]), key=lambda x: x["comparison"] != self.key)


def compress_options(model: Model, extra: Sequence[str]) -> Tuple[str, ...]:
    """Make the options of ``fairseq-phm compress`` that choose a PHM model.

    Args:
        model: PHM or quaternion.
        extra: flags of fairseq-train, of which those ``--phm-...`` count.

    Raises:
        RunError: a flag of weights that compression does not find.

    >>> compress_options(Model.parse("4r4"), ["--phm-fuse-qkv", "--dropout", "0.2"])
    ('--n', '4', '--rule-rank', '4', '--fuse-qkv')
    """
    from fairseq_phm.commands.compress import OPTIONS

    options = ["--n", str(model.n)]
    if model.family == "quaternion":
        options += ["--rule", "quaternion", "--freeze-rule"]
    if model.rule_rank:
        options += ["--rule-rank", str(model.rule_rank)]
    taken = False
    for word in extra:
        if word.startswith("--"):
            flag, _, _ = word.partition("=")
            taken = flag.startswith(PHM) and flag not in NOT_OF_WEIGHTS
            if taken and flag[len(PHM) :].replace("-", "_") not in OPTIONS:
                raise RunError(f"{flag}: a dense model cannot be compressed to that")
            word = word.replace(PHM, "--", 1)
        options += [word] * taken
    return tuple(options)


def updates_of_dense(checkpoint: Path, data: Data) -> int:
    """Check that a model was trained on the data, as far as its checkpoint tells.

    Returns:
        How many updates it has behind it; 0 if that is unknown.

    Raises:
        DataError: it is no checkpoint, or one of other subwords or another loss.
    """
    from fairseq_phm import DataError
    from fairseq_phm.checkpoint import options_of, read_checkpoint, updates_of
    from fairseq_phm.rebuild import load_dictionary, vocabulary_sizes

    found = read_checkpoint(checkpoint)
    files = [data.folder / "bin" / f"dict.{side}.txt" for side in data.set.languages]
    sizes = tuple(len(load_dictionary(file)) for file in files)
    try:
        criterion, task = options_of(found, "criterion"), options_of(found, "task")
    except DataError as error:
        raise RunError(f"{checkpoint}: {error}") from None
    if vocabulary_sizes(found["model"]) != sizes:
        raise RunError(
            f"{checkpoint}: has vocabularies of {vocabulary_sizes(found['model'])} "
            f"subwords, the data {sizes}: --vocab-size?"
        )
    name = criterion.get("_name") or criterion.get("criterion")
    smoothing = criterion.get("label_smoothing")
    if (name, smoothing) != LOSS:
        raise RunError(
            f"{checkpoint}: trained with {name} and label smoothing {smoothing}, not "
            f"with {LOSS[0]} and {LOSS[1]}: losses cannot be compared"
        )
    for file in files:
        other = Path(str(task.get("data") or "")) / file.name
        if other.is_file() and other.read_bytes() != file.read_bytes():
            raise RunError(f"{checkpoint}: trained with other subwords, {other}")
    return updates_of(found)


if __name__ == "__main__":
    main()
