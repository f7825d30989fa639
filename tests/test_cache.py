"""H is built once in eval mode, and again after every possible edit."""

import copy
import pickle

import pytest
import torch
from conftest import Task, padded_batch, tiny_transformer
from torch import nn
from torch.nn.utils import parametrize, prune

from fairseq_phm import PHMLSTM, PHMLinear, PHMLSTMCell
from fairseq_phm.modules import PHMLinearRows
from fairseq_phm.modules.cache import WeightCache

MAKERS = {
    "learned": lambda: PHMLinear(16, 24, 4),
    "quaternion": lambda: PHMLinear(16, 24, 4, rule="quaternion", freeze_rule=True),
    "low rank": lambda: PHMLinear(16, 24, 4, rank=2),
    "rule rank": lambda: PHMLinear(16, 24, 4, rule_rank=3),
    "rows": lambda: PHMLinearRows.split(PHMLinear(16, 48, 4), [24, 24])[1],
    "dense": lambda: PHMLinear(16, 24, 1),
    "lstm": lambda: PHMLSTM(16, 24, 4, bidirectional=True),
}


def in_place(layer, through):
    for parameter in layer.parameters():
        target = parameter.data if through == "data" else parameter.detach()
        target.mul_(1.5)


EDITS = {
    "data": lambda layer: in_place(layer, "data"),
    "detach": lambda layer: in_place(layer, "detach"),
    "training step": lambda layer: (
        layer.train(),
        [p.data.add_(0.1) for p in layer.parameters()],
        layer.eval(),
    ),
    "load_state_dict": lambda layer: layer.load_state_dict(
        {key: value * 0.5 for key, value in layer.state_dict().items()}
    ),
    "double": lambda layer: (
        layer.double()
        .float()
        .apply(
            lambda m: [p.data.mul_(2) for p in m._parameters.values() if p is not None]
        )
    ),
    "half": lambda layer: layer.bfloat16(),
}


@torch.no_grad()
def test_follows_the_rate_of_the_rule():
    layer = PHMLinear(16, 24, 4, rule_lr=2).eval()
    before = layer.weight.clone()
    layer.rule_lr = 4.0
    torch.testing.assert_close(layer.weight, 2 * before)
    cell = PHMLSTMCell(16, 24, 4, rule_lr=2).eval()
    before = cell.weight_ih.clone()
    for phm in cell.ih:
        phm.rule_lr = 4.0
    torch.testing.assert_close(cell.weight_ih, 2 * before)


def weight_of(layer):
    return layer.weight_ih_l0_reverse if isinstance(layer, PHMLSTM) else layer.weight


@pytest.fixture(params=MAKERS, ids=str)
def layer(request):
    torch.manual_seed(0)
    return MAKERS[request.param]().eval()


def fresh(layer):
    """The weight that a copy without a cache has."""
    with torch.enable_grad():
        return weight_of(copy.deepcopy(layer)).detach()


@torch.no_grad()
def test_built_once(layer):
    assert weight_of(layer) is weight_of(layer)
    assert torch.equal(weight_of(layer), fresh(layer))
    assert weight_of(layer.train()) is not weight_of(layer)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@torch.no_grad()
def test_never_stale(layer, edit):
    before = weight_of(layer).clone()
    edit(layer)
    assert torch.equal(weight_of(layer), fresh(layer))
    assert weight_of(layer).dtype != before.dtype or not torch.equal(
        weight_of(layer), before
    )


@pytest.fixture
def off_the_cpu(monkeypatch):
    """Values cannot be compared, as on a GPU."""
    monkeypatch.setattr("fairseq_phm.modules.cache.is_plain", lambda tensor: False)


@torch.no_grad()
def test_kept_on_a_gpu_after_make_generation_fast(layer, off_the_cpu):
    assert weight_of(layer) is not weight_of(layer)
    for module in layer.modules():
        if hasattr(module, "make_generation_fast_"):
            module.make_generation_fast_(need_attn=False)
    test_built_once(layer)
    layer.eval()
    for name, edit in EDITS.items():
        if name not in ("data", "double", "half"):  # by .data: missed; the last one
            test_never_stale(layer, edit)
    test_never_stale(layer, EDITS["half"])


