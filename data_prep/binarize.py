"""Text in subwords -> fairseq's binarised data, by ``fairseq-preprocess``."""

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
    """Fill ``out`` with what ``fairseq-train`` reads.

    Args:
        encoded: folder of ``SPLIT.LANGUAGE`` in subwords.
        languages: source and target.
        dictionary: of both languages, in fairseq's format.

    Returns:
        ``SPLIT.LANGUAGE`` -> ``lines``, ``tokens`` (with one end mark a line) and
        ``unknown``, in percent of the tokens.

    Raises:
        DataError: fairseq is missing or fails.
    """
    if not find_spec("fairseq_cli"):
        raise DataError("fairseq is missing: pip install '.[fairseq]'")
    source, target = languages
    command = [
        sys.executable, "-m", "fairseq_cli.preprocess",
        "--source-lang", source, "--target-lang", target,
        "--joined-dictionary", "--srcdict", str(dictionary),
        "--destdir", str(out), "--workers", str(workers),
    ]  # fmt: skip
    for split in SPLITS:
        command += [f"--{split}pref", str(encoded / split)]
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
