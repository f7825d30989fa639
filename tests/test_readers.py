"""Readers of any bytes: what was written, or one line that names the file."""

import gzip
import io
import lzma
import tarfile
import zipfile
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.archive import open_archive
from data_prep.clean import clean_pairs
from data_prep.declaration import DataSet
from data_prep.table import clean_tables
from data_prep.text import read_lines
from fairseq_phm.tasks.tsv import Columns, numbered_lines, read_examples, word_tokenizer
from fairseq_phm.tasks.vectors import read_vectors

PACKED = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
SPACE = word_tokenizer("space", lowercase=False)
TABLE = DataSet("x", "x", "table", columns=("a", "b", "label"), labels=("yes", "no"))
LIMITS = dict(max_characters=20, max_ratio=2.0, workers=1)

lines = st.text(
    st.one_of(
        st.sampled_from("ab \t\r\x0b\x0c\x1c\x85\u2028\ufeff\u0301"), st.characters()
    ).filter(lambda char: char not in "\n\0" and not "\ud800" <= char <= "\udfff"),
    max_size=12,
).map(lambda line: line.rstrip("\r"))
texts = st.lists(lines, min_size=1, max_size=6)
endings = st.sampled_from(list(PACKED))
# Nearly what is expected, so that the fuzz comes further than the first line.
noise = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"a", b"b c", b"\t", b"\n", b"\r\n", b"\r", b"yes", b"no", b" ", b"\0",
             b"\xff", b"\xc3", "é\u2028".encode(), b"\xef\xbb\xbf", b"1", b"2.5",
             b"nan", b"1e999", "\u0661\u00b2".encode(), b"1_0"]
        ),
        max_size=14,
    ).map(b"".join),
)  # fmt: skip


def read_tsv(path):
    return read_examples(path, Columns((1, 2), 3), SPACE, ["yes", "no"])


def clean(path, split="train"):
    out = path.parent / "out"
    out.mkdir(exist_ok=True)
    return clean_pairs({split: [path, path]}, ("xx", "yy"), out, **LIMITS)


def clean_table(path, split="test"):
    out = path.parent / "out"
    out.mkdir(exist_ok=True)
    return clean_tables({split: [path]}, TABLE, out, workers=1)


def read_archive(path):
    with open_archive(path) as member:
        return member("text").read()


READERS = {
    "lines": lambda path: list(numbered_lines(path)),
    "rows": read_tsv,
    "vectors": lambda path: read_vectors(path, {"a", "b", "b c"}),
    "corpus": read_lines,
    "pairs": clean,
    "table": clean_table,
    "archive": read_archive,
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readers")


def result_or_line(read, path):
    """What a reader returns, or None if it refuses the file as it should."""
    try:
        return read(path)
    except ValueError as error:
        assert type(error).__name__ == "DataError"
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        return None


@given(texts, endings, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_lines_are_read_as_they_were_written(folder, text, ending, end, mark, last):
    path = folder / f"text{ending}"
    written = "\ufeff" * mark + end.join(text) + end * last
    path.write_bytes(PACKED[ending](written.encode()))
    if not last and text[-1] == "":
        text = text[:-1]
    if text and not mark:
        text[0] = text[0][1:] if text[0].startswith("\ufeff") else text[0]
    if not text and not mark:
        assert result_or_line(read_lines, path) is None
        assert result_or_line(READERS["lines"], path) is None
        return
    text = text or [""]
    assert READERS["lines"](path) == list(enumerate(text, 1))
    assert read_lines(path) == [normalize("NFC", line) for line in text]


@given(st.lists(st.tuples(lines, lines, st.sampled_from(["yes", "no"]))), endings)
def test_rows_are_read_as_they_were_written(folder, rows, ending):
    rows = [[field.replace("\t", " ") for field in row] for row in rows]
    path = folder / f"rows{ending}"
    path.write_bytes(
        PACKED[ending]("".join("\t".join(r) + "\n" for r in rows).encode())
    )
    words = [[row[0].split(), row[1].split()] for row in rows]
    if words:
        words[0][0] = rows[0][0].removeprefix("\ufeff").split()
    found = result_or_line(read_tsv, path)
    if not rows or not all(all(pair) for pair in words):
        assert found is None
    else:
        assert [row.sentences for row in found] == words
        assert [row.label for row in found] == [row[2] for row in rows]


@given(texts, st.sampled_from(["train", "test"]))
def test_pairs_are_kept_or_counted(folder, text, split):
    path = folder / "pairs"
    path.write_bytes("".join(line + "\n" for line in text).encode())
    report = result_or_line(lambda path: clean(path, split), path)
    if report is None:
        return
    report = report[split]
    assert report["pairs"] + sum(report["dropped"].values()) == len(text)
    kept = (folder / "out" / f"{split}.xx").read_bytes()
    assert kept.count(b"\n") == report["pairs"] and kept.endswith(b"\n")
    if split == "test":
        text[0] = text[0].removeprefix("\ufeff")
        assert kept.decode().split("\n")[:-1] == [normalize("NFC", t) for t in text]


@readers
@given(noise, endings, st.booleans())
def test_any_bytes(folder, read, content, ending, packed):
    path = folder / f"any{ending}"
    path.write_bytes(PACKED[ending](content) if packed else content)
    result_or_line(read, path)


def archived(kind, content):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text", content)
    else:
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
            member = tarfile.TarInfo("text")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


ROWS = b"".join(b"%d %d\t%d\tyes\n" % (i, i * i % 97, i) for i in range(60))
DAMAGED = {
    "cut": lambda packed, place, _: packed[:place],
    "changed": lambda packed, place, byte: (
        packed[:place] + bytes([packed[place] ^ byte]) + packed[place + 1 :]
    ),
}


@readers
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("kind", ["gz", "xz", "zip"])
@settings(max_examples=settings().max_examples // 2)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@example(0.0, 1)
def test_damaged_archives(folder, read, damage, kind, place, byte):
    if read is read_archive:
        packed = archived(kind, ROWS)
    elif kind == "zip":
        return
    else:
        packed = PACKED[f".{kind}"](ROWS)
    path = folder / f"damaged.{kind}"
    path.write_bytes(packed)
    whole = result_or_line(read, path)
    path.write_bytes(damage(packed, int(place * len(packed)), byte))
    found = result_or_line(read, path)
    assert found is None or str(found) == str(whole)


def test_the_checksum_behind_the_members_of_a_tar_is_read(tmp_path):
    path = tmp_path / "text.tar.gz"
    packed = archived("gz", ROWS)
    path.write_bytes(packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:])
    assert result_or_line(read_archive, path) is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.floats(width=32)))))
def test_vectors_are_read_as_they_were_written(folder, rows):
    path = folder / "vectors"
    path.write_text("".join(f"{w} {' '.join(map(repr, v))}\n" for w, v in rows))
    found = result_or_line(lambda path: read_vectors(path, {"a", "b"}), path)
    fits = all(v and len(v) == len(rows[0][1]) for _, v in rows)
    taken = {}
    for word, vector in rows:
        if word in "ab":
            taken.setdefault(word, vector)
    fits = fits and np.isfinite([v for one in taken.values() for v in one]).all()
    if not rows or not fits:
        assert found is None
        return
    vectors, width = found
    assert width == len(rows[0][1]) and list(vectors) == list(taken)
    for word, vector in taken.items():
        np.testing.assert_array_equal(vectors[word], np.float32(vector))
