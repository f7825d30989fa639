"""``python -m data_prep`` as a subprocess: what it makes, skips and refuses."""

import gzip
import hashlib
import json
import lzma
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, write_pairs
from filelock import FileLock
from forked import python

from data_prep import DataError, declaration
from data_prep.clean import clean_pairs
from data_prep.prepare import prepare
from data_prep.subwords import decode, encode, train_subwords
from data_prep.text import in_parallel, read_chunks, read_lines
from data_prep.workspace import Workspace

pytestmark = pytest.mark.one_version

SHARED = ROOT.parent / "shared" / "data"
SIZES = {"train": 60, "valid": 9, "test": 11}
LABELS = ("entails", "neutral")
PAIR = ("--src", "xx", "--tgt", "yy", "--vocab-size", "40")


def write_table(folder, sizes):
    folder.mkdir()
    for split, size in sizes.items():
        rows = [f"fact {i}\tclaim {i}\t{LABELS[i % 2]}\n" for i in range(size)]
        (folder / f"{split}.tsv").write_text("".join(rows))


@pytest.fixture
def raw(tmp_path):
    write_pairs(tmp_path / "raw", SIZES)
    return tmp_path / "raw"


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "raw", SIZES)
    return tmp_path / "raw"


def command(*arguments):
    return ["-m", "data_prep", *map(str, arguments)]


def run(*arguments, **options):
    done = python(*command(*arguments), **options)
    return done.returncode, done.stdout, done.stderr


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("step.json", "manifest.json", ".lock")
    }


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_pairs_become_what_fairseq_reads(raw, tmp_path):
    with (raw / "train.xx").open("a") as file:
        file.write("a b\r\n\n" + "a" * 1001 + "\na\nb c\n\u200b\n")
    with (raw / "train.yy").open("a") as file:
        file.write(f"\nb\nb\n{'b' * 40}\nc b\nb\n")
    (raw / "test.xx").write_bytes(
        b"\xef\xbb\xbfa\r\r\n\nb\xe2\x80\xa8c\ncafe\xcc\x81\n" + b"d\n" * 7
    )
    for name, ending, opener in (("train.yy", ".gz", gzip), ("valid.xx", ".xz", lzma)):
        with opener.open(raw / (name + ending), "wb") as file:
            file.write((raw / name).read_bytes())
        (raw / name).unlink()
    for side in ("xx.xz", "yy"):
        (raw / f"valid.{side}").rename(raw / f"dev.{side}")
    out = tmp_path / "out"
    code, said, err = run("--raw", raw, *PAIR, "--out", out)
    assert code == 0, err
    assert said.endswith("manifest.json: train 61, valid 9, test 11\n")
    assert "dropped: empty 3, too long 1, ratio 1" in said
    made = manifest(out)
    assert made["counts"] == {"train": 61, "valid": 9, "test": 11}
    assert made["dropped"] == {"empty": 3, "too long": 1, "ratio": 1}
    assert made["repaired"] == {
        "Windows line end": 2, "byte order mark": 1, "not NFC": 1,
    }  # fmt: skip
    assert f"--raw {raw}" in made["command"] and "sentencepiece" in made["versions"]
    test = ["a", "", "b\u2028c", "caf\u00e9"] + ["d"] * 7
    assert read_lines(out / "clean" / "test.xx") == test
    assert b"\r" not in (out / "clean" / "test.xx").read_bytes()
    assert (out / "encoded" / "test.xx").read_bytes().count(b"\n") == 11
    for step, result in made["steps"].items():
        for name, digest in result["sha256"].items():
            content = (out / step / name).read_bytes()
            assert digest == hashlib.sha256(content).hexdigest()

    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(out / "bin" / "dict.xx.txt"))
    assert len(dictionary) % 8 == 0
    for split, size in made["counts"].items():
        for language in ("xx", "yy"):
            data = data_utils.load_indexed_dataset(
                str(out / "bin" / f"{split}.xx-yy.{language}"), dictionary
            )
            text = [dictionary.string(row) for row in data]
            encoded = (out / "encoded" / f"{split}.{language}").read_text().split("\n")
            assert len(text) == size
            assert split == "test" or text == encoded[:-1]
    unknown = {k: v["unknown"] for k, v in made["steps"]["bin"].items() if "." in k}
    assert len(unknown) == 6 and unknown["train.xx"] == unknown["train.yy"] == 0


