"""Kill programs at random moments, start them again, and compare what they made.

python tests/kill_campaign.py [--kills 50] [--seed 1] [--kinds data training recipe]

Each program runs once undisturbed. Then it is started, killed by SIGKILL after a random
part of that time, with its children or alone, and started again, until it ends by
itself; what it leaves must be what the undisturbed run left, bit for bit but for times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from conftest import write_pairs  # noqa: E402

from recipes.driver.fairseq_process import trained_updates  # noqa: E402

LINES = {"train": 1500, "valid": 40, "test": 40}
PAIR = ["--src", "xx", "--tgt", "yy"]
TINY = [
    "--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--encoder-layers", "1",
    "--decoder-layers", "1",
]  # fmt: skip
UPDATES = 60
TIMES = ("training_seconds", "decoding_seconds")


@dataclass(frozen=True)
class Program:
    """What is killed: its command line, for a folder, and what its folder holds."""

    command: Callable[[Path], List[Any]]
    made: Callable[[Path], Dict[str, Any]]
    finished: Callable[[Path], bool] = lambda out: False  # not to be started again


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["data", "training", "recipe"])
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        programs = make_programs(folder)
        for number, kind in enumerate(options.kinds):
            share = len(options.kinds)
            kills = (options.kills + share - 1 - number) // share
            rows.append(campaign(kind, programs[kind], kills, folder / kind, rng))
    print(tabulate(rows, headers="keys"))
    sys.exit(any(row["lost"] for row in rows))


def make_programs(folder: Path) -> Dict[str, Program]:
    """Write a corpus, and say what runs on it."""
    raw = folder / "raw"
    write_pairs(raw, LINES)
    prepare = ["-m", "data_prep", "--raw", raw, *PAIR, "--vocab-size", 30, "--out"]
    data = folder / "prepared"
    subprocess.run([sys.executable, *map(str, [*prepare, data])], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return {
        "data": Program(lambda out: [*prepare, out], files_in),
        "training": Program(
            lambda out: [
                "-m", "fairseq_cli.train", data / "bin", "--save-dir", out,
                "--user-dir", ROOT / "fairseq_phm", "--arch", "phm_transformer", *TINY,
                "--optimizer", "adam", "--lr", "0.005", "--max-tokens", "400",
                "--required-batch-size-multiple", "1", "--num-workers", "0", "--cpu",
                "--max-update", UPDATES, "--save-interval-updates", "6",
                "--save-interval", "1000000", "--keep-interval-updates", "2",
            ],
            lambda out: tensors_in(out / "checkpoint_last.pt"),
            # fairseq-train trains on what is finished; recipes do not start it then.
            lambda out: trained_updates(out) == UPDATES,
        ),
        "recipe": Program(
            lambda out: [
                "-m", "recipes.driver.translation", "--raw", raw, *PAIR, "--size",
                "tiny", "--models", "4", "--updates", "30", "--save-interval", "3",
                "--max-tokens", "400", "--vocab-size", "30", "--out", out, "--cpu",
                "--", *TINY,
            ],
            results_in,
        ),
    }  # fmt: skip


def campaign(
    kind: str, program: Program, kills: int, folder: Path, rng: random.Random
) -> Dict[str, Any]:
    """Kill a program that many times; a row of the table."""
    folder.mkdir()
    start = time.monotonic()
    finish(program, folder / "whole")
    length = time.monotonic() - start
    expected = program.made(folder / "whole")
    done = finished = lost = 0
    with tqdm(total=kills, desc=kind, unit="kill") as bar:
        while done < kills:
            out = folder / f"run{finished}"
            for _ in range(rng.randint(1, 6)):
                if done < kills and kill(program, out, rng, length):
                    done += 1
                    bar.update()
            finish(program, out)
            finished += 1
            found = program.made(out)
            if found != expected:
                lost += 1
                names = sorted(set(found) | set(expected))
                differ = [n for n in names if found.get(n) != expected.get(n)]
                tqdm.write(f"{kind}: differ: {', '.join(differ)}", file=sys.stderr)
    return {"what": kind, "kills": done, "runs": finished, "lost": lost}


def kill(program: Program, out: Path, rng: random.Random, length: float) -> bool:
    """Start and kill a program; False if it ended before."""
    if program.finished(out):
        return False
    process = start(program, out)
    time.sleep(rng.uniform(0, length))
    if process.poll() is not None:
        return False
    if rng.random() < 0.5:  # with its children, as a machine that stops
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
    return True


def finish(program: Program, out: Path) -> None:
    """Let a program end by itself; children of one that was killed may hold its lock.

    Raises:
        RuntimeError: it fails, after ten trials.
    """
    for _ in range(10):
        if program.finished(out):
            return
        process = start(program, out)
        output, _ = process.communicate()
        if process.returncode == 0:
            return
        time.sleep(1)
    raise RuntimeError(output[-3000:])


def start(program: Program, out: Path) -> subprocess.Popen:
    """Start a program in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, program.command(out))], cwd=ROOT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def files_in(folder: Path) -> Dict[str, str]:
    """Hash each file, but locks and what notes the times of files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and path.suffix != ".json"
    }


def tensors_in(checkpoint: Path) -> Dict[str, bytes]:
    """Read the weights of a checkpoint, and the updates behind it."""
    found = torch.load(checkpoint, weights_only=False)
    weights = {name: found["model"][name].numpy().tobytes() for name in found["model"]}
    history = found.get("optimizer_history") or [{}]
    return {**weights, "updates": history[-1].get("num_updates")}


def results_in(out: Path) -> Dict[str, Any]:
    """Read the lines of results, without times, and the mean of the checkpoints."""
    text = (out / "results.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        for key in TIMES:
            del line[key]
        for point in line["curve"]:
            point[1] = None  # mean training loss since the log began
    (averaged,) = out.glob("*/n4-*/averaged*.pt")
    return {"results.jsonl": lines, **tensors_in(averaged)}


if __name__ == "__main__":
    main()
