"""Tables and figures of results, with the published figures beside ours.

python -m recipes.report            recipes/results -> recipes/RESULTS.md, figures
python -m recipes.report FILE ...   prints the tables of these JSON lines

The first reads ``results/runs/quality/*.jsonl``, which quality.sh has written,
``results/runs/compress/*.jsonl``, of compress.sh, ``results/runs/speed/*.jsonl``, of
speed.sh, ``results/runs/*.jsonl``, and the notes in ``results/notes``:
``summary.md``, ``EXPERIMENT.md`` and ``quality-``, ``compress-`` or
``speed-EXPERIMENT.md``. It draws the picture of the README, too.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Sequence,
    Tuple,
)

from tabulate import tabulate

from data_prep import DataError
from data_prep.workspace import atomic_path

from .driver.flags import values_of
from .driver.models import Model
from .driver.picture import draw
from .driver.results import read_lines
from .driver.settings import slug
from .driver.training_log import converged

HERE = Path(__file__).parent
FIGURES = "results/figures/"
HEAD = """# Results

Made by `python -m recipes.report` from `recipes/results`: the JSON lines of the runs,
with flags, seconds, hardware, versions and commit of each, and the notes.
"""
SETTINGS = (
    "size", "languages", "data", "updates", "epochs", "beam", "lenpen",
    "num_checkpoints", "tokens_per_sample", "vectors",
)  # fmt: skip
"""Runs that differ in one of these are in different tables."""

MARK = " †"
"""Of models that have not converged."""

MARKED = (
    "† not converged: in a run the loss fell by 0.01 nats or more in the last fifth."
)

LENGTH = "Length: of translations over references; BLEU penalises a shorter one."

PAPERS = " The paper's columns are of its own size and data."

MEANS = ("factors", "weights", "none", "")
Run = Dict[str, Any]


class Row(NamedTuple):
    """A row of a table: its runs differ in their seeds only.

    Attributes:
        model: which layers.
        mean: of checkpoints, one of :data:`MEANS`.
        flags: ``--phm-...`` that are not the model's own.
    """

    model: Model
    mean: str
    flags: str

    @property
    def name(self) -> str:
        """The model in tables."""
        return f"{self.model.name} `{self.flags}`" if self.flags else self.model.name


@dataclass
class Table:
    """The runs of one experiment with the same settings, and a name for files.

    ``settings`` has the common flags of fairseq-train under ``flags``.
    """

    experiment: str
    name: str
    settings: Dict[str, Any]
    rows: Dict[Row, List[Run]] = field(default_factory=dict)

    @property
    def runs(self) -> List[Run]:
        """All runs."""
        return [run for runs in self.rows.values() for run in runs]

    @property
    def task(self) -> str:
        """A key of :data:`COLUMNS`."""
        return _task(self.runs[0])

    @property
    def means(self) -> List[str]:
        """The means of checkpoints that there are, the one of most runs first."""
        counts = {mean: 0 for mean in MEANS}
        for row, runs in self.rows.items():
            counts[row.mean] += len(runs)
        found = [mean for mean in MEANS if counts[mean]]
        return sorted(found, key=lambda mean: -counts[mean])

    @property
    def compared(self) -> Dict[Model, List[Run]]:
        """Of each model the row with the commonest mean and the fewest flags."""
        rows = sorted(self.rows, key=lambda row: len(row.flags), reverse=True)
        found = {r.model: self.rows[r] for r in rows if r.mean == self.means[0]}
        return {r.model: found[r.model] for r in self.rows if r.model in found}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.report",
        description="Makes recipes/RESULTS.md and its figures from recipes/results.",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE",
        help="print the tables of these JSON lines instead",
    )  # fmt: skip
    given = parser.parse_args().files
    files = given or sorted(HERE.glob("results/runs/*.jsonl"))
    try:
        results = [result for file in files for result in read_results(file)]
    except DataError as error:
        sys.exit(f"report: {error}")
    except OSError as error:
        sys.exit(f"report: {error.filename}: {error.strerror}")
    if given:
        if not results:
            sys.exit(f"report: no results in {', '.join(map(str, given))}")
        print("\n\n".join(tables(results)))
        return
    from .driver import compress_report, speed_report  # they need this module

    texts: List[str] = []
    comparisons: List[Any] = []
    made = {f"{FIGURES}{table.name}.svg": picture(table) for table in collect(results)}
    made[f"{FIGURES}phm.svg"] = draw().encode()
    try:
        for text, pictures in (
            *_quality(comparisons),
            *_sections("compress", compress_report),
            *_sections("speed", speed_report),
        ):
            texts.append(text)
            made.update(pictures)
    except DataError as error:
        sys.exit(f"report: {error}")
    texts = [HEAD.rstrip(), *_summary(comparisons, results, made), *texts]
    texts += tables(results, "github", "## ")
    made["RESULTS.md"] = ("\n\n".join(texts) + "\n").encode()
    (HERE / FIGURES).mkdir(exist_ok=True)
    for name, content in made.items():
        with atomic_path(HERE / name) as partial:
            partial.write_bytes(content)
    for file in (HERE / FIGURES).glob("*.svg"):
        if f"{FIGURES}{file.name}" not in made:
            file.unlink()


def read_results(file: Path) -> List[Run]:
    """Read the runs in a file of JSON lines.

    Raises:
        DataError: a line that is no run, or lacks something that tables have.
    """

    def needed(result: Run) -> Sequence[str]:
        if _task(result) not in NEEDED or result.get("mean", "") not in MEANS:
            raise ValueError("unknown 'task' or 'mean'")
        if "model" in result:
            _flags(result, Model.parse(result["model"]))
        return ("experiment", "model", "seed", *NEEDED[_task(result)])

    return read_lines([file], needed)


def collect(results: List[Run]) -> List[Table]:
    """Group runs by experiment and settings; of equal runs the last one counts."""
    found: Dict[str, Table] = {}
    seeds: Dict[Any, Run] = {}
    for result in results:
        settings = {key: result[key] for key in SETTINGS if key in result}
        model = Model.parse(result["model"])
        settings["flags"], flags = _flags(result, model)
        key = json.dumps([result["experiment"], settings], sort_keys=True)
        if key not in found:
            words = [result["experiment"], *filter(None, [result.get("size")])]
            name = slug("-".join(words))
            others = [t.name for t in found.values() if t.name.startswith(name)]
            same = [
                o for o in others if o[len(name) :].strip("-").isdigit() or o == name
            ]
            name += f"-{len(same) + 1}" if same else ""
            found[key] = Table(result["experiment"], name, settings)
        row = Row(model, result.get("mean", ""), flags)
        seeds[key, row, result["seed"]] = result
    for (key, row, _), result in seeds.items():
        found[key].rows.setdefault(row, []).append(result)
    for table in found.values():
        order = sorted(
            table.rows,
            key=lambda row: (row.model.order, MEANS.index(row.mean), row.flags),
        )
        table.rows = {row: table.rows[row] for row in order}
    experiments = list(dict.fromkeys(table.experiment for table in found.values()))
    return sorted(found.values(), key=lambda table: experiments.index(table.experiment))


def _flags(run: Run, model: Model) -> Tuple[Dict[str, List[str]], str]:
    """Split the flags of a run into those of all models and further PHM's own.

    Those that :meth:`Model.flags` makes and the seed are in neither.

    >>> run = {"flags": "--arch quaternion_x --seed 1 --lr 0.1 --phm-share-rule none"}
    >>> _flags(run, Model("quaternion", 4))
    ({'--arch': ['phm_x'], '--lr': ['0.1']}, '--phm-share-rule none')
    """
    found = values_of(shlex.split(run.get("flags", "")))
    found.pop("--seed", None)
    for word in found.get("--arch", []):
        found["--arch"] = [word.replace("quaternion_", "phm_", 1)]
        own = {**model.options(word), "phm_n": model.n}
        found = {k: v for k, v in found.items() if k[2:].replace("-", "_") not in own}
    more = [k for k in found if k.startswith("--phm-")]
    text = shlex.join(word for flag in more for word in (flag, *found.pop(flag)))
    return found, text


def tables(results: List[Run], style: str = "simple", heading: str = "") -> List[str]:
    """Make the tables as text, and for test sets in groups one by group.

    Args:
        results: of runs, see :func:`collect`.
        style: of the tables, a ``tablefmt`` of tabulate.
        heading: what comes before the experiment's name; with one, the pictures are
            linked, and the notes of ``results/notes`` follow.
    """
    texts: List[str] = []
    by_experiment: Dict[str, List[Table]] = {}
    for table in collect(results):
        by_experiment.setdefault(table.experiment, []).append(table)
    for experiment, group in by_experiment.items():
        texts.append(f"{heading}{experiment}")
        for table in group:
            texts += [
                _main_table(table, style),
                _caption(table) + _differing(table, group),
            ]
            if any(map(_unconverged, table.rows.values())):
                texts[-1] += f" {MARKED}"
            if heading:
                texts.append(f"![{_title(table)}]({FIGURES}{table.name}.svg)")
        texts += _notes(slug(experiment)) if heading else []
        texts += [_groups(table, style) for table in group if _has_groups(table)]
    return texts


def _differing(table: Table, group: Sequence[Table]) -> str:
    """Say which flags are not the same in all tables of an experiment."""
    flags = table.settings["flags"]
    others = [other.settings["flags"] for other in group]
    mine = [
        f"{flag} {' '.join(values)}".strip()
        for flag, values in flags.items()
        if any(other.get(flag) != values for other in others)
    ]
    return f" Flags: `{' '.join(mine)}`." if mine else ""


def picture(table: Table) -> bytes:
    """Draw the table as an SVG picture, see :func:`recipes.driver.figures.draw`."""
    from .driver.figures import Drawn, draw  # matplotlib is slow to import

    parameters, score, *words = DRAWN[table.task]
    models = [
        Drawn(
            model,
            runs[0][parameters],
            [run[score] for run in runs],
            [
                [(at, loss) for at, _, loss in run["curve"]]
                for run in runs
                if run.get("curve")
            ],
            (_number(_published(runs)[0]), _published(runs)[1])
            if all(_published(runs))
            else None,
        )
        for model, runs in table.compared.items()
    ]
    title = _title(table)
    if len(table.means) > 1:
        title += f", mean of {table.means[0]}"
    return draw(models, title, *words)


def _summary(
    comparisons: List[Any], results: List[Run], made: Dict[str, bytes]
) -> Iterator[str]:
    """Make the first section, and its picture; benchmarks come before other runs."""
    from .driver import summary  # it needs Python packages of data preparation

    for table in collect(results):
        score = {"classification": "accuracy", "translation": "BLEU"}.get(table.task)
        if score:
            comparisons.append(summary.comparison(score, table.compared.values()))
    text, picture = summary.summary(comparisons, summary.published())
    if text:
        made[f"{FIGURES}summary.svg"] = picture
        yield f"## Summary\n\n{text}\n\n![Summary]({FIGURES}summary.svg)"
        yield from _notes("summary")


def _quality(comparisons: List[Any]) -> Iterator[Tuple[str, Dict[str, bytes]]]:
    """Text and pictures of each file of the quality benchmark; adds its comparisons."""
    from .driver import quality_report as quality  # they need this module
    from .driver.summary import comparison

    files = sorted(HERE.glob("results/runs/quality/*.jsonl"))
    if files:
        yield f"## How to read the tables of quality\n\n{quality.READING}", {}
    for file in files:
        name = f"quality-{file.stem}"
        lines = quality.read([file])
        text, pictures = quality.render(
            lines, f"{FIGURES}{name}-", "##", explained=False
        )
        comparisons += [
            comparison("BLEU", runs) for runs in quality.at_equal_updates(lines)
        ]
        yield "\n\n".join([text, *_notes(name)]), pictures


def _sections(folder: str, made_by: Any) -> Iterator[Tuple[str, Dict[str, bytes]]]:
    """Text of each file in a folder of ``results/runs``, which has no pictures."""
    for file in sorted(HERE.glob(f"results/runs/{folder}/*.jsonl")):
        text = made_by.tables(made_by.read([file]), "##")
        yield "\n\n".join([text, *_notes(f"{folder}-{file.stem}")]), {}


def _notes(name: str) -> List[str]:
    """Read ``results/notes/NAME.md``, if it is there."""
    file = HERE / "results" / "notes" / f"{name}.md"
    return [file.read_text(encoding="utf-8").rstrip()] if file.is_file() else []


def _task(result: Run) -> str:
    return result.get("task", "classification")


def _published(runs: List[Run]) -> Tuple[str, Any]:
    size, score = runs[0].get("published") or ("", None)
    return size, score


def _number(text: str) -> float:
    """44M as a number."""
    return float(text.rstrip("KM")) * {"K": 1e3, "M": 1e6}.get(text[-1], 1)


def difference(runs: Sequence[Run], others: Sequence[Run], key: str, form: str) -> str:
    """Average what runs have more than others of the same seed; "" without any.

    >>> runs = [{"seed": 1, "bleu": 8}, {"seed": 2, "bleu": 9}]
    >>> difference(runs, [{"seed": 2, "bleu": 7}], "bleu", "+.1f")
    '+2.0'
    """
    theirs = {run["seed"]: run[key] for run in others}
    found = [run[key] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]
    return format(statistics.mean(found), form) if found else ""


def spread(values: List[float], form: str = ".2f") -> str:
    """Format the mean, and of several values the sample's standard deviation."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"


