"""Running fairseq's tools: progress, logs, restarts, and one line for what failed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from tqdm import tqdm

from .options import ROOT


class RunError(RuntimeError):
    """A stage that failed; the message is one line."""


def train(
    name: str,
    command: List[str],
    folder: Path,
    threads: int,
    epochs: int = 0,
    updates: int = 0,
    node: int = 0,
) -> None:
    """fairseq-train, or the rest of it after an interruption, with a progress bar.

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
    if not node:
        drop_broken_checkpoint(folder)
    command = [
        *command, "--save-dir", str(folder), "--no-epoch-checkpoints",
        "--log-format", "json",
        *(["--max-epoch", str(epochs)] if epochs else ["--max-update", str(updates)]),
    ]  # fmt: skip
    valid = ""
    with tqdm(total=updates or None, unit="update", desc=name) as bar:
        log = folder / (f"train-node{node}.log" if node else "train.log")
        for line in follow(command, log, threads):
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
    if not (folder / "checkpoint_best.pt").is_file():
        raise RunError(f"{folder}: no checkpoint_best.pt after training")


def log_entry(line: str) -> Optional[Tuple[str, Dict[str, str]]]:
    """``train``, ``train_inner`` or ``valid`` and the values of a line of the log."""
    entry = re.search(r"\| (train|train_inner|valid) \| (\{.*\})", line)
    if not entry:
        return None
    kind, prefix = entry[1], re.compile("^(train|valid)_")
    return kind, {prefix.sub("", k): v for k, v in json.loads(entry[2]).items()}


def read_training(log: Path) -> Dict[str, Any]:
    """What a training says of itself, over all its interruptions.

    Returns:
        ``training_seconds``, validation included; ``curve``: [update, mean training
        loss since the one before, validation loss] for each validation; and the
        ``accuracies`` of the validations in per cent, where there are any.
    """
    seconds, part = 0.0, 0.0
    curve: Dict[int, List[Any]] = {}
    accuracies = []
    losses: List[float] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):  # the training was started, or started again
            seconds, part, losses = seconds + part, 0.0, []
        kind, values = log_entry(line) or ("", {})
        if kind == "train_inner":
            losses.append(float(values["loss"]))
        if "wall" in values:
            part = float(values["wall"])
        if kind == "valid":
            updates = int(values["num_updates"])
            mean = round(sum(losses) / len(losses), 4) if losses else None
            curve[updates] = [updates, mean, float(values["loss"])]
            losses = []
            if "accuracy" in values:
                accuracies.append(float(values["accuracy"]))
    return {
        "training_seconds": seconds + part,
        "curve": [curve[updates] for updates in sorted(curve)],
        "accuracies": accuracies,
    }


def load_model(checkpoint: Path) -> Any:
    """The model of a checkpoint."""
    logging.disable(logging.INFO)
    from fairseq import checkpoint_utils

    import fairseq_phm  # noqa: F401

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    return model


def load_parameters(checkpoint: Path) -> Dict[str, int]:
    """Counts of :func:`fairseq_phm.count_parameters` for a checkpoint."""
    model = load_model(checkpoint)
    from fairseq_phm import count_parameters

    return count_parameters(model)


def follow(
    command: List[str], log: Path, threads: Optional[int] = None
) -> Iterator[str]:
    """Run a command, yield its output line by line and append it to ``log``.

    Raises:
        RunError: the command failed; its last line is in the message.
    """
    last = ""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            for line in process.stdout:
                file.write(line)
                last = line.strip() or last
                yield line.rstrip("\n")
        finally:
            process.stdout.close()
            if process.wait() and sys.exc_info()[0] is None:
                name = Path(command[0]).name
                raise RunError(f"{name} failed, see {log}: {last}")


def drop_broken_checkpoint(folder: Path) -> None:
    """Go back to the last whole checkpoint when a copy was cut short."""
    last = folder / "checkpoint_last.pt"
    for checkpoint in folder.glob("*.pt"):
        if not zipfile.is_zipfile(checkpoint):
            checkpoint.unlink()
    numbered = sorted(folder.glob("checkpoint_*_*.pt"), key=os.path.getmtime)
    if numbered and not last.is_file():
        shutil.copyfile(numbered[-1], last)


def provenance(threads: int, gpus: int) -> Dict[str, Any]:
    """Hardware, versions and commit of a run."""
    import fairseq
    import torch

    import fairseq_phm

    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    hardware = f"CPU, {threads} threads"
    if gpus and torch.cuda.is_available():
        hardware = torch.cuda.get_device_name()
        hardware = hardware if gpus == 1 else f"{gpus} x {hardware}"
    return {
        "hardware": hardware,
        "versions": {
            "fairseq_phm": fairseq_phm.__version__,
            "fairseq": fairseq.__version__,
            "torch": torch.__version__,
        },
        "commit": commit or None,
    }


def read_json(file: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def tool(name: str) -> str:
    """Path of a command of this environment."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    found = found or shutil.which(name)
    if not found:
        raise RunError(f"no command {name}: pip install '.[fairseq]'")
    return found


def stamps(files: Iterable[Path]) -> List[Any]:
    """What changes when a file does: path, size and time, for :func:`digest`."""
    found = [(file, file.stat()) for file in files]
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in found]


def digest(value: Any) -> str:
    """A short name for the settings of a run."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def step(text: str) -> None:
    """Say what comes next."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
