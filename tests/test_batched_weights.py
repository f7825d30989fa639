"""Weights that are built at once, as on a GPU, against those of layer after layer."""

import threading
from functools import partial

import pytest
import torch
from conftest import Task, padded_batch, tiny_transformer
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint

from fairseq_phm import PHMLSTM, PHMLinear
from fairseq_phm.functional import batched_kronecker_sums, kronecker_sums
from fairseq_phm.modules import batched_weights as module
from fairseq_phm.modules.batched_weights import batched_weights
from fairseq_phm.modules.cache import built_weight

BATCH = padded_batch(Task())
X = torch.randn(5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.double)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(module, "DEVICES", ("cpu",))


def outputs_and_gradients(model, call):
    model.zero_grad(set_to_none=True)
    output = call(model)
    output.square().sum().backward()
    return [output, *(p.grad for p in model.parameters())]


def assert_same_as_one_by_one(model, call, monkeypatch, built=None):
    """Compare a training step; ``built`` is the least number of layers in batches."""
    found = outputs_and_gradients(model, call)
    if built is not None:
        assert len(sum(module._weights(model).keys(), ())) >= built
    monkeypatch.setattr(module, "DEVICES", ())
    expected = outputs_and_gradients(model, call)
    assert [one is None for one in found] == [one is None for one in expected]
    for one, other in zip(found, expected):
        if one is not None:
            torch.testing.assert_close(one, other)


