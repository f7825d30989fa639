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
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from data_prep import DataError, errors_in_one_line
from data_prep.workspace import atomic_path

from ..driver.results import Line
from ..driver.settings import slug
from . import compress, quality, quality_runs, speed, summary
from .experiments import collect, picture, read, tables
from .picture import draw

RECIPES = Path(__file__).parents[1]
FIGURES = "results/figures/"
HEAD = """# Results

Made by `python -m recipes.report` from `recipes/results`: the JSON lines of the runs,
with flags, seconds, hardware, versions and commit of each, and the notes.
"""


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
    files = given or sorted(RECIPES.glob("results/runs/*.jsonl"))
    with errors_in_one_line("report"):
        results = [result for file in files for result in read(file)]
        if not given:
            write_results(results)
        elif results:
            print("\n\n".join(tables(results)))
        else:
            raise DataError(f"no results in {', '.join(map(str, given))}")


def write_results(results: List[Line]) -> None:
    """Write ``RESULTS.md`` and its figures; other figures go.

    Args:
        results: of experiments; those of benchmarks are read here.

    Raises:
        DataError: a line that is no result; nothing is written then.
    """
    texts: List[str] = []
    comparisons: List[Any] = []
    made = {f"{FIGURES}{table.name}.svg": picture(table) for table in collect(results)}
    made[f"{FIGURES}phm.svg"] = draw().encode()
    for text, pictures in (
        *_quality(comparisons),
        *_sections("compress", compress),
        *_sections("speed", speed),
    ):
        texts.append(text)
        made.update(pictures)
    texts = [HEAD.rstrip(), *_summary(comparisons, results, made), *texts]
    texts += tables(
        results, "github", "## ", FIGURES, lambda experiment: _notes(slug(experiment))
    )
    made["RESULTS.md"] = ("\n\n".join(texts) + "\n").encode()
    (RECIPES / FIGURES).mkdir(exist_ok=True)
    for name, content in made.items():
        with atomic_path(RECIPES / name) as partial:
            partial.write_bytes(content)
    for file in (RECIPES / FIGURES).glob("*.svg"):
        if f"{FIGURES}{file.name}" not in made:
            file.unlink()


def _summary(
    comparisons: List[Any], results: List[Line], made: Dict[str, bytes]
) -> Iterator[str]:
    """Make the first section, and its picture; benchmarks come before other runs."""
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
    files = sorted(RECIPES.glob("results/runs/quality/*.jsonl"))
    if files:
        yield f"## How to read the tables of quality\n\n{quality.READING}", {}
    for file in files:
        name = f"quality-{file.stem}"
        lines = quality_runs.read([file])
        text, pictures = quality.render(
            lines, f"{FIGURES}{name}-", "##", explained=False
        )
        comparisons += [
            summary.comparison("BLEU", runs)
            for runs in quality_runs.at_equal_updates(lines)
        ]
        yield "\n\n".join([text, *_notes(name)]), pictures


def _sections(folder: str, made_by: Any) -> Iterator[Tuple[str, Dict[str, bytes]]]:
    """Text of each file in a folder of ``results/runs``, which has no pictures."""
    for file in sorted(RECIPES.glob(f"results/runs/{folder}/*.jsonl")):
        text = made_by.tables(made_by.read([file]), "##")
        yield "\n\n".join([text, *_notes(f"{folder}-{file.stem}")]), {}


def _notes(name: str) -> List[str]:
    """Read ``results/notes/NAME.md``, if it is there."""
    file = RECIPES / "results" / "notes" / f"{name}.md"
    return [file.read_text(encoding="utf-8").rstrip()] if file.is_file() else []


if __name__ == "__main__":
    main()
