"""Compresses dense Transformers to PHM and trains them on, beside PHM from scratch.

Each row of the table is a run: the dense model; the PHM model right after compression;
the same, trained on; trained on with the dense model's own translations as targets; and
a PHM model from scratch, for as many updates as the dense model and the training on
have together.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from data_prep import errors_in_one_line

from ..report.compress import read, tables
from .compression_rows import (
    COMPRESSED,
    DENSE_MODEL,
    DISTILLED,
    FROM_SCRATCH,
    TRAINED_ON,
    Compressed,
    Distilled,
    Given,
    Row,
)
from .data import Data
from .hardware import check_machine
from .models import DENSE, Model
from .options import parse_compress, program
from .results import Line, add_lines, write_tables
from .settings import WAYS, Compression
from .stages import RunError, digest, in_threads, read_json, stamps
from .translation import training_flags

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
                self.dense_updates, stamps(experiment.checkpoint),
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
