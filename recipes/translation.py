"""Trains phm_transformer on a corpus of sentence pairs, translates, scores."""

from __future__ import annotations

import argparse
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
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

from sacrebleu.metrics import BLEU
from tabulate import tabulate
from tqdm import tqdm

from data_prep import SPLITS, DataError
from data_prep.declaration import DataSet, load
from data_prep.prepare import prepare as prepare_data
from data_prep.text import read_lines

from .options import ROOT, parse_arguments


class RunError(RuntimeError):
    """A stage that failed; the message is one line."""


def main() -> None:
    """Command line of ``recipes/quickstart.sh``."""
    options = parse_arguments(sys.argv[1:])
    family = options.arch.partition("_transformer")[0] + "_transformer"
    models = {f"{family} n={options.n}": [*options.extra, "--phm-n", str(options.n)]}
    if options.compare:
        models["transformer (dense)"] = [*without_phm(options.extra), "--phm-n", "1"]
    try:
        data = prepare(options)
        results = [run(name, own, data, options) for name, own in models.items()]
    except OSError as error:
        sys.exit(f"quickstart: {error.filename}: {error.strerror}")
    except (DataError, RunError) as error:
        sys.exit(f"quickstart: {error}")
    except KeyboardInterrupt:
        print("\nquickstart: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    report(results)


def prepare(options: argparse.Namespace) -> Path:
    """Folder with the prepared corpus, made unless it is there."""
    pair = f"{options.src}-{options.tgt}"
    if options.train:
        data_set = DataSet(pair, "own files", "parallel")
        raw = {
            split: [
                Path(f"{getattr(options, split)}.{language}").absolute()
                for language in (options.src, options.tgt)
            ]
            for split in SPLITS
        }
        stamp: Any = [
            (str(file), file.stat().st_size, file.stat().st_mtime_ns)
            for files in raw.values()
            for file in files
        ]
    else:
        data_set, raw, stamp = load("cldr"), None, f"cldr {options.seed}"
    data_set = replace(
        data_set,
        languages=(options.src, options.tgt),
        subwords=options.vocab_size,
        seed=options.seed,
    )
    stamp = [stamp, options.vocab_size, options.seed]
    data = options.out / f"data-{pair}-{digest(stamp)}"
    step(f"Using {data}" if (data / "manifest.json").is_file() else f"Preparing {data}")
    manifest = prepare_data(data_set, data, raw)
    counts = {"dropped": sum(manifest["dropped"].values()), **manifest["counts"]}
    print("Sentence pairs: " + ", ".join(f"{k} {v:,}" for k, v in counts.items()))
    return data


def without_phm(flags: List[str]) -> List[str]:
    """The flags of fairseq-train without --phm-... and their values: the dense twin."""
    kept, dropping = [], False
    for flag in flags:
        if flag.startswith("--"):
            dropping = flag.startswith("--phm-")
        if not dropping:
            kept.append(flag)
    return kept


def run(
    name: str, own: List[str], data: Path, options: argparse.Namespace
) -> Dict[str, Any]:
    """Train, translate and score one model; results of an equal run are read back.

    ``own`` are the flags of fairseq-train that this model alone has.
    """
    n = int(own[-1])
    train = [
        "--arch", options.arch,
        "--encoder-normalize-before", "--decoder-normalize-before",
        "--share-all-embeddings", "--dropout", "0.1",
        "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0",
        "--lr", str(options.lr), "--lr-scheduler", "polynomial_decay",
        "--warmup-updates", str(options.updates // 10),
        "--total-num-update", str(options.updates),
        "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
        "--max-tokens", str(options.max_tokens),
        "--max-update", str(options.updates), "--seed", str(options.seed),
    ]  # fmt: skip
    train += own
    folder = data.with_name(
        f"{data.name.replace('data-', '', 1)}-{options.arch}-n{n}-{digest(train)}"
    )
    finished = folder / f"result-beam{options.beam}.json"
    if finished.is_file():
        step(f"{name}: using {finished}")
        return json.loads(finished.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    seconds = fit(name, data, folder, train, options)
    hypotheses, decoding = translate(name, data, folder, options)
    references = read_lines(data / "clean" / f"test.{options.tgt}")
    if len(hypotheses) != len(references):
        raise RunError(
            f"{folder}: {len(hypotheses)} hypotheses for {len(references)} test lines"
        )
    (folder / f"test.hyp.{options.tgt}").write_text(
        "".join(line + "\n" for line in hypotheses), encoding="utf-8"
    )
    bleu = BLEU()
    result = {
        "model": name,
        "arch": options.arch,
        "n": n,
        "pair": f"{options.src}-{options.tgt}",
        "updates": options.updates,
        "seed": options.seed,
        "BLEU": round(bleu.corpus_score(hypotheses, [references]).score, 2),
        "signature": str(bleu.get_signature()),
        "training_seconds": seconds,
        "decoding_seconds": decoding,
        **parameters(folder / "checkpoint_best.pt"),
    }
    partial = finished.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    os.replace(partial, finished)
    return result


def fit(
    name: str, data: Path, folder: Path, flags: List[str], options: argparse.Namespace
) -> float:
    """fairseq-train, or the rest of it; seconds of training and validation."""
    drop_broken_checkpoint(folder)
    command = [
        tool("fairseq-train"), str(data / "bin"),
        "--user-dir", str(ROOT / "fairseq_phm"),
        "--source-lang", options.src, "--target-lang", options.tgt,
        "--save-dir", str(folder), "--no-epoch-checkpoints",
        "--save-interval-updates", "200", "--keep-interval-updates", "1",
        "--num-workers", "0", "--required-batch-size-multiple", "1",
        "--log-format", "json", "--log-interval", "20", *flags,
    ]  # fmt: skip
    step(f"{name}: training")
    seconds, valid = 0.0, ""
    with tqdm(total=options.updates, unit="update", desc=name) as bar:
        for line in follow(command, folder / "train.log"):
            entry = re.search(r"\| (train|train_inner|valid) \| (\{.*\})", line)
            if not entry:
                continue
            kind, values = entry[1], json.loads(entry[2])
            if kind == "valid":
                valid = f", valid {values['valid_loss']}"
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


def translate(
    name: str, data: Path, folder: Path, options: argparse.Namespace
) -> tuple[List[str], float]:
    """fairseq-generate on the test set: hypotheses in order, and its seconds."""
    command = [
        tool("fairseq-generate"), str(data / "bin"),
        "--user-dir", str(ROOT / "fairseq_phm"),
        "--source-lang", options.src, "--target-lang", options.tgt,
        "--path", str(folder / "checkpoint_best.pt"), "--gen-subset", "test",
        "--beam", str(options.beam), "--remove-bpe", "sentencepiece",
        "--max-tokens", str(options.max_tokens), "--num-workers", "0",
        "--required-batch-size-multiple", "1",
    ]  # fmt: skip
    step(f"{name}: translating the test set")
    lines = len(read_lines(data / "clean" / f"test.{options.src}"))
    found: Dict[int, str] = {}
    seconds = 0.0
    with tqdm(total=lines, unit="sentence", desc=name) as bar:
        for line in follow(command, folder / "generate.log"):
            hypothesis = re.match(r"H-(\d+)\t[^\t]*\t?(.*)", line)
            if hypothesis:
                found[int(hypothesis[1])] = hypothesis[2]
                bar.update()
            timing = re.search(r"Translated .* in ([\d.]+)s", line)
            seconds = float(timing[1]) if timing else seconds
    return [found[number] for number in sorted(found)], seconds


def parameters(checkpoint: Path) -> Dict[str, int]:
    """Counts of :func:`fairseq_phm.count_parameters` for a checkpoint."""
    logging.disable(logging.INFO)
    from fairseq import checkpoint_utils

    from fairseq_phm import count_parameters

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    return count_parameters(model)


def report(results: List[Dict[str, Any]]) -> None:
    """Print the table of all models."""
    rows = [
        {
            "model": result["model"],
            "parameters, non-embedding": f"{result['non_embedding']:,}",
            "total": f"{result['total']:,}",
            "BLEU": f"{result['BLEU']:.2f}",
            "training": f"{result['training_seconds']:.0f} s",
            "decoding": f"{result['decoding_seconds']:.1f} s",
        }
        for result in results
    ]
    align = ["left"] + ["right"] * 5
    print("\n" + tabulate(rows, headers="keys", colalign=align, disable_numparse=True))
    print(f"BLEU: {results[0]['signature']}")


def follow(command: List[str], log: Path) -> Iterator[str]:
    """Run a command, yield its output line by line and append it to ``log``.

    Raises:
        RunError: the command failed; its last line is in the message.
    """
    last = ""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
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
    file = folder / "seconds"
    return float(file.read_text()) if file.is_file() else 0.0


def tool(name: str) -> str:
    """Path of a command of this environment."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    found = found or shutil.which(name)
    if not found:
        raise RunError(f"no command {name}: pip install '.[fairseq]'")
    return found


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def step(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    main()
