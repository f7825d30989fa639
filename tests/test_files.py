"""Files on a full disk: one line that names the file, and nothing is left of it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_prep import DataError as CorpusError
from data_prep import workspace
from fairseq_phm import DataError, files
from fairseq_phm.checkpoint import write_checkpoint
from fairseq_phm.files import folder_written_whole, refuse_existing, written_whole


def write_text(path):
    with written_whole(path) as file:
        file.write("text")


def write_folder(path):
    with folder_written_whole(path) as folder:
        (folder / "a.txt").symlink_to("/dev/full")
        (folder / "a.txt").write_text("text")


def write_tensors(path):
    with folder_written_whole(path) as folder:
        (folder / "a.pt").symlink_to("/dev/full")
        torch.save({"w": torch.ones(100_000)}, folder / "a.pt")


WRITERS = {
    "text": write_text,
    "checkpoint": lambda path: write_checkpoint({"w": torch.ones(100_000)}, path),
    "json": lambda path: workspace.write_json(path, {"a": 1}),
    "folder": write_folder,
    "tensors": write_tensors,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line_with_the_path(tmp_path, monkeypatch, write):
    path = tmp_path / "a"
    for module in (workspace, files):
        monkeypatch.setattr(module, "uuid4", lambda: SimpleNamespace(hex="0"))
    if write not in (write_folder, write_tensors):
        for name in ("a.0.partial", ".making-a-0"):
            (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises((DataError, CorpusError)) as caught:
        write(path)
    line = str(caught.value)
    reason = "No space left on device"
    if write is write_tensors:  # torch does not tell
        reason = "it cannot be written: is the disk full?"
    assert line.startswith(f"{path}: {reason}") and "\n" not in line
    left = {"a.0.partial", ".making-a-0"} & {one.name for one in tmp_path.iterdir()}
    assert not path.exists() and len(left) < 2


def test_what_others_have_beside_it_stays(tmp_path):
    made, others = tmp_path / "m", ["m.old", "m.partial"]
    for name in [*others, "m"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("mine")
    with folder_written_whole(made) as folder:
        (folder / "a").write_text("text")
    assert [one.name for one in made.iterdir()] == ["a"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m", *others]
    assert all((tmp_path / name / "thesis").exists() for name in others)


@pytest.mark.parametrize("write", [folder_written_whole, workspace.atomic_path])
def test_an_interrupted_replacement_leaves_the_former_folder(
    tmp_path, monkeypatch, write
):
    made = tmp_path / "m"
    made.mkdir()
    (made / "former").touch()
    moves = []

    def interrupted(source, target):
        moves.append((Path(source).name, Path(target).name))
        if len(moves) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), write(made) as folder:
        folder.mkdir(exist_ok=True)
        (folder / "new").touch()
    assert len(moves) == 3 and [one.name for one in made.iterdir()] == ["former"]
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


def test_pipes_and_links_are_never_replaced(tmp_path):
    pipe, nothing, loop = (tmp_path / name for name in ("pipe", "nothing", "loop"))
    os.mkfifo(pipe)
    nothing.symlink_to("none")
    loop.symlink_to("loop")
    (tmp_path / "link").symlink_to("pipe")
    before = sorted(tmp_path.iterdir())
    for name, message in [
        ("pipe", "is neither a file nor a folder"),
        ("link", "is neither a file nor a folder"),
        ("nothing", "is a link to nothing"),
        ("loop", "is a link to nothing"),
    ]:
        for write in (write_text, write_folder, lambda p: refuse_existing(p, True)):
            with pytest.raises(DataError, match=f"{name}: {message}"):
                write(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before and pipe.is_fifo()
    assert nothing.is_symlink()


def test_links_are_written_through(tmp_path):
    held, link = tmp_path / "held", tmp_path / "link"
    held.mkdir()
    (held / "a.txt").write_text("former")
    link.symlink_to("held/a.txt")
    with pytest.raises(DataError, match="link: exists; --force replaces it"):
        refuse_existing(link, False)
    write_text(link)
    assert link.is_symlink() and (held / "a.txt").read_text() == "text"
    link.unlink()
    link.symlink_to("held")
    with folder_written_whole(link) as folder:
        (folder / "b.txt").write_text("text")
    assert link.is_symlink() and [one.name for one in held.iterdir()] == ["b.txt"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["held", "link"]


def test_folders_of_linked_inputs_stay(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "words").touch()
    (data / "dict.txt").symlink_to("../words")
    with pytest.raises(DataError, match="data: holds the input"):
        refuse_existing(data, True, data / "dict.txt")


def test_outputs_that_cannot_be(tmp_path, monkeypatch):
    model = tmp_path / "run" / "best.pt"
    model.parent.mkdir()
    model.touch()
    monkeypatch.chdir(tmp_path)
    for output, message in [
        ("run", f"run: holds the input {model}"),
        ("run/best.pt", "run/best.pt: is the input"),
        ("none/x", "none/x: no such folder: "),
        ("x" * 300, "File name too long"),
    ]:
        with pytest.raises(DataError, match=message):
            refuse_existing(Path(output), True, model)
    for write in (write_text, write_folder):
        for output, message in [(".", "is a folder"), ("x" * 250, "name too long")]:
            with pytest.raises(DataError, match=message):
                write(Path(output))
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
