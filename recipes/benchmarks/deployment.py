"""Translate a test set by fairseq-generate and by CTranslate2: speed, BLEU, size.

python -m recipes.benchmarks.deployment CHECKPOINT --data data-bin/... [--rounds 3]

The dense model is the densified checkpoint, so that all translate alike. Seconds are
those of the search, without the loading of models, medians of rounds in which all take
turns. Needs pip install '.[fairseq,recipes,export]'.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from fairseq.data.data_utils import post_process
from tabulate import tabulate

from data_prep import DataError, errors_in_one_line

from ..driver.fairseq_process import environment
from ..driver.run import READING, USER_DIR
from ..score import score

BEAM = 5
LENGTH_PENALTY = 0.6
MAX_LENGTH = 250
"""Subwords of a hypothesis."""
QUANTIZATIONS = ("float32", "int8")

Translations = Dict[int, Dict[str, str]]
"""Number of a sentence -> its source S, reference T, hypothesis H, in subwords."""


def main() -> None:
    options = parse()
    with errors_in_one_line("deployment"), tempfile.TemporaryDirectory() as folder:
        print(compare(options, Path(folder)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of phm_transformer")
    add("--data", type=Path, required=True, help="binarised, with its test set")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--batch-size", type=int, default=32, help="sentences, for both programs")
    options = parser.parse_args()
    if min(options.rounds, options.threads, options.batch_size) < 1:
        parser.error("--rounds, --threads and --batch-size must be at least 1")
    return options


def compare(options: argparse.Namespace, folder: Path) -> str:
    """Make the models, let them take turns, and format a line for each.

    Raises:
        DataError: a model cannot be made, or a program fails.
    """
    dense = folder / "dense.pt"
    _command("densify", options.checkpoint, dense, "--data", options.data)
    sizes = {"fairseq-generate, dense": dense}  # without the optimizer's state
    sizes["fairseq-generate, PHM"] = factors = folder / "safetensors"
    _command("export", "--to", "safetensors", options.checkpoint, factors)
    first, _ = generate(dense, options)
    numbers = sorted(first)
    calls: Dict[str, Callable[[], Tuple[List[str], float]]] = {
        name: lambda path=path: _hypotheses(generate(path, options), numbers)
        for name, path in zip(sizes, (dense, options.checkpoint))
    }
    sources = [first[number]["S"].split() for number in numbers]
    for quantization in QUANTIZATIONS:
        name = f"CTranslate2, {quantization}"
        sizes[name] = folder / quantization
        _command(
            "export", "--to", "ctranslate2", "--quantization", quantization,
            "--data", options.data, options.checkpoint, sizes[name],
        )  # fmt: skip
        calls[name] = lambda path=sizes[name]: ctranslate2(path, sources, options)
    seconds: Dict[str, List[float]] = {name: [] for name in calls}
    texts: Dict[str, List[str]] = {}
    for _ in range(options.rounds):
        for name, call in calls.items():
            texts[name], elapsed = call()
            seconds[name].append(elapsed)
    references = [_text(first[number]["T"]) for number in numbers]
    rates = {n: len(numbers) / statistics.median(s) for n, s in seconds.items()}
    rows = [
        {
            "engine": name,
            "sentences/s": f"{rates[name]:.1f}",
            "over dense fairseq": f"{rates[name] / rates[next(iter(rates))]:.2f}",
            "BLEU": f"{score(texts[name], references)['bleu']:.2f}",
            "MB": f"{_bytes(sizes[name]) / 1e6:.1f}",
        }
        for name in calls
    ]
    return tabulate(rows, headers="keys", disable_numparse=True)


def generate(path: Path, options: argparse.Namespace) -> Tuple[Translations, float]:
    """Run fairseq-generate on the test set: translations and seconds of the search.

    Raises:
        DataError: it failed, or it does not say how long it took.
    """
    command = [
        sys.executable, "-m", "fairseq_cli.generate", str(options.data), *USER_DIR,
        *READING, "--path", str(path), "--gen-subset", "test", "--cpu",
        "--beam", str(BEAM), "--lenpen", str(LENGTH_PENALTY), "--max-len-a", "0",
        "--max-len-b", str(MAX_LENGTH), "--batch-size", str(options.batch_size),
    ]  # fmt: skip
    text = _output(command, options.threads)
    found: Translations = {}
    for kind, number, line in re.findall(r"(?m)^([STH])-(\d+)\t(.*)$", text):
        found.setdefault(int(number), {})[kind] = line.split("\t")[-1]
    timing = re.search(r"Translated .* in ([\d.]+)s", text)
    if not timing or not found:
        raise DataError(f"{path}: fairseq-generate translated nothing")
    return found, float(timing[1])


def ctranslate2(
    folder: Path, sources: List[List[str]], options: argparse.Namespace
) -> Tuple[List[str], float]:
    """Translate with a folder of CTranslate2: texts and seconds of the search.

    Each thread translates a batch of its own.
    """
    from ctranslate2 import Translator

    translator = Translator(
        str(folder), compute_type="default",
        inter_threads=options.threads, intra_threads=1,
    )  # fmt: skip
    start = time.perf_counter()
    results = translator.translate_batch(
        sources, beam_size=BEAM, length_penalty=LENGTH_PENALTY,
        max_decoding_length=MAX_LENGTH, max_batch_size=options.batch_size,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return [_text(" ".join(result.hypotheses[0])) for result in results], seconds


def _hypotheses(
    run: Tuple[Translations, float], numbers: List[int]
) -> Tuple[List[str], float]:
    found, seconds = run
    return [_text(found[number]["H"]) for number in numbers], seconds


def _text(pieces: str) -> str:
    return post_process(pieces, "sentencepiece")


def _command(*arguments: object) -> None:
    _output([sys.executable, "-m", "fairseq_phm", *map(str, arguments)])


def _output(command: List[str], threads: int = 1) -> str:
    """Run a program.

    Raises:
        DataError: it failed; with its last line.
    """
    done = subprocess.run(
        command, env=environment(threads), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        raise DataError(f"{command[2]} failed: {lines[-1]}")
    return done.stdout


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
