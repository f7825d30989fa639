"""The command fairseq-phm: its list, bad input, and checkpoints that run code."""

import argparse
import logging
import os
import pickle
import shlex
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import ROOT, Task, tiny_transformer
from forked import python

from fairseq_phm import DataError, safe_load
from fairseq_phm.checkpoint import read_checkpoint
from fairseq_phm.commands import COMMANDS, main


@pytest.fixture
def command(capsys):
    """Call the command: exit status or message, what it printed, its errors."""

    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def test_lists_commands(command):
    code, output, _ = command("--help")
    assert code == 0 and output.startswith("usage: fairseq-phm COMMAND")
    for name in COMMANDS:
        assert f"\n  {name} " in output


def test_every_command_has_help(command):
    for name, text in COMMANDS.items():
        assert text and "\n" not in text and len(text) < 80
        code, output, _ = command(name, "--help")
        assert code == 0 and output.startswith(f"usage: fairseq-phm {name}")


def test_unknown_commands_and_flags(command):
    code, _, errors = command("nothing")
    assert code == 2 and "no command 'nothing': choose one of flags" in errors
    code, _, errors = command("average", "--nothing")
    assert code == 2 and errors.splitlines()[-1].startswith("fairseq-phm average: ")


def test_flags_of_a_model(command):
    code, output, _ = command("flags", "phm_lstm")
    assert code == 0 and "--phm-gates" in output


def test_a_folder_that_cannot_be_searched_is_one_line(monkeypatch):
    def refused(options):
        raise PermissionError(13, "Permission denied", "secret/dict.txt")

    logger = logging.getLogger("fairseq_phm")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr("fairseq_phm.commands.flags.run", refused)
    with pytest.raises(SystemExit, match="^error: secret/dict.txt: Permission denied$"):
        main(["flags"])
    assert logger.level == logging.INFO  # commands are quiet, what follows is not


@pytest.mark.parametrize(
    "closed, code, message",
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">/dev/full", 1, "error: No space left on device\n"),
        ("| true", 0, ""),
    ],
)
@pytest.mark.parametrize("arguments", ["--help", "params --arch phm_transformer_tiny"])
def test_output_that_no_one_reads(arguments, closed, code, message):
    call = "from fairseq_phm.commands import main; main()"
    tool = f"{shlex.quote(sys.executable)} -c '{call}' {arguments} {closed}"
    done = subprocess.run(tool, shell=True, cwd=ROOT, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "text_to_speech" not in line]
    assert (done.returncode, "\n".join(errors)) == (code, message.strip())


@pytest.mark.parametrize("arguments", [[], ["phm_lstm"], ["flags", "phm_lstm"]])
def test_former_calls_of_the_module(arguments):
    done = python("-m", "fairseq_phm", *arguments, check=True)
    assert ("--phm-gates" if arguments else "--phm-fuse-qkv") in done.stdout


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


READERS = ["default"] + ["own"] * hasattr(torch.serialization, "add_safe_globals")
"""Both readers, where torch's own is the default one."""


@pytest.fixture(params=READERS)
def reader(request, monkeypatch):
    if request.param == "own":
        monkeypatch.setattr(safe_load, "torch_version", lambda: (2, 2))


def everything(folder):
    """A checkpoint with all types that fairseq writes."""
    path = folder / "good.pt"
    state = {
        "model": OrderedDict(tiny_transformer(Task()).half().state_dict()),
        "args": argparse.Namespace(arch="phm_transformer", betas=(0.9, 0.98)),
        "cfg": {"model": argparse.Namespace(a=1), "common": {"seed": None}},
        "extra_state": {"bleu": np.array([1, 2]), "count": np.array([3])[0:1]},
        "last_optimizer_state": {"state": {0: {"step": 1, "avg": torch.ones(2)}}},
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([1]),
        "type": torch.bfloat16,
    }
    torch.save(state, path)
    return path


def test_bytes_of_old_pickles_have_one_encoding():
    assert safe_load._encode("\xe9", "latin1") == b"\xe9"
    with pytest.raises(pickle.UnpicklingError, match="Unsupported encoding utf-16"):
        safe_load._encode("a", "utf-16")


def test_reads_what_fairseq_writes(tmp_path, reader):
    checkpoint = read_checkpoint(everything(tmp_path))
    assert checkpoint["args"].betas == (0.9, 0.98)
    assert checkpoint["cfg"]["model"].a == 1
    assert checkpoint["extra_state"]["bleu"].tolist() == [1, 2]
    key = "encoder.layers.0.fc1.blocks"
    assert checkpoint["model"][key].dtype == torch.float16


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_runs_no_code(tmp_path, reader, zipped):
    path = tmp_path / "bad.pt"
    state = {"model": {"w": torch.ones(1)}, "args": Touch(tmp_path / "touched")}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"bad.pt: .*refused: .*\w+\.mkdir") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and not (tmp_path / "touched").exists()


def test_the_own_reader_changes_no_type(tmp_path, monkeypatch):
    """A pickle that sets an attribute of an allowed class is refused."""
    monkeypatch.setattr(safe_load, "torch_version", lambda: (2, 2))
    content = (
        pickle.GLOBAL + b"argparse\nNamespace\n"
        + pickle.NONE + pickle.EMPTY_DICT + pickle.BINUNICODE + b"\x01\x00\x00\x00x"
        + pickle.NEWTRUE + pickle.SETITEM + pickle.TUPLE2 + pickle.BUILD + pickle.STOP
    )  # fmt: skip
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x02" + content)
    with path.open("rb") as file:
        with pytest.raises(pickle.UnpicklingError, match="state of a type"):
            safe_load.Unpickler(file).load()
    assert not hasattr(argparse.Namespace, "x")


def test_torchscript_archives_are_refused(tmp_path, reader):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(DataError, match="script.pt: no checkpoint: a TorchScript arc"):
        read_checkpoint(path)


CUT = b"PK\x03\x04" + b"0" * 50
DAMAGED = {
    b"": "the file is empty",
    b"text\n": "the file is not one of torch.save, or damaged",
    b"\x95\x0b\xf3" * 50: "the file is not one of torch.save, or damaged",
    b"\x80\x02}q\x00.": "the file is not one of torch.save, or damaged",
    CUT: "the file is damaged or cut short",
}


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_checkpoints_are_one_line(command, tmp_path, reader, content):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    out = tmp_path / "out"
    expected = f"error: {path}: no checkpoint: {DAMAGED[content]}"
    assert command("average", "--inputs", path, "--output", out)[0] == expected
    tsv = ("--input", tmp_path / "x", "--output", out)
    assert command("predict", "--path", path, *tsv)[0] == expected
    assert not out.exists()


def test_predict_refuses_code(command, tmp_path):
    path = tmp_path / "bad.pt"
    torch.save({"model": {}, "args": Touch(tmp_path / "touched")}, path)
    code, _, _ = command(
        "predict", "--path", path, "--input", tmp_path / "x", "--output", tmp_path / "y"
    )
    assert "refused" in code and not (tmp_path / "touched").exists()