def _each(key: str) -> Callable[[List[Run]], str]:
    return lambda runs: spread([run[key] for run in runs])


def _seconds(key: str) -> Callable[[List[Run]], str]:
    return lambda runs: f"{statistics.mean(run[key] for run in runs):,.0f}"


def p_values(runs: Sequence[Run]) -> str:
    """Format the p-values of BLEU to dense, lowest to highest; "" without any.

    >>> p_values([{"bleu_p": 0.5}, {"bleu_p": 0.0061}, {}])
    '0.0061 to 0.5'
    """
    found = [run["bleu_p"] for run in runs if "bleu_p" in run]
    ends = sorted({min(found), max(found)}) if found else []
    return " to ".join(f"{p:.2g}" for p in ends)


def lengths(runs: Sequence[Run]) -> str:
    """Format the mean length of translations over that of the references, or "".

    >>> lengths([{"length_ratio": 0.75}, {"length_ratio": 0.8}, {}]), lengths([{}])
    ('0.78', '')
    """
    found = [run["length_ratio"] for run in runs if "length_ratio" in run]
    return f"{statistics.mean(found):.2f}" if found else ""


def _paper_score(runs: List[Run]) -> str:
    score = _published(runs)[1]
    return "" if score is None else f"{score:.2f}"


COLUMNS: Dict[str, Dict[str, Callable[[List[Run]], str]]] = {
    "classification": {
        "encoder parameters": lambda runs: f"{runs[0]['encoder_parameters']:,}",
        "paper: size": lambda runs: _published(runs)[0],
        "runs": lambda runs: str(len(runs)),
        "valid": _each("valid_accuracy"),
        "test accuracy": _each("accuracy"),
        "paper: accuracy": _paper_score,
    },
    "translation": {
        "parameters": lambda runs: f"{runs[0]['parameters']:,}",
        "paper: size": lambda runs: _published(runs)[0],
        "runs": lambda runs: str(len(runs)),
        "BLEU": _each("bleu"),
        "chrF": _each("chrf"),
        "p": p_values,
        "length": lengths,
        "BLEU intl": _each("bleu_intl"),
        "paper: BLEU": _paper_score,
        "training s": _seconds("training_seconds"),
        "decoding s": _seconds("decoding_seconds"),
    },
    "language model": {
        "parameters": lambda runs: f"{runs[0]['parameters']:,}",
        "total": lambda runs: f"{runs[0]['total_parameters']:,}",
        "runs": lambda runs: str(len(runs)),
        "perplexity per subword": _each("perplexity"),
        "per word": _each("word_perplexity"),
        "training s": _seconds("training_seconds"),
    },
}
DRAWN = {
    "classification": (
        "encoder_parameters", "accuracy", "parameters of the encoder",
        "test accuracy, %",
    ),
    "translation": (
        "parameters", "bleu_intl", "parameters without embeddings",
        "BLEU, international tokenisation",
    ),
    "language model": (
        "parameters", "word_perplexity", "parameters without embeddings",
        "test perplexity per word",
    ),
}  # fmt: skip
"""Of a picture: keys of parameters and score, and what they are called."""