def test_unchanged_steps_are_skipped(raw, tmp_path, in_process):
    out = tmp_path / "out"
    data_set = declaration.DataSet("x", "x", "parallel", languages=("xx", "yy"))
    files = {
        split: [raw / f"{split}.{side}" for side in ("xx", "yy")] for split in SIZES
    }

    def steps(**changes):
        declared = replace(data_set, **{"subwords": 40, **changes})
        before = {path: path.stat().st_mtime_ns for path in out.glob("*/step.json")}
        prepare(declared, out, files)
        after = {path: path.stat().st_mtime_ns for path in out.glob("*/step.json")}
        return {path.parent.name for path in after if before.get(path) != after[path]}

    everything = {"clean", "subwords", "encoded", "bin"}
    assert steps() == everything
    made = hashes(out)
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert steps() == set()
    for path in files["train"]:  # touched, and equal
        os.utime(path)
    assert steps() == set()
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    (out / "encoded" / "train.xx").write_text("damaged\n")
    assert steps() == {"encoded"} and hashes(out) == made
    assert (out / "manifest.json").is_file()
    with (raw / "valid.xx").open("a") as one, (raw / "valid.yy").open("a") as other:
        one.write("a b\n")
        other.write("b a\n")
    assert steps() == {"clean", "encoded", "bin"}
    assert manifest(out)["counts"]["valid"] == 10
    assert steps(max_ratio=3.0) == {"clean"}
    assert steps(subword_sentences=110, max_ratio=3.0) >= {"subwords"}
    assert steps(subwords=30, max_ratio=3.0) == everything - {"clean"}
    assert steps(subwords=30, max_ratio=3.0, lines=50) == everything
    assert manifest(out)["counts"] == {"train": 50, "valid": 5, "test": 5}


def test_results_do_not_depend_on_the_number_of_processes(tmp_path):
    write_pairs(tmp_path / "raw", {**SIZES, "train": 10100})
    made = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        arguments = ("--raw", tmp_path / "raw", *PAIR, "--out", out)
        assert run(*arguments, "--workers", workers)[0] == 0
        made.append(hashes(out))
    assert made[0] == made[1]


