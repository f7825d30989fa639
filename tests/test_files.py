"""Files on a full disk: one line that names the file, and nothing is left of it."""

from types import SimpleNamespace

import pytest
import torch

from data_prep import DataError as CorpusError
from data_prep import workspace
from fairseq_phm import DataError
from fairseq_phm.checkpoint import write_checkpoint
from fairseq_phm.files import folder_written_whole, written_whole


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
    monkeypatch.setattr(workspace, "uuid4", lambda: SimpleNamespace(hex="0"))
    if write not in (write_folder, write_tensors):
        for name in ("a.partial", ".making-a-0"):
            (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises((DataError, CorpusError)) as caught:
        write(path)
    line = str(caught.value)
    reason = "No space left on device"
    if write is write_tensors:  # torch does not tell
        reason = "it cannot be written: is the disk full?"
    assert line.startswith(f"{path}: {reason}") and "\n" not in line
    left = {"a.partial", ".making-a-0"} & {one.name for one in tmp_path.iterdir()}
    assert not path.exists() and len(left) < 2
