"""The benchmark command, in a size that says nothing about speed."""

import json
import runpy
import sys

import pytest
import torch

from recipes.benchmarks import models
from recipes.benchmarks.peers import BroadcastKron, KronLoop

pytest.importorskip("tabulate")


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
    runpy.run_module(module, run_name="__main__", alter_sys=False)


def test_all_benchmarks(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("recipes.benchmarks.lstm.LENGTH", 2)
    monkeypatch.setattr("recipes.benchmarks.lstm.BATCH", 2)
    sizes = ("--tokens", 1, 3, "--sizes", "16x32", "32x16", "--n", 2, 4)
    files = ("--json", tmp_path / "figures.json", "--plot", tmp_path / "figure.png")
    few = ("--rounds", 2, "--weights-mb", 0, "--threads", 1)
    chosen = ("layer", "paths", "lstm")
    run(monkeypatch, "recipes.benchmarks", *chosen, *sizes, *files, *few)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["dtype"] == "float32" and figures["threads"] == 1
    rows = figures["rows"]
    assert {row["benchmark"] for row in rows} == {"layer", "paths", "LSTM"}
    assert {row["what"] for row in rows if row["benchmark"] == "layer"} == {
        "dense",
        "n=2",
        "n=2 R=2",
        "n=4",
        "n=4 R=4",
        "torch.kron loop n=4",
        "broadcast kron n=4",
    }
    assert all(row["ratio"] > 0 and row["low"] <= row["high"] for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["what"] == "dense")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "16x32" in capsys.readouterr().out


def test_headroom_of_gradients_in_fp16(monkeypatch, tmp_path, capsys):
    """That of a rule is at most 3 bits less than that of the dense weight, that of
    blocks 1 more than log2(n): the dynamic loss scale gives as many."""
    path = tmp_path / "figures.json"
    sizes = ("--sizes", "512x512", "--tokens", 512, "--n", 2, 16, "--threads", 1)
    try:
        run(monkeypatch, "recipes.benchmarks", "precision", *sizes, "--json", path)
    except RuntimeError as error:
        assert "not implemented for 'Half'" in str(error)
        pytest.skip("this torch has no fp16 on the CPU")
    rows = json.loads(path.read_text())["rows"]
    assert {row["what"] for row in rows} == {
        "dense", "blocks", "rule", "rule_v", "rule_w",
    }  # fmt: skip
    for row in rows:
        n = int(row["mode"].partition(" ")[0][2:])
        assert row["ratio"] <= (2 * n if row["what"] == "blocks" else 8)
        assert row["overflows"] == 0 and row["bits"] > 0
    assert "dense bits" in capsys.readouterr().out
    run(monkeypatch, "recipes.benchmarks", "precision", *sizes, "--json", path,
        "--loss-scale", 2**22)  # fmt: skip
    rows = json.loads(path.read_text())["rows"]
    assert all((row["overflows"] > 0) == (row["bits"] < 0) for row in rows)


def test_peers_compute_the_same():
    x = torch.randn(3, 8)
    for peer in (KronLoop, BroadcastKron):
        layer = peer(8, 12, 4)
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["speed"], "unknown speed: choose of layer, paths"),
        (["layer", "--rounds", "0"], "--rounds and --threads must be at least 1"),
        (["layer", "--threads", "0"], "--rounds and --threads must be at least 1"),
        (["layer", "--plot", "a.png"], "--plot needs the benchmark paths"),
        (["layer", "--json", "no/a.json"], "no/a.json: no folder /"),
        (["layer", "--device", "nothing"], "argument --device: nothing: "),
        (["layer", "--dtype", "nothing"], "argument --dtype: invalid dtype value"),
        (["layer", "--dtype", "int32"], "argument --dtype: invalid dtype value"),
    ],
)
def test_bad_options_end_in_one_line(monkeypatch, capsys, arguments, message):
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        run(monkeypatch, "recipes.benchmarks", *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_whole_models(monkeypatch, tmp_path):
    small = {f"{side}_ffn_embed_dim": 16 for side in ("encoder", "decoder")}
    for name in ("embed_dim", "layers", "attention_heads", "hidden_size"):
        value = 2 if name in ("layers", "attention_heads") else 16
        small.update({f"{side}_{name}": value for side in ("encoder", "decoder")})
    small["decoder_out_embed_dim"] = 16
    for family in ("transformer", "lstm"):
        monkeypatch.setitem(models.SIZES, family, small)
    monkeypatch.setattr(models, "WORDS", 20)
    monkeypatch.setattr(models, "LENGTH", 3)
    path = tmp_path / "figures.json"
    few = ("--n", 4, "--rounds", 2, "--threads", 1, "--json", path)
    run(monkeypatch, "recipes.benchmarks", "training", "overhead", "decoding", *few)
    rows = json.loads(path.read_text())["rows"]
    whole = ["dense", "n=4", "n=4 R=4", "stock"]
    found = [row["what"] for row in rows if row["benchmark"] == "training"]
    assert found == whole
    found = [row["what"] for row in rows if row["benchmark"] == "decoding"]
    assert found == whole * 3 + ["dense", "n=4"] * 3
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in rows)
