"""Tables and pictures of experiments, from the JSON lines of their runs."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

from ..driver.flags import values_of
from ..driver.models import Model
from ..driver.results import Line, read_lines
from ..driver.settings import slug
from ..driver.training_log import converged
from .tables import (
    LENGTH,
    MARK,
    MARKED,
    Row,
    data_text,
    lengths,
    one_for_each_model,
    p_values,
    spread,
    tabulated,
)

SETTINGS = (
    "size", "languages", "data", "updates", "epochs", "beam", "lenpen",
    "num_checkpoints", "save_interval", "devices", "tokens_per_sample", "vectors",
)  # fmt: skip
"""Runs that differ in one of these are in different tables."""

PAPERS = " The paper's columns are of its own size and data."

MEANS = ("factors", "weights", "none", "")


@dataclass
class Table:
    """The runs of one experiment with the same settings, and a name for files.

    ``settings`` has the common flags of fairseq-train under ``flags``.
    """

    experiment: str
    name: str
    settings: Dict[str, Any]
    rows: Dict[Row, List[Line]] = field(default_factory=dict)

    @property
    def runs(self) -> List[Line]:
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
    def compared(self) -> Dict[Model, List[Line]]:
        """Of each model the row with the commonest mean and the fewest flags."""
        rows = one_for_each_model(r for r in self.rows if r.mean == self.means[0])
        return {row.model: self.rows[row] for row in rows}


def read(file: Path) -> List[Line]:
    """Read the runs in a file of JSON lines.

    Raises:
        DataError: a line that is no run, or lacks something that tables have.
    """

    def needed(result: Line) -> Sequence[str]:
        if {"benchmark", "comparison"} & set(result):
            raise ValueError(
                "a run of a benchmark, which makes its own tables.md (quality.sh, also "
                "by --report; speed.sh; compress.sh)"
            )
        if _task(result) not in NEEDED or result.get("mean", "") not in MEANS:
            raise ValueError("unknown 'task' or 'mean'")
        size, score = (*result.get("published", []), "", 0)[:2]
        known = isinstance(size, str) and isinstance(score, (int, float))
        if not known or not re.fullmatch(r"([\d.]+[KM]?)?", size):
            raise ValueError("'published' is no size, as 44M, and score")
        if "model" in result:
            _flags(result, Model.parse(result["model"]))
        return ("experiment", "model", "seed", *NEEDED[_task(result)])

    return read_lines([file], needed)


def collect(results: List[Line]) -> List[Table]:
    """Group runs by experiment and settings; of equal runs the last one counts."""
    found: Dict[str, Table] = {}
    seeds: Dict[Any, Line] = {}
    for result in results:
        settings = {key: result[key] for key in SETTINGS if key in result}
        model = Model.parse(result["model"])
        settings["flags"], flags = _flags(result, model)
        key = json.dumps([result["experiment"], settings], sort_keys=True)
        if key not in found:
            words = [result["experiment"], *filter(None, [result.get("size")])]
            name = stem = slug("-".join(words))
            taken, number = {table.name for table in found.values()}, 1
            while name in taken:
                number += 1
                name = f"{stem}-{number}"
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


def _flags(run: Line, model: Model) -> Tuple[Dict[str, List[str]], str]:
    """Split the flags of a run into those of all models and further PHM's own.

    Those that :meth:`Model.flags` makes and the seed are in neither.

    >>> run = {"flags": "--arch quaternion_x --seed 1 --lr 0.1 --phm-share-rule none"}
    >>> _flags(run, Model("quaternion", 4))
    ({'--arch': ['phm_x'], '--lr': ['0.1']}, '--phm-share-rule none')
    """
    found = values_of(shlex.split(run.get("flags", "")))
    found.pop("--seed", None)
    for word in found.get("--arch", []):
        arch = word.replace("quaternion_", "phm_", 1)
        found["--arch"] = [arch]
        own = {**model.options(arch), "phm_n": model.n}
        found = {k: v for k, v in found.items() if k[2:].replace("-", "_") not in own}
    more = [k for k in found if k.startswith("--phm-")]
    text = shlex.join(word for flag in more for word in (flag, *found.pop(flag)))
    return found, text


def tables(
    results: List[Line],
    style: str = "simple",
    heading: str = "",
    figures: str = "",
    notes: Callable[[str], List[str]] = lambda experiment: [],
) -> List[str]:
    """Make the tables as text, and for test sets in groups one by group.

    Args:
        results: of runs, see :func:`collect`.
        style: of the tables, a ``tablefmt`` of tabulate.
        heading: what comes before the experiment's name.
        figures: where the pictures of the tables are, to link them.
        notes: texts that follow the tables of an experiment.
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
            if figures:
                texts.append(f"![{_title(table)}]({figures}{table.name}.svg)")
        texts += notes(experiment)
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
    """Draw the table as an SVG picture, see :func:`.figures.draw`."""
    from .figures import Drawn, draw  # matplotlib is slow to import

    parameters, score, *words = DRAWN[table.task]
    models = []
    for model, runs in table.compared.items():
        curves = [[(at, loss) for at, _, loss in run.get("curve", [])] for run in runs]
        size, paper = _published(runs)
        theirs = (_number(size), paper) if size and paper else None
        scores = [run[score] for run in runs]
        models.append(Drawn(model, runs[0][parameters], scores, curves, theirs))
    title = _title(table)
    if len(table.means) > 1:
        title += f", mean of {table.means[0]}"
    return draw(models, title, *words)


def _task(result: Line) -> str:
    return result.get("task", "classification")


def _published(runs: List[Line]) -> Tuple[str, Any]:
    size, score = runs[0].get("published") or ("", None)
    return size, score


def _number(text: str) -> float:
    """44M as a number."""
    return float(text.rstrip("KM")) * {"K": 1e3, "M": 1e6}.get(text[-1], 1)


def _each(key: str) -> Callable[[List[Line]], str]:
    return lambda runs: spread([run[key] for run in runs])


def _seconds(key: str) -> Callable[[List[Line]], str]:
    return lambda runs: f"{statistics.mean(run[key] for run in runs):,.0f}"


def _paper_score(runs: List[Line]) -> str:
    score = _published(runs)[1]
    return "" if score is None else f"{score:.2f}"


COLUMNS: Dict[str, Dict[str, Callable[[List[Line]], str]]] = {
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
    return tabulated(rows, len(rows[0]) - len(columns), style)


def _unconverged(runs: List[Line]) -> bool:
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
    interval = table.settings.get("save_interval")
    saved = f", a checkpoint every {interval}" if interval else ""
    if shortest >= most:
        return f"{most:,} {unit}{saved}"
    return f"at most {most:,} {unit}{saved}, stopped early after {shortest:,} or more"


def _caption_of_perplexity(table: Table) -> str:
    settings = table.settings
    return (
        f"Size {settings['size']}; {_length(table, 'updates')}; blocks of "
        f"{settings['tokens_per_sample']} subwords. Data: {data_text(settings)}. "
        "Perplexity of the test set, ends of lines counted; mean ± standard deviation "
        "over the seeds; parameters without embeddings; seconds of a training, "
        f"validation included, on {_hardware(table)}."
    )


def _hardware(table: Table) -> str:
    return " and ".join(sorted({str(run.get("hardware")) for run in table.runs}))


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
    return f"Test accuracy by {by} (rows):\n\n{tabulated(rows, style=style)}"
