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
from typing import Any, Dict, Iterable, Iterator, List, Optional

from tqdm import tqdm

from .options import ROOT


class RunError(RuntimeError):
    """A stage that failed; the message is one line."""


def train(
    name: str,
    data: Path,
    folder: Path,
    flags: List[str],
    threads: Optional[int] = None,
    epochs: int = 0,
    updates: int = 0,
) -> float:
    """fairseq-train, or the rest of it after an interruption, with a progress bar.

    Args:
        name: what the bar says.
        data: the folder that fairseq-train reads.
        folder: for checkpoints, log and seconds.
        flags: of fairseq-train.
        threads: CPU threads; default: torch's choice.
        epochs, updates: length of the training, one of them.

    Returns:
        Seconds of training and validation.

    Raises:
        RunError: the command failed or left no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drop_broken_checkpoint(folder)
    command = [
        tool("fairseq-train"), str(data), "--user-dir", str(ROOT / "fairseq_phm"),
        "--save-dir", str(folder), "--no-epoch-checkpoints", "--num-workers", "0",
        "--required-batch-size-multiple", "1", "--log-format", "json",
        "--log-interval", "20",
        *(["--max-epoch", str(epochs)] if epochs else ["--max-update", str(updates)]),
        *flags,
    ]  # fmt: skip
    seconds, valid = 0.0, ""
    with tqdm(total=updates or None, unit="update", desc=name) as bar:
        for line in follow(command, folder / "train.log", threads):
            per_epoch = re.search(r"grouped total_num_itrs = (\d+)", line)
            if per_epoch and epochs:
                bar.total = epochs * int(per_epoch[1])
            entry = re.search(r"\| (train|train_inner|valid) \| (\{.*\})", line)
            if not entry:
                continue
            kind, values = entry[1], json.loads(entry[2])
            if kind == "valid":
                valid = f", valid {values['valid_loss']}"
                if "valid_accuracy" in values:
                    valid = f", valid accuracy {values['valid_accuracy']}"
                continue
            prefix = "train_" if kind == "train" else ""
            loss, speed = values[prefix + "loss"], values[prefix + "wps"]
            bar.set_postfix_str(f"loss {loss}{valid}, {speed} tokens/s", refresh=False)
            bar.update(int(values[prefix + "num_updates"]) - bar.n)
            seconds = float(values[prefix + "wall"])
    if not (folder / "checkpoint_best.pt").is_file():
        raise RunError(f"{folder}: no checkpoint_best.pt after training")
    (folder / "seconds").write_text(str(seconds or read_seconds(folder)))
    return read_seconds(folder)


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


def read_seconds(folder: Path) -> float:
    """Seconds of the training that left its checkpoints in ``folder``."""
    file = folder / "seconds"
    return float(file.read_text()) if file.is_file() else 0.0


def provenance(threads: Optional[int] = None) -> Dict[str, Any]:
    """Hardware, versions and commit of a run."""
    import fairseq
    import torch

    import fairseq_phm

    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "hardware": gpu or f"CPU, {threads or torch.get_num_threads()} threads",
        "versions": {
            "fairseq_phm": fairseq_phm.__version__,
            "fairseq": fairseq.__version__,
            "torch": torch.__version__,
        },
        "commit": commit or None,
    }


def write_result(result: Dict[str, Any], file: Path) -> None:
    """Write a run's result, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    os.replace(partial, file)


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
