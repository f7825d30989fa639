"""Binarizes text in subwords with ``fairseq-preprocess``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Sequence

from . import SPLITS, DataError


def binarize(
    encoded: Path, languages: Sequence[str], dictionary: Path, out: Path, workers: int
) -> Dict[str, Any]:
    """Write the data that ``fairseq-train`` reads to ``out``.

    Args:
        encoded: folder with the files ``SPLIT.LANGUAGE``, in subwords.
        languages: source and target; of a text alone, the ending of its files.
        dictionary: of all languages, in fairseq's format.
        out: an existing folder.
        workers: number of processes.

    Returns:
        ``SPLIT.LANGUAGE`` -> ``lines``, ``tokens`` (one of each line is the end mark)
        and ``unknown``, the percentage of unknown tokens.

    Raises:
        DataError: fairseq is missing or fails.
    """
    if not find_spec("fairseq_cli"):
        raise DataError("fairseq is missing: pip install '.[fairseq]'")
    sides = ["--only-source"]
    if len(languages) == 2:
        sides = ["--source-lang", languages[0], "--target-lang", languages[1]]
        sides.append("--joined-dictionary")
    command = [
        sys.executable, "-m", "fairseq_cli.preprocess",
        *sides, "--srcdict", str(dictionary),
        "--destdir", str(out), "--workers", str(workers),
    ]  # fmt: skip
    for split in SPLITS:
        ending = "" if len(languages) == 2 else f".{languages[0]}"
        command += [f"--{split}pref", str(encoded / f"{split}{ending}")]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:]
        raise DataError(f"fairseq-preprocess failed: {' '.join(last)}")
    (out / "preprocess.log").unlink()
    counts = re.findall(
        r"\[[^]]+\] (.+): (\d+) sents, (\d+) tokens, ([\d.e+-]+)% replaced", done.stdout
    )
    return {
        Path(name).name: {
            "lines": int(lines), "tokens": int(tokens), "unknown": float(unknown),
        }
        for name, lines, tokens, unknown in counts
    }  # fmt: skip
