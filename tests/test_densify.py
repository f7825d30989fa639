"""Dense checkpoints give the hypotheses of PHM checkpoints, without the plugin.

Those of language models give the loss of fairseq-eval-lm, too.
"""

import argparse
import importlib
import random
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from fairseq.models import ARCH_MODEL_REGISTRY
from forked import python

from fairseq_phm import DataError
from fairseq_phm.better_transformer import without_copies
from fairseq_phm.checkpoint import read_checkpoint
from fairseq_phm.commands import main
from fairseq_phm.densify import dense_state
from fairseq_phm.modules import PHMLSTM, PHMLinear

TRANSFORMER = [
    "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32", "--encoder-layers",
    "2", "--decoder-layers", "2", "--encoder-attention-heads", "2",
    "--decoder-attention-heads", "2",
]  # fmt: skip
LSTM = [
    "--encoder-hidden-size", "16", "--decoder-hidden-size", "16",
    "--encoder-embed-dim", "8", "--decoder-embed-dim", "8",
    "--decoder-out-embed-dim", "8",
]  # fmt: skip
TEXT = [
    "--task", "language_modeling", "--sample-break-mode", "eos", "--tokens-per-sample",
    "32",
]  # fmt: skip
LM = [
    *TEXT, "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32",
    "--decoder-layers", "2", "--decoder-attention-heads", "2",
]  # fmt: skip
VARIANTS = {
    "pairs": [],
    "fused-pairs": ["--phm-fuse-qkv"],
    "frozen-model": ["--phm-freeze-rule", "--phm-share-rule", "model"],
    "embeddings": ["--phm-embeddings", "2", "--share-decoder-input-output-embed"],
    "fused": ["--phm-fuse-qkv", "--phm-share-rule", "layer"],
    "stack": ["--phm-share-rule", "stack", "--phm-ffn-n", "2"],
    "frozen": ["--arch", "quaternion_transformer", "--phm-fuse-qkv"],
    "rule-rank": ["--phm-rule-rank", "4", "--phm-fuse-qkv"],
    "low-rank": ["--phm-rank", "2", "--phm-share-rule", "model"],
    "twin": ["--phm-n", "1", "--share-all-embeddings"],
    "options": [
        "--encoder-normalize-before", "--decoder-normalize-before",
        "--encoder-learned-pos", "--decoder-learned-pos", "--activation-fn", "gelu",
        "--share-decoder-input-output-embed", "--max-source-positions", "64",
        "--max-target-positions", "64",
    ],
    "lstm": [
        "--arch", "phm_lstm", "--encoder-bidirectional", "--phm-output-projections",
    ],
    "lstm-fused": [
        "--arch", "phm_lstm", "--phm-gates", "fused", "--encoder-layers", "2",
        "--decoder-layers", "2", "--phm-encoder-n", "2",
    ],
    "lm": ["--arch", "phm_transformer_lm", "--share-decoder-input-output-embed"],
    "lm-fused": [
        "--arch", "phm_transformer_lm", "--phm-fuse-qkv", "--phm-rule-rank", "4",
        "--decoder-learned-pos",
    ],
    "lm-frozen": [
        "--arch", "quaternion_transformer_lm", "--phm-share-rule", "stack",
        "--phm-ffn-n", "4",
    ],
}  # fmt: skip
WIDE = ["--phm-attention-dim", "32"]
WIDE_LM = ["--arch", "phm_transformer_lm", *WIDE]

GENERATE = """
import logging, os, sys
import numpy, types
logging.basicConfig(stream=sys.stdout, level=logging.INFO)  # the loss of eval-lm
if not hasattr(numpy, "compat"):  # what fairseq asks of NumPy 2
    numpy.compat = types.SimpleNamespace(long=int)
if sys.argv[1] == "without":
    sys.modules["fairseq_phm"] = None
else:
    import fairseq_phm
import fairseq
from fairseq_cli import eval_lm, generate
# fairseq 0.12.2 fails for padded sources with its own Transformer
batch = "1" if fairseq.__version__ == "0.12.2" else "9"
for data, path in zip(sys.argv[2::2], sys.argv[3::2]):
    shared = ["--path", path, "--cpu", "--dataset-impl", "raw", "--num-workers", "0",
        "--required-batch-size-multiple", "1", "--batch-size", batch]
    search = ["--beam", "3", "--max-len-a", "1", "--max-len-b", "4", "--nbest", "2"]
    print("PATH", path)
    if os.path.exists(data + "/dict.txt"):
        text = ["--sample-break-mode", "eos", "--tokens-per-sample", "32"]
        sys.argv = ["eval_lm", data, *shared, *text, "--gen-subset", "test"]
        eval_lm.cli_main()
        shared += ["--task", "language_modeling", "--prefix-size", "2", *text]
    sys.argv = ["generate", data, *shared, *search]
    generate.cli_main()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw pairs: words, and the same backwards; one dictionary."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(1)
    for split, count in {"train": 60, "valid": 5, "test": 9}.items():
        rows = [rng.choices("abcdefgh", k=rng.randint(2, 7)) for _ in range(count)]
        for language, step in (("src", 1), ("tgt", -1)):
            text = "".join(" ".join(row[::step]) + "\n" for row in rows)
            (folder / f"{split}.src-tgt.{language}").write_text(text)
    for language in ("src", "tgt"):
        text = "".join(f"{word} 9\n" for word in "abcdefgh")
        (folder / f"dict.{language}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def texts(data, tmp_path_factory):
    """The source side as text of a language model, raw."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "dict.txt").write_text((data / "dict.src.txt").read_text())
    for split in ("train", "valid", "test"):
        text = (data / f"{split}.src-tgt.src").read_text()
        (folder / split).write_text(text)
    return folder