@pytest.mark.nightly
def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path):
    write_pairs(tmp_path / "raw", {**SIZES, "train": 12000})
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ("--raw", tmp_path / "raw", *PAIR, "--workers", "2", "--out")
    for seconds in (0.3, 0.5, 0.7, 1.0, 1.5, 4.0):
        process = subprocess.Popen(
            [sys.executable, *command(*arguments, out)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        finished = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (out / "manifest.json").is_file() == finished
        for record in out.glob("[!.]*/step.json"):
            for name, (size, _, _) in json.loads(record.read_text())["files"].items():
                assert (record.parent / name).stat().st_size == size
        steps = [path for path in out.glob("[!.]*") if path.is_dir()]
        assert all((step / "step.json").is_file() for step in steps)
    for folder in (out, whole):
        code, _, err = run(*arguments, folder)
        assert code == 0, err
    assert hashes(out) == hashes(whole)


def test_one_process_at_a_time(raw, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        code, _, err = run("--raw", raw, *PAIR, "--out", tmp_path / "out")
    assert code == 1
    assert err == f"data_prep: {tmp_path / 'out'}: another process is at work here\n"


STREAMING = """
import resource, sys
from pathlib import Path
from data_prep import clean, subwords
raw, out, sides = Path(sys.argv[1]), Path(sys.argv[2]), ("xx", "yy")
files = {s: [raw / f"{s}.{side}" for side in sides] for s in ("train", "valid", "test")}
clean.clean_pairs(files, sides, out, 1000, 9.0, 2)
subwords.train_subwords([out / f"train.{side}" for side in sides], out, 40, 20000)
(out / "encoded").mkdir()
subwords.encode(out, sides, out / "model", out / "encoded", 2)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
# Its own maximum would include that of the process it was started by.
print(*(line.split()[1] for line in open("/proc/self/status") if line[:5] == "VmHWM"))
"""


@pytest.mark.parametrize("vocab_size", [60, 4000])
def test_subwords_become_the_same_text(vocab_size, tmp_path):
    """Where rare characters are bytes, too."""
    lines = ["plain words"] * 2000 + ["\u00c1 \u1ea2nh, 3 m!"]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.xx").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = train_subwords([tmp_path / "train.xx"], tmp_path, vocab_size, 5000)
    assert found["byte_fallback"] == (vocab_size == 4000)
    dictionary = (tmp_path / "dict.txt").read_text(encoding="utf-8").splitlines()
    assert ("<0xE1> 1" in dictionary) == found["byte_fallback"]
    assert ("\u1ea2 1" in dictionary) != found["byte_fallback"]
    (tmp_path / "encoded").mkdir()
    encode(tmp_path, ["xx"], tmp_path / "model", tmp_path / "encoded", 1)
    subwords = read_lines(tmp_path / "encoded" / "test.xx")
    assert ("<0x" in subwords[-1]) == found["byte_fallback"]
    assert decode(tmp_path / "model", subwords) == lines
    assert decode(tmp_path / "model", ["", "\u2581no <unk>"])[0] == ""
    assert "\n" not in decode(tmp_path / "model", ["\u2581a <0x0A> \u2581b"])[0]


def test_training_pairs_of_too_many_subwords_are_dropped(raw, tmp_path):
    sides, made = ("xx", "yy"), tmp_path / "encoded"
    made.mkdir()

    def encoded(longest, vocab_size):
        trained = [raw / f"train.{side}" for side in sides]
        train_subwords(trained, tmp_path, vocab_size, 5000)
        report = encode(raw, sides, tmp_path / "model", made, 1, longest)
        return report["train"], [read_lines(made / f"train.{side}") for side in sides]

    for split in ("valid", "test"):  # which must fit
        for side in sides:
            (raw / f"{split}.{side}").write_text("a b\n")
    report, everything = encoded(0, 40)
    assert report["pairs"] == 60 and report["dropped"] == {}
    lengths = [max(len(line.split()) for line in pair) for pair in zip(*everything)]
    longest = sorted(lengths)[40]
    left = sum(length <= longest for length in lengths)
    assert left < 60
    report, kept = encoded(longest, 40)
    assert report["dropped"] == {f"over {longest} subwords": 60 - left}
    assert report["pairs"] == len(kept[0]) == len(kept[1]) == left
    assert report["subwords"]["yy"] == sum(len(line.split()) for line in kept[1])
    _, others = encoded(0, 20)  # a model of the same path
    assert sum(map(len, others[0])) != sum(map(len, everything[0]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Peak of any process (KiB), in the steps before fairseq-preprocess."""
    peaks = []
    for size in (30_000, 300_000):
        raw, out = tmp_path / f"raw{size}", tmp_path / f"out{size}"
        write_pairs(raw, {**SIZES, "train": size})
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", STREAMING, raw, out],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(max(map(int, done.stdout.split())))
    assert peaks[1] < 1.15 * peaks[0] < 200_000


LONG = "a\n" * 10 + "b " * 1400 + "\n"
BAD_PAIRS = {
    "missing": (lambda c: (c / "test.yy").unlink(), r"raw/test.yy: No such file"),
    "no folder": (
        lambda c: c.rename(c.with_name("gone")), r"raw: no such folder"
    ),
    "twice": (
        lambda c: (c / "test.yy.xz").write_bytes(b""),
        r"raw/test.yy and test.yy.xz are both there: remove one",
    ),
    "empty split": (
        lambda c: (c / "valid.xx").write_text(""), r"raw/valid.xx: the file is empty"
    ),
    "both sides empty": (
        lambda c: [(c / f"valid.{x}").write_text("") for x in ("xx", "yy")],
        r"raw/valid.xx: the file is empty",
    ),
    "unequal sides": (
        lambda c: (c / "test.xx").write_text("a b\n"),
        r"raw/test.xx has 1 lines but {}/raw/test.yy has 11",
    ),
    "not UTF-8": (
        lambda c: (c / "train.yy").write_bytes(b"a\nb\xff\n" + 58 * b"c\n"),
        r"raw/train.yy:2: the line is not UTF-8",
    ),
    "UTF-16": (
        lambda c: (c / "valid.yy").write_text("a b\nc d\n", encoding="utf-16"),
        r"raw/valid.yy: UTF-16, not UTF-8",
    ),
    "NUL byte": (
        lambda c: (c / "train.xx").write_bytes(b"a\nb\nc\0\n" + 57 * b"c\n"),
        r"raw/train.xx:3: the line has a NUL byte",
    ),
    "no pair left": (
        lambda c: [(c / f"train.{x}").write_text("\n" * 60) for x in ("xx", "yy")],
        r"raw/train.xx: no pair without an empty side",
    ),
    "all lopsided": (
        lambda c: [
            (c / "train.xx").write_text("a b c d e f g h i j k l\n" * 60),
            (c / "train.yy").write_text("a\n" * 60),
        ],
        r"raw/train.xx: no pair left, dropped: ratio 60",
    ),
    "too long a test line": (
        lambda c: (c / "test.yy").write_text(LONG),
        r"raw/test.yy:11: the line has 1400 subwords, at most 1023 fit the model",
    ),
    "damaged .xz": (
        lambda c: (c / "test.yy").rename(c / "test.yy.xz"),
        r"raw/test.yy.xz: damaged .xz file "
        "(Input format not supported by decoder)",
    ),
    "cut .gz": (
        lambda c: (c / "test.yy.gz").write_bytes(
            gzip.compress((c / "test.yy").read_bytes())[:-9]
        )
        and (c / "test.yy").unlink(),
        r"raw/test.yy.gz: damaged .gz file "
        "(Compressed file ended before the end-of-stream marker was reached)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs_end_in_one_line(raw, tmp_path, name):
    spoil, message = BAD_PAIRS[name]
    spoil(raw)
    code, _, err = run("--raw", raw, *PAIR, "--out", tmp_path / "out")
    expected = f"data_prep: {tmp_path}/{message.format(tmp_path)}"
    assert code == 1
    assert err.startswith(expected) and err.count("\n") == 1, err
    left = {path.name for path in (tmp_path / "out").glob("*")} - {".lock"}
    assert left <= {"clean", "subwords"}
    assert "too long" in name or not left


def test_sides_are_unequal_beyond_the_limit_as_well(raw):
    (raw / "test.xx").write_text("a b\nc d\n")
    sides = [raw / "test.xx", raw / "test.yy"]
    for limit in (1, 2):
        with pytest.raises(DataError, match="test.xx has 2 lines but .*yy has 11"):
            list(read_chunks(sides, limit))
    (chunk,) = read_chunks([raw / "test.yy"] * 2, 3)
    assert [len(side) for side in chunk.sides] == [3, 3]


def test_limits_themselves_are_kept(raw, tmp_path):
    sizes = [(30, 10), (31, 10), (42, 21), (43, 21), (50, 50), (51, 50)]
    for side, lengths in zip(("xx", "yy"), zip(*sizes)):
        text = "".join("a" * length + "\n" for length in lengths)
        (raw / f"train.{side}").write_text(text)
    files = {s: [raw / f"{s}.{side}" for side in ("xx", "yy")] for s in SIZES}
    report = clean_pairs(files, ("xx", "yy"), tmp_path, 50, 2.0, 1)["train"]
    assert report["pairs"] == 3 and report["dropped"] == {"ratio": 2, "too long": 1}
    report = clean_pairs(files, ("xx", "yy"), tmp_path, 50, 2.0, 1, lines=11)
    assert [report[split]["pairs"] for split in SIZES] == [3, 2, 2]


def test_results_come_in_the_order_of_the_jobs():
    jobs = range(-20, 0)
    for workers in (1, 2):
        assert list(in_parallel(abs, jobs, workers)) == [abs(job) for job in jobs]


def test_a_damaged_manifest_is_made_anew(raw, tmp_path):
    arguments = ("--raw", raw, *PAIR, "--out", tmp_path / "out")
    assert run(*arguments)[0] == 0
    before = manifest(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{")
    assert run(*arguments)[0] == 0
    assert manifest(tmp_path / "out")["steps"] == before["steps"]


def test_too_small_a_vocabulary(raw, tmp_path):
    (raw / "train.xx").write_text("".join(f"{chr(200 + i)} a\n" for i in range(60)))
    code, _, err = run("--raw", raw, *PAIR[:4], "--vocab-size", 30, "--out", tmp_path)
    assert code == 1 and err.count("\n") == 1
    assert "no 30 subwords for the 71 different characters of the training text" in err


BAD_TABLES = {
    "columns": (
        b"a\tneutral\n",
        "raw/valid.tsv:1: 2 columns, not premise, hypothesis, label",
    ),
    "label": (
        b"a\tb\tneutral\na\tb\tmaybe\n",
        "raw/valid.tsv:2: unknown label 'maybe' (known: entails, neutral)",
    ),
    "empty sentence": (b"a\t \tneutral\n", "raw/valid.tsv:1: the hypothesis is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_end_in_one_line(table, tmp_path, name):
    content, message = BAD_TABLES[name]
    (table / "valid.tsv").write_bytes(content)
    code, _, err = run("scitail", "--raw", table, "--out", tmp_path / "out")
    assert (code, err) == (1, f"data_prep: {tmp_path}/{message}\n")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_tables_become_tables(table, tmp_path):
    (table / "valid.tsv").rename(table / "dev.tsv")
    with (table / "train.tsv").open("ab") as file:
        file.write(b"\tclaim\tneutral\n fact \tcaf\x65\xcc\x81\tneutral\r\n")
    with (table / "test.tsv").open("r+") as file:
        rows = file.read()
        file.seek(0)
        file.write("premise\thypothesis\tlabel\n" + rows)
    out = tmp_path / "out"
    code, _, err = run("scitail", "--raw", table, "--out", out)
    assert code == 0, err
    made = manifest(out)
    assert made["counts"] == {"train": 61, "valid": 9, "test": 11}
    assert made["dropped"] == {"empty": 1, "header": 1}
    assert made["repaired"] == {"Windows line end": 1, "not NFC": 1}
    assert made["columns"] == ["premise", "hypothesis", "label"]
    last = read_lines(out / "clean" / "train.tsv")[-1]
    assert last == "fact\tcaf\u00e9\tneutral"
    assert (out / "clean" / "test.tsv").read_text() == rows


@pytest.mark.parametrize("bytes_allowed", [100, 1500, 200_000])
def test_a_full_disk_leaves_nothing(tmp_path, bytes_allowed):
    """No file may grow beyond a limit: writes fail as on a full disk, in any step."""
    write_pairs(tmp_path / "raw", {**SIZES, "train": 20000})
    limit = (bytes_allowed, bytes_allowed)
    arguments = command("--raw", tmp_path / "raw", *PAIR, "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    code, err = done.returncode, done.stderr
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("data_prep: ") and "File too large" in err
    assert not list((tmp_path / "out").glob(".making*"))
    assert not (tmp_path / "out" / "manifest.json").exists()


DECLARED = 'title = "x"\nkind = "parallel"\nlanguages = ["en", "de"]\n'
TABLE = 'title = "x"\nkind = "table"\ncolumns = ["text", "label"]\n'


def test_bad_options_and_declarations(raw, tmp_path):
    def last(*arguments):
        code, _, err = run(*arguments)
        assert code and "Traceback" not in err
        return err.strip().splitlines()[-1]

    assert "a data set, --raw or --list is needed" in last()
    assert "needs --src and --tgt" in last("--raw", raw)
    assert "--src and --tgt are both en" in last("--src", "en", "--tgt", "en", "cldr")
    assert "no data set 'wmt99'; declared are cldr, " in last("wmt99")
    assert "use --raw FOLDER" in last("qnli-quora", "--out", tmp_path / "out")
    unknown = last("cldr", "--src", "en", "--tgt", "fr", "--out", tmp_path / "out")
    assert "unknown language 'fr'" in unknown
    file = tmp_path / "own.toml"
    for text, message in (
        ('title = "x"\nkind = "paralel"', "kind must be one of parallel, text, table"),
        ('title = "x"\nkind = "parallel"', "a parallel text needs two languages"),
        ('title = "x"\nkind = "table"', "the columns of a table need a label"),
        (DECLARED + 'hold_out = ["validation"]', "hold_out must be of valid and test"),
        (DECLARED + 'hold_out = ["valid"]', "hold_out_every must be above 1"),
        (DECLARED + "lines = -5", "lines must be at least 0"),
        ('title = "x"\nkind = "table"\nlang = "x"', "unknown key 'lang'"),
        ('title = "x"\nkind = 3', "kind = 3 is not of type str"),
        ('title = "x"', "missing 1 required positional argument: 'kind'"),
        ("title", "Expected '=' after a key"),
        (DECLARED + "parts = 3", "parts = 3 is not of type Tuple[Part, ...]"),
        (TABLE + "labels = [0, 1]", "labels = [0, 1] is not of type Tuple[str, ...]"),
    ):
        file.write_text(text, "utf-8-sig")  # as editors on Windows do
        error = last(file, "--raw", raw, "--out", tmp_path / "out")
        assert error.startswith(f"data_prep: {file}: ") and message in error


@pytest.mark.parametrize(
    "part,message",
    [
        ("", "a part needs exactly one source"),
        ('mtdata = "x"\nsacrebleu = "y"', "a part needs exactly one source"),
        ('archive = "x"', "an archive needs members"),
        ('mtdata = "x"\nformat = "y"', "format 'y' must be one of lines"),
        ('mtdata = "x"\nformat = "table"', "format 'table' is for tables"),
        ('urls = ["a"]', "a part needs 2 files, one for each side"),
        ('urls = ["a", "b", "c"]', "a part needs 2 files, one for each side"),
        ('archive = "x"\nmembers = ["a", "b"]', "a part needs 2 files"),
        ('archive = "x"\nmembers = [["a"]]', "a part needs 2 files"),
        ('urls = ["a", "b"]\nsha256 = ["0"]', "as many sha256 as URLs"),
    ],
)
def test_every_part_is_checked(tmp_path, part, message):
    parts = [f'[[parts]]\nsplit = "train"\n{one}\n' for one in (part, 'mtdata = "x"')]
    file = tmp_path / "own.toml"
    for order in (parts, parts[::-1]):
        file.write_text(DECLARED + "".join(order))
        with pytest.raises(DataError, match=message):
            declaration.load(str(file))


def test_what_a_declaration_may_just_have(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(DECLARED + 'hold_out = ["valid"]\nhold_out_every = 1\n')
    with pytest.raises(DataError, match="hold_out_every must be above 1"):
        declaration.load(str(file))
    file.write_text(DECLARED + 'hold_out = ["valid"]\nhold_out_every = 2\n')
    assert declaration.load(str(file)).hold_out_every == 2
    file.write_bytes(DECLARED.encode() + b'name = "caf\xe9"\n')
    with pytest.raises(DataError, match=r"own.toml: line \d+ is not UTF-8$"):
        declaration.load(str(file))
    with pytest.raises(DataError, match="^[^:]*: Is a directory$"):
        declaration.load(str(tmp_path.rename(tmp_path.with_suffix(".toml"))))
    tmp_path.with_suffix(".toml").rename(tmp_path)
    file.write_text(DECLARED + "max_ratio = 3\n")
    data_set = declaration.load(str(file))
    assert data_set.max_ratio == 3
    assert data_set.between(("de", "en")).sides == ("en", "de")
    assert data_set.between(("de", "en"), own_files=True).sides == ("de", "en")


def test_every_declaration_is_complete():
    for name in declaration.names():
        data_set = declaration.load(name)
        assert data_set.licence != "unknown" and data_set.note
        splits = {part.split for part in data_set.parts} | set(data_set.hold_out)
        generated = any(part.generator for part in data_set.parts)
        assert generated or splits in (set(), {"train", "valid", "test"})
    code, out, _ = run("--list")
    assert code == 0 and len(out.splitlines()) == len(declaration.names()) == 15


def test_subwords_are_learned_from_long_lines_as_well(tmp_path):
    rng = random.Random(1)
    text = tmp_path / "train.txt"
    words = ["abba", "cede", "fogg"]
    text.write_text("".join(" ".join(rng.choices(words, k=2000)) + "\n" for _ in "12"))
    train_subwords([text], tmp_path, 20, 100_000)
    learned = (tmp_path / "dict.txt").read_text(encoding="utf-8")
    assert any(f"\u2581{word} 1\n" in learned for word in words)


@pytest.mark.nightly
@pytest.mark.parametrize("bundle,pair", [
    ("mt-en-id", ("en", "id")), ("style-shakespeare", ("modern", "original")),
])  # fmt: skip
def test_benchmark_data(tmp_path, bundle, pair):
    if not (SHARED / bundle).is_dir():
        pytest.skip("the benchmark data is not beside this folder")
    src, tgt = pair
    arguments = ("--src", src, "--tgt", tgt, "--vocab-size", 1000)
    code, _, err = run("--raw", SHARED / bundle, *arguments, "--out", tmp_path)
    assert code == 0, err
    assert manifest(tmp_path)["counts"]["test"] in (1035, 1462)


def test_text_of_one_language(tmp_path):
    """Lines of any length; empty training lines are dropped."""
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = random.Random(1)
    for split, size in SIZES.items():
        rows = [rng.choices("abcdefghij", k=rng.randint(2, 8)) for _ in range(size)]
        rows[0] = rows[0] * 1500
        text = "".join(" ".join(row) + "\n" for row in rows)
        with gzip.open(raw / f"{split}.txt.gz", "wt") as file:
            file.write(text + "\n" * (split == "train"))
    declared = tmp_path / "my.toml"
    lines = ['title = "mine"', 'kind = "text"', 'languages = ["txt"]', "subwords = 40"]
    declared.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    code, said, error = run(declared, "--raw", raw, "--out", out)
    assert code == 0, error
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == SIZES and manifest["dropped"] == {"empty": 1}
    assert {"dict.txt", "train.bin", "valid.idx", "test.bin"} <= set(
        path.name for path in (out / "bin").iterdir()
    )
    assert manifest["steps"]["bin"]["test.txt"]["lines"] == SIZES["test"]
    code, _, error = run(declared, "--raw", raw, "--src", "en", "--tgt", "de")
    assert (code, error) == (1, "data_prep: my is a text of one language\n")
    declared.write_text("\n".join(lines).replace('"txt"', '"xx", "yy"') + "\n")
    code, _, error = run(declared, "--raw", raw, "--out", out)
    assert code == 1 and "a text needs one language" in error


def test_a_manifest_tells_what_the_declaration_says_now(tmp_path):
    """What made unchanged steps is told as it was."""

    def manifest_of(licence, command):
        with Workspace(tmp_path) as work:
            work.step("clean", {}, {}, lambda place: {"lines": 3}, code=())
            return work.write_manifest({"licence": licence, "command": command})

    first = manifest_of("A", "one")
    assert first["steps"]["clean"]["lines"] == 3
    assert manifest_of("A", "two") == first
    assert manifest_of("B", "two") == {**first, "licence": "B"} == manifest(tmp_path)