NEEDED = {
    "classification": ("encoder_parameters", "epochs", "accuracy", "valid_accuracy"),
    "translation": (
        "size", "data", "updates", "parameters", "bleu", "bleu_signature", "bleu_intl",
        "chrf", "mean", "beam", "lenpen", "training_seconds", "decoding_seconds",
    ),
    "language model": (
        "size", "data", "updates", "parameters", "total_parameters", "perplexity",
        "word_perplexity", "tokens_per_sample", "training_seconds",
    ),
}  # fmt: skip


def _main_table(table: Table, style: str) -> str:
    columns = {
        header: make
        for header, make in COLUMNS[table.task].items()
        if any(map(make, table.rows.values()))
    }
    rows = []
    for key, runs in table.rows.items():
        row = {"model": key.name + MARK * _unconverged(runs)}
        if len(table.means) > 1:
            row["mean of"] = key.mean
        rows.append(row | {header: make(runs) for header, make in columns.items()})
    align = ["left"] * (len(rows[0]) - len(columns)) + ["right"] * len(columns)
    return tabulate(
        rows, headers="keys", tablefmt=style, colalign=align, disable_numparse=True
    )


def _unconverged(runs: List[Run]) -> bool:
    return any(run.get("curve") and not converged(run["curve"]) for run in runs)


