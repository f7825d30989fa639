"""Compression of dense checkpoints: exactness, optimality, models, bad input."""

import argparse
import copy
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY, Task, padded_batch, run, tiny_transformer
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.models.lstm import LSTMModel
from torch import nn

from fairseq_phm import PHMLSTM, DataError, PHMLinear, nearest
from fairseq_phm.commands import compress as command
from fairseq_phm.functional import (
    associative_rule,
    cp_rule,
    make_cp_factors,
    multiplication_rule,
)
from fairseq_phm.models.architectures import phm_transformer_lm
from fairseq_phm.modules.linear import PHMLinearRows
from fairseq_phm.nearest import (
    nearest_blocks,
    nearest_cp,
    nearest_rule,
    rearrange,
    relative_error,
)

pytestmark = pytest.mark.one_version

DOUBLE = torch.float64


def sum_of(rule, blocks):
    return rule.flatten(1).t() @ blocks


def discarded(parts, n):
    """Relative error of the truncated singular value decomposition."""
    squares = torch.linalg.svdvals(parts).square()
    return (squares[n:].sum() / squares.sum()).sqrt().item()


@pytest.mark.parametrize("n,sizes", [(2, (6, 10)), (4, (32, 16)), (4, (4, 8))])
def test_the_error_is_the_discarded_singular_values(n, sizes):
    torch.manual_seed(0)
    parts = rearrange(torch.randn(sizes, dtype=DOUBLE), n)
    rule, blocks = nearest_rule(parts, associative_rule(n).double())
    expected = discarded(parts, n)
    assert relative_error(parts, rule, blocks) == pytest.approx(expected, abs=1e-12)


def test_layers_with_one_rule_are_solved_together():
    torch.manual_seed(0)
    each = [rearrange(torch.randn(s, dtype=DOUBLE), 4) for s in ((8, 16), (32, 8))]
    parts = torch.cat(each, dim=1)
    rule, blocks = nearest_rule(parts, associative_rule(4).double())
    joint = relative_error(parts, rule, blocks)
    assert joint == pytest.approx(discarded(parts, 4))
    for other in (associative_rule(4).double(), torch.randn(4, 4, 4, dtype=DOUBLE)):
        assert joint < relative_error(parts, other, nearest_blocks(parts, other))


def test_a_random_weight_keeps_little():
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    for n, energy in ((2, 0.50), (4, 0.26), (8, 0.15)):
        kept = 1 - discarded(rearrange(weight, n), n) ** 2
        assert kept == pytest.approx(energy, abs=0.01)


def test_a_weight_of_rule_and_blocks_is_found_again():
    torch.manual_seed(0)
    for n, like in ((3, associative_rule(3)), (4, multiplication_rule("quaternion"))):
        rule, blocks = torch.randn(n, n, n).double(), torch.randn(n, 35).double()
        parts = sum_of(rule, blocks)
        found = nearest_rule(parts, like.double())
        torch.testing.assert_close(sum_of(*found), parts)
        assert found[0].norm() == pytest.approx(like.norm().item())
    parts = sum_of(like.double(), blocks)
    torch.testing.assert_close(nearest_blocks(parts, like.double()), blocks)
    # of all rules with this sum the one that is like the given one
    rule, blocks = nearest_rule(parts, like.double())
    torch.testing.assert_close(rule, like.double())


@pytest.mark.parametrize(
    "n,rank",
    [(2, 1), (2, 2), (4, 3), (4, 4), (8, 8), (3, 4), (4, 5), (4, 6), (4, 7), (4, 16)],
)
def test_a_weight_with_a_rule_of_cp_rank_is_found_again(n, rank):
    torch.manual_seed(0)
    u, v, w = torch.randn(3, n, rank, dtype=DOUBLE)
    parts = sum_of(cp_rule(u, v, w), torch.randn(n, 40, dtype=DOUBLE))
    like = [one.double() for one in make_cp_factors("learned", n, rank)]
    found = nearest_cp(parts, like)
    rule = cp_rule(*found[:3])
    assert relative_error(parts, rule, found.blocks) < 1e-6
    for factor, other in zip(found[:3], like):
        assert factor.norm() == pytest.approx(other.norm().item())
    assert rank > n or found.u.equal(like[0])