def train(data, folder, flags):
    """Train a tiny model in this process; return its last checkpoint."""
    from fairseq_cli.train import cli_main

    arch = "phm_transformer"
    if "--arch" in flags:
        place = flags.index("--arch")
        arch, flags = flags[place + 1], [*flags[:place], *flags[place + 2 :]]
    sizes = LSTM if "lstm" in arch else LM if "_lm" in arch else TRANSFORMER
    vars(importlib.import_module("fairseq.checkpoint_utils").save_checkpoint).clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [
            "train", str(data), "--arch", arch, *sizes, *flags, "--cpu", "--save-dir",
            str(folder), "--dataset-impl", "raw", "--optimizer", "adam", "--lr", "0.01",
            "--max-tokens", "100", "--max-update", "12", "--num-workers", "0",
            "--required-batch-size-multiple", "1", "--no-epoch-checkpoints",
            "--disable-validation", "--no-progress-bar",
        ])  # fmt: skip
        cli_main()
    return folder / "checkpoint_last.pt"


def generate(which, paths, folder):
    """Hypotheses, scores and loss by checkpoint, ``without`` the plugin or ``with`` it.

    ``paths`` are pairs of data and checkpoint.
    """
    script = folder / "generate.py"
    script.write_text(GENERATE)
    done = python(
        script, which, *(word for pair in paths for word in pair), cwd=folder,
        env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    found = {}
    for part in done.stdout.split("PATH ")[1:]:
        path, _, text = part.partition("\n")
        lines = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", text, re.MULTILINE)
        losses = re.findall(r"Loss \(base 2\): ([\d.]+)", text)
        rows = sorted((int(i), hypothesis, float(s)) for i, s, hypothesis in lines)
        found[path] = rows, list(map(float, losses))
    return found


def as_old(path):
    """The same checkpoint with its options where old fairseq has them."""
    checkpoint = read_checkpoint(path)
    old = path.with_name("old.pt")
    args, cfg = checkpoint["cfg"]["model"], None
    torch.save({**checkpoint, "args": args, "cfg": cfg}, old)
    return old


def as_hydra(path):
    """The same checkpoint with its options as fairseq-hydra-train stores them."""
    checkpoint = read_checkpoint(path)
    options = vars(checkpoint["cfg"]["model"])
    names = [name for name in options if name.startswith("phm_")]
    model = {"_name": "phm_transformer", **{name: options[name] for name in names}}
    for stack in ("encoder", "decoder"):
        model[stack] = {
            name: options[f"{stack}_{name}"]
            for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
        }
    hydra = path.with_name("hydra.pt")
    cfg = {**checkpoint["cfg"], "model": model}
    torch.save({**checkpoint, "cfg": cfg}, hydra)
    return hydra


@pytest.fixture(scope="module")
def data_of(data, texts):
    """Name of a variant -> its data."""
    return lambda name: texts if name.startswith("lm") else data


@pytest.fixture(scope="module")
def trained(data, data_of, tmp_path_factory):
    """Name of a variant -> its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    paths = {
        name: train(data_of(name), folder / name, flags)
        for name, flags in VARIANTS.items()
    }
    paths["old"] = as_old(paths["fused"])
    paths["hydra"] = as_hydra(paths["pairs"])
    return paths


@pytest.fixture(scope="module")
def results(data_of, trained, tmp_path_factory):
    """Name of a variant -> what the PHM and the dense checkpoint generate."""
    folder = tmp_path_factory.mktemp("dense")
    dense = {name: folder / f"{name}.pt" for name in trained}
    for name, path in trained.items():
        extra = ["--options", "namespace"] * (name == "stack" and not _is_new())
        main(["densify", str(path), str(dense[name]), *extra])
    before, after = (
        generate(which, [(data_of(n), path) for n, path in paths.items()], folder)
        for which, paths in (("with", trained), ("without", dense))
    )
    return {
        name: (before[str(path)], after[str(dense[name])])
        for name, path in trained.items()
    }


def _is_new():
    """torch reads no namespace by default, so that fairseq needs the plugin for it."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


@pytest.mark.parametrize("name", [*VARIANTS, "old", "hydra"])
def test_the_same_hypotheses_without_the_plugin(results, name):
    (before, losses), (after, dense_losses) = results[name]
    assert len(before) == 18 and len(losses) == name.startswith("lm")
    assert losses == pytest.approx(dense_losses, abs=2e-4)  # printed with 4 decimals
    for one, other in zip(before, after):
        assert one[:2] == other[:2]
        assert abs(one[2] - other[2]) < 1e-4


def test_what_is_stored(trained, tmp_path, capsys):
    out = tmp_path / "dense.pt"
    main(["densify", str(trained["fused"]), str(out)])
    assert "transformer, " in capsys.readouterr().out
    checkpoint = torch.load(out, weights_only=True)
    assert checkpoint["args"] is None and "last_optimizer_state" not in checkpoint
    model = checkpoint["cfg"]["model"]
    assert model["arch"] == model["_name"] == "transformer"
    assert not [name for name in model if name.startswith("phm_")]
    assert not [key for key in checkpoint["model"] if "blocks" in key or "rule" in key]
    assert checkpoint["model"].keys() == without_copies(checkpoint["model"]).keys()
    assert checkpoint["cfg"]["common"]["user_dir"] is None
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 12
    two = read_checkpoint(trained["fused"])
    two["optimizer_history"].insert(0, {"num_updates": 5})  # of an earlier optimizer
    torch.save(two, tmp_path / "two.pt")
    main(["densify", str(tmp_path / "two.pt"), str(out), "--force", "--options",
          "namespace"])  # fmt: skip
    checkpoint = read_checkpoint(out)
    assert isinstance(checkpoint["args"], argparse.Namespace)
    assert checkpoint["args"].task == "translation"
    assert [one["num_updates"] for one in checkpoint["optimizer_history"]] == [12]


def refused(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert str(end.value.code).startswith("error: ")
    assert "\n" not in end.value.code
    return end.value.code


def test_bad_input_is_one_line(data, texts, trained, tmp_path):
    out = tmp_path / "out.pt"
    for corpus, flags in ((data, WIDE), (texts, WIDE_LM)):
        wide = train(corpus, tmp_path / "wide", flags)
        assert "--phm-attention-dim 32 is not the" in refused("densify", wide, out)
        shutil.rmtree(tmp_path / "wide")
    dense = tmp_path / "dense.pt"
    main(["densify", str(trained["pairs"]), str(dense)])
    assert "a dense model, transformer" in refused("densify", dense, out)
    assert "exists; --force" in refused("densify", trained["pairs"], dense)
    source = trained["pairs"]
    assert "is the input" in refused("densify", source, source, "--force")
    assert "no such folder" in refused("densify", source, tmp_path / "no" / "x.pt")
    assert "No such file" in refused("densify", tmp_path / "none.pt", out)
    checkpoint = read_checkpoint(source)
    keys = "encoder.layers.0.self_attn.k_proj.blocks", "decoder.layers.0.fc1.blocks"
    for key in keys:  # torch's attention hides what k is from the scores
        whole = checkpoint["model"][key]
        checkpoint["model"][key] = torch.full_like(whole, float("nan"))
        torch.save(checkpoint, tmp_path / "part.pt")
        message = refused("densify", tmp_path / "part.pt", out)
        assert f"part.pt: {key} has numbers that are not finite" in message
        checkpoint["model"][key] = whole
    del checkpoint["model"]["decoder.layers.0.fc1.blocks"]
    torch.save(checkpoint, tmp_path / "part.pt")
    assert "part.pt: " in refused("densify", tmp_path / "part.pt", out)
    torch.save({**checkpoint, "cfg": None}, tmp_path / "none.pt")
    assert "no options of a model" in refused("densify", tmp_path / "none.pt", out)
    assert not out.exists()


def test_a_full_disk_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_phm.files.uuid4", lambda: SimpleNamespace(hex="0"))
    (tmp_path / "out.pt.0.partial").symlink_to("/dev/full")
    assert "out.pt: " in refused("densify", trained["pairs"], tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())


def test_dense_state_of_single_layers():
    layer = PHMLinear(8, 4, n=2).eval()
    state = dense_state(layer)
    assert state.keys() == {"weight", "bias"}
    assert torch.equal(state["weight"], layer.weight)
    lstm = PHMLSTM(8, 4, n=2, num_layers=2, bidirectional=True).eval()
    twin = torch.nn.LSTM(8, 4, num_layers=2, bidirectional=True)
    twin.load_state_dict(dense_state(lstm))
    x = torch.randn(5, 3, 8)
    torch.testing.assert_close(lstm(x)[0], twin(x)[0])


def test_classifiers_have_no_counterpart():
    from fairseq_phm.densify import densified
    from fairseq_phm.rebuild import Rebuilt

    args = argparse.Namespace(arch="phm_lstm_classifier")
    assert args.arch in ARCH_MODEL_REGISTRY
    with pytest.raises(DataError, match="phm_lstm_classifier has no counterpart"):
        densified(Rebuilt(torch.nn.Identity(), args, 5, 5))
