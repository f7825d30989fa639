"""Reading labelled sentences from tab-separated files."""

import gzip
import io
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Tuple, Union

from ..errors import DataError

TOKENIZERS = ("space", "treebank")
OPENERS = {".gz": gzip.open, ".xz": lzma.open}
LONGEST_LINE = 2**24
"""Bytes that a line may have; a longer one is not read to its end."""


@dataclass
class Example:
    """One row: the words of its one or two sentences, and its label if it has one."""

    sentences: List[List[str]]
    label: Optional[str]


@dataclass(frozen=True)
class Columns:
    """Where a row has its sentences and its label, counted from 1."""

    text: Tuple[int, ...]
    label: int

    @classmethod
    def parse(cls, text: str, label: int) -> "Columns":
        """Parse the flags ``--text-columns`` (as "1,2") and ``--label-column``.

        Raises:
            DataError: no number, none or more than two texts, a column twice.
        """
        try:
            numbers = tuple(int(part) for part in str(text).split(","))
        except ValueError:
            raise DataError(
                f"--text-columns {text}: give one or two numbers, as 1 or 1,2"
            ) from None
        if len(numbers) > 2 or min(*numbers, label) < 1:
            raise DataError(
                f"--text-columns {text} --label-column {label}: "
                "one or two texts and a label, counted from 1"
            )
        if len({*numbers, label}) <= len(numbers):
            raise DataError(
                f"--text-columns {text} --label-column {label}: a column occurs twice"
            )
        return cls(numbers, label)


def numbered_lines(path: Union[str, Path]) -> Iterator[Tuple[int, str]]:
    """Line numbers from 1 and lines of a UTF-8 file, plain, .gz or .xz, without ends.

    Raises:
        DataError: no such file, an empty one, a damaged archive, bytes that are not
            UTF-8, a NUL byte, a line of more than LONGEST_LINE bytes.
    """
    number = 0
    try:
        with OPENERS.get(Path(path).suffix, io.open)(path, "rb") as file:
            lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
            for number, raw in enumerate(lines, start=1):  # noqa: B007
                if len(raw) > LONGEST_LINE:
                    raise DataError(
                        f"{path}:{number}: the line is longer than "
                        f"{LONGEST_LINE / 2**20:g} MiB"
                    )
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in line:
                    raise DataError(f"{path}:{number}: the line has a NUL byte")
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number}: the line is not UTF-8") from None
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path}: the compressed file is damaged") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not number:
        raise DataError(f"{path}: the file is empty")


def read_examples(
    path: Union[str, Path],
    columns: Columns,
    tokenize: Callable[[str], List[str]],
    labels: Optional[Sequence[str]] = None,
    header: bool = False,
    needs_label: bool = True,
) -> List[Example]:
    """Read the rows of a TSV file; columns beyond the named ones are ignored.

    Args:
        path: the file; fields are separated by tabs, quotes mean nothing.
        columns: of text and label.
        tokenize: words of a sentence.
        labels: the labels that may occur; None takes all.
        header: the first line holds the columns' names.
        needs_label: False takes rows without a label, all or none of the file's.

    Raises:
        DataError: naming file and line: a row with too few columns, an empty sentence
            or label, a label that is none of ``labels``; or as
            :func:`numbered_lines`; or no row.
    """
    examples: List[Example] = []
    for number, line in numbered_lines(path):
        if header and number == 1:
            continue
        where = f"{path}:{number}"
        fields = line.split("\t")
        missing = [column for column in columns.text if column > len(fields)]
        if examples and not needs_label:
            needs_label = examples[0].label is not None
        if needs_label and columns.label > len(fields):
            missing.append(columns.label)
        if missing:
            name = "label" if missing == [columns.label] else "text"
            raise DataError(
                f"{where}: the {name} is column {missing[0]}, "
                f"but the line has {len(fields)}"
            )
        for column in columns.text:
            if is_empty(fields[column - 1]):
                raise DataError(f"{where}: the sentence in column {column} is empty")
        sentences = [tokenize(fields[column - 1]) for column in columns.text]
        label = None
        if columns.label <= len(fields):
            if examples and not needs_label:
                raise DataError(
                    f"{where}: the line has a label, in column {columns.label}, and "
                    "those before it have none"
                )
            label = fields[columns.label - 1].strip()
            if is_empty(label):
                raise DataError(
                    f"{where}: the label in column {columns.label} is empty"
                )
            if labels is not None and label not in labels:
                raise DataError(
                    f"{where}: unknown label {label!r}, expected {' or '.join(labels)}"
                )
        examples.append(Example(sentences, label))
    if not examples:
        raise DataError(f"{path}: the file has a header and no rows")
    return examples


def is_empty(text: str) -> bool:
    """Return True for a text of spaces and invisible characters, as data_prep does.

    >>> is_empty(" \\u200b"), is_empty("a")
    (True, False)
    """
    return not any(char.isprintable() and not char.isspace() for char in text)


def word_tokenizer(name: str, lowercase: bool) -> Callable[[str], List[str]]:
    """Function from a sentence to its words.

    Args:
        name: "space": words are separated by white space already; "treebank": NLTK's
            Penn Treebank tokeniser (do n't, `` and '' for quotes), as GloVe's texts.
        lowercase: give words in lower case.

    Raises:
        DataError: NLTK is not installed.

    >>> word_tokenizer("space", lowercase=True)("The cats sleep .")
    ['the', 'cats', 'sleep', '.']
    """
    split: Callable[[str], List[str]] = str.split
    if name == "treebank":
        try:
            from nltk.tokenize import TreebankWordTokenizer
        except ImportError:
            raise DataError(
                "--word-tokenizer treebank needs: pip install nltk"
            ) from None
        split = TreebankWordTokenizer().tokenize
    if not lowercase:
        return split
    return lambda sentence: split(sentence.lower())
