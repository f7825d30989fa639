"""phm_lstm: fairseq's LSTM encoder-decoder against a dense twin."""

import argparse

import pytest
import torch
from conftest import assert_same_hypotheses, padded_batch
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.lstm import LSTMModel
from fairseq.sequence_generator import SequenceGenerator
from torch import nn
from torch.nn.utils import weight_norm

from fairseq_phm import (
    PHMLSTM,
    PHMLinear,
    PHMLSTMCell,
    PHMLSTMModel,
    substitute_lstm,
)

TINY = dict(
    encoder_embed_dim=16,
    encoder_hidden_size=24,
    encoder_layers=2,
    decoder_embed_dim=16,
    decoder_hidden_size=24,
    decoder_out_embed_dim=16,
    decoder_layers=2,
    dropout=0.0,
    criterion="cross_entropy",
)
VARIANTS = {
    "separate": {},
    "fused": dict(phm_gates="fused"),
    "bidirectional": dict(encoder_bidirectional=True, phm_output_projections=True),
    "n apart": dict(phm_encoder_n=2, phm_decoder_n=8),
    "rule rank": dict(phm_rule_rank=2),
    "quaternion": dict(phm_rule="quaternion", phm_freeze_rule=True, phm_rank=2),
    "no attention": dict(decoder_attention="0", phm_decoder_n=1),
}