def _title(table: Table) -> str:
    size = table.settings.get("size")
    return f"{table.experiment}, size {size}" if size else table.experiment


def _caption(table: Table) -> str:
    settings = table.settings
    if table.task == "language model":
        return _caption_of_perplexity(table)
    if table.task == "classification":
        text = (
            "Accuracy in per cent, mean ± standard deviation over the seeds; "
            f"{_length(table, 'epochs')}, checkpoint of the best validation."
        )
        text += f" Vectors: {settings['vectors']}." if settings.get("vectors") else ""
        text += f" Data: {data_text(settings)}." if "data" in settings else ""
        return text + PAPERS * any(map(_paper_score, table.rows.values()))
    parts = [f"Size {settings['size']}", _length(table, "updates")]
    if len(table.means) == 1:
        counts = sorted({run.get("checkpoints", 1) for run in table.runs})
        kind = {"none": "one checkpoint, no mean"}.get(table.means[0])
        several = (
            f"mean of {table.means[0]} of {' or '.join(map(str, counts))} checkpoints"
        )
        parts.append(kind or several)
    parts.append(f"beam {settings['beam']}, length penalty {settings['lenpen']}")
    text = (
        f"{'; '.join(parts)}. Data: {data_text(settings)}. Mean ± standard deviation "
        "over the seeds; parameters without embeddings; p: approximate randomisation "
        "of BLEU against the dense model of the same seed, lowest to highest; BLEU "
        "intl: with the tokenisation of the paper's tool; seconds of a run, validation "
        f"included, on {_hardware(table)}. BLEU: `{table.runs[0]['bleu_signature']}`."
    )
    text += f" {LENGTH}" if lengths(table.runs) else ""
    if settings["size"] != "paper" and any(map(_paper_score, table.rows.values())):
        text += PAPERS
    return text


