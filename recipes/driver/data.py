"""The data of an experiment: a declared data set or the user's own files, prepared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

from data_prep import SPLITS
from data_prep.declaration import DataSet, load
from data_prep.prepare import Files, prepare
from data_prep.sources import find_file, raw_files
from data_prep.workspace import sha256

from .settings import Source
from .stages import RunError, digest, read_json, step


class Data:
    """A data set with the options' changes, in a folder that is named after them.

    Args:
        source: what the options say of it.
        folder: of the experiment.
        kind: ``parallel``, ``text`` or ``table``.

    Raises:
        DataError, OSError: there is no such data set, or a file is missing.
    """

    def __init__(self, source: Source, folder: Path, kind: str) -> None:
        self.set, self.raw = _declared(source, kind)
        files = [file for files in (self.raw or {}).values() for file in files]
        key = digest([[sha256(file) for file in files], repr(self.set)])
        self.key = "-".join(["data", *self.set.languages, key])
        self.folder = folder / self.key
        self.clean = self.folder / "clean"
        self.subwords = self.folder / "subwords" / "model"

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
            what = {"parallel": "Sentence pairs", "text": "Lines"}
            print(f"{what.get(self.set.kind, 'Rows')}: {counted}", flush=True)
        elif not manifest.is_file():
            raise RunError(f"no {manifest}: run --stage prepare first")

    @property
    def summary(self) -> Dict[str, Any]:
        """Number of pairs, lines or rows by split, and a hash of what is trained on."""
        manifest = read_json(self.folder / "manifest.json")
        last = "clean" if self.set.kind == "table" else "encoded"
        hashes = manifest["steps"][last]["sha256"]
        return {**manifest["counts"], "hash": digest(sorted(hashes.items()))}


class GivenTables:
    """A folder with rows that are taken as they are.

    Args:
        folder: with ``train.tsv``, ``valid.tsv`` or ``dev.tsv``, and ``test.tsv``.
        data_set: whose columns they have; "": none that is declared.
    """

    def __init__(self, folder: Path, data_set: str) -> None:
        self.set = load(data_set) if data_set else None
        self.clean = folder.absolute()

    @property
    def files(self) -> Dict[str, Path]:
        """Of each split."""
        from fairseq_phm.tasks.classification import split_file  # slow: fairseq

        return {split: split_file(self.clean, split) for split in SPLITS}

    @property
    def key(self) -> List[str]:
        """What changes when the files do: their hashes."""
        return [sha256(file) for file in self.files.values()]

    @property
    def summary(self) -> Dict[str, Any]:
        """Number of rows by split, and a hash."""
        from fairseq_phm.tasks.tsv import numbered_lines

        counts = {k: sum(1 for _ in numbered_lines(f)) for k, f in self.files.items()}
        return {**counts, "hash": digest(self.key)}

    def prepare(self, wanted: bool) -> None:
        """Do nothing."""


AnyData = Union[Data, GivenTables]


def _declared(source: Source, kind: str) -> Tuple[DataSet, Optional[Files]]:
    """The data set, and its files on disk if it has any."""
    pair = source.languages
    if source.data_set and not source.prefixes:
        data_set = load(source.data_set)
    else:
        data_set = DataSet("-".join(pair), "own files", kind)
    own_files = bool(source.prefixes or source.raw)
    data_set = replace(
        data_set.between(pair, own_files),
        subwords=source.subwords or data_set.subwords,
        lines=data_set.lines if source.lines is None else source.lines,
    )
    raw: Optional[Files] = None
    if source.prefixes:
        raw = {
            split: [find_file([Path(f"{prefix}.{language}")]) for language in pair]
            for split, prefix in source.prefixes.items()
        }
    elif source.raw:
        raw = raw_files(source.raw, data_set.sides)
    return data_set, raw and {
        split: [file.absolute() for file in files] for split, files in raw.items()
    }