def build(model_class, arch, task, **options):
    torch.manual_seed(0)
    args = argparse.Namespace(**{**TINY, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    return model_class.build_model(args, task)


@pytest.fixture(params=VARIANTS, ids=str)
def pair(request, task):
    options = VARIANTS[request.param]
    model = build(PHMLSTMModel, "phm_lstm", task, **options)
    dense = {k: v for k, v in options.items() if not k.startswith("phm_")}
    twin = build(LSTMModel, "lstm", task, **dense)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            owner, _, last = name.rpartition(".")
            parameter.copy_(getattr(model.get_submodule(owner), last))
    return model, twin


@pytest.mark.parametrize("options", [*VARIANTS.values(), dict(phm_n=1)])
@torch.no_grad()
def test_scripts_as_fairseqs_does(task, tmp_path, options):
    model = build(PHMLSTMModel, "phm_lstm", task, **options).eval()
    kinds = [type(module) for module in model.modules()]
    scripted = torch.jit.script(model)
    scripted.save(tmp_path / "lstm.pt")
    batch = padded_batch(task)
    expected = model(**batch)
    for one in (scripted, torch.jit.load(tmp_path / "lstm.pt")):
        for mine, other in zip(one(**batch), expected):
            assert mine is other is None or torch.equal(mine, other)
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients(pair, task, training):
    batch = padded_batch(task)
    outputs = []
    for model in pair:
        model.train(training)
        outputs.append(model(**batch)[0])
        outputs[-1].log_softmax(-1).square().mean().backward()
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    model, twin = pair
    embeddings = [m.encoder.embed_tokens.weight.grad for m in pair]
    torch.testing.assert_close(*embeddings, atol=1e-5, rtol=1e-4)
    first = model.encoder.lstm.cells[0].bias
    expected = twin.encoder.lstm.bias_ih_l0
    torch.testing.assert_close(first.grad, expected.grad, atol=1e-5, rtol=1e-4)
    assert all(p.grad is not None for p in model.parameters())


def test_beam_search(pair, task):
    assert_same_hypotheses(pair, task)


def test_former_name_of_output_projections(task):
    options = [dict(phm_output_maps=True), dict(phm_output_projections=True)]
    models = [build(PHMLSTMModel, "phm_lstm", task, **one) for one in options]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert "decoder.layers.0.ih.0.rule" in models[0].state_dict()
    assert any("attention" in key and "rule" in key for key in models[0].state_dict())


def test_weights_are_built_once_a_sequence(task, monkeypatch):
    from fairseq_phm.modules import linear

    calls = []
    original = linear.materialize
    monkeypatch.setattr(
        linear, "materialize", lambda *a: calls.append(1) or original(*a)
    )
    model = build(PHMLSTMModel, "phm_lstm", task)
    calls.clear()
    batch = padded_batch(task)
    model(**batch)
    assert len(calls) == 2 * 8 + 2 * 8
    calls.clear()
    del batch["prev_output_tokens"]
    generator = SequenceGenerator(
        [model.eval()], task.target_dictionary, beam_size=2, max_len_b=9
    )
    generator.generate([model], {"net_input": batch})
    assert len(calls) == 2 * 8 + 2 * 8


def test_what_is_replaced(task):
    model = build(PHMLSTMModel, "phm_lstm", task, phm_output_projections=True)
    assert isinstance(model.encoder.lstm, PHMLSTM)
    assert all(isinstance(cell, PHMLSTMCell) for cell in model.decoder.layers)
    assert isinstance(model.decoder.attention.output_proj, PHMLinear)
    assert isinstance(model.decoder.additional_fc, PHMLinear)
    assert isinstance(model.decoder.fc_out, nn.Linear)
    weight = model.decoder.layers[0].weight_hh
    assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert abs(model.encoder.lstm.bias_ih_l1).max() <= 0.2
    dense = build(PHMLSTMModel, "phm_lstm", task, phm_n=1)
    assert isinstance(dense.encoder.lstm, nn.LSTM)
    apart = dict(VARIANTS["n apart"], phm_output_projections=True)
    model = build(PHMLSTMModel, "phm_lstm", task, **apart)
    decoder = model.decoder
    assert model.encoder.lstm.n == 2
    assert {decoder.layers[1].n, decoder.additional_fc.n} == {8}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_starts_with_the_bias_type_and_mode_of_the_dense_one(kind):
    dense = kind(8, 8).double().eval()
    biases = [p for name, p in dense.named_parameters() if "bias" in name]
    new = substitute_lstm(dense, 2)
    cell = new.cells[0] if kind is nn.LSTM else new
    assert torch.equal(cell.bias, biases[0] + biases[1])
    assert {p.dtype for p in new.parameters()} == {torch.float64}
    assert not any(module.training for module in new.modules())


def test_every_architecture(task):
    for family in ("phm_lstm", "quaternion_lstm"):
        for suffix in ("", "_wiseman_iwslt_de_en", "_luong_wmt_en_de"):
            args = argparse.Namespace()
            ARCH_CONFIG_REGISTRY[family + suffix](args)
            frozen = getattr(args, "phm_freeze_rule", False)
            assert frozen == (family == "quaternion_lstm")


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(phm_n=5), r"encoder.lstm: n=5 does not fit in_features=16"),
        (dict(phm_rule="complex"), "encoder.lstm: rule 'complex' has size 2x2x2"),
    ],
)
def test_errors(task, options, message):
    with pytest.raises(ValueError, match=message):
        build(PHMLSTMModel, "phm_lstm", task, **options)
    with pytest.raises(ValueError, match="Linear has no nn.LSTM"):
        substitute_lstm(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="^0: proj_size=4: a PHM LSTM has no proj"):
        substitute_lstm(nn.Sequential(nn.LSTM(8, 8, proj_size=4)), 2)
    with pytest.raises(ValueError, match="neither attention nor an output projection"):
        substitute_lstm(nn.Sequential(nn.LSTM(8, 8)), 2, output_projections=True)
    model = nn.ModuleDict({"a": nn.LSTM(8, 8), "b": nn.LSTM(8, 8)})
    model["b"].weight_ih_l0 = model["a"].weight_ih_l0
    with pytest.raises(ValueError, match="^a and b are two layers with one weight"):
        substitute_lstm(model, 2)
    model["a"].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="^a has the hook"):
        substitute_lstm(model, 2)
    normed = nn.Sequential(weight_norm(nn.LSTM(8, 8), "weight_hh_l0"))
    with pytest.raises(ValueError, match="^0 has the hook of weight norm"):
        substitute_lstm(normed, 2)


def test_an_lstm_itself_and_one_in_two_places():
    with torch.device("meta"):
        assert substitute_lstm(nn.LSTM(8, 8), 2).cells[0].weight_ih.is_meta
    new = substitute_lstm(nn.LSTM(8, 8), 2)
    assert isinstance(new, PHMLSTM)
    new.flatten_parameters()  # as nn.LSTM has it
    shared = nn.LSTM(8, 8)
    model = substitute_lstm(nn.ModuleDict({"a": shared, "b": shared}), 2)
    assert isinstance(model["a"], PHMLSTM) and model["b"] is model["a"]
