"""Exports give fairseq's results, and leave nothing when they do not."""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from fairseq.data import Dictionary

import fairseq_phm
from fairseq_phm import DataError
from fairseq_phm.commands import main
from fairseq_phm.commands.export import FORMATS
from fairseq_phm.commands.params import _parse_model
from fairseq_phm.exports import needs
from fairseq_phm.exports.source import TRANSFORMER_ONLY, read_sentences
from fairseq_phm.rebuild import Rebuilt, build

VARIANTS = {
    "fused": (
        "phm_transformer", dict(phm_fuse_qkv=True, checkpoint_activations=True)
    ),
    "rule-rank": (
        "phm_transformer",
        dict(phm_rule_rank=4, phm_share_rule="stack", checkpoint_activations=True),
    ),
    "pre-norm": (
        "quaternion_transformer",
        dict(
            encoder_normalize_before=True, decoder_normalize_before=True,
            share_decoder_input_output_embed=True,
        ),
    ),
    "dense": ("transformer", dict(max_source_positions=20, max_target_positions=12)),
    "wide": ("phm_transformer", dict(phm_attention_dim=64)),
    "narrow output": ("phm_transformer", dict(decoder_output_dim=16)),
    "adaptive": ("phm_transformer", dict(adaptive_softmax_cutoff="10,20")),
    "apart": ("phm_transformer", dict(no_cross_attention=True)),
    "lstm": (
        "phm_lstm",
        dict(
            encoder_embed_dim=16, encoder_hidden_size=16, decoder_embed_dim=16,
            decoder_hidden_size=16, decoder_out_embed_dim=16,
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for language, count in (("src", 30), ("tgt", 20)):
        words = Dictionary()
        for i in range(count):
            words.add_symbol(f"{language}{i}", n=9)
        words.save(str(folder / f"dict.{language}.txt"))
    text = "src1 src2 src3\n\nsrc5 src4 other src9 src9 src9\n"
    (folder / "sentences.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def checkpoints(data, tmp_path_factory):
    """Variant -> a checkpoint of a random model that repeats no token for ever."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name, (arch, options) in VARIANTS.items():
        torch.manual_seed(3)
        args = _parse_model(argparse.ArgumentParser(), arch, [])
        sizes = {} if "lstm" in arch else TINY
        vars(args).update({**sizes, **options})
        args.source_lang, args.target_lang, args.data = "src", "tgt", str(data)
        args.task = "translation"
        built = build(args, 34, 24)
        with torch.no_grad():
            for parameter in built.model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        paths[name] = folder / f"{name}.pt"
        state = {"args": args, "model": built.model.state_dict(), "extra_state": {}}
        torch.save(state, paths[name])
    return paths


def export(kind, path, out, *arguments):
    main(["export", "--to", kind, str(path), str(out), *map(str, arguments)])


def difference(output):
    """Of log-probabilities, as the command prints it."""
    return float(re.search(r"differ by (\S+)", output)[1])


def refused(*arguments):
    with pytest.raises(SystemExit) as end:
        export(*arguments)
    assert str(end.value.code).startswith("error: ")
    assert "\n" not in end.value.code
    return end.value.code


@pytest.mark.parametrize("name", ["fused", "rule-rank", "pre-norm", "wide", "dense"])
def test_ctranslate2(data, checkpoints, tmp_path, capsys, name):
    pytest.importorskip("ctranslate2")
    export("ctranslate2", checkpoints[name], tmp_path / "out")
    assert difference(capsys.readouterr().out) < 1e-5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.bin", "dict.src.txt", "dict.tgt.txt", "example.py"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if name == "dense":  # of 20 positions
        done = subprocess.run(
            [sys.executable, tmp_path / "out" / "example.py"],
            input="src1 " * 30, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("quantization", ["int8", "int8_float32"])
def test_ctranslate2_quantized(data, checkpoints, tmp_path, capsys, quantization):
    pytest.importorskip("ctranslate2")
    out = tmp_path / "out"
    export("ctranslate2", checkpoints["fused"], tmp_path / "whole")
    export(
        "ctranslate2", checkpoints["fused"], out, "--quantization", quantization,
        "--sentences", data / "sentences.txt",
    )  # fmt: skip
    output = capsys.readouterr().out.splitlines()[-1]
    assert "of 2 hypotheses are fairseq's" in output
    assert 0 < difference(output) < 0.1
    sizes = [(f / "model.bin").stat().st_size for f in (out, tmp_path / "whole")]
    assert sizes[0] < sizes[1] / 2
    done = subprocess.run(
        [sys.executable, out / "example.py"],
        input="src1 src2\nsrc3\n", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_ctranslate2_with_sentencepiece(data, checkpoints, tmp_path):
    pytest.importorskip("ctranslate2")
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text"
    lines = [f"the words {i} of a text {i * 7}\n" for i in range(50)]
    text.write_text("".join(lines))
    few = tmp_path / "few"
    few.write_text("".join(lines[:3]))
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={text} --model_prefix={tmp_path}/pieces --vocab_size=40 "
        "--hard_vocab_limit=false --minloglevel=2"
    )
    out = tmp_path / "out"
    export(
        "ctranslate2", checkpoints["fused"], out,
        "--sentencepiece", tmp_path / "pieces.model", "--sentences", few,
    )  # fmt: skip
    assert (out / "sentencepiece.model").is_file()
    done = subprocess.run(
        [sys.executable, out / "example.py"],
        input="the text\n", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((out / "example.py").read_text().splitlines()) < 20


@pytest.mark.parametrize("name", VARIANTS)
def test_safetensors(checkpoints, tmp_path, name):
    pytest.importorskip("safetensors")
    out = tmp_path / "out"
    export("safetensors", checkpoints[name], out)
    model = fairseq_phm.load_safetensors(out)
    expected = torch.load(checkpoints[name], weights_only=False)["model"]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-6)
    config = json.loads((out / "config.json").read_text())
    assert config["options"]["arch"] == VARIANTS[name][0]


def test_dense_safetensors(checkpoints, tmp_path):
    pytest.importorskip("safetensors")
    out = tmp_path / "out"
    export("safetensors", checkpoints["fused"], out, "--dense")
    model = fairseq_phm.load_safetensors(out)
    assert type(model).__name__ == "TransformerModel"
    assert model.encoder.layers[0].fc1.weight.shape == (64, 32)


def test_damaged_safetensors(checkpoints, tmp_path):
    pytest.importorskip("safetensors")
    out = tmp_path / "out"
    export("safetensors", checkpoints["fused"], out)
    (out / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="out: ") as error:
        fairseq_phm.load_safetensors(out)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="No such file"):
        fairseq_phm.load_safetensors(tmp_path / "none")


def test_bad_input_leaves_nothing(data, checkpoints, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    out, path = tmp_path / "out", checkpoints["fused"]
    args = ("safetensors", path, out)
    pieces = ("--sentencepiece", tmp_path / "none")
    assert "--sentencepiece needs --sentences" in refused(*args, *pieces)
    message = refused(*args, *pieces, "--sentences", data / "sentences.txt")
    assert "none: no such file" in message
    assert "No such file" in refused(*args, "--sentences", tmp_path / "none")
    empty = tmp_path / "in" / "empty"
    empty.parent.mkdir()
    empty.write_text("\n")
    assert "no sentences" in refused(*args, "--sentences", empty)
    long = empty.with_name("long")
    long.write_text("src1\u0085\n" + "src2 " * 20)
    message = refused("safetensors", checkpoints["dense"], out, "--sentences", long)
    assert "long: line 2 has 20 tokens; the model takes 19" in message
    long.write_text("src1\n" * 100 + "src2 " * 20)  # the first 100 are used
    assert len(read_sentences(long, data / "dict.src.txt", str.split, 20)) == 100
    wide = checkpoints["wide"]
    message = refused("safetensors", wide, out, "--dense")
    assert "wide.pt: --phm-attention-dim 64 is not" in message
    message = refused("torchscript", path, out, "--quantization", "int8")
    assert "--quantization is for --to ctranslate2, not torchscript" in message
    message = refused("onnx", path, out, "--dense")
    assert "--dense is for --to safetensors, not onnx" in message
    for form in ("ctranslate2", "safetensors"):
        message = refused(form, path, out, "--data", empty.parent)
        assert "dict.src.txt: no such dictionary; --data names" in message
    (empty.parent / "dict.src.txt").write_text("a 1\n")
    (empty.parent / "dict.tgt.txt").write_text("a 1\n")
    message = refused("ctranslate2", path, out, "--data", empty.parent)
    assert "5 symbols, but the model has 34" in message
    if importlib.util.find_spec("ctranslate2"):
        message = refused("ctranslate2", checkpoints["narrow output"], out)
        assert "CTranslate2 cannot convert this model: " in message
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    message = refused(*args)
    assert "pip install safetensors" in message and "safetensors.torch" not in message
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_numbers_that_are_not_finite(checkpoints, tmp_path):
    state = torch.load(checkpoints["dense"], weights_only=False)
    state["model"]["encoder.layers.0.fc1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    message = refused("torchscript", tmp_path / "nan.pt", tmp_path / "out")
    assert "nan.pt: encoder.layers.0.fc1.weight has numbers that are not" in message
    assert [path.name for path in tmp_path.iterdir()] == ["nan.pt"]


def test_what_fairseq_never_fills_may_hold_anything(checkpoints, tmp_path):
    """A buffer of 0.12.2 has what was in memory."""
    state = torch.load(checkpoints["dense"], weights_only=False)
    key = "encoder.embed_positions._float_tensor"
    state["model"][key] = torch.tensor([float("nan")])
    torch.save(state, tmp_path / "in.pt")
    export("torchscript", tmp_path / "in.pt", tmp_path / "out")
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_classifiers_are_refused(checkpoints, tmp_path, monkeypatch, kind):
    args = argparse.Namespace(arch="phm_lstm_classifier")
    made = Rebuilt(torch.nn.Identity(), args, 0, 0)
    monkeypatch.setattr("fairseq_phm.exports.source.rebuild", lambda *_: made)
    message = refused(kind, checkpoints["dense"], tmp_path / "out")
    assert "dense.pt: " in message and "phm_lstm_classifier" in message
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(data, checkpoints, tmp_path):
    pytest.importorskip("safetensors")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    assert "exists; --force" in refused("safetensors", checkpoints["fused"], out)
    assert (out / "mine").exists()
    message = refused("safetensors", checkpoints["fused"], data, "--force")
    assert "holds the input" in message and (data / "dict.src.txt").exists()
    export("safetensors", checkpoints["fused"], out, "--force")
    assert not (out / "mine").exists() and (out / "config.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_result_that_differs_is_refused(data, checkpoints, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    from fairseq_phm.exports import to_ctranslate2

    monkeypatch.setitem(to_ctranslate2.QUANTIZATIONS, "float32", -1.0)
    message = refused("ctranslate2", checkpoints["fused"], tmp_path / "out")
    assert "log-probabilities differ by" in message
    assert not list(tmp_path.iterdir())


def test_onnx_that_gives_no_numbers_is_refused(monkeypatch):
    from fairseq_phm.exports import to_onnx

    found = [([5], [5, 2], torch.zeros(2))]
    monkeypatch.setattr(to_onnx, "translated", lambda *_: found)
    source = SimpleNamespace(path="a.pt", sentences=[[5]])
    encoder = SimpleNamespace(run=lambda *_: (None, None))
    decoder = SimpleNamespace(run=lambda *_: [torch.full((1, 9), torch.nan)])
    with pytest.raises(DataError, match="a.pt: ONNX's log-prob.* differ by nan"):
        to_onnx._compare(source, [encoder, decoder])


def test_a_missing_package_names_the_command():
    with pytest.raises(DataError, match="nothing_at_all is not installed: pip install"):
        needs("nothing_at_all")


@pytest.mark.parametrize("name", ["rule-rank", "wide"])
def test_torchscript(checkpoints, tmp_path, capsys, name):
    out = tmp_path / "model.pt"
    export("torchscript", checkpoints[name], out)
    assert "8 of 8 hypotheses are fairseq's" in capsys.readouterr().out
    code = (
        "import sys, torch\n"
        "model = torch.jit.load(sys.argv[1])\n"
        "inputs = {'src_tokens': torch.tensor([[5, 6, 2]]),"
        " 'src_lengths': torch.tensor([3])}\n"
        "assert len(model({'net_input': inputs})[0]) == 5\n"
        "assert 'fairseq' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, out], check=True, cwd=tmp_path)
    message = refused("torchscript", checkpoints["lstm"], tmp_path / "lstm.pt")
    assert "knows transformer, not phm_lstm" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("name", ["fused", "pre-norm", "wide"])
def test_onnx(checkpoints, tmp_path, capsys, name):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    export("onnx", checkpoints[name], out)
    assert "of 8 hypotheses differ by at most" in capsys.readouterr().out
    encoder = runtime.InferenceSession(str(out / "encoder.onnx"))
    together = torch.tensor([[5, 6, 7, 8, 2], [1, 1, 1, 9, 2]]).numpy()
    alone = torch.tensor([[9, 2]]).numpy()
    padded, _ = encoder.run(None, {"src_tokens": together})
    expected, _ = encoder.run(None, {"src_tokens": alone})
    assert abs(padded[3:, 1] - expected[:, 0]).max() < 1e-5


@pytest.mark.parametrize(
    "name, reason", [("adaptive", "softmax"), ("apart", "encoder")]
)
@pytest.mark.parametrize("kind", ["onnx", "ctranslate2"])
def test_other_decoders_are_refused(checkpoints, tmp_path, kind, name, reason):
    pytest.importorskip("onnxruntime" if kind == "onnx" else kind)
    pytest.importorskip(kind)
    message = refused(kind, checkpoints[name], tmp_path / "out")
    assert f"{name}.pt: {TRANSFORMER_ONLY[kind]} export" in message
    assert reason in message and not list(tmp_path.iterdir())


def test_scores_that_are_not_finite(checkpoints, tmp_path):
    state = torch.load(checkpoints["dense"], weights_only=False)
    state["model"]["decoder.output_projection.weight"].fill_(3e38)
    torch.save(state, tmp_path / "in.pt")
    message = refused("torchscript", tmp_path / "in.pt", tmp_path / "out")
    assert "scores of the model are not finite" in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]
