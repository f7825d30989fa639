"""fairseq's tools as processes: progress, logs, restarts, one line for what failed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional

from tqdm import tqdm

from .lock import end_with_parent, inherited
from .settings import ROOT
from .stages import RunError, stop
from .training_log import log_entry

DIVERGED = re.compile("FloatingPointError|Minimum loss scale reached|loss is NaN")
"""In the log of a training that has failed, though not always in its last line."""

POLL = 0.05
"""Seconds between looks at the log of a process."""

DEFAULT_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "GOMP_SPINCOUNT": "1000",
}
"""Of trainings, where the user has set nothing else.

glibc keeps what tensors free, in place of asking the system for it once more.

``fairseq-train`` with ``--size demo`` on a CPU: 1.13 and 1.18 times the tokens a second
(``train_wps`` of 80 updates, with and without in turns).

Threads that wait for others soon sleep. ``quickstart.sh``, two threads on two cores:
beside two other trainings 5.4 updates a second in place of 0.2 to 1.2, alone 10.0 in
place of 10.9.
"""


def train(
    name: str,
    command: List[str],
    folder: Path,
    threads: int,
    epochs: int = 0,
    updates: int = 0,
    node: int = 0,
) -> None:
    """Run fairseq-train, or what an interruption left of it, with a progress bar.

    Args:
        name: what the bar says.
        command: the program and its options but those for checkpoints, log and length.
        folder: for checkpoints and the log, ``train.log``.
        threads: CPU threads.
        epochs, updates: length of the training, one of them.
        node: number of this machine; those after the first have a log of their own.

    Raises:
        RunError: the command failed or left no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    if not node:
        drop_broken_checkpoint(folder)
        done = trained_updates(folder)
        if updates and done >= updates:
            return require_checkpoint(folder)
    command = [
        *command, "--save-dir", str(folder), "--no-epoch-checkpoints",
        "--log-format", "json",
        *(["--max-epoch", str(epochs)] if epochs else ["--max-update", str(updates)]),
    ]  # fmt: skip
    log = folder / (f"train-node{node}.log" if node else "train.log")
    counted = {"total": updates or None, "initial": done, "unit": "update"}
    with tqdm(desc=name, **counted) as bar:
        _show(bar, follow(command, log, threads), epochs)
    require_checkpoint(folder)


def _show(bar: tqdm, lines: Iterable[str], epochs: int) -> None:
    """Move a progress bar by the lines of a training's log.

    Args:
        bar: of updates.
        lines: of the log.
        epochs: length of the training, where it tells the number of updates; or 0.
    """
    valid = skipped = ""
    for line in lines:
        too_long = re.search(r"[\d,]+ samples have invalid sizes", line)
        if too_long and too_long[0] != skipped:
            skipped = too_long[0]
            bar.write(f"{bar.desc}: {skipped} and are left out, see the log")
        per_epoch = re.search(r"grouped total_num_itrs = (\d+)", line)
        if per_epoch and epochs:
            bar.total = epochs * int(per_epoch[1])
        entry = log_entry(line)
        if not entry:
            continue
        kind, values = entry
        if kind == "valid":
            valid = f", valid {values['loss']}"
            if "accuracy" in values:
                valid = f", valid accuracy {values['accuracy']}"
            continue
        shown = f"loss {values['loss']}{valid}, {values['wps']} tokens/s"
        bar.set_postfix_str(shown, refresh=False)
        bar.update(int(values["num_updates"]) - bar.n)


def trained_updates(folder: Path) -> int:
    """Read how many updates ``checkpoint_last.pt`` has behind it; 0 without one.

    fairseq-train would make one more where all are made.

    Raises:
        RunError: it is damaged.
    """
    last = folder / "checkpoint_last.pt"
    if not last.is_file():
        return 0
    from fairseq_phm import DataError
    from fairseq_phm.checkpoint import read_checkpoint, updates_of

    try:
        return updates_of(read_checkpoint(last))
    except DataError as error:
        raise RunError(f"{error}; without it the training starts anew") from None


def require_checkpoint(folder: Path) -> None:
    """Refuse a training that has left no checkpoint.

    Raises:
        RunError: there is no ``checkpoint_best.pt`` in the folder.
    """
    if not (folder / "checkpoint_best.pt").is_file():
        raise RunError(f"{folder}: no checkpoint_best.pt after training")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what fairseq warns of, when it works in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_model(checkpoint: Path, **overrides: Any) -> Any:
    """Load the model of a checkpoint.

    Args:
        checkpoint: of a training.
        overrides: of its options, e.g. ``data`` where that has another place now.
    """
    from fairseq import checkpoint_utils

    import fairseq_phm  # noqa: F401

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides=overrides
    )
    return model


def follow(
    command: List[str], log: Path, threads: Optional[int] = None
) -> Iterator[str]:
    """Run a command whose output is appended to ``log``, and yield it line by line.

    The process writes the log itself: nothing of it is lost where this one is killed.
    It holds the lock of the log's folder, and ends when this one does.

    Raises:
        RunError: the command failed; the message has its last line, or the one that
            says that the training has diverged.
    """
    with log.open("ab") as file:
        if file.tell() and not log.read_bytes().endswith(b"\n"):
            file.write(b"\n")  # after a kill
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        start = file.tell()
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**DEFAULT_ENVIRONMENT, **environment(threads)},
            pass_fds=inherited(log.parent),
            preexec_fn=end_with_parent,
        )
    last = diverged = ""
    try:
        for line in _lines_of(process, log, start):
            last = line.strip() or last
            diverged = last if DIVERGED.search(line) else diverged
            yield line
    except BaseException:
        process.terminate()
        raise
    finally:
        failed = process.wait()
    if failed:
        from fairseq_phm.files import ALMOST_NONE

        name = command[2] if command[1:2] == ["-m"] else Path(command[0]).name
        if shutil.disk_usage(log.parent).free < ALMOST_NONE:
            last = "the disk is full"
        elif failed < 0:
            name = signal.Signals(-failed).name
            last = f"ended by {name}" + " (out of memory?)" * (name == "SIGKILL")
        raise RunError(f"{name} failed, see {log}: {diverged or last}")


def _lines_of(process: subprocess.Popen, log: Path, start: int) -> Iterator[str]:
    """Yield the lines that a process appends to a file, until it has ended.

    Args:
        process: that writes.
        log: what it writes.
        start: where in the file, in bytes.
    """
    with log.open("rb") as file:
        file.seek(start)
        rest = b""
        while True:
            ended = process.poll() is not None  # before the last reading
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
            if ended:
                break
            if stop.is_set():
                raise RunError("interrupted")
            if not lines:
                time.sleep(POLL)
    if rest:
        yield rest.decode(errors="replace")


def environment(threads: Optional[int] = None) -> Dict[str, str]:
    """Make the environment of a program that imports this project."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    path = os.pathsep.join(filter(None, dict.fromkeys(paths)))
    made = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}
    return {**made, "OMP_NUM_THREADS": str(threads)} if threads else made


def drop_broken_checkpoint(folder: Path) -> None:
    """Go back to the last whole checkpoint when a copy was cut short."""
    last = folder / "checkpoint_last.pt"
    for checkpoint in folder.glob("*.pt"):
        if not zipfile.is_zipfile(checkpoint):
            checkpoint.unlink()
    numbered = sorted(folder.glob("checkpoint_*_*.pt"), key=os.path.getmtime)
    if numbered and not last.is_file():
        shutil.copyfile(numbered[-1], last)
