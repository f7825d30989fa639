"""Quality of models at equal updates, equal parameters and equal time.

Each model trains with each learning rate and the first seed; the rate of the lowest
validation loss is its own. With it come the other seeds, and trainings as long, in
time, as the dense model's, by a throughput that is measured in between. Runs that are
done are kept, and their checkpoints are not.
"""

from __future__ import annotations

import math
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from data_prep import errors_in_one_line
from data_prep.workspace import write_json

from ..report.quality import report
from ..report.quality_runs import (
    EQUAL_TIME,
    EQUAL_UPDATES,
    KEY,
    SWEEP,
    Runs,
    best_rate,
    read,
    row_of,
)
from ..score import compare
from .data import Data
from .fairseq_process import DIVERGED
from .flags import split_phm
from .hardware import check_machine, provenance
from .lock import locked
from .models import DENSE, Model
from .options import parse_quality, program
from .results import add_lines
from .settings import Quality, QualityReport
from .stages import RunError, digest, in_threads, read_json, step
from .throughput import measure
from .training_log import converged
from .translation import TranslationRun, training_flags

SAME_SPEED = 0.03
"""Of the dense model's throughput: what is not further from it trains no longer."""


def main() -> None:
    """Run the benchmark, or make its tables and figures once more."""
    experiment = parse_quality(sys.argv[1:])
    with errors_in_one_line(program("quality")):
        if isinstance(experiment, QualityReport):
            first = experiment.files[0]
            folder = first if first.is_dir() else first.parent
            print(report(read(experiment.files), folder, experiment.views))
            return
        check_machine(experiment.machine)
        data = Data(experiment.source, experiment.folder, "parallel")
        data.prepare(True)
        benchmark = Benchmark(experiment, data)
        benchmark.go()
        key, folder = benchmark.key, benchmark.folder
        lines = sorted(read([folder]), key=lambda line: line["benchmark"] != key)
        print("\n" + report(lines, folder, experiment.views))
        print(f"\nTables, figures and lines of results: {folder}")


@dataclass(frozen=True)
class Trial(TranslationRun):
    """A run of the benchmark, whose checkpoints go when it is scored."""

    single = False

    @property
    def title(self) -> str:
        """Model, seed, learning rate and length, as on the screen."""
        training = self.experiment.training
        return (
            f"{self.model.name}, seed {self.seed}, lr {training.lr:g}, "
            f"{training.updates} updates"
        )

    def go(self) -> None:
        """Run all stages; a training that diverges is one line.

        Where it was scored before, its checkpoints are gone: it comes again.
        """
        if self.trained.is_file() and not any(self.folder.glob("*.pt")):
            for made in (self.folder / "train.log", self.decoding, self.trained):
                made.unlink(missing_ok=True)
        try:
            super().go()
        except RunError as error:
            if not DIVERGED.search(str(error)):
                raise
            step(f"{self.title}: diverged")
            write_json(self.result, self.described([]))
        self.clean()

    def clean(self) -> None:
        """Delete the checkpoints; a training with another search has them still."""
        with suppress(RunError), locked(self.folder):
            for checkpoint in self.folder.glob("*.pt"):
                checkpoint.unlink()

    def score(self) -> None:
        """Write the line of results."""
        found = self.line()
        write_json(self.result, {**found, **self.described(found["curve"])})

    def described(self, curve: List[List[Any]]) -> Dict[str, Any]:
        """Describe the run as the benchmark does; all that is known without a curve."""
        finite = bool(curve) and all(math.isfinite(loss) for _, _, loss in curve)
        return {
            "experiment": self.experiment.name,
            "model": str(self.model),
            "seed": self.seed,
            "size": self.experiment.size,
            "updates": self.experiment.training.updates,
            "lr": self.experiment.training.lr,
            "diverged": not finite,
            "converged": finite and converged(curve),
        }