@torch.no_grad()
def test_trust_ends_with_training_and_survives_copies(layer, off_the_cpu):
    for module in layer.modules():
        if hasattr(module, "make_generation_fast_"):
            module.make_generation_fast_()
    copied = copy.deepcopy(layer)
    assert weight_of(copied) is weight_of(copied)
    layer.train().eval()
    assert weight_of(layer) is not weight_of(layer)


@torch.no_grad()
def test_zeros_of_another_type():
    layer = PHMLinear(16, 24, 1).half().eval()
    layer.blocks.zero_()
    assert layer.weight.dtype == torch.float16
    assert layer.bfloat16().weight.dtype == torch.bfloat16


@torch.no_grad()
def test_more_tensors_are_others():
    cache, one = WeightCache(), torch.ones(2)
    assert cache.get([one], lambda: one + 1)[0] == 2
    assert cache.get([one, one], lambda: one + 2)[0] == 3


@torch.no_grad()
def test_models_move_after_make_generation_fast():
    layer = PHMLinear(16, 24, 4).eval()
    layer.make_generation_fast_()
    assert layer.weight is layer.weight
    assert layer.to("meta").weight.is_meta  # no bytes of another device are read
    with torch.inference_mode():
        made = PHMLinear(16, 24, 4).eval()
        made.make_generation_fast_()
        made.to("meta")
        assert made.weight is not made.weight  # nothing tells of edits


@torch.no_grad()
def test_models_keep_all_weights_after_make_generation_fast(off_the_cpu, monkeypatch):
    model = tiny_transformer(Task(), phm_n=4).eval()
    batch = padded_batch(Task())
    expected = model(**batch)[0]
    model.make_generation_fast_(need_attn=False)
    model(**batch)

    def refuse(*factors):
        raise AssertionError("built once more")

    monkeypatch.setattr("fairseq_phm.modules.linear.materialize", refuse)
    monkeypatch.setattr(
        "fairseq_phm.modules.batched_projections.kronecker_sums", refuse
    )
    torch.testing.assert_close(model(**batch)[0], expected)


class Half(nn.Module):
    def forward(self, values):
        return values / 2


@pytest.mark.parametrize("how", ["pruned", "parametrized"])
@pytest.mark.parametrize("name", ["blocks", "rule", "scaled_rule", "scaled_rule_v"])
@pytest.mark.parametrize("path", ["weight", "CP rank"])
@torch.no_grad()
def test_factors_that_torch_computes(how, name, path, monkeypatch):
    rank, rate = 3 * name.endswith("v"), 8 if "scaled" in name else 1
    layer = PHMLinear(16, 24, 4, rule_rank=rank, rule_lr=rate)
    path = path if rank else "weight"
    monkeypatch.setattr("fairseq_phm.modules.linear.choose_path", lambda *_: path)
    if how == "pruned":
        prune.random_unstructured(layer, name, 0.5)
        held = getattr(layer, f"{name}_orig")
    else:
        parametrize.register_parametrization(layer, name, Half())
        held = layer.parametrizations[name].original
    layer.eval()
    if not rank:
        torch.testing.assert_close(layer.rule, layer.full_rule())
    x = torch.randn(3, 16)
    for _ in range(2):
        expected = nn.functional.linear(x, layer.build_weight(), layer.bias)
        torch.testing.assert_close(layer(x), expected)
        held.mul_(2)
        assert not torch.allclose(layer(x), expected)


def test_gradients_flow_in_eval_mode(layer):
    with torch.no_grad():
        weight_of(layer)
    weight_of(layer).sum().backward()
    assert any(p.grad is not None for p in layer.parameters())


@torch.no_grad()
def test_shared_rule_edited_through_another_layer():
    owner = PHMLinear(8, 8, 2).eval()
    other = PHMLinear(8, 8, 2, rule=owner.rule).eval()
    before = other.weight
    owner.rule = owner.rule + 1
    assert not torch.equal(other.weight, before)
    assert torch.equal(other.weight, fresh(other))


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "dense"])
@torch.no_grad()
def test_edits_of_the_weight_itself_do_not_stay(name):
    layer = MAKERS[name]().eval()
    expected = fresh(layer)
    nn.init.ones_(weight_of(layer))
    assert torch.equal(weight_of(layer), expected)


