"""The data of an experiment: a declared data set or the user's own files, prepared."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from data_prep import SPLITS
from data_prep.declaration import DataSet, load
from data_prep.get import raw_files
from data_prep.prepare import Files, prepare

from .fairseq_process import RunError, digest, read_json, stamps, step


class Data:
    """A data set with the options' changes, in a folder that is named after them.

    Args:
        options: of a recipe.
        kind: ``parallel`` or ``table``.

    Raises:
        DataError, RunError: there is no such data set, or it is of another kind, or a
            file is missing.
    """

    def __init__(self, options: argparse.Namespace, kind: str) -> None:
        self.set, self.raw = _declared(options, kind)
        if self.set.kind != kind:
            raise RunError(f"{self.set.name}: a {self.set.kind} set, not a {kind} one")
        files = [file for files in (self.raw or {}).values() for file in files]
        settings = [self.set.languages, self.set.subwords, self.set.lines]
        key = digest([stamps(files) or repr(self.set), *settings])
        name = "-".join(["data", *self.set.languages, key])
        self.folder = options.out / options.name / name

    def prepare(self, wanted: bool) -> None:
        """Fill the folder, or see that it is filled.

        Raises:
            RunError: neither.
        """
        manifest = self.folder / "manifest.json"
        if wanted:
            step(f"{'Using' if manifest.is_file() else 'Preparing'} {self.folder}")
            found = prepare(self.set, self.folder, self.raw)
            counts = {"dropped": sum(found["dropped"].values()), **found["counts"]}
            counted = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            what = "Sentence pairs" if self.set.kind == "parallel" else "Rows"
            print(f"{what}: {counted}", flush=True)
        elif not manifest.is_file():
            raise RunError(f"no {manifest}: run --stage prepare first")

    @property
    def summary(self) -> Dict[str, Any]:
        """Number of pairs or rows by split, and a hash of what is trained on."""
        manifest = read_json(self.folder / "manifest.json")
        last = "encoded" if self.set.kind == "parallel" else "clean"
        hashes = manifest["steps"][last]["sha256"]
        return {**manifest["counts"], "hash": digest(sorted(hashes.items()))}


def _declared(
    options: argparse.Namespace, kind: str
) -> Tuple[DataSet, Optional[Files]]:
    """The data set, and its files on disk if it has any."""
    pair = (options.src, options.tgt) if options.src else ()
    if options.data_set and not options.train:
        data_set = load(options.data_set)
    else:
        data_set = DataSet("-".join(pair), "own files", kind)
    data_set = replace(
        data_set,
        languages=pair or data_set.languages,
        subwords=options.vocab_size or data_set.subwords,
        lines=options.lines,
    )
    raw: Optional[Files] = None
    if options.train:
        raw = {
            split: [Path(f"{getattr(options, split)}.{language}") for language in pair]
            for split in SPLITS
        }
    elif options.raw:
        raw = raw_files(options.raw, data_set.languages or ("tsv",))
    return data_set, raw and {
        split: [file.absolute() for file in files] for split, files in raw.items()
    }