class Benchmark:
    """Runs of the benchmark, in the folder of the experiment.

    Args:
        experiment: of :func:`recipes.driver.options.parse_quality`.
        data: prepared.
    """

    def __init__(self, experiment: Quality, data: Data) -> None:
        self.experiment, self.data = experiment, data
        self.folder = experiment.folder
        self.rates: Dict[Model, float] = {}
        self.speeds: Dict[Model, Dict[str, float]] = {}
        self.parts: Dict[Path, List[str]] = {}
        self.extra: Dict[Path, str] = {}
        self.comparisons: Dict[Path, Dict[str, Any]] = {}
        training, search = experiment.training, experiment.search
        self.key = digest(
            [
                data.summary, training.arch, split_phm(experiment.extra)[1],
                training.updates,
                search.mean, search.num_checkpoints, search.beam, search.lenpen,
                experiment.validations, training_flags(experiment), experiment.lrs,
                experiment.seeds[0], experiment.machine.devices,
            ]
        )  # fmt: skip

    def go(self) -> None:
        """Do all runs that are not done; ``results.jsonl`` gets those that are.

        Raises:
            RunError: a run failed, or a model diverges at all learning rates.
        """
        if (self.folder / "results.jsonl").is_file():
            self.known()  # a damaged file ends this before any training
        try:
            self.sweep()
            self.measure()
            self.seeds()
            if "time" in self.experiment.views:
                self.equal_time()
        finally:
            self.record()

    def sweep(self) -> None:
        """Find each model's learning rate by its validation loss.

        A model that is best at the edge of the rates gets the next one, ``extend``
        times.
        """
        experiment = self.experiment
        wanted = {model: experiment.lrs for model in experiment.models}
        found: Dict[Model, Dict[float, Optional[float]]] = {m: {} for m in wanted}
        for _ in range(1 + experiment.extend):
            rates = sorted(set().union(*wanted.values()))
            step(f"Learning rates {', '.join(f'{lr:g}' for lr in rates)}")
            trials = {
                (model, lr): self.trial(model, experiment.seeds[0], lr)
                for lr in rates
                for model in experiment.models
                if lr in wanted[model]
            }
            self.run(trials.values(), SWEEP)
            for (model, lr), trial in trials.items():
                result = read_json(trial.result)
                loss = None if result["diverged"] else result["validation_loss"]
                found[model][lr] = loss
            wanted = {model: beyond(losses) for model, losses in found.items()}
            if not any(wanted.values()):
                break
        runs = Runs(self.known())  # among them those of an --extend before
        for model in experiment.models:
            extra = self.trial(model, experiment.seeds[0], experiment.lrs[0]).extra
            best = runs.best_rate(row_of(model, extra))
            if best is None:
                raise RunError(f"{model.name}: diverges at all learning rates, --lrs")
            self.rates[model] = best
            step(f"{model.name}: best learning rate {best:g}")

    def measure(self) -> None:
        """Read or measure what is not known of the throughput of the models."""
        experiment = self.experiment
        known_by = [
            self.data.key, experiment.training.arch, training_flags(experiment),
            experiment.extra, provenance(experiment.machine)["hardware"],
        ]  # fmt: skip
        file = self.folder / f"throughput-{digest(known_by)}.json"
        known = read_json(file) if file.is_file() else {}
        rounds = experiment.rounds
        missing = [
            model
            for model in experiment.models
            if known.get(str(model), {"rounds": 0}).get("rounds", rounds) < rounds
        ]
        if missing:
            step(f"Throughput of {len(missing)} models, {rounds} rounds")
            models = list(dict.fromkeys([DENSE, *missing]))
            runs = [self.trial(model, 1, experiment.training.lr) for model in models]
            found = measure(runs, rounds)
            kept = {k: v for k, v in known.items() if k not in map(str, missing)}
            made = {str(m): {**found[m], "rounds": rounds} for m in models}
            known = {**made, **kept}
            write_json(file, known)
        self.speeds = {model: known[str(model)] for model in experiment.models}
        for model, speed in self.speeds.items():
            print(f"{model.name}: {speed['throughput']:.3f} of dense", flush=True)

    def seeds(self) -> None:
        """Train all seeds at each model's learning rate.

        For equal time alone those that there are, and the dense model's.
        """
        step("Equal updates")
        seeds, views = self.experiment.seeds, self.experiment.views
        trials = [
            self.trial(model, seed, self.rates[model])
            for seed in seeds
            for model in self.experiment.models
            if set(views) != {"time"} or model == DENSE or seed == seeds[0]
        ]
        self.run(trials, EQUAL_UPDATES)
        self.compare_with_dense(trials)

    def equal_time(self) -> None:
        """Train all seeds, for as long as the dense model trains."""
        step("Equal time")
        trials = []
        for seed in self.experiment.seeds:
            for model in self.experiment.models:
                updates = updates_of_equal_time(
                    self.experiment.training.updates, self.speeds[model]["throughput"]
                )
                trials.append(self.trial(model, seed, self.rates[model], updates))
        self.run(trials, EQUAL_TIME)
        self.compare_with_dense(trials)

    def trial(
        self, model: Model, seed: int, lr: float, updates: Optional[int] = None
    ) -> Trial:
        """Make a run; without ``updates`` it is as long as the dense model's."""
        experiment, training = self.experiment, self.experiment.training
        training = training.of_length(
            updates or training.updates, experiment.validations
        )
        training = replace(training, lr=lr)
        return Trial(model, seed, self.data, replace(experiment, training=training))

    def run(self, trials: Collection[Trial], part: str) -> None:
        """Run those that are not done, several at once, and note what they are for."""
        wanted = [trial for trial in trials if not trial.result.is_file()]
        done = len(trials) - len(wanted)
        step(f"{len(trials)} runs of {part}, {done} of them done before")
        for trial in trials:
            self.parts.setdefault(trial.result, []).append(part)
            self.extra[trial.result] = shlex.join(trial.extra)
            if trial.result.is_file():
                trial.clean()
        in_threads(Trial.go, wanted, self.experiment.machine.jobs)
        self.record()

    def compare_with_dense(self, trials: Sequence[Trial]) -> None:
        """Test each translation against that of the dense model of the same seed."""
        dense = {trial.seed: trial for trial in trials if trial.model == DENSE}
        for trial in trials:
            twin = dense[trial.seed]
            if (
                trial is not twin
                and trial.decoding.is_file()
                and twin.decoding.is_file()
            ):
                tested = compare(
                    read_json(trial.decoding)["hypotheses"],
                    read_json(twin.decoding)["hypotheses"],
                    trial.test(trial.target),
                )
                twins = {"twin_lr": twin.experiment.training.lr}
                self.comparisons[trial.result] = {**tested, **twins}

    def lines(self) -> List[Dict[str, Any]]:
        """List what is known of all runs that are done."""
        done = {file: read_json(file) for file in self.parts if file.is_file()}
        experiment = self.experiment
        return [
            {
                **result,
                "experiment": experiment.name,
                "size": experiment.size,
                "part_of": self.parts[file],
                "extra": self.extra[file],
                "dense_updates": experiment.training.updates,
                **self.comparisons.get(file, {}),
                **self.speeds.get(Model.parse(result["model"]), {}),
                "benchmark": self.key,
            }
            for file, result in done.items()
        ]

    def known(self) -> List[Dict[str, Any]]:
        """Read the lines of this benchmark, those of other calls among them."""
        return [x for x in read([self.folder]) if x["benchmark"] == self.key]

    def record(self) -> None:
        """Add to ``results.jsonl``, in which what others have done stays."""
        add_lines(self.folder / "results.jsonl", self.lines(), KEY)


