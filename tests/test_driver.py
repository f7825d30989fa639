"""What runs of recipes go through: files, locks, processes and what they say."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from data_prep import errors_in_one_line
from recipes.driver import fairseq_process
from recipes.driver.fairseq_process import DIVERGED, follow
from recipes.driver.hardware import provenance
from recipes.driver.lock import locked
from recipes.driver.results import note
from recipes.driver.settings import Machine
from recipes.driver.stages import RunError, in_threads, read_json


def test_a_damaged_file_of_a_run_is_named(tmp_path):
    (tmp_path / "train.json").write_text('{"curve": [[')
    with pytest.raises(RunError, match="train.json: damaged, .*: remove it"):
        read_json(tmp_path / "train.json")


def test_a_training_needs_no_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = provenance(Machine(cpu=True))
    assert found["commit"] is None and found["hardware"].startswith("CPU, ")


def test_an_error_without_a_number_is_told():
    with pytest.raises(SystemExit, match="recipe: not to be read"):
        with errors_in_one_line("recipe"):
            raise OSError("not to be read")


def test_lines_are_noted_once_and_torn_ones_go(tmp_path):
    file = tmp_path / "results.jsonl"
    for line in ({"a": 1}, {"a": 2}, {"a": 1}):
        note(line, file)
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n'
    file.write_text('{"a": 1}\n{"a": 2')  # killed while it wrote
    note({"a": 3}, file)
    assert file.read_text() == '{"a": 1}\n{"a": 3}\n'
    file.write_bytes(b'{"a": 1}\n{"a": "\xc3')  # within a letter
    note({"a": "\u00e9"}, file)
    assert file.read_text(encoding="utf-8") == '{"a": 1}\n{"a": "\u00e9"}\n'
    file.write_text('{"a": 1}')  # or before the end of the line
    note({"a": 1}, file)
    note({"a": 4}, file)
    assert file.read_text() == '{"a": 1}\n{"a": 4}\n'


def test_programs_that_add_lines_at_once_lose_none(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom recipes.driver.results import *\n"
        "for turn in range(20):\n"
        "    line = {'model': '4', 'seed': int(sys.argv[1]) + turn}\n"
        "    add_lines(Path('a.jsonl'), [line], ['seed'])\n"
        "    note(line, Path('b.jsonl'))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(start)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for start in (0, 100, 200)
    ]  # fmt: skip
    assert [one.wait() for one in running] == [0, 0, 0]
    for name in ("a.jsonl", "b.jsonl"):
        lines = (tmp_path / name).read_text().splitlines()
        seeds = sorted(json.loads(line)["seed"] for line in lines)
        assert seeds == [100 * i + turn for i in range(3) for turn in range(20)]


def test_one_program_at_a_time_and_children_end_with_it(tmp_path):
    """kill -9 of a driver: what it started ends, and then the folder is free.

    All that the child has said is in the log.
    """
    log = tmp_path / "train.log"
    log.write_text("torn")
    code = (
        "import sys; from pathlib import Path\n"
        "from recipes.driver.lock import locked\n"
        "from recipes.driver.fairseq_process import follow\n"
        "program = 'import os, time; print(os.getpid(), flush=True); time.sleep(99)'\n"
        f"log = Path({str(log)!r})\n"
        "with locked(log.parent):\n"
        "    for line in follow([sys.executable, '-c', program], log):\n"
        "        print(line, flush=True)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(driver.stdout.readline())
    with pytest.raises(RunError, match="another program is at work there"):
        with locked(tmp_path):
            pass
    driver.kill()
    driver.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
            time.sleep(0.05)
        except ProcessLookupError:
            break
    else:
        pytest.fail("the child lives on")
    with locked(tmp_path):
        pass
    first, command, *_, said = log.read_text().splitlines()
    assert (first, said) == ("torn", str(child)) and command.startswith("$ ")


def test_lines_of_a_process_come_while_it_runs(tmp_path):
    program = (
        "import sys, time\nfor i in range(3):\n"
        "    print('a', i, flush=True); time.sleep(0.2)\n"
        "sys.stdout.write('b'); sys.exit(3)"
    )
    times = []
    with pytest.raises(RunError, match=r"failed, see .*: b$"):
        for line in follow([sys.executable, "-c", program], tmp_path / "log"):
            times.append((line, time.monotonic()))
    assert [line for line, _ in times] == ["a 0", "a 1", "a 2", "b"]
    assert times[2][1] - times[0][1] > 0.3


def test_a_killed_process_is_called_so(tmp_path):
    program = "import os; print('a'); os.kill(os.getpid(), 9)"
    with pytest.raises(RunError, match=r"ended by SIGKILL \(out of memory\?\)$"):
        list(follow([sys.executable, "-uc", program], tmp_path / "log"))


def test_a_failure_is_said_at_once_and_an_interruption_ends_all(tmp_path, capsys):
    waits = [sys.executable, "-c", "import time; time.sleep(99)"]

    def fails(number):
        if number:
            raise RunError("no memory")
        time.sleep(0.5)
        said.append(capsys.readouterr().out)

    said = []
    with pytest.raises(RunError, match="no memory"):
        in_threads(fails, [0, 1, 2], 2)
    assert len(said) == 1 and "failed, those that have begun go on: no m" in said[0]

    def interrupts(number):
        if number:
            time.sleep(0.5)
            raise KeyboardInterrupt
        said.append("begun")
        list(follow(waits, tmp_path / "log"))

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        in_threads(interrupts, [1, 0], 2)
    assert said[-1] == "begun" and time.monotonic() - start < 30


def test_what_diverged_is_said_though_another_error_follows(tmp_path):
    """As of fairseq's search for the layer that has given NaN."""
    program = "print('FloatingPointError: NaN'); raise StopIteration"
    with pytest.raises(RunError, match=r": FloatingPointError: NaN$") as error:
        list(follow([sys.executable, "-uc", program], tmp_path / "log"))
    assert DIVERGED.search(str(error.value))


def test_the_rate_of_a_resumed_training_is_of_what_is_new(
    tmp_path, monkeypatch, capsys
):
    """Updates before the interruption took no time in this bar."""
    log = (
        'fairseq INFO | train_inner | {"num_updates": "1020", "loss": "3", "wps": "9"}'
    )

    def resumed(*_):
        time.sleep(0.5)
        yield log

    monkeypatch.setattr(fairseq_process, "trained_updates", lambda folder: 1000)
    monkeypatch.setattr(fairseq_process, "require_checkpoint", lambda folder: None)
    monkeypatch.setattr(fairseq_process, "follow", resumed)
    fairseq_process.train("dense", [], tmp_path, threads=1, updates=2000)
    shown = capsys.readouterr().err.splitlines()[-1]
    assert "1020/2000" in shown
    assert float(re.search(r"([\d.]+)update/s", shown)[1]) < 50