@pytest.mark.parametrize("n,rank", [(4, 2), (4, 4), (4, 7), (4, 16), (2, 3)])
def test_alternating_least_squares_never_rise(n, rank):
    torch.manual_seed(0)
    parts = torch.randn(n * n, 60, dtype=DOUBLE)
    like = [one.double() for one in make_cp_factors("learned", n, rank)]
    found = nearest_cp(parts, like)
    rises = [after - before for before, after in zip(found.errors, found.errors[1:])]
    assert max(rises, default=0) < 1e-9
    error = relative_error(parts, cp_rule(*found[:3]), found.blocks)
    assert error == pytest.approx(found.errors[-1], abs=1e-9)
    assert error > discarded(parts, n) - 1e-9
    if rank == n * n:  # any rule has this rank
        assert error == pytest.approx(discarded(parts, n))


def test_the_best_start_is_kept(monkeypatch):
    gains = []
    for seed in range(4):
        torch.manual_seed(seed)
        like = [one.double() for one in make_cp_factors("learned", 4, 4)]
        parts = torch.randn(16, 60, dtype=DOUBLE)
        errors = []
        for starts in range(1, 5):  # the last one is ``like``
            monkeypatch.setattr(nearest, "CP_STARTS", starts)
            errors.append(nearest_cp(parts, like).errors[-1])
        assert errors == sorted(errors, reverse=True)
        gains.append(errors[0] - errors[-1])
    assert max(gains) > 0


def test_no_weight_is_no_error():
    parts = torch.zeros(16, 5, dtype=DOUBLE)
    like = [one.double() for one in make_cp_factors("learned", 4, 4)]
    found = nearest_cp(parts, like)
    assert relative_error(parts, cp_rule(*found[:3]), found.blocks) == 0
    assert all(one.isfinite().all() for one in found[:4])