def beyond(losses: Mapping[float, Optional[float]]) -> Tuple[float, ...]:
    """Choose the learning rate beyond the edge of a sweep, if the best one is there.

    Args:
        losses: of each learning rate, None if it diverges. One rate is no sweep.

    >>> beyond({0.001: 4.5, 0.002: 4.4}), beyond({0.001: 4.4, 0.002: 4.5})
    ((0.004,), (0.0005,))
    >>> beyond({0.001: 4.5, 0.002: 4.4, 0.004: None}), beyond({0.001: 4.5})
    ((), ())
    """
    best, low, high = best_rate(losses), min(losses), max(losses)
    if low == high:
        return ()
    if best in (None, low):
        return (low / 2,)
    return (2 * high,) if best == high else ()


def updates_of_equal_time(updates: int, throughput: float) -> int:
    """Count the updates in the time of ``updates`` of the dense model.

    Args:
        updates: of the dense model.
        throughput: over the dense model's; a difference of :data:`SAME_SPEED` is none.

    >>> [updates_of_equal_time(1000, throughput) for throughput in (1.5, 0.98)]
    [1500, 1000]
    """
    if abs(throughput - 1) <= SAME_SPEED:
        return updates
    return max(1, round(updates * throughput))


if __name__ == "__main__":
    main()
