"""Reading TSV files and word vectors: what is taken, and each refusal's one line."""

import gzip
import lzma
import tracemalloc

import numpy as np
import pytest

from data_prep import DataError as CorpusError
from data_prep import clean
from data_prep.text import lines_of
from fairseq_phm import DataError
from fairseq_phm.tasks.tsv import Columns, is_empty, read_examples, word_tokenizer
from fairseq_phm.tasks.vectors import read_vectors

SPACE = word_tokenizer("space", lowercase=True)


@pytest.mark.parametrize(
    "ending, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_reads_plain_and_compressed(tmp_path, ending, pack):
    path = tmp_path / f"a.tsv{ending}"
    text = "\ufeffA cat\tAn animal\tyes\tmore\r\n\ufeffIt 's\tred\tno\n"
    path.write_bytes(pack(text.encode()))
    first, second = read_examples(path, Columns((1, 2), 3), SPACE, ["yes", "no"])
    assert first.sentences == [["a", "cat"], ["an", "animal"]] and first.label == "yes"
    assert second.sentences == [["\ufeffit", "'s"], ["red"]] and second.label == "no"


def test_header_and_order_of_columns(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("label\tid\ttext\n yes \t1\ta b\n")
    (row,) = read_examples(path, Columns((3,), 1), SPACE, header=True)
    assert row.sentences == [["a", "b"]] and row.label == "yes"


def test_rows_without_labels(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\nc\td\n")
    rows = read_examples(path, Columns((1, 2), 3), SPACE, needs_label=False)
    assert [row.label for row in rows] == [None, None]


BAD_TSV = {
    "a\tb\tyes\na\tb\n": ":2: the label is column 3, but the line has 2",
    "a\tb\tyes\na\n": ":2: the text is column 2, but the line has 1",
    "a\tb\tyes\n\n": ":2: the text is column 2, but the line has 1",
    "a\tb\tyes\na\tb\tmaybe\n": ":2: unknown label 'maybe', expected yes or no",
    "a\tb\tyes\na\tb\t \n": ":2: the label in column 3 is empty",
    "a\t \tyes\n": ":1: the sentence in column 2 is empty",
    "\tb\tyes\n": ":1: the sentence in column 1 is empty",
    "a\tb\tyes\n\u200b\tb\tyes\n": ":2: the sentence in column 1 is empty",
    "a\tb\0\tyes\n": ":1: the line has a NUL byte",
    b"a\tb\tyes\na\t\xff\tyes\n": ":2: the line is not UTF-8",
    "": ": the file is empty",
}


@pytest.mark.parametrize("text", BAD_TSV, ids=repr)
def test_bad_rows(tmp_path, text):
    path = tmp_path / "a.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read_examples(path, Columns((1, 2), 3), SPACE, ["yes", "no"])
    assert str(caught.value) == f"{path}{BAD_TSV[text]}"


@pytest.mark.parametrize("needs_label", [True, False])
def test_labels_in_some_rows_only(tmp_path, needs_label):
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\tyes\na\tb\n")
    with pytest.raises(DataError, match=":2: the label is column 3"):
        read_examples(path, Columns((1, 2), 3), SPACE, needs_label=needs_label)
    path.write_text("a\tb\nc\td\nc\td\tyes\n")
    message = ":1: the label is column 3" if needs_label else ":3: the line has a label"
    with pytest.raises(DataError, match=message):
        read_examples(path, Columns((1, 2), 3), SPACE, needs_label=needs_label)


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.tsv.xz", "missing.tsv"])
def test_unreadable_files(tmp_path, name):
    if name != "missing.tsv":
        (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(DataError, match=f"{name}: (.* damaged|No such file)"):
        read_examples(tmp_path / name, Columns((1,), 2), SPACE)


PACKED = {".gz": gzip.compress, ".xz": lzma.compress}
READERS = {
    "rows": lambda path: read_examples(path, Columns((1,), 2), SPACE),
    "vectors": lambda path: read_vectors(path, {"a"}),
    "corpus": lambda path: list(lines_of(path)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("fault", ["bytes", "end"])
def test_damaged_archives_are_one_line(tmp_path, read, ending, fault):
    path = tmp_path / f"a.tsv{ending}"
    packed = bytearray(PACKED[ending](b"a\t 1\n" * 5000))
    middle = len(packed) // 2
    if fault == "bytes":
        packed[10:14] = b"\xff" * 4  # zlib.error: no such kind of block
    else:
        del packed[middle:]
    path.write_bytes(packed)
    with pytest.raises((DataError, CorpusError)) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "damaged" in line and "\n" not in line


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_line_without_end_is_refused_while_it_is_read(tmp_path, read):
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"a\t 1\n")
        for _ in range(100):
            file.write(b"a " * 2**19)
    tracemalloc.start()
    try:
        with pytest.raises((DataError, CorpusError)) as caught:
            read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value) == f"{path}:2: the line is longer than 16 MiB"
    assert peak < 2.5 * 2**24


def test_empty_means_the_same_everywhere():
    odd = [char for char in map(chr, range(0x11000)) if is_empty(char)]
    assert "\u200b" in odd and "\u00a0" in odd and "." not in odd
    assert odd == [char for char in map(chr, range(0x11000)) if clean.is_empty(char)]


@pytest.mark.parametrize("text, label", [("x", 2), ("1,2,3", 4), ("0", 2), ("1,3", 3)])
def test_bad_columns(text, label):
    with pytest.raises(DataError, match=f"--text-columns {text}"):
        Columns.parse(text, label)


def test_treebank_tokenizer():
    pytest.importorskip("nltk")
    words = word_tokenizer("treebank", lowercase=True)('He didn\'t say "Go", OK.')
    assert words == "he did n't say `` go '' , ok .".split()


def test_vectors(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("3 2\na 1 2\nb 3 4\n. . . 5 6\na 7 8\nc x y\n")
    vectors, width = read_vectors(path, {"a", "b", "z", ". . ."})
    assert width == 2 and list(vectors) == ["a", "b", ". . ."]
    np.testing.assert_array_equal(vectors["a"], [1, 2])
    assert vectors["a"].dtype == np.float32


BAD_VECTORS = {
    "a 1 2\nb 1\n": ":2: the vector of 'b' has 1 numbers, the file's first one 2",
    "a 1 2\nb 1 2 3\n": ":2: the vector of 'b' has 3 numbers, the file's first one 2",
    "a 1 2\nz 1 2 3\n": ":2: the vector of 'z' has 3 numbers, the file's first one 2",
    "a\n": ":1: the vector of 'a' has 0 numbers, the file's first one 0",
    "a 1 2\nb 1 x\n": ":2: the vector of 'b' holds something that is no finite number",
    "a 1 nan\n": ":1: the vector of 'a' holds something that is no finite number",
}


@pytest.mark.parametrize("text", BAD_VECTORS, ids=repr)
def test_bad_vectors(tmp_path, text):
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_vectors(path, {"a", "b"})
    assert str(caught.value) == f"{path}{BAD_VECTORS[text]}"