def dense_transformer(folder, arch="transformer", as_dict=False, **options):
    """Write a checkpoint of a dense Transformer; return its path and the model."""
    args = argparse.Namespace(arch=arch, **{**TINY, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(0)
    model = ARCH_MODEL_REGISTRY[arch].build_model(copy.deepcopy(args), Task())
    return write(folder, model, args, as_dict), model.eval()


def write(folder, model, args, as_dict=False):
    state = {
        "args": None if as_dict else args,
        "cfg": {"model": {**vars(args), "_name": args.arch}} if as_dict else None,
        "model": model.state_dict(),
        "optimizer_history": [{"num_updates": 5}],
        "extra_state": {"epoch": 3, "ema": {"large": 1}},
        "last_optimizer_state": {"large": 1},
    }
    torch.save(state, folder / "dense.pt")
    return folder / "dense.pt"


def compress(path, *arguments):
    """Run the command; return the path and the errors as JSON values."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = path.with_name("phm.pt")
    errors = path.with_name("errors.json")
    words = [path, out, "--json", errors, *arguments]
    command.run(parser.parse_args(list(map(str, words))))
    return out, json.loads(errors.read_text())


def load(path):
    """Build the model of a checkpoint as fairseq does, and load it."""
    state = torch.load(path)
    args = state["args"]
    if args is None:
        args = argparse.Namespace(**state["cfg"]["model"])
        args.arch = args._name
    model = ARCH_MODEL_REGISTRY[args.arch].build_model(args, Task())
    model.load_state_dict(state["model"], strict=True)
    return model.eval(), state


def layers_of(model):
    modules = model.named_modules()
    return {path: one for path, one in modules if isinstance(one, PHMLinear)}


VARIANTS = {
    "--n 4": {},
    "--n 4 --share-rule none": {},
    "--n 2 --ffn-n 8 --share-rule stack": {},
    "--n 4 --fuse-qkv": {},
    "--n 4 --rule quaternion --freeze-rule": {},
    "--n 4 --rule quaternion": dict(share_all_embeddings=True),
    "--n 4 --freeze-rule --fuse-qkv": {},
    "--n 4 --rule-rank 4": dict(decoder_learned_pos=True, decoder_layers=1),
    "--n 2 --rule-rank 1 --encoder-n 1": {},
    "--n 4 --rule-rank 6 --share-rule attention": dict(decoder_layers=1),
}


@pytest.mark.parametrize("flags", VARIANTS)
def test_transformers(flags, tmp_path):
    path, dense = dense_transformer(tmp_path, **VARIANTS[flags])
    out, errors = compress(path, *flags.split())
    model, state = load(out)
    assert state["args"].arch == "phm_transformer"
    assert "last_optimizer_state" not in state and "ema" not in state["extra_state"]
    kept = dense.state_dict()
    for key, value in model.state_dict().items():
        if key in kept and not key.endswith("_float_tensor"):  # has no value
            torch.testing.assert_close(value, kept[key], rtol=0, atol=0)
    found = {layer["name"]: layer for layer in errors["layers"]}
    off = whole = 0
    for name, layer in layers_of(model).items():
        old = dense.get_submodule(name).weight
        missed = (layer.weight - old).norm().item()
        if not isinstance(layer, PHMLinearRows):
            expected = found[name]["error"] * old.norm().item()
            assert missed == pytest.approx(expected, rel=1e-4)
        off, whole = off + missed**2, whole + old.norm().item() ** 2
    assert errors["error"] == pytest.approx((off / whole) ** 0.5, rel=1e-4)
    assert 0 < errors["error"] < 1
    assert errors["parameters"]["total"] < errors["dense_parameters"]["total"]


@pytest.mark.parametrize(
    "flags,options",
    [
        ("--n 4", {}),
        ("--n 4 --share-rule layer --fuse-qkv", {}),
        ("--n 4 --rule-rank 4", {}),
        ("--n 4 --rule quaternion --freeze-rule", {}),
    ],
)
def test_a_dense_copy_of_a_phm_model_is_found_again(flags, options, tmp_path):
    words = flags.replace("--", "phm_").replace("-", "_").split()
    given = {"phm_freeze_rule": True} if "freeze" in flags else {}
    given.update({"phm_fuse_qkv": True} if "fuse" in flags else {})
    for name, value in zip(words, words[1:]):
        if not value.startswith("phm_"):
            given[name] = int(value) if value.isdigit() else value
    phm = tiny_transformer(Task(), **given)
    path, dense = dense_transformer(tmp_path, as_dict=True)
    for name, layer in layers_of(phm).items():
        dense.get_submodule(name).weight.data = layer.weight.detach()
    args = torch.load(path)["cfg"]["model"]
    write(tmp_path, dense, argparse.Namespace(**args), as_dict=True)
    out, errors = compress(path, *flags.split())
    assert errors["error"] < 1e-6
    model, state = load(out)
    assert state["cfg"]["model"]["_name"] == "phm_transformer"
    assert state["cfg"]["model"]["phm_n"] == 4
    batch = padded_batch(Task())
    torch.testing.assert_close(
        model(**batch)[0], dense(**batch)[0], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "flags",
    ["--n 4", "--n 2 --gates fused", "--n 4 --rule-rank 4 --output-projections"],
)
def test_lstms(flags, tmp_path):
    args = argparse.Namespace(
        arch="lstm", encoder_embed_dim=16, encoder_hidden_size=16, encoder_layers=1,
        encoder_bidirectional=True, decoder_embed_dim=16, decoder_hidden_size=32,
        decoder_out_embed_dim=32, decoder_layers=1, criterion=None,
    )  # fmt: skip
    ARCH_CONFIG_REGISTRY["lstm"](args)
    torch.manual_seed(0)
    dense = LSTMModel.build_model(copy.deepcopy(args), Task())
    path = write(tmp_path, dense, args)
    out, errors = compress(path, *flags.split())
    model, state = load(out)
    assert state["args"].arch == "phm_lstm"
    lstm, old = model.encoder.lstm, dense.encoder.lstm
    assert isinstance(lstm, PHMLSTM) and isinstance(old, nn.LSTM)
    found = {layer["name"]: layer["error"] for layer in errors["layers"]}
    for direction in ("_l0", "_l0_reverse"):
        new = getattr(lstm, f"weight_ih{direction}")
        weight = getattr(old, f"weight_ih{direction}")
        assert (new - weight).norm() < 0.97 * weight.norm()
        biases = [getattr(old, f"bias_{one}{direction}") for one in ("ih", "hh")]
        torch.testing.assert_close(getattr(lstm, f"bias_ih{direction}"), sum(biases))
    gates = 1 if "fused" in flags else 4
    assert len(found) == 2 * gates * (2 + 1) + 2 * ("projections" in flags)
    gate = dense.decoder.layers[0].weight_hh.chunk(gates)[-1]
    new = model.decoder.layers[0].weight_hh.chunk(gates)[-1]
    error = found[f"decoder.layers.0.hh.{gates - 1}"]
    assert ((new - gate).norm() / gate.norm()).item() == pytest.approx(error, rel=1e-4)


def test_language_models(tmp_path, capsys):
    args = argparse.Namespace(
        arch="transformer_lm", decoder_embed_dim=32, decoder_ffn_embed_dim=64,
        decoder_layers=2, decoder_attention_heads=4, max_target_positions=64,
        tokens_per_sample=64,
    )  # fmt: skip
    phm_transformer_lm(args)  # fairseq's sizes
    args.tpu = False
    task = Task()
    task.output_dictionary = task.dictionary = task.source_dictionary
    dense = MODEL_REGISTRY["transformer_lm"].build_model(copy.deepcopy(args), task)
    out, errors = compress(write(tmp_path, dense, args), "--n", 4)
    assert torch.load(out)["args"].arch == "phm_transformer_lm"
    assert len(errors["layers"]) == 12 and 0 < errors["error"] < 1
    assert " --task language_modeling " in capsys.readouterr().out
    args.decoder_normalize_before = False  # as --arch transformer_lm has it
    post = MODEL_REGISTRY["transformer_lm"].build_model(copy.deepcopy(args), task)
    with pytest.raises(DataError, match="train it with --decoder-normalize-before"):
        compress(write(tmp_path, post, args), "--n", 4, "--force")


def test_a_phm_model_with_n_1(tmp_path):
    """Also one whose attention has another inner width."""
    options = dict(arch="phm_transformer_wide", phm_n=1, phm_attention_dim=64)
    path, _ = dense_transformer(tmp_path, **options)
    out, errors = compress(path, "--n", 4)
    model, state = load(out)
    assert state["args"].arch == "phm_transformer_wide"
    layer = model.encoder.layers[0].self_attn.q_proj
    assert layer.n == 4 and layer.weight.shape == (64, 32)
    assert errors["layers"][0]["error"] < 1


def test_half_precision_and_sizes_of_names(tmp_path):
    arch = "transformer_iwslt_de_en"
    path, dense = dense_transformer(tmp_path, arch)
    state = torch.load(path)
    state["args"].encoder_embed_path = "/none"
    state["model"] = {k: v.half() for k, v in state["model"].items()}
    state["model"]["encoder.layers.0.in_proj_weight"] = torch.zeros(96, 32).half()
    torch.save(state, path)  # as fairseq 0.12.2 copies weights
    out, _ = compress(path, "--n", 4)
    made = torch.load(out)
    assert made["args"].arch == "phm_" + arch
    assert made["args"].encoder_embed_path == "/none"
    kinds = {value.dtype for value in made["model"].values()}
    assert kinds == {torch.float16}


def test_what_is_printed(tmp_path, capsys):
    path, _ = dense_transformer(tmp_path)
    compress(path, "--n", 4, "--freeze-rule")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "size", "n", "error", "energy", "kept"]
    assert lines[-5].startswith("all PHM layers") and "%" in lines[-5]
    assert "--arch phm_transformer --phm-n 4 --phm-freeze-rule --finetune" in lines[-1]


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--n 3", "n=3 does not fit in_features=32, out_features=32: .* 2, 4"),
        ("--n 4 --rule complex", "rule 'complex' has size 2x2x2, but n=4"),
        ("--n 4 --rule-rank 17", "rule_rank=17 does not fit n=4"),
        ("--n 4 --gates fused", "--gates is no option of phm_transformer"),
        ("--n 0", "n=0 does not fit"),
    ],
)
def test_options_that_do_not_fit_are_one_line(flags, message, tmp_path):
    path, _ = dense_transformer(tmp_path)
    with pytest.raises(DataError, match=f"dense.pt: .*{message}") as error:
        compress(path, *flags.split())
    assert "\n" not in str(error.value)
    assert [one.name for one in tmp_path.iterdir()] == ["dense.pt"]


def infinite(path):
    model = torch.load(path)["model"]
    model["encoder.layers.0.fc1.bias"][0] = float("inf")
    change(path, model=model)


def change(path, **entries):
    state = torch.load(path)
    torch.save({**state, **entries}, path)


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda path: compress(path, "--n", 2)[0].rename(path), "PHM checkpoint alr"),
        (lambda path: path.write_text("none"), "no checkpoint: "),
        (lambda path: path.unlink(), "No such file"),
        (
            lambda path: change(path, args=None),
            "no options of a model in the checkpoint",
        ),
        (
            lambda path: change(path, args=argparse.Namespace(arch="fconv")),
            "there is no PHM model of fconv",
        ),
        (
            lambda path: change(
                path, args=argparse.Namespace(arch="phm_lstm_classifier")
            ),
            "compress does not know how to change a phm_lstm_classifier",
        ),
        (
            lambda path: change(path, model={"a": torch.ones(1)}),
            "there are no embeddings in the checkpoint",
        ),
        (
            lambda path: change(path, model={"blocks": torch.ones(())}),
            "dense.pt: damaged: blocks is a single number",
        ),
        (
            lambda path: change(path, args=[1]),
            "dense.pt: damaged: its options are no options but list",
        ),
        (
            lambda path: infinite(path),
            "dense.pt: encoder.layers.0.fc1.bias has numbers that are not f",
        ),
        (lambda path: path.with_name("phm.pt").touch(), "phm.pt: exists; --force"),
    ],
)
def test_bad_input_is_one_line(spoil, message, tmp_path):
    path, _ = dense_transformer(tmp_path)
    spoil(path)
    (tmp_path / "errors.json").unlink(missing_ok=True)
    with pytest.raises(DataError, match=message) as error:
        compress(path, "--n", 4)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.partial"))
    if "exists" in message:
        compress(path, "--n", 4, "--force")
        with pytest.raises(DataError, match="phm.pt: is OUT, the checkpoint"):
            out = path.with_name("phm.pt")
            same = tmp_path / ".." / tmp_path.name / out.name
            compress(path, "--n", 4, "--force", "--json", same)
        assert torch.load(out)["model"]
        out.unlink()
        with pytest.raises(DataError, match="errors.json: exists; --force"):
            compress(path, "--n", 4)


def test_a_full_disk_for_the_errors_leaves_nothing(tmp_path, monkeypatch):
    path, _ = dense_transformer(tmp_path)
    monkeypatch.setattr("fairseq_phm.files.uuid4", lambda: SimpleNamespace(hex="0"))
    (tmp_path / "errors.json.0.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match="errors.json: No space left on device"):
        compress(path, "--n", 4)
    assert not list(tmp_path.glob("phm.pt*"))


def test_the_command_line_trains_it_on(tmp_path):
    """fairseq trains a dense model, and the compressed one on; it translates."""
    rows = ["a b c d", "b c d a", "c d a b", "d a b c"]
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            (tmp_path / f"{split}.{side}").write_text("\n".join(rows) + "\n")
    run(
        "preprocess", "--source-lang", "src", "--target-lang", "tgt", "--destdir",
        tmp_path / "bin", *[f"--{s}pref={tmp_path / s}" for s in ("train", "valid")],
        f"--testpref={tmp_path / 'test'}",
    )  # fmt: skip
    shared = [
        tmp_path / "bin", "--user-dir", ROOT / "fairseq_phm", "--cpu", "--num-workers",
        0, "--max-tokens", 100, "--required-batch-size-multiple", 1,
    ]  # fmt: skip
    sizes = ["--encoder-layers", 1, "--decoder-layers", 1, "--encoder-embed-dim", 16]
    sizes += ["--decoder-embed-dim", 16, "--decoder-ffn-embed-dim", 32]
    sizes += ["--encoder-attention-heads", 2, "--decoder-attention-heads", 2]
    training = [*sizes, "--optimizer", "adam", "--lr", 0.001, "--max-update", 1]
    run(
        "train", *shared, *training, "--arch", "transformer_iwslt_de_en",
        "--save-dir", tmp_path,
    )  # fmt: skip
    out, _ = compress(tmp_path / "checkpoint_last.pt", "--n", 4)
    on = tmp_path / "on"
    log = run(
        "train", *shared, *training, "--arch", "phm_transformer_iwslt_de_en", "--phm-n",
        4, "--save-dir", on, "--finetune-from-model", out,
    )  # fmt: skip
    assert "loading pretrained model from" in log and "num_updates 1" not in log[:100]
    assert (on / "checkpoint_last.pt").is_file()
    assert "Generate test" in run("generate", *shared, "--path", out, "--beam", 1)
