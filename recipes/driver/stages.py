"""What all recipes share: stages that are skipped when done, several at a time."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Callable, Dict, Iterator, NamedTuple, Sequence, TypeVar

import torch

from data_prep import DataError
from data_prep.workspace import write_json

from .fairseq_process import RunError, step

Job = TypeVar("Job")


class Stage(NamedTuple):
    """A part of a run. Its ``output`` is named after the settings, and made whole."""

    name: str
    output: Path
    make: Callable[[], object]


def run_stages(title: str, stages: Sequence[Stage], wanted: Sequence[str]) -> None:
    """Run the wanted stages, those after the last one whose output is there.

    Raises:
        RunError: a stage failed, or what it starts from is not there.
    """
    chosen = [place for place, stage in enumerate(stages) if stage.name in wanted]
    done = [place for place in chosen if stages[place].output.is_file()]
    if done:
        last = stages[done[-1]]
        step(f"{title}: {last.name}: using {last.output}")
        chosen = [place for place in chosen if place > done[-1]]
    for place in chosen:
        if place and not stages[place - 1].output.is_file():
            before = stages[place - 1]
            raise RunError(
                f"{title}: no {before.output}: run --stage {before.name} first"
            )
        step(f"{title}: {stages[place].name}")
        stages[place].make()


def in_threads(work: Callable[[Job], None], jobs: Sequence[Job], threads: int) -> None:
    """``work(job)`` for all jobs, several at once; the first failure ends the rest."""
    failed = Event()

    def unless_failed(job: Job) -> None:
        if failed.is_set():
            raise CancelledError
        try:
            work(job)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(unless_failed, job) for job in jobs]
        try:
            for future in futures:
                future.result()
        finally:
            failed.set()


@contextmanager
def errors_in_one_line(name: str) -> Iterator[None]:
    """End the program with one line for what went wrong."""
    try:
        yield
    except (DataError, RunError) as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{name}: {where}{error.strerror}")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


def threads_of_a_job(options: argparse.Namespace) -> int:
    """CPU threads for each of ``options.jobs`` trainings."""
    return max(1, torch.get_num_threads() // options.jobs)


def record(result: Dict[str, Any], file: Path, lines: Path) -> None:
    """Write a run's result and append it to the JSON lines of all runs."""
    with lines.open("a", encoding="utf-8") as out:
        out.write(json.dumps(result, ensure_ascii=False) + "\n")
    write_json(file, result)