def _length(table: Table, unit: str) -> str:
    """Say how long the runs were; those with ``--patience`` stop before the end."""
    most = table.settings[unit]
    shortest = min(run.get(f"trained_{unit}", most) for run in table.runs)
    if shortest >= most:
        return f"{most:,} {unit}"
    return f"at most {most:,} {unit}, early stopping after {shortest:,} or more"


def _caption_of_perplexity(table: Table) -> str:
    settings, data = table.settings, table.settings["data"]
    counts = ", ".join(f"{k} {v:,}" for k, v in data.items() if isinstance(v, int))
    return (
        f"Size {settings['size']}; {_length(table, 'updates')}; blocks of "
        f"{settings['tokens_per_sample']} subwords. Data: lines {counts} (hash "
        f"{data.get('hash')}). Perplexity of the test set, ends of lines counted; mean "
        "± standard deviation over the seeds; parameters without embeddings; seconds "
        f"of a training, validation included, on {_hardware(table)}."
    )


def _hardware(table: Table) -> str:
    return " and ".join(sorted({str(run.get("hardware")) for run in table.runs}))


def data_text(settings: Dict[str, Any]) -> str:
    """Say languages and numbers of sentence pairs, or of rows, in words.

    Args:
        settings: with ``languages``, of pairs, and ``data``, of a run.
    """
    languages = " to ".join(settings.get("languages", []))
    kind = ", sentence pairs" if languages else "rows"
    data = settings["data"]
    if not isinstance(data, dict):
        return f"{languages} {data}".strip()
    counts = [
        f"{key} {value:,}" for key, value in data.items() if isinstance(value, int)
    ]
    counted = f"{languages}{kind} {', '.join(counts)}"
    return counted + (f" (hash {data['hash']})" if "hash" in data else "")


def _has_groups(table: Table) -> bool:
    return any(run.get("rows_by") for run in table.runs)


def _groups(table: Table, style: str) -> str:
    rows = []
    for row, runs in table.rows.items():
        groups: Dict[str, List[float]] = defaultdict(list)
        for run in runs:
            for key, count in run.get("rows_by", {}).items():
                groups[f"{key} ({count:,})"].append(run["accuracy_by"][key])
        rows.append({"model": row.name} | {k: spread(v) for k, v in groups.items()})
    by = table.runs[0].get("rows_by_name") or "group"
    return f"Test accuracy by {by} (rows):\n\n" + tabulate(
        rows, headers="keys", tablefmt=style, disable_numparse=True
    )


if __name__ == "__main__":
    main()
