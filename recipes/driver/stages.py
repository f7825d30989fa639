"""Stages that are skipped when they are done, several runs at a time."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, TypeVar

from data_prep import DataError

Job = TypeVar("Job")

stop = Event()
"""Set while an interruption ends the processes of all threads."""


class RunError(DataError):
    """A stage that failed; the message is one line."""


class Stage(NamedTuple):
    """A part of a run. Its ``output`` is named after the settings, and made whole."""

    name: str
    output: Path
    make: Callable[[], object]


def run_stages(title: str, stages: Sequence[Stage], wanted: Sequence[str]) -> None:
    """Run the wanted stages that come after the last finished one.

    And the first, which all others need, should its output be gone.

    Raises:
        RunError: a stage failed, or what it starts from is not there.
    """
    chosen = [place for place, stage in enumerate(stages) if stage.name in wanted]
    done = [place for place in chosen if stages[place].output.is_file()]
    if done:
        last = stages[done[-1]]
        step(f"{title}: {last.name}: using {last.output}")
        chosen = [place for place in chosen if place > done[-1]]
    if chosen and chosen[0] and not stages[0].output.is_file():
        if stages[0].name in wanted:
            chosen = [0, *chosen]
    for place in chosen:
        for before in (stages[0], stages[place - 1]) if place else ():
            if not before.output.is_file():
                raise RunError(
                    f"{title}: no {before.output}: run --stage {before.name} first"
                )
        step(f"{title}: {stages[place].name}")
        stages[place].make()


def in_threads(work: Callable[[Job], None], jobs: Sequence[Job], threads: int) -> None:
    """Do ``work(job)`` for all jobs, several at once.

    After a failure, which is said at once, those that have begun end as they would.
    """
    failed = Event()

    def unless_failed(job: Job) -> None:
        if failed.is_set():
            raise CancelledError
        try:
            work(job)
        except BaseException as error:
            if len(jobs) > 1 and threads > 1 and isinstance(error, RunError):
                step(f"failed, those that have begun go on: {error}")
            failed.set()
            raise

    try:
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(unless_failed, job) for job in jobs]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                stop.set()
                raise
            finally:
                failed.set()
    finally:  # when all threads have ended
        stop.clear()


def step(text: str) -> None:
    """Say what comes next."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def digest(value: Any) -> str:
    """Make a short name for settings, 8 hexadecimal digits of their JSON's hash."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def stamps(file: Optional[Path]) -> List[Any]:
    """List what changes when a file does, if any: path, size and time."""
    if not file:
        return []
    stat = file.stat()
    return [(str(file), stat.st_size, stat.st_mtime_ns)]


def read_json(file: Path) -> Any:
    """Read the value in a JSON file.

    Raises:
        RunError: there is none in it.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file}: damaged, {error}: remove it") from None
