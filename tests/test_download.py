"""Downloads from a local server: resuming, checksums, archives, conversions."""

import gzip
import hashlib
import io
import random
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep import DataError
from data_prep.archive import open_archive
from data_prep.declaration import Part
from data_prep.sources import _parallel

pytestmark = pytest.mark.one_version

pytest.importorskip("requests", reason="pip install '.[recipes]'")
from data_prep.download import download  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CONTENT = bytes(range(256)) * 4000
BLOCK = 1 << 16  # bytes that are written at a time


class Server(ThreadingHTTPServer):
    """Serves ``files``; hangs up after so many bytes of an answer as ``limits`` has."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.limits, self.tag, self.ranges = {}, [], '"1"', []
        self.headers = {}
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        asked, first = self.headers.get("Range"), 0
        self.server.ranges.append(asked)
        if asked and self.headers.get("If-Range") == self.server.tag:
            first = int(asked[6:-1])
            if first >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if first else 200)
        self.send_header("ETag", self.server.tag)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        limit = self.server.limits.pop(0) if self.server.limits else None
        self.wfile.write(content[first:][:limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def test_download_checks_and_is_not_repeated(server, tmp_path):
    server.files["a.txt"] = CONTENT
    path = tmp_path / "deep" / "a.txt"
    for _ in range(2):
        assert download(server.url + "a.txt", path, digest(CONTENT)) == digest(CONTENT)
    assert path.read_bytes() == CONTENT and server.ranges == [None]
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_a_broken_connection_is_resumed(server, tmp_path):
    server.files["a.txt"], server.limits = CONTENT, [BLOCK, 2 * BLOCK, 3 * BLOCK]
    download(server.url + "a.txt", tmp_path / "a.txt", digest(CONTENT))
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={n * BLOCK}-" for n in (1, 3, 6))]


def interrupt(server, path):
    server.files["a.txt"], server.limits = CONTENT, [BLOCK, 0]
    with pytest.raises(DataError, match="65,536 bytes so far, rerun to resume"):
        download(server.url + "a.txt", path)
    assert not path.exists()


@pytest.mark.parametrize("limits", [[], [300, 500]])
def test_an_archive_is_not_unpacked_on_the_way(server, tmp_path, limits):
    content = gzip.compress(random.Random(1).randbytes(5000))
    server.files["a.tgz"], server.limits = content, limits
    server.headers["Content-Encoding"] = "x-gzip"
    digests = digest(content), digest(content).upper()
    assert download(server.url + "a.tgz", tmp_path / "a.tgz", digests[1]) == digests[0]
    assert (tmp_path / "a.tgz").read_bytes() == content


def test_an_interrupted_download_goes_on_later(server, tmp_path):
    interrupt(server, tmp_path / "a.txt")
    download(server.url + "a.txt", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={BLOCK}-", f"bytes={BLOCK}-"]


def test_another_version_is_downloaded_from_the_start(server, tmp_path):
    interrupt(server, tmp_path / "a.txt")
    server.files["a.txt"], server.tag = CONTENT[::-1], '"2"'
    download(server.url + "a.txt", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_without_a_strong_tag_it_starts_again(server, tmp_path, tag):
    server.tag = tag
    interrupt(server, tmp_path / "a.txt")
    download(server.url + "a.txt", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert set(server.ranges) == {None}


def test_what_came_whole_before_it_was_named_comes_again(server, tmp_path):
    server.files["a.txt"] = CONTENT
    (tmp_path / "a.txt.part").write_bytes(CONTENT)
    (tmp_path / "a.txt.part.version").write_text(server.tag)
    download(server.url + "a.txt", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-", None]


def test_a_full_disk_is_one_line(server, tmp_path):
    server.files["a.txt"] = CONTENT
    (tmp_path / "a.txt.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="a.txt.part: No space left on device"):
        download(server.url + "a.txt", tmp_path / "a.txt")


def test_failures_are_one_line(server, tmp_path):
    server.files["a.txt"] = CONTENT
    url, path = server.url + "a.txt", tmp_path / "a.txt"
    wrong = f"1,024,000 bytes have the SHA-256 {digest(CONTENT)}, expected: {'0' * 64}"
    for address, message in (
        (url, wrong),
        (server.url + "b.txt", "404 Not Found"),
        ("http://127.0.0.1:9/a.txt", "Connection refused"),
        ("file:///etc/hostname", "InvalidSchema"),
    ):
        with pytest.raises(DataError) as caught:
            download(address, path, "0" * 64)
        error = str(caught.value)
        assert (
            error.startswith(f"{address}: ") and message in error and "\n" not in error
        )
        assert not path.exists()
    assert not list(tmp_path.iterdir())


def tar(path, name, content=b"x\n", **attributes):
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for key, value in attributes.items():
            setattr(member, key, value)
        file.addfile(member, io.BytesIO(content))


def zipped(path, name, kind=0o100644):
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = kind << 16
        file.writestr(entry, "/etc/passwd")


def encrypted(path, name):
    zipped(path, name)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of the member, and that of the directory's entry
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda p: tar(p, "../out"), "the member '../out' is outside the folder"),
        (lambda p: tar(p, "/tmp/out"), "the member '/tmp/out' is outside the folder"),
        (lambda p: tar(p, "a/../../out"), "'a/../../out' is outside the folder"),
        (
            lambda p: tar(p, "a", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            "the member 'a' is a link or a device",
        ),
        (
            lambda p: tar(p, "a", b"", type=tarfile.LNKTYPE, linkname="b"),
            "the member 'a' is a link or a device",
        ),
        (lambda p: tar(p, "a", b"", type=tarfile.CHRTYPE), "is a link or a device"),
        (lambda p: zipped(p, "../out"), "the member '../out' is outside the folder"),
        (lambda p: zipped(p, "..\\out"), "is outside the folder"),
        (lambda p: zipped(p, "C:/out"), "is outside the folder"),
        (lambda p: zipped(p, "a", 0o120777), "the member 'a' is a link or a device"),
        (lambda p: tar(p, "b"), "the archive has no member 'a'"),
        (lambda p: zipped(p, "b"), "the archive has no member 'a'"),
        (lambda p: tar(p, "a", b"", type=tarfile.DIRTYPE), "member 'a' is a folder"),
        (lambda p: encrypted(p, "a"), "the member 'a': File 'a' is encrypted"),
        (lambda p: p.write_bytes(b"no archive"), "damaged archive"),
        (lambda p: p.write_bytes(b""), "damaged archive"),
    ],
)
def test_bad_archives_are_refused(tmp_path, make, message):
    path = tmp_path / "archive"
    make(path)
    with pytest.raises(DataError) as caught, open_archive(path) as member:
        member("a").read()
    error = str(caught.value)
    assert error.startswith(f"{path}: ") and message in error and "\n" not in error
    assert [file.name for file in tmp_path.iterdir()] == ["archive"]


def prepare(tmp_path, declared, *more, **options):
    (tmp_path / "set.toml").write_text(declared)
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", tmp_path / "set.toml"]
        + ["--out", tmp_path / "out", *more],
        cwd=ROOT, capture_output=True, text=True, **options,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_talks_from_an_archive(server, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        for side in ("xx", "yy"):
            train = "<url>http://a</url>\n<title>A title</title>\n" + "".join(
                f" line {i} {side} \n" for i in range(45)
            )
            about = "<title>A title</title>\n<description>On what</description>\n"
            test = f"<mteval>\n<doc docid='1'>\n{about}<seg id='1'> One {side} </seg>\n"
            test += "<seg id='2'>Two</seg>\n</doc>\n</mteval>\n"
            for name, text in (("tags", train), ("test", test)):
                member = tarfile.TarInfo(f"talks/{name}.{side}")
                member.size = len(text)
                file.addfile(member, io.BytesIO(text.encode()))
    server.files["talks.tgz"] = archive.getvalue()
    part = f'[[parts]]\narchive = "{server.url}talks.tgz"\nformat = "wit3"\n'
    declared = (
        'title = "Talks"\nkind = "parallel"\nlanguages = ["xx", "yy"]\nsubwords = 60\n'
        'hold_out = ["valid"]\nhold_out_every = 23\n'
        f'{part}split = "train"\nmembers = [["talks/tags.xx", "talks/tags.yy"]]\n'
        f'{part}split = "test"\nmembers = [["talks/test.xx", "talks/test.yy"]]\n'
    )
    code, out, err = prepare(tmp_path, declared)
    assert code == 0, err
    found = f"SHA-256 {digest(archive.getvalue())}; no checksum is declared"
    assert out.count(found) == 1
    clean = tmp_path / "out" / "clean"
    assert (clean / "test.xx").read_text() == "One xx\nTwo\n"
    assert (clean / "valid.yy").read_text() == "line 21 yy\nline 44 yy\n"
    assert (clean / "train.xx").read_text().count("\n") == 44
    code, out, err = prepare(tmp_path, declared)
    assert code == 0 and "raw: unchanged" in out and len(server.ranges) == 1


def test_the_other_direction_has_the_same_texts(server, tmp_path):
    declared = (
        'title = "P"\nkind = "parallel"\nlanguages = ["xx", "yy"]\nsubwords = 40\n'
    )
    for split in ("train", "valid", "test"):
        urls = []
        for side in ("xx", "yy"):
            lines = "".join(f"line {i} of {side}\n" for i in range(20))
            server.files[f"{split}.{side}"] = lines.encode()
            urls.append(f"{server.url}{split}.{side}")
        declared += f'[[parts]]\nsplit = "{split}"\nurls = {urls}\n'.replace("'", '"')
    code, _, err = prepare(tmp_path, declared, "--src", "yy", "--tgt", "xx")
    assert code == 0, err
    for side in ("xx", "yy"):
        text = (tmp_path / "out" / "clean" / f"test.{side}").read_text()
        assert text.count(f" of {side}\n") == 20
    assert (tmp_path / "out" / "bin" / "train.yy-xx.yy.bin").is_file()
    code, _, err = prepare(tmp_path, declared, "--src", "xx", "--tgt", "zz")
    assert (code, err) == (1, "data_prep: set has xx and yy, not xx and zz\n")


def test_columns_by_the_header(server, tmp_path):
    header = "id\tgold\ttext\tother\n"
    rows = "1\tyes\ta b\tc\n2\t-\td\te\n3\tno\tf\tg\n"
    declared = (
        'title = "T"\nkind = "table"\ncolumns = ["a", "b", "label"]\n'
        'labels = ["yes", "no"]\ndrop_labels = ["-"]\n'
    )
    for split in ("train", "valid", "test"):
        server.files[split] = (header + rows).encode()
        declared += (
            f'[[parts]]\nsplit = "{split}"\nurls = ["{server.url}{split}"]\n'
            'format = "table"\nfields = ["text", "other", "gold"]\n'
            f'sha256 = ["{digest(server.files[split])}"]\n'
        )
    code, out, err = prepare(tmp_path, declared)
    assert code == 0, err
    assert "dropped: label - 1" in out and "SHA-256" not in out
    clean = tmp_path / "out" / "clean" / "train.tsv"
    assert clean.read_text() == "a b\tc\tyes\nf\tg\tno\n"
    server.files["test"] = b"other\n"
    for path in (tmp_path / "out" / "downloads").glob("*-test"):
        path.unlink()
    code, out, err = prepare(tmp_path, declared)
    assert code == 0 and "raw: unchanged" in out
    code, out, err = prepare(tmp_path, declared.replace('"gold"', '"golden"'))
    assert code == 1 and err == f"data_prep: {server.url}train:1: no column golden\n"
    assert (tmp_path / "out" / "raw" / "train.tsv").is_file()


def test_agreement(server, tmp_path):
    rows = [
        "sentence\tverb_index\tverb_pos\tn_diff_intervening",
        *["the keys to the cabinet are here\t6\tVBP\t1", "it is\t2\tVBZ\t0"] * 10,
    ]
    server.files["a.tsv"] = "\n".join(rows).encode()
    text = (ROOT / "data_prep" / "datasets" / "linzen.toml").read_text()
    first, last = text.index('urls = ["') + 9, text.index('"]\nformat')
    code, _, err = prepare(tmp_path, f"{text[:first]}{server.url}a.tsv{text[last:]}")
    assert code == 0, err
    clean = tmp_path / "out" / "clean"
    keys = "the keys to the cabinet\tplural\t1\n"
    assert (clean / "valid.tsv").read_text() == 2 * "it\tsingular\t0\n"
    assert (clean / "test.tsv").read_text() == 2 * keys
    assert (clean / "train.tsv").read_text().count("\n") == 16


LINES = Part("train")
TABLE = Part("train", urls=("u",), format="table", fields=("text", "gold"))


@pytest.mark.parametrize(
    "files,part,message",
    [
        ([[b"a", b"b"], [b"a"]], LINES, "^2 ends before line 2 of the other side"),
        ([[b"a"], [b"a", b"b"]], LINES, "^1 ends before line 2 of the other side"),
        ([[b"a\tb"]], TABLE, "^1:1: no column gold, text"),
        ([[b"a\ttext\tgold", b"1\t2"]], TABLE, "^1:2: 2 columns of 3"),
    ],
)
def test_rows_that_are_not_whole(files, part, message):
    with pytest.raises(DataError, match=message):
        list(_parallel(files, ["1", "2"], part))


@pytest.mark.parametrize(
    "position,tag", [("1", "VBZ"), ("4", "VBZ"), ("x", "VBP"), ("", "VBP"), ("2", "NN")]
)
def test_sentences_without_such_a_verb(position, tag):
    names = ("sentence", "position", "tag", "attractors")
    part = Part("train", urls=("u",), format="agreement", fields=names)
    rows = [names, ("it is so", "2", "VBZ", "0"), ("it is so", position, tag, "0")]
    found = _parallel([["\t".join(row).encode() for row in rows]], ["1"], part)
    assert next(found) == (b"it\tsingular\t0",)
    with pytest.raises(DataError, match=f"^1:3: no verb .* at word '{position}'"):
        next(found)


MTDATA = """#!/bin/sh
if [ "$3" = bad ]; then echo no such set >&2; exit 1; fi
for i in 1 2 3 4 5 6 7 8; do printf 'a b %s\\tb a %s\\n' $i $i; done
"""


def test_mtdata(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mtdata").write_text(MTDATA)
    (tmp_path / "bin" / "mtdata").chmod(0o755)
    if (Path(sys.executable).parent / "mtdata").exists():
        pytest.skip("the real mtdata comes first")
    declared = (
        'title = "M"\nkind = "parallel"\nlanguages = ["xx", "yy"]\nsubwords = 20\n'
    )
    for split in ("train", "valid", "test"):
        declared += f'[[parts]]\nsplit = "{split}"\nmtdata = "{split}-1-eng-vie"\n'
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    code, _, err = prepare(tmp_path, declared, env=env)
    assert code == 0, err
    assert (
        (tmp_path / "out" / "clean" / "train.yy").read_text().startswith("b a 1\nb a")
    )
    bad = declared.replace("test-1-eng-vie", "bad")
    code, _, err = prepare(tmp_path, bad, env=env)
    assert (code, err) == (1, "data_prep: mtdata echo bad failed: no such set\n")
    code, _, err = prepare(tmp_path, bad, env={"PATH": "/usr/bin:/bin"})
    assert code == 1 and "pip install mtdata" in err
