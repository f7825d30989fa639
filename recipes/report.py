"""Tables of results, with the published figures beside ours.

python -m recipes.report            recipes/results/*.jsonl -> recipes/RESULTS.md
python -m recipes.report FILE ...   prints the tables of these JSON lines
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List

from tabulate import tabulate

HERE = Path(__file__).parent
HEAD = """# Results

Made by `python -m recipes.report` from the JSON lines in `recipes/results`, one for
each run, with its flags, seconds, hardware, versions and commit, and the notes there.
"""


def main() -> None:
    """The command line."""
    files = list(map(Path, sys.argv[1:])) or sorted((HERE / "results").glob("*.jsonl"))
    results = [
        json.loads(line)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    if sys.argv[1:]:
        print("\n\n".join(tables(results)))
    else:
        text = "\n\n".join([HEAD.rstrip(), *tables(results, "github", "## ")]) + "\n"
        (HERE / "RESULTS.md").write_text(text, encoding="utf-8")


def tables(
    results: List[Dict[str, Any]], style: str = "simple", heading: str = ""
) -> List[str]:
    """A table for each experiment, and one by groups of its test set if it has any.

    Args:
        results: of runs; of equal ones the last counts.
        style: of the tables, a ``tablefmt`` of tabulate.
        heading: what comes before the experiment's name; with one, the notes follow
            that ``results/NAME.md`` holds.
    """
    runs: Dict[str, Dict[str, Dict[Any, Dict[str, Any]]]] = {}
    for result in results:
        models = runs.setdefault(result["experiment"], {})
        models.setdefault(result["model"], {})[result["seed"]] = result
    texts = []
    for experiment, by_model in runs.items():
        order = sorted(by_model, key=_order)
        models = {name: list(by_model[name].values()) for name in order}
        texts += [f"{heading}{experiment}", _accuracy(models, style)]
        notes = HERE / "results" / f"{experiment.lower()}.md"
        if heading and notes.is_file():
            texts.append(notes.read_text(encoding="utf-8").rstrip())
        if any(run.get("rows_by") for runs in models.values() for run in runs):
            texts.append(_groups(models, style))
    return texts


def _order(model: str) -> Any:
    return (model.isdigit(), int(model) if model.isdigit() else model)


def _name(model: str) -> str:
    return f"PHM n={model}" if model.isdigit() else model


def _accuracy(models: Dict[str, List[Dict[str, Any]]], style: str) -> str:
    rows = []
    for model, runs in models.items():
        size, accuracy = runs[0]["published"] or ("", None)
        rows.append(
            {
                "model": _name(model),
                "encoder parameters": f"{runs[0]['encoder_parameters']:,}",
                "paper: size": size,
                "runs": len(runs),
                "valid": _spread([run["valid_accuracy"] for run in runs]),
                "test accuracy": _spread([run["accuracy"] for run in runs]),
                "paper: accuracy": "" if accuracy is None else f"{accuracy:.2f}",
            }
        )
    align = ["left"] + ["right"] * 6
    epochs = sorted({run["epochs"] for runs in models.values() for run in runs})
    return (
        tabulate(
            rows, headers="keys", tablefmt=style, colalign=align, disable_numparse=True
        )
        + "\n\nAccuracy in per cent, mean ± standard deviation over the seeds; "
        + f"{' or '.join(map(str, epochs))} epochs, checkpoint of the best validation."
    )


def _groups(models: Dict[str, List[Dict[str, Any]]], style: str) -> str:
    rows = []
    for model, runs in models.items():
        groups: Dict[str, List[float]] = defaultdict(list)
        for run in runs:
            for key, count in run["rows_by"].items():
                groups[f"{key} ({count:,})"].append(run["accuracy_by"][key])
        rows.append(
            {"model": _name(model)} | {k: _spread(v) for k, v in groups.items()}
        )
    return "Test accuracy by number of attractors (rows):\n\n" + tabulate(
        rows, headers="keys", tablefmt=style, disable_numparse=True
    )


def _spread(values: List[float]) -> str:
    """Mean, and the sample's standard deviation when there are several values."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
