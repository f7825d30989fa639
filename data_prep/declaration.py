"""Reads the declarations of data sets, the TOML files in ``data_prep/datasets/``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple, Type, TypeVar

from . import SPLITS, DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "datasets"
KINDS = ("parallel", "text", "table")
FORMATS = ("lines", "wit3", "table", "agreement")
NOT_NEGATIVE = ("subwords", "subword_sentences", "max_characters", "max_ratio", "lines")

Declared = TypeVar("Declared")


@dataclass(frozen=True)
class Part:
    """A source of lines of a split.

    Exactly one of the five fields after ``split`` is set. The parts of a split are
    concatenated in the order of the file.
    """

    split: str
    mtdata: str = ""  # id in mtdata; its columns are ``languages``
    sacrebleu: str = ""  # name of a test set in sacrebleu
    urls: Tuple[str, ...] = ()  # one file for each side
    archive: str = ""  # URL of a .zip, .tar.gz, .tgz, ...
    generator: str = ""  # "cldr": generated, see data_prep/cldr.py
    sha256: Tuple[str, ...] = ()  # of each URL; empty if none is published
    members: Tuple[Tuple[str, ...], ...] = ()  # names in the archive, one for each side
    format: str = "lines"  # see ``FORMATS`` and data_prep/sources.py
    fields: Tuple[str, ...] = ()  # of a table with a header: its columns


@dataclass(frozen=True)
class Paper:
    """The published experiment on a data set: its settings, for recipes, and figures.

    What is left out is as everywhere: in ``recipes/driver/settings.py``.
    """

    name: str = ""  # of the experiment
    models: Tuple[str, ...] = ()  # as ``--models`` of the recipes spells them
    seeds: Tuple[int, ...] = ()
    updates: int = 0  # of translation
    layers: int = 0  # of the encoder and of the decoder, each
    epochs: int = 0  # of classification
    arch: str = ""  # of classification, at any size
    flags: str = ""  # of fairseq-train, for classification, at any size
    groups: str = ""  # column by whose values accuracies are given, too
    published: Dict[str, Tuple[str, float]] = field(default_factory=dict)
    # model -> parameters, "" where unknown, and BLEU or accuracy
    speed: Dict[str, Tuple[float, float]] = field(default_factory=dict)
    # model -> seconds of 100 updates, and to translate the test set


@dataclass(frozen=True)
class DataSet:
    """A declared data set.

    ``note`` says what is known, and what is not, about sources, checksums and the
    difference from the data of the paper.
    """

    name: str
    title: str
    kind: str  # see ``KINDS``
    licence: str = "unknown"
    note: str = ""
    parts: Tuple[Part, ...] = ()  # none: only files on disk
    hold_out: Tuple[str, ...] = ()  # splits that are made of training lines
    hold_out_every: int = 0  # N: the first gets lines N, 2N, ..., the second N+1, ...

    # parallel text
    languages: Tuple[str, ...] = ()  # source, target
    subwords: int = 32000  # size of the shared vocabulary, at most
    subword_sentences: int = 200_000  # sentences, of both sides, to learn them from
    max_characters: int = 1000  # of a side of a training pair
    max_ratio: float = 9.0  # of the lengths of both sides, in characters

    # tables of texts with a label
    columns: Tuple[str, ...] = ()  # texts, then "label", then anything else
    labels: Tuple[str, ...] = ()
    drop_labels: Tuple[str, ...] = ()  # rows with these are dropped, and counted

    seed: int = 1  # of the generator
    lines: int = 0  # to read of the training set, a tenth of it of the others; 0: all

    declared: Tuple[str, ...] = field(default=(), repr=False)
    # languages as the sources have them, where ``languages`` are in the other order

    # no data: names of folders, which come from ``repr``, are without it
    paper: Paper = field(default_factory=Paper, repr=False, compare=False)

    @property
    def sides(self) -> Tuple[str, ...]:
        """Names of the files of a split, in the order of the columns of its sources."""
        return self.declared or self.languages or ("tsv",)

    def between(self, languages: Tuple[str, ...], own_files: bool = False) -> DataSet:
        """Take other languages, or the same in the other order.

        Args:
            languages: source, target; empty: as declared.
            own_files: read from files on disk, whose names have any languages.

        Raises:
            DataError: the sources have other languages, or none.

        >>> load("iwslt14-de-en").between(("en", "de")).sides
        ('de', 'en')
        """
        if not languages or languages == self.languages:
            return self
        if self.kind == "table":
            raise DataError(f"{self.name} is a table, which has no languages")
        if self.kind == "text" and len(languages) > 1:
            raise DataError(f"{self.name} is a text of one language")
        given = own_files or any(part.generator for part in self.parts)
        if not given and sorted(languages) != sorted(self.languages):
            pairs = [" and ".join(pair) for pair in (self.languages, languages)]
            raise DataError(f"{self.name} has {pairs[0]}, not {pairs[1]}")
        return replace(
            self, languages=languages, declared=() if given else self.languages
        )


def names() -> List[str]:
    """Names of the declared data sets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> DataSet:
    """Read a declared data set by its name, or any TOML file by its path.

    Raises:
        DataError: there is no such file, or it has unknown, wrong or missing values.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        known = ", ".join(names())
        raise DataError(f"no data set {name!r}; declared are {known}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    parts = declared.pop("parts", [])
    if isinstance(parts, list):
        parts = tuple(_made(Part, part, path) for part in parts)
    declared["paper"] = _made(Paper, declared.pop("paper", {}), path)
    data_set = _made(DataSet, {**declared, "name": path.stem, "parts": parts}, path)
    _check(data_set, path)
    return data_set


def _made(kind: Type[Declared], values: Mapping[str, Any], path: Path) -> Declared:
    if not isinstance(values, dict):
        raise DataError(f"{path}: {values!r} is not a table of {kind.__name__}")
    known = {field.name: field for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise DataError(f"{path}: unknown key {key!r} (known: {', '.join(known)})")
        if not _has_type(value, known[key].type):
            raise DataError(
                f"{path}: {key} = {value!r} is not of type {known[key].type}"
            )
    try:
        return kind(**{key: _frozen(value) for key, value in values.items()})
    except TypeError as error:
        raise DataError(f"{path}: {str(error).partition(' ')[2]}") from None


def _has_type(value: Any, wanted: str) -> bool:
    """Whether a value of TOML has the type of a field, as its annotation spells it."""
    outer, _, inner = wanted.partition("[")
    found = type(value).__name__
    if found in ("list", "tuple"):
        one = inner.partition(",")[0]  # but for those of tables in tables
        return outer == "Tuple" and (
            "[" in one or all(_has_type(x, one) for x in value)
        )
    return found == outer or (found, outer) in (("int", "float"), ("dict", "Dict"))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _check(data_set: DataSet, path: Path) -> None:
    """Refuse declarations that would fail later or give wrong data."""
    broken = [*_broken_rules(data_set)]
    for part in data_set.parts:
        broken += _broken_rules_of_a_part(part, data_set)
    if broken:
        raise DataError(f"{path}: {broken[0]}")


def _broken_rules(data_set: DataSet) -> Iterator[str]:
    kind, languages, columns = data_set.kind, data_set.languages, data_set.columns
    held_out, paper = data_set.hold_out, data_set.paper
    if kind not in KINDS:
        yield f"kind must be one of {', '.join(KINDS)}"
    if kind == "parallel" and len(set(languages)) != 2:
        yield "a parallel text needs two languages"
    if kind == "text" and len(languages) != 1:
        yield "a text needs one language, the ending of its files"
    if kind == "table" and "label" not in columns:
        yield "the columns of a table need a label"
    if not set(held_out) <= {"valid", "test"}:
        yield "hold_out must be of valid and test"
    if held_out and data_set.hold_out_every <= len(held_out):
        several = f"{len(held_out)}, the number of splits that are held out"
        yield f"hold_out_every must be above {several}"
    for model, figures in paper.published.items():
        types = [type(one).__name__ for one in _pair(figures)]
        if types not in (["str", "float"], ["str", "int"]):
            yield f"published {model!r} must be a size and a score, as ['44M', 28.43]"
    for model, figures in paper.speed.items():
        if [isinstance(one, (int, float)) for one in _pair(figures)] != [True, True]:
            seconds = "seconds of training and of translation, as [7.61, 336]"
            yield f"speed {model!r} must be {seconds}"
    for name in NOT_NEGATIVE:
        if getattr(data_set, name) < 0:
            yield f"{name} must be at least 0"
    if paper.groups and paper.groups not in columns:
        yield f"groups {paper.groups!r} must be one of the columns"


def _broken_rules_of_a_part(part: Part, data_set: DataSet) -> Iterator[str]:
    sources = (part.mtdata, part.sacrebleu, part.urls, part.archive, part.generator)
    sides = len(data_set.sides)
    rows = [part.urls] if part.urls else part.members
    if part.split not in SPLITS:
        yield f"split {part.split!r} must be one of {', '.join(SPLITS)}"
    if part.format not in FORMATS:
        yield f"format {part.format!r} must be one of {', '.join(FORMATS)}"
    if sum(map(bool, sources)) != 1:
        yield "a part needs exactly one source"
    if bool(part.archive) != bool(part.members):
        yield "an archive needs members, and members an archive"
    if part.format in ("table", "agreement") and data_set.kind != "table":
        yield f"format {part.format!r} is for tables"
    if any(isinstance(row, str) or len(row) != sides for row in rows):
        where = "one for each side, in urls and in each row of members"
        yield f"a part needs {sides} files, {where}"
    if len(part.sha256) not in (0, len(part.urls or (part.archive,))):
        yield "a part needs as many sha256 as URLs, or none"


def _pair(figures: Any) -> Tuple[Any, ...]:
    return figures if isinstance(figures, tuple) else ()
