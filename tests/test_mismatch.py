"""A checkpoint that does not fit a model: one line with what differs, as flags."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from conftest import Task, assert_same_state
from fairseq import checkpoint_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.trainer import Trainer

from fairseq_phm import DataError
from fairseq_phm.checkpoint import write_checkpoint
from fairseq_phm.mismatch import CheckpointMismatch

SIZES = dict(
    encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_layers=2,
    encoder_attention_heads=2, encoder_hidden_size=16, decoder_embed_dim=16,
    decoder_ffn_embed_dim=32, decoder_layers=2, decoder_attention_heads=2,
    decoder_hidden_size=16, decoder_out_embed_dim=16, tokens_per_sample=32,
    max_source_positions=32, max_target_positions=32, criterion="cross_entropy",
)  # fmt: skip


class Words(Task):
    """Also what a classifier asks for."""

    columns = SimpleNamespace(text=(1,))
    labels = ["no", "yes"]
    vectors_width, fixed_vectors, trained_words = 0, None, 40
    args = argparse.Namespace()


def build(arch, **options):
    torch.manual_seed(0)
    args = argparse.Namespace(arch=arch, **{**SIZES, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, Words())


def trained(arch, **options):
    """A model whose rules are no longer those of the start."""
    model = build(arch, **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


MODELS = (
    "phm_transformer",
    "phm_transformer_lm",
    "phm_lstm",
    "phm_lstm_classifier",
    "phm_transformer_classifier",
)
QUATERNION = dict(phm_rule="quaternion", phm_freeze_rule=True)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("arch", MODELS)
def test_a_named_frozen_rule_is_never_replaced(arch, half):
    options = {} if "lstm" in arch else dict(phm_share_rule="none")
    learned, frozen = trained(arch, **options), build(arch, **options, **QUATERNION)
    if half:
        learned, frozen = learned.half(), frozen.half()
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    with pytest.raises(DataError, match="--phm-rule quaternion --phm-freeze-rule"):
        frozen.load_state_dict(learned.state_dict())
    assert_same_state(frozen.state_dict(), before)
    frozen.load_state_dict(build(arch, **options, **QUATERNION).state_dict())
    learned.load_state_dict(before)  # the rule is where it starts


def test_a_named_rule_that_learns_is_the_checkpoints():
    options = dict(phm_rule="quaternion")
    learned, model = trained("phm_lstm", **options), build("phm_lstm", **options)
    model.load_state_dict(learned.state_dict())
    assert_same_state(model.state_dict(), learned.state_dict())


def test_a_frozen_rule_without_a_name_is_the_checkpoints():
    learned = trained("phm_transformer", phm_share_rule="none")
    frozen = build("phm_transformer", phm_freeze_rule=True)
    frozen.load_state_dict(learned.state_dict())
    rules = (one.encoder.layers[1].fc1.rule for one in (learned, frozen))
    torch.testing.assert_close(*rules)


def test_words_keep_a_named_frozen_rule_too():
    options = dict(phm_share_rule="none", phm_embeddings=4)
    frozen = build("phm_transformer", **options, **QUATERNION)
    state = frozen.state_dict()
    state["encoder.embed_tokens.rule"] = state["encoder.embed_tokens.rule"] * 2
    with pytest.raises(DataError, match="another at encoder.embed_tokens:"):
        frozen.load_state_dict(state)


T, LM, LSTM = MODELS[:3]
UNLIKE = [
    # model, its options, those of the checkpoint, flags of the model and of the other
    (T, {}, dict(phm_n=8), "--phm-n 4", "--phm-n 8"),
    (T, {}, dict(phm_ffn_n=8), "--phm-n 4", "--phm-attention-n 4 --phm-ffn-n 8"),
    (T, {}, dict(phm_decoder_n=2), "--phm-n 4", "--phm-encoder-n 4 --phm-decoder-n 2"),
    (
        T, dict(phm_attention_n=4, phm_encoder_n=2),
        dict(phm_attention_n=2, phm_encoder_n=2),
        "--phm-attention-n 4 --phm-encoder-n 2 --phm-decoder-n 4",
        "--phm-attention-n 2 --phm-encoder-n 2 --phm-decoder-n 4",
    ),
    (
        T, dict(phm_ffn_n=4, phm_encoder_n=2), dict(phm_ffn_n=4, phm_decoder_n=2),
        "--phm-ffn-n 4 --phm-encoder-n 2 --phm-decoder-n 4",
        "--phm-ffn-n 4 --phm-encoder-n 4 --phm-decoder-n 2",
    ),
    (T, {}, dict(phm_n=1), "--phm-n 4", "dense layers (--phm-n 1)"),
    (
        T, dict(phm_n=1), {}, "dense layers",
        "PHM layers (--phm-n 4 --phm-share-rule pairs)",
    ),
    (T, {}, dict(phm_rule_rank=4), "--phm-rule-rank 0", "--phm-rule-rank 4"),
    (T, dict(phm_rule_rank=2), {}, "--phm-rule-rank 2", "--phm-rule-rank 0"),
    (T, {}, dict(phm_rank=2), "--phm-rank 0", "--phm-rank 2"),
    (T, {}, dict(phm_fuse_qkv=True), "no --phm-fuse-qkv", "--phm-fuse-qkv"),
    (T, dict(phm_fuse_qkv=True), {}, "--phm-fuse-qkv", "no --phm-fuse-qkv"),
    (T, {}, dict(phm_embeddings=4), "--phm-embeddings 0", "--phm-embeddings 4"),
    (T, dict(phm_embeddings=2), {}, "--phm-embeddings 2", "--phm-embeddings 0"),
    (
        T, {}, dict(phm_attention_dim=32), "no --phm-attention-dim",
        "--phm-attention-dim 32",
    ),
    (
        T, dict(phm_freeze_rule=True), {}, "--phm-freeze-rule", "--phm-share-rule pairs"
    ),
    (LM, {}, dict(phm_n=8), "--phm-n 4", "--phm-n 8"),
    (LSTM, {}, dict(phm_n=8), "--phm-n 4", "--phm-n 8"),
    (LSTM, {}, dict(phm_n=1), "--phm-n 4", "dense layers (--phm-n 1)"),
    (
        LSTM, {}, dict(phm_gates="fused"), "--phm-gates separate", "--phm-gates fused"
    ),
    (
        LSTM, {}, dict(phm_output_projections=True), "no --phm-output-projections",
        "--phm-output-projections",
    ),
    (MODELS[3], {}, dict(phm_n=2), "--phm-n 4", "--phm-n 2"),
    (MODELS[4], {}, dict(phm_n=2), "--phm-n 4", "--phm-n 2"),
]  # fmt: skip
SHARED = ("value", "pairs", "attention", "layer", "stack", "model")
UNLIKE += [
    (
        T,
        dict(phm_share_rule=ours, phm_fuse_qkv=fuse),
        dict(phm_share_rule=theirs, phm_fuse_qkv=fuse),
        f"--phm-share-rule {ours}",
        f"--phm-share-rule {'pairs' if fuse and theirs == 'value' else theirs}",
    )
    for ours, theirs in zip(("none", *SHARED), (*SHARED, "none"))
    for fuse in (False, True)
    if not (fuse and {ours, theirs} <= {"value", "pairs"})  # fused, these are one
]


@pytest.mark.parametrize("arch, options, others, here, there", UNLIKE)
def test_says_what_differs(arch, options, others, here, there):
    model, state = build(arch, **options), trained(arch, **others).state_dict()
    with pytest.raises(CheckpointMismatch) as caught:
        model.load_state_dict(state)
    line = f"the checkpoint has {there}, this model {here}: give the flags of the "
    assert str(caught.value).startswith(line), caught.value


def test_other_sizes_are_named():
    state = trained(T).state_dict()
    with pytest.raises(CheckpointMismatch) as caught:
        build(T, decoder_ffn_embed_dim=64).load_state_dict(state)
    assert str(caught.value) == (
        "decoder.layers.0.fc1.blocks is 4x8x4 in the checkpoint, 4x16x4 in this model"
    )
    with pytest.raises(RuntimeError, match="^the checkpoint has no encoder.layers.2"):
        build(T, encoder_layers=3).load_state_dict(state)
    with pytest.raises(RuntimeError, match="^this model has no encoder.layers.1"):
        build(T, encoder_layers=1).load_state_dict(state)


@pytest.fixture
def restore(monkeypatch, tmp_path):
    """Load what a model holds into another, as ``fairseq-train --restore-file``."""
    path = tmp_path / "a.pt"
    monkeypatch.setattr(
        checkpoint_utils, "load_checkpoint_to_cpu", lambda *_, **__: torch.load(path)
    )

    def load(model, other):
        write_checkpoint({"model": other.state_dict()}, path)
        checkpoint = SimpleNamespace(load_checkpoint_on_all_dp_ranks=True)
        trainer = SimpleNamespace(
            model=model, data_parallel_world_size=1, data_parallel_rank=0, tpu=False,
            is_fsdp=False, cfg=SimpleNamespace(checkpoint=checkpoint, model=None),
        )  # fmt: skip
        Trainer.load_checkpoint(trainer, str(path))

    return load


def test_the_trainer_says_it_too(restore):
    learned = trained(T, phm_share_rule="none")
    with pytest.raises(CheckpointMismatch, match="a.pt: the checkpoint has --phm-n 4"):
        restore(build(T, phm_n=2), learned)
    with pytest.raises(CheckpointMismatch, match="a.pt: --phm-rule quaternion "):
        restore(build(T, **QUATERNION), learned)


def test_phm_layers_for_a_dense_model(restore):
    with pytest.raises(CheckpointMismatch) as caught:
        restore(build("transformer"), trained(T, phm_rule_rank=2))
    assert str(caught.value).endswith(
        "/a.pt: the checkpoint has PHM layers (--phm-n 4 --phm-rule-rank 2 "
        "--phm-share-rule pairs), this model dense layers: give the flags of the "
        "checkpoint, or fairseq-phm densify"
    )


def test_other_errors_of_fairseq_stay(restore):
    with pytest.raises(Exception, match="ensure that the architectures match"):
        restore(build("transformer", encoder_layers=1), build("transformer"))