@torch.no_grad()
def test_copies_and_pickles_are_small_and_right(layer):
    small = len(pickle.dumps(layer))
    weight_of(layer)
    assert len(pickle.dumps(layer)) == small
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for parameter in other.parameters():
            parameter.data.mul_(3)
        assert torch.equal(weight_of(other), fresh(other))
        assert torch.equal(weight_of(layer), fresh(layer))


@torch.no_grad()
def test_an_edit_while_the_weight_is_built_is_seen_later():
    source, cache = torch.ones(2), WeightCache()

    def build():
        weight = source.clone()
        source.mul_(2)  # as another thread may, just now
        return weight

    cache.get([source], build)
    assert cache.get([source], source.clone).tolist() == [2, 2]


@torch.no_grad()
def test_autocast_and_inference_mode():
    layer = PHMLinear(16, 16, 4).eval()
    x = torch.randn(3, 16)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer(x), exact)
    with torch.inference_mode():
        kept = layer.weight
        assert torch.equal(layer(x), exact) and layer.weight is kept
    assert torch.equal(layer(x), exact)


def test_a_weight_of_inference_mode_can_be_used_elsewhere(layer):
    with torch.inference_mode():
        expected = weight_of(layer).clone()
        nn.init.ones_(weight_of(layer))
        assert torch.equal(weight_of(layer), expected) or layer.n == 1
    with torch.no_grad():
        weight = weight_of(layer)
    x = torch.randn(3, 16, requires_grad=True)
    (x @ weight.t()).sum().backward()


@torch.no_grad()
def test_a_model_translates_the_same_after_an_edit(task):
    from conftest import padded_batch

    model = tiny_transformer(task, phm_fuse_qkv=True, phm_share_rule="stack").eval()
    batch = padded_batch(task)
    before = model(**batch)[0]
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    after = model(**batch)[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, copy.deepcopy(model)(**batch)[0])


def state_of(layer):
    return dict(layer.named_parameters()), torch.randn(3, 16)


def test_fake_tensors_are_never_compared(layer):
    """Their memory is nowhere: reading it ends the process."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.no_grad():
        expected = weight_of(layer)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = {name: mode.from_tensor(p) for name, p in layer.named_parameters()}
            buffers = {name: mode.from_tensor(b) for name, b in layer.named_buffers()}
            x = mode.from_tensor(torch.randn(3, 2, 16))
            for _ in range(2):
                torch.func.functional_call(layer, {**fake, **buffers}, x)
        assert torch.equal(weight_of(layer), expected)


@pytest.mark.parametrize("transform", ["vmap", "jvp"])
def test_transforms_over_parameters_leave_the_layer_as_it_was(transform):
    layer = PHMLinear(16, 24, 4).eval()
    parameters, x = state_of(layer)
    with torch.no_grad():
        expected = layer(x)
        if transform == "vmap":
            stacked = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
            made = torch.func.vmap(
                lambda p: torch.func.functional_call(layer, p, x)
            )(stacked)  # fmt: skip
            torch.testing.assert_close(made[0], expected)
            assert not torch.allclose(made[1], expected)
        else:
            tangents = {name: torch.ones_like(p) for name, p in parameters.items()}
            made, moved = torch.func.jvp(
                lambda p: torch.func.functional_call(layer, p, x),
                (parameters,),
                (tangents,),
            )
            torch.testing.assert_close(made, expected)
            assert moved.abs().sum() > 0
        assert torch.equal(layer(x), expected)


def test_parameters_can_be_swapped():
    if not hasattr(torch.utils, "swap_tensors"):
        pytest.skip("torch 2.3 has it")
    layer, other = PHMLinear(16, 24, 4).eval(), PHMLinear(16, 24, 4).eval()
    with torch.no_grad():
        weights = layer.weight.clone(), other.weight.clone()
        torch.utils.swap_tensors(layer.blocks, other.blocks)
        torch.utils.swap_tensors(layer.rule, other.rule)
        assert torch.equal(layer.weight, weights[1])
        assert torch.equal(other.weight, weights[0])


def test_negated_views_are_compared_by_value():
    layer = PHMLinear(16, 24, 4).eval()
    with torch.no_grad():
        weight = layer.weight.clone()
        negated = torch._neg_view(layer.blocks.data.neg())
        assert negated.is_neg()
        layer.blocks.data = negated
        assert torch.equal(layer.weight, weight)
        layer.blocks.data = torch._neg_view(layer.blocks.data)
        torch.testing.assert_close(layer.weight, -weight)
