"""What is read from the log of fairseq-train."""

import json

from recipes.driver.training_log import read_training


def line(seconds, text):
    return f"2026-01-31 23:{seconds // 60:02}:{seconds % 60:02} | INFO | {text}"


def entry(seconds, kind, updates, loss, **more):
    values = {"loss": loss, "num_updates": updates, **more}
    prefix = "" if kind == "train_inner" else f"{kind}_"
    text = json.dumps({prefix + key: str(value) for key, value in values.items()})
    return line(seconds, f"{kind} | {text}")


def test_a_resumed_training_counts_all_its_seconds(tmp_path):
    """fairseq's ``wall`` is 0 after resuming; what is trained twice counts twice."""
    log = tmp_path / "train.log"
    lines = [
        "$ fairseq-train",
        line(0, "fairseq_cli.train | Namespace(...)"),
        line(10, "fairseq_cli.train | training on 1 devices (GPUs/TPUs)"),
        entry(70, "train_inner", 10, 8.0, wall=60),
        entry(80, "valid", 10, 7.5),
        entry(150, "train_inner", 15, 7.0, wall=140),
        "$ fairseq-train",
        line(600, "fairseq_cli.train | training on 1 devices (GPUs/TPUs)"),
        entry(630, "train_inner", 15, 7.0, wall=0),
        entry(660, "train_inner", 20, 6.0, wall=0),
        entry(665, "valid", 20, 6.25, accuracy=50),
        entry(666, "train", 20, 6.5, wall=0),
    ]
    log.write_text("\n".join([*lines, ""]))
    assert read_training(log) == {
        "training_seconds": 140.0 + 66.0,
        "curve": [[10, 8.0, 7.5], [20, 6.5, 6.25]],
        "accuracies": [50.0],
    }
