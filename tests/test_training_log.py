"""What is read from the log of fairseq-train."""

import json
import math
from argparse import Namespace

import pytest

from recipes.driver.training_log import converged, lowest_loss, read_training


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
    found = {
        "training_seconds": 140.0 + 66.0,
        "curve": [[10, 8.0, 7.5], [20, 6.5, 6.25]],
        "accuracies": [50.0],
    }
    assert read_training(log) == found
    of_hydra = [line for line in lines if not line.startswith("$")]
    log.write_text("\n".join([*of_hydra, ""]))
    assert read_training(log) == found


@pytest.mark.parametrize("updates, over", [(40, True), (30, False), (0, False)])
def test_a_resumed_training_goes_on_counting_its_patience(
    updates, over, tmp_path, monkeypatch
):
    """As if it had not been interrupted; what came after the checkpoint comes again."""
    from recipes.driver import torchrun

    lines = ["$ fairseq-train"]
    for at, accuracy in [(10, 70.0), (20, 75.0), (30, 74.0), (30, 74.0), (40, 75.0)]:
        lines.append(entry(at, "valid", at, 1.0, accuracy=accuracy))
    torn = b"\xc3\n"  # within a letter, as by a kill
    (tmp_path / "train.log").write_bytes("\n".join([*lines, ""]).encode() + torn)
    saving = Namespace(
        patience=2, save_dir=str(tmp_path), best_checkpoint_metric="accuracy",
        maximize_best_checkpoint_metric=True,
    )  # fmt: skip
    monkeypatch.setattr(torchrun, "trained_updates", lambda _: updates)
    state = torchrun.should_stop_early
    for name in ("best", "num_runs"):
        monkeypatch.setattr(state, name, None, raising=False)
    trained = []
    monkeypatch.setattr(torchrun.fairseq_cli.train, "main", trained.append)
    config = Namespace(checkpoint=saving)
    torchrun.train(config)
    assert trained == [] if over else [config]
    assert (state.best, state.num_runs) == {
        40: (75.0, 2), 30: (75.0, 1), 0: (None, None)
    }[updates]  # fmt: skip
    saving.patience = 0
    assert not torchrun.patience_is_over(config)


@pytest.mark.parametrize(
    "losses,expected",
    [
        ([9, 8, 7, 6, 5, 4, 3, 2.5, 2.2, 2.1], False),
        ([9, 8, 7, 6, 5, 4, 3, 2.101, 2.1, 2.1], True),
        ([9, 8, 7, 6, 5, 4, 2.0, 2.5, 2.2, 2.1], True),  # lowest before, overfits now
        ([9, 8, 7, 6, 5, 4, 3, 2.11, 2.1, 2.1], True),  # 0.01 bits: 0.007 nats
        ([9, 8, 7, 6, 5, 4, 3, 2.12, 2.1, 2.1], False),
        ([9, 8, 7, 6, 5, 4, 3, 2.1, 2.1, math.nan], False),
        ([3], False),
    ],
)
def test_converged(losses, expected):
    curve = [[10 * at, None, loss] for at, loss in enumerate(losses, start=1)]
    assert converged(curve) is expected


def test_the_lowest_loss_is_a_number():
    curve = [[10, None, math.nan], [20, None, 4.0], [30, None, 5.0]]
    assert lowest_loss({"curve": curve}) == 4.0


def test_convergence_between_validations():
    assert converged([[75, None, 5.0], [90, None, 4.985], [100, None, 4.985]])
    assert not converged([[75, None, 5.0], [90, None, 4.97], [100, None, 4.97]])
    assert converged([[80, None, 5.0], [80, None, 5.0], [100, None, 4.995]])
