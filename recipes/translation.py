"""Trains phm_transformer on a corpus of sentence pairs, translates, scores."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

from sacrebleu.metrics import BLEU
from tabulate import tabulate
from tqdm import tqdm

from data_prep import SPLITS, DataError
from data_prep.declaration import DataSet, load
from data_prep.prepare import prepare as prepare_data
from data_prep.text import read_lines

from .options import ROOT, parse_quickstart
from .runner import (
    RunError,
    digest,
    follow,
    load_parameters,
    stamps,
    step,
    tool,
    train,
    write_result,
)


def main() -> None:
    """Command line of ``recipes/quickstart.sh``."""
    options = parse_quickstart(sys.argv[1:])
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
        stamp: Any = stamps(file for files in raw.values() for file in files)
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
    flags = [
        "--source-lang", options.src, "--target-lang", options.tgt,
        "--arch", options.arch, "--save-interval-updates", "200",
        "--keep-interval-updates", "1",
        "--encoder-normalize-before", "--decoder-normalize-before",
        "--share-all-embeddings", "--dropout", "0.1",
        "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0",
        "--lr", str(options.lr), "--lr-scheduler", "polynomial_decay",
        "--warmup-updates", str(options.updates // 10),
        "--total-num-update", str(options.updates),
        "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
        "--max-tokens", str(options.max_tokens), "--seed", str(options.seed), *own,
    ]  # fmt: skip
    folder = data.with_name(
        f"{data.name.replace('data-', '', 1)}-{options.arch}-n{n}-{digest(flags)}"
    )
    finished = folder / f"result-beam{options.beam}.json"
    if finished.is_file():
        step(f"{name}: using {finished}")
        return json.loads(finished.read_text())
    step(f"{name}: training")
    seconds = train(name, data / "bin", folder, flags, updates=options.updates)
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
        **load_parameters(folder / "checkpoint_best.pt"),
    }
    write_result(result, finished)
    return result


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


if __name__ == "__main__":
    main()
