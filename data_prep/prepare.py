"""Runs the steps of a data set: fetch, clean, learn subwords, encode, binarize."""

from __future__ import annotations

import os
import platform
import unicodedata
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

from . import SPLITS, archive, binarize, clean, sources, subwords, table, text
from .declaration import DataSet
from .workspace import Workspace

PACKAGES = ("fairseq-fixed", "fairseq", "sentencepiece", "sacrebleu", "mtdata")
GENERATORS = ("babel", "num2words")  # of the demo corpus

Files = Mapping[str, Sequence[Path]]


def prepare(
    data_set: DataSet,
    out: Path,
    raw: Optional[Files] = None,
    workers: Optional[int] = None,
    command: str = "",
) -> Dict[str, Any]:
    """Prepare a data set in the folder ``out``. Returns its manifest.

    For text, parallel or not, ``out/clean`` has it clean, ``out/subwords/model`` is the
    sentencepiece model and ``out/bin`` has the data for ``fairseq-train``. For tables,
    ``out/clean/SPLIT.tsv`` has the clean rows. ``out/manifest.json`` exists only when
    all steps are complete. Steps whose inputs have not changed are skipped.

    Args:
        data_set: the declaration.
        out: folder to fill.
        raw: split -> its files, see :func:`data_prep.sources.raw_files`. Without it
            the data set is downloaded, or written by its generator.
        workers: number of processes; default: one for each core.
        command: the command line, for the manifest.

    Raises:
        DataError: wrong input, a source that fails, a full disk, or another process
            in the folder. No incomplete step is left.
    """
    workers = workers or os.cpu_count() or 1
    with Workspace(out) as work:
        raw = raw or _fetch(data_set, work)
        prepare_kind = _tables if data_set.kind == "table" else _text
        last = prepare_kind(data_set, raw, work, workers)
        return work.write_manifest(
            {
                "data_set": data_set.name,
                "title": data_set.title,
                "kind": data_set.kind,
                "languages": data_set.languages,
                "columns": data_set.columns,
                "labels": data_set.labels,
                "licence": data_set.licence,
                "command": command,
                "versions": versions(),
                "counts": {s: work.records[last]["result"][s]["pairs"] for s in SPLITS},
                "dropped": _total(work, "dropped"),
                "repaired": _total(work, "repaired"),
            }
        )


def versions() -> Dict[str, str]:
    """Versions of Python and of the packages that affect the result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES + GENERATORS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _fetch(data_set: DataSet, work: Workspace) -> Files:
    """Download or generate the raw files. Returns them by split."""
    parameters: Dict[str, Any] = {
        "parts": [vars(part) for part in data_set.parts],
        "sides": data_set.sides,
        "hold_out": [data_set.hold_out, data_set.hold_out_every],
    }
    code = [sources, archive, text]
    if any(part.generator for part in data_set.parts):
        from . import cldr  # needs babel

        code.append(cldr)
        parameters["versions"] = {k: versions().get(k) for k in GENERATORS}
        parameters["seed"] = data_set.seed
    folder = work.step(
        "raw",
        {},
        parameters,
        lambda out: sources.fetch(data_set, work.folder / "downloads", out),
        code,
    )
    return sources.raw_files(folder, data_set.languages or data_set.sides)


def _text(data_set: DataSet, raw: Files, work: Workspace, workers: int) -> str:
    """Run the steps of text. Returns the step with the final counts.

    Lines of parallel text have a greatest length; a language model has blocks of any
    number of lines.
    """
    languages = data_set.languages
    names = [f"{split}.{language}" for split in SPLITS for language in languages]
    pairs = data_set.kind == "parallel"
    limits = (data_set.max_characters if pairs else 0, data_set.max_ratio)
    longest = subwords.LONGEST if pairs else 0
    cleaned = work.step(
        "clean",
        _inputs(raw, languages),
        {
            "limits": limits,
            "lines": data_set.lines,
            "unicode": unicodedata.unidata_version,
        },
        lambda out: clean.clean_pairs(
            raw, languages, out, *limits, workers, data_set.lines
        ),
        [clean, text],
    )
    size = (data_set.subwords, data_set.subword_sentences)
    train = [cleaned / name for name in names[: len(languages)]]
    learned = work.step(
        "subwords",
        {path.name: path for path in train},
        {"size": size, "sentencepiece": version("sentencepiece")},
        lambda out: text.in_own_process(subwords.train_subwords, train, out, *size),
        [subwords],
    )
    model, dictionary = learned / "model", learned / "dict.txt"
    encoded = work.step(
        "encoded",
        {"model": model, **{name: cleaned / name for name in names}},
        {"sentencepiece": version("sentencepiece")},
        lambda out: subwords.encode(
            cleaned, languages, model, out, workers, longest, raw
        ),
        [subwords, text],
    )
    work.step(
        "bin",
        {"dict.txt": dictionary, **{name: encoded / name for name in names}},
        {"languages": languages, "fairseq": _fairseq()},
        lambda out: binarize.binarize(encoded, languages, dictionary, out, workers),
        [binarize],
    )
    return "encoded"


def _tables(data_set: DataSet, raw: Files, work: Workspace, workers: int) -> str:
    """Run the step of tables. Returns its name, as it has the final counts."""
    rules = (
        data_set.columns, data_set.labels, data_set.drop_labels, data_set.lines,
    )  # fmt: skip
    work.step(
        "clean",
        _inputs(raw, ("tsv",)),
        {"rules": rules, "unicode": unicodedata.unidata_version},
        lambda out: table.clean_tables(raw, data_set, out, workers),
        [table, clean, text],
    )
    return "clean"


def _inputs(raw: Files, sides: Sequence[str]) -> Dict[str, Path]:
    return {
        f"{split}.{side}": path
        for split, paths in raw.items()
        for side, path in zip(sides, paths)
    }


def _fairseq() -> Optional[str]:
    found = versions()
    return found.get("fairseq-fixed", found.get("fairseq"))


def _total(work: Workspace, kind: str) -> Dict[str, int]:
    """Number of lines that all steps dropped or repaired, by reason."""
    total: Counter = Counter()
    for record in work.records.values():
        for counts in record["result"].values():
            if isinstance(counts, dict):
                total.update(counts.get(kind, {}))
    return dict(total)