OPTIONS = {
    "full": dict(),
    "CP rank": dict(phm_rule_rank=4),
    "CP rank, u learned": dict(phm_rule="random", phm_rule_rank=6, phm_rule_lr=3.0),
    "a rate": dict(phm_rule="random", phm_rule_lr=3.0),
    "frozen": dict(phm_rule="quaternion", phm_freeze_rule=True),
    "unshared": dict(phm_share_rule="none"),
    "one rule": dict(phm_share_rule="model", phm_rule_lr=1.0),
    "two n": dict(phm_decoder_n=2),
    "dense": dict(phm_n=1),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_of_a_transformer(options, monkeypatch):
    model = tiny_transformer(Task(), **{"phm_n": 4, **options}).double().train()
    built = 32 if options.get("phm_n") != 1 else 0
    assert_same_as_one_by_one(model, lambda m: m(**BATCH)[0], monkeypatch, built)


@pytest.mark.parametrize("options", [dict(phm_fuse_qkv=True), dict(phm_rank=2)])
def test_layers_of_other_kinds_build_their_own(options, monkeypatch):
    model = tiny_transformer(Task(), phm_n=4, **options).double().train()
    assert_same_as_one_by_one(model, lambda m: m(**BATCH)[0], monkeypatch)


def test_few_products(monkeypatch):
    products = []

    def count(*factors):
        products.append(factors)
        return batched_kronecker_sums(*factors)

    monkeypatch.setattr(module, "batched_kronecker_sums", count)
    refuse = "fairseq_phm.modules.{}".format
    monkeypatch.setattr(refuse("linear.materialize"), None)
    monkeypatch.setattr(refuse("batched_projections.kronecker_sums"), None)
    tiny_transformer(Task(), phm_n=4).train()(**BATCH)[0].sum().backward()
    assert len(products) == 3  # of 32 x 32, 32 x 64 and 64 x 32


def test_nothing_is_left_behind():
    model = tiny_transformer(Task(), phm_n=4).train()
    model(**BATCH)
    with pytest.raises(TypeError):
        model(nonsense=True)
    with batched_weights(model):
        layer = model.encoder.layers[0].fc1
        assert built_weight([layer]) is layer.weight
        with batched_weights(model):
            assert built_weight([layer]) is layer.weight
        seen = []
        other = threading.Thread(target=lambda: seen.append(built_weight([layer])))
        other.start()
        other.join()
        assert seen == [None]
    assert built_weight([layer]) is None


def test_nothing_is_built_without_gradients():
    model = tiny_transformer(Task(), phm_n=4)
    layer = model.encoder.layers[0].fc1
    with batched_weights(model.eval()):
        assert built_weight([layer]) is None
    with torch.no_grad(), batched_weights(model.train()):
        assert built_weight([layer]) is None


def test_a_dropped_layer_has_no_gradient(monkeypatch):
    model = tiny_transformer(
        Task(), phm_n=4, encoder_layerdrop=1.0, phm_share_rule="none"
    ).train()
    assert_same_as_one_by_one(model, lambda m: m(**BATCH)[0], monkeypatch)
    assert any(p.grad is None for p in model.parameters())


def test_checkpointed_activations(monkeypatch):
    model = tiny_transformer(Task(), phm_n=4, checkpoint_activations=True)
    model.double().train()
    assert_same_as_one_by_one(model, lambda m: m(**BATCH)[0], monkeypatch)


def test_checkpointed_layers_that_are_not_reentrant(monkeypatch):
    if not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
        pytest.skip("this torch does not tell")
    model = tiny_transformer(Task(), phm_n=4).double().train()
    for layer in model.encoder.layers:
        plain = layer.forward
        layer.forward = partial(checkpoint, plain, use_reentrant=False)
    assert_same_as_one_by_one(model, lambda m: m(**BATCH)[0], monkeypatch)


def test_a_part_without_autocast():
    model = nn.Sequential(PHMLinear(16, 16, 4), PHMLinear(16, 16, 4)).train()
    with torch.autocast("cpu", torch.bfloat16), batched_weights(model):
        assert model[0](X.float()).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert model[1](X.float()).dtype == torch.float32


def test_a_model_in_a_pass_of_its_own(monkeypatch):
    def call(outer):
        with batched_weights(outer):
            found = outer(X)
            other = {k: v.detach() + 1 for k, v in outer.named_parameters()}
            with torch.no_grad(), batched_weights(outer):
                return found, torch.func.functional_call(outer, other, (X,))

    model = nn.Sequential(PHMLinear(16, 16, 4), PHMLinear(16, 16, 4)).double().train()
    found = call(model)
    monkeypatch.setattr(module, "DEVICES", ())
    torch.testing.assert_close(found, call(model))


def test_autocast_is_as_exact(monkeypatch):
    def call(model):
        with torch.autocast("cpu", torch.bfloat16):
            return model(**BATCH)[0].float()

    def error(model):
        found = outputs_and_gradients(model, call)
        return sum(float((a - b).norm() / b.norm()) for a, b in zip(found, exact))

    model = tiny_transformer(Task(), phm_n=4).train()
    exact = outputs_and_gradients(model, lambda m: m(**BATCH)[0])
    at_once = error(model)
    monkeypatch.setattr(module, "DEVICES", ())
    assert at_once < 1.1 * error(model)


def test_lstm(monkeypatch):
    def call(model):
        with batched_weights(model):
            return model(X[:, None])[0]

    model = PHMLSTM(16, 8, 4, bidirectional=True).double().train()
    assert_same_as_one_by_one(model, call, monkeypatch, 16)


class Half(nn.Module):
    def forward(self, values):
        return values / 2


def clamp(layer, inputs):
    layer.blocks.data.clamp_(max=0.0)


def changed(how):
    layer = PHMLinear(16, 16, 4, rule_lr=8.0)
    if how == "rule":
        layer.rule = nn.Parameter(layer.rule.detach().clone())
    elif how == "parametrized":
        parametrize.register_parametrization(layer, "scaled_rule", Half())
    elif how == "pruned":
        prune.random_unstructured(layer, "blocks", 0.5)
    elif how == "hook":
        layer.register_forward_hook(lambda layer, inputs, output: 2 * output)
    elif how == "hook before":
        layer.register_forward_pre_hook(clamp)
    elif how == "fixed":
        layer.blocks.requires_grad_(False)
    return layer


@pytest.mark.parametrize(
    "how", ["rule", "parametrized", "pruned", "hook", "hook before", "fixed"]
)
def test_layers_that_were_changed(how, monkeypatch):
    def call(model):
        with batched_weights(model):
            return model(X)

    layers = [PHMLinear(16, 16, 4, rule_lr=8.0), changed(how), PHMLinear(16, 16, 4)]
    model = nn.Sequential(*layers).double().train()
    assert_same_as_one_by_one(model, call, monkeypatch)


def test_functional_call(monkeypatch):
    model = tiny_transformer(Task(), phm_n=4).train()
    other = {name: p.detach() * 1.5 for name, p in model.named_parameters()}
    found = torch.func.functional_call(model, other, (), BATCH)[0]
    monkeypatch.setattr(module, "DEVICES", ())
    expected = torch.func.functional_call(model, other, (), BATCH)[0]
    torch.testing.assert_close(found, expected)


def test_one_below_the_other():
    rules, blocks = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 2, 5)
    torch.testing.assert_close(
        batched_kronecker_sums(rules, blocks), kronecker_sums(list(rules), list(blocks))
    )
