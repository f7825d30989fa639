"""PHMLinear: a drop-in for nn.Linear."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from fairseq_phm import PHMEmbedding, PHMLinear, multiplication_rule
from fairseq_phm.modules import PHMLinearRows
from fairseq_phm.spec import PHMSpec

VARIANTS = {
    "dense": dict(n=1),
    "learned": dict(n=4),
    "n=5": dict(n=5),
    "warm": dict(n=4, rule="quaternion"),
    "quaternion": dict(n=4, rule="quaternion", freeze_rule=True),
    "frozen": dict(n=2, freeze_rule=True),
    "tensor": dict(n=3, rule=torch.randn(3, 3, 3)),
    "low rank": dict(n=4, rank=2),
    "rule rank": dict(n=4, rule_rank=4),
    "rule rank 6": dict(n=4, rule_rank=6),
    "frozen rule rank": dict(n=3, rule_rank=2, freeze_rule=True),
    "dense low rank": dict(n=1, rank=2),
    "no bias": dict(n=2, bias=False),
}


@pytest.fixture(params=VARIANTS, ids=str)
def layer(request):
    torch.manual_seed(1)
    return PHMLinear(60, 120, **VARIANTS[request.param])


def exact_weight(layer):
    blocks = layer.full_blocks().detach().double().numpy()
    if layer.n == 1:
        return blocks[0]
    rule = layer.full_rule().detach().double().numpy()
    return sum(np.kron(a, s) for a, s in zip(rule, blocks))


def test_weight_and_output_are_exact(layer):
    exact = exact_weight(layer)
    assert "PHMLinear(60, 120, n=" in repr(layer)
    assert layer.weight.shape == (120, 60)
    np.testing.assert_allclose(layer.weight.detach().numpy(), exact, atol=1e-6)
    for shape in [(60,), (1, 60), (7, 60), (2, 3, 60), (0, 60), (2, 0, 4, 60)]:
        x = torch.randn(shape)
        y = layer(x)
        assert y.shape == (*shape[:-1], 120)
        expected = x.double().numpy() @ exact.T
        if layer.bias is not None:
            expected = expected + layer.bias.detach().double().numpy()
        np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-5)


def test_parameter_counts():
    def count(**options):
        return sum(p.numel() for p in PHMLinear(512, 2048, **options).parameters())

    dense = 512 * 2048
    assert count(n=1) == dense + 2048
    assert count(n=8) == dense // 8 + 8**3 + 2048
    assert count(n=8, bias=False) == dense // 8 + 8**3
    assert count(n=4, rule="quaternion") == dense // 4 + 4**3 + 2048
    assert count(n=4, rule="quaternion", freeze_rule=True) == dense // 4 + 2048
    assert count(n=4, rank=3, bias=False) == 3 * (512 + 2048) + 4**3
    assert count(n=4, rule_rank=5) == dense // 4 + 3 * 4 * 5 + 2048
    assert count(n=4, rule_rank=5, freeze_rule=True) == dense // 4 + 2048
    assert count(n=4, rule_rank=4) == dense // 4 + 2 * 4 * 4 + 2048
    assert count(n=4, rule_rank=4, rule="random") == dense // 4 + 3 * 4 * 4 + 2048
    assert count(n=2, rule_rank=4) == dense // 2 + 3 * 2 * 4 + 2048


RULES = ["learned", "algebra", "tensor"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 4, 5, 8, 16])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_initial_variance(n, rule, rank):
    names = {2: "complex", 4: "quaternion", 8: "octonion", 16: "sedenion"}
    values = {"algebra": names.get(n, "learned"), "tensor": 3 * torch.rand(n, n, n)}
    for std in (None, 0.02, 1.5):
        torch.manual_seed(n)
        sizes = 512 // n * n, 2048 // n * n
        layer = PHMLinear(*sizes, n, rule=values.get(rule, rule), std=std, rank=rank)
        H = layer.weight.detach().double()
        expected = std or 1 / (3 * layer.in_features) ** 0.5
        assert H.std().item() == pytest.approx(expected, rel=0.05)
        assert abs(H.mean().item()) < 0.05 * expected
        bound = layer.in_features**-0.5
        assert layer.bias.abs().max().item() == pytest.approx(bound, rel=0.05)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_each_part_of_the_weight_has_the_variance(n):
    torch.manual_seed(0)
    parts = PHMLinear(512, 2048, n, std=1.0).weight.view(n, -1, n, 512 // n)
    stds = parts.transpose(1, 2).reshape(n * n, -1).std(1)
    assert stds.min() > 0.9 and stds.max() < 1.1


def test_seed():
    def draw(seed, **options):
        return PHMLinear(8, 8, 2, **options).weight

    torch.manual_seed(3)
    first = draw(3)
    second = draw(3)
    torch.manual_seed(3)
    assert torch.equal(first, draw(3)) and not torch.equal(first, second)
    a, b = (draw(0, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)


def test_reset_parameters():
    layer = PHMLinear(64, 64, 4, rule="quaternion")
    layer.rule = layer.rule + 0.5
    before = layer.weight
    layer.reset_parameters(std=0.3)
    assert not torch.equal(layer.weight, before)
    assert layer.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(layer.rule, multiplication_rule("quaternion") + 0.5)


@pytest.mark.parametrize("options", [dict(rule="random"), dict(rule_rank=6)])
def test_reset_keeps_a_frozen_rule(options):
    layer = PHMLinear(8, 8, 4, freeze_rule=True, **options)
    rule, blocks = layer.full_rule().clone(), layer.blocks.clone()
    layer.reset_parameters()
    assert torch.equal(layer.full_rule(), rule)
    assert not torch.equal(layer.blocks, blocks)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("copied", [False, True])
def test_reset_makes_what_was_on_the_meta_device(name, copied):
    options = VARIANTS[name]
    with torch.device("meta"):
        empty = PHMLinear(60, 120, **options)
    empty = copy.deepcopy(empty) if copied else empty
    empty = empty.to_empty(device="cpu")
    for tensor in (*empty.parameters(), *empty.buffers()):
        tensor.data.fill_(float("nan"))
    empty.reset_parameters(generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(empty.weight).all()
    if "rule" in options:
        layer = PHMLinear(60, 120, **options)
        assert torch.equal(empty.full_rule(), layer.full_rule())
        empty.reset_parameters()
        assert torch.equal(empty.full_rule(), layer.full_rule())


def test_rule_values():
    quaternion = multiplication_rule("quaternion")
    warm = PHMLinear(8, 8, 4, rule="quaternion")
    assert torch.equal(warm.rule, quaternion) and warm.rule.requires_grad
    frozen = PHMLinear(8, 8, 4, rule="quaternion", freeze_rule=True)
    assert torch.equal(frozen.rule, quaternion) and not frozen.rule.requires_grad
    assert "rule" in dict(frozen.named_buffers()) and "rule" in frozen.state_dict()
    given = torch.randn(2, 2, 2)
    copied = PHMLinear(8, 8, 2, rule=given)
    assert torch.equal(copied.rule, given)
    given.zero_()
    assert copied.rule.abs().sum() > 0


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(in_features=6, out_features=8, n=4), "in_features=6, out_features=8.* 2"),
        (dict(in_features=8, out_features=8, n=0), "n=0"),
        (dict(in_features=8, out_features=8, n=4, rule="quaternions"), "unknown rule"),
        (dict(in_features=8, out_features=8, n=2, rule="quaternion"), "4x4x4.*n=2"),
        (dict(in_features=8, out_features=8, n=2, rule=torch.ones(3, 3, 3)), "3x3x3"),
        (dict(in_features=8, out_features=8, n=1, rule="foo"), "unknown rule 'foo'"),
        (dict(in_features=8, out_features=8, n=1, rule="complex"), "2x2x2.*n=1"),
        (dict(in_features=8, out_features=8, n=2, rank=-1), "rank"),
        (dict(in_features=8, out_features=8, n=2, rank=1.5), "rank.* got 1.5"),
        (dict(in_features=8, out_features=8, n=2, rule_rank=5), "5.* n=2.* 1 to 4"),
        (dict(in_features=8, out_features=8, n=2, rule_rank=-1), "rule_rank=-1"),
        (dict(in_features=8, out_features=8, n=1, rule_rank=1), "rule_rank=1.* n=1"),
        (
            dict(in_features=8, out_features=8, n=2, rule_rank=2, rule="complex"),
            "rule_rank=2 is for learned rules",
        ),
        (dict(in_features=8, out_features=8, n="2"), "n='2' does not fit"),
        (dict(in_features=8, out_features=8, n=True), "n=True does not fit"),
        (dict(in_features=8, out_features=8, n=2, rule=[[1]]), "name or a tensor"),
        (
            dict(in_features=8, out_features=8, n=2, rule=torch.zeros(2, 2, 2)),
            "zero everywhere",
        ),
        (
            dict(
                in_features=8,
                out_features=8,
                n=2,
                rule=nn.Parameter(torch.ones(2, 2, 2)),
                dtype=torch.half,
            ),
            "shared rule is torch.float32, the layer torch.float16",
        ),
        (
            dict(in_features=8, out_features=8, n=2, rule=nn.Parameter(torch.ones(4))),
            "has size 4, but n=2",
        ),
        (
            dict(
                in_features=8,
                out_features=8,
                n=2,
                rule=PHMLinear(8, 8, 4),
                freeze_rule=True,
            ),
            "shared rule has n=4, rule_rank=0, the layer n=2",
        ),
        (
            dict(in_features=8, out_features=8, n=2, rule=nn.Linear(2, 2)),
            "no PHM layer to take the rule of: Linear",
        ),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PHMLinear(**options)


@pytest.mark.parametrize("rule", ["bogus", "octonion", torch.ones(2, 2, 2)])
def test_a_spec_refuses_a_rule_that_does_not_fit(rule):
    with pytest.raises(ValueError, match="rule"):
        PHMSpec(4, rule=rule).check(64, 64)


def test_numpy_integers_are_sizes():
    layer = PHMLinear(np.int64(8), np.int64(16), np.int64(4))
    assert layer(torch.zeros(3, 8)).shape == (3, 16)


SHARED = {
    "a rate": (dict(rule_lr=8), ["rule"]),
    "rate 1": (dict(rule_lr=1), ["rule"]),
    "rule rank": (dict(rule_rank=3, rule_lr=8), ["rule_u", "rule_v", "rule_w"]),
    "rule rank, rate 1": (dict(rule_rank=3, rule_lr=1), ["rule_u", "rule_v", "rule_w"]),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_rule_is_stored_once_and_has_one_gradient(name):
    options, factors = SHARED[name]
    owner = PHMLinear(8, 8, 2, **options)
    rank = options.get("rule_rank", 0)
    model = nn.Sequential(owner, PHMLinear(8, 16, 2, rule=owner, rule_rank=rank))
    model.append(
        PHMLinear(16, 4, 2, rule=owner if rank else owner.rule, rule_rank=rank)
    )
    stored = [k for k in model.state_dict() if "rule" in k]
    assert stored == [f"0.{factor}" for factor in factors]
    learned = [p for n, p in model.named_parameters() if "rule" in n]
    assert len(learned) == len(factors)
    x = torch.randn(3, 8)
    model(x).sum().backward()
    separate = copy.deepcopy(model)
    for layer in (separate[1], separate[2]):
        for factor in factors:
            values = getattr(layer, factor).detach().clone()
            setattr(layer, factor, nn.Parameter(values))
    separate.zero_grad()
    separate(x).sum().backward()
    for factor in factors:
        gradients = [
            p.grad for n, p in separate.named_parameters() if n.endswith(factor)
        ]
        assert len(gradients) == 3
        (own,) = (p.grad for n, p in model.named_parameters() if n.endswith(factor))
        torch.testing.assert_close(own, sum(gradients))


def test_two_rules_do_not_load_into_one():
    """Two layers of a checkpoint that shared nothing, one rule here."""
    owner = PHMLinear(8, 8, 2)
    tied = nn.Sequential(owner, PHMLinear(8, 8, 2, rule=owner))
    apart = nn.Sequential(PHMLinear(8, 8, 2, rule="random"), PHMLinear(8, 8, 2))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="0.rule and 1.rule are one here and di"):
            tied.load_state_dict(apart.state_dict())
    apart[1].rule = apart[0].rule
    tied.load_state_dict(apart.state_dict())
    assert torch.equal(tied[1].weight, apart[1].weight)
    other = PHMLinear(8, 8, 2, rule="random")
    tied[1].load_state_dict(other.state_dict())  # another call may change it
    assert torch.equal(tied[0].rule, other.rule)
    apart.to("meta")  # where no numbers differ
    tied.load_state_dict(apart.state_dict(), assign=True)
    assert tied[0].rule.is_meta


def test_a_frozen_rule_of_another_layer_is_a_copy():
    owner = PHMLinear(8, 8, n=4, rule="quaternion", freeze_rule=True)
    for freeze in (False, True):
        other = PHMLinear(8, 8, n=4, rule=owner, freeze_rule=freeze)
        assert torch.equal(other.rule, owner.rule) and other.rule is not owner.rule
        owner.rule.mul_(2)
        assert not torch.equal(other.rule, owner.rule)


def test_a_frozen_rule_that_is_unfrozen_learns():
    layer = PHMLinear(512, 512, n=4, rule="quaternion", freeze_rule=True)
    layer.rule = nn.Parameter(layer.rule.clone())
    layer(torch.randn(300, 512)).sum().backward()
    assert layer.rule.grad.abs().sum() > 0


def test_a_parameter_that_is_the_rule_has_the_rate_of_its_optimizer():
    given = nn.Parameter(torch.ones(4, 4, 4))
    layer = PHMLinear(8, 8, n=4, rule=given)
    assert layer.rule is given and layer.rule_lr == 1


def test_a_layer_that_shares_a_rule_of_zeros_has_no_nan():
    owner = PHMLinear(8, 8, n=4)
    owner.rule = torch.zeros(4, 4, 4)
    assert torch.equal(PHMLinear(8, 8, n=4, rule=owner).weight, torch.zeros(8, 8))


def test_values_of_another_shape_are_no_rule():
    layer = PHMLinear(8, 8, n=4)
    with pytest.raises(ValueError, match=r"rule has the shape \(4, 4, 4\), not \(4, 4"):
        layer.rule = torch.eye(4)
    frozen = PHMLinear(8, 8, n=4, freeze_rule=True)
    for one in (layer, frozen):
        with pytest.raises(ValueError, match=r"\(4, 4, 4\), not \(3, 3\)"):
            one.rule = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"\(4, 4, 4\), not \(3, 3\)"):
        frozen.rule = torch.ones(3, 3)


def test_a_rule_that_was_read_is_a_tensor():
    """It can be saved alone, and still be shared."""
    layer, file = PHMLinear(64, 64, n=4), io.BytesIO()
    torch.save(layer.rule.detach(), file)
    alone = len(file.getvalue())
    torch.save(layer.rule, file := io.BytesIO())
    assert len(file.getvalue()) < 1.2 * alone
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), layer.rule)
    shared = PHMLinear(8, 8, n=4, rule=layer.rule)
    assert shared.scaled_rule is layer.scaled_rule
    assert PHMLinear(8, 8, n=4, rule=PHMLinear(8, 8, n=4).rule)._tied == ("rule",)


def test_shared_rule_loads_strictly():
    def build():
        owner = PHMLinear(8, 8, 2, rule_lr=8)
        return nn.Sequential(owner, PHMLinear(8, 8, 2, rule=owner.rule))

    model, other = build(), build()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert other[0].scaled_rule is other[1].scaled_rule
    torch.testing.assert_close(other[1].weight, model[1].weight)
    alone = model[1].state_dict()
    assert "rule" in alone
    other[1].load_state_dict(alone)
    broken = {k: v for k, v in model.state_dict().items() if k != "0.rule"}
    with pytest.raises(RuntimeError, match="0.rule"):
        other.load_state_dict(broken)


def test_half_precision_and_autocast(layer):
    x = torch.randn(16, 60)
    exact = layer(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), exact, atol=0.05, rtol=0.05)
    low = copy.deepcopy(layer).to(torch.bfloat16)
    assert low.weight.dtype == torch.bfloat16
    y = low(x.bfloat16()).float()
    torch.testing.assert_close(y, exact, atol=0.1, rtol=0.1)


def test_torchscript(layer):
    x = torch.randn(5, 60)
    scripted = torch.jit.script(layer)
    torch.testing.assert_close(scripted(x), layer(x))
    exported = torch.jit.freeze(scripted.eval())
    torch.testing.assert_close(exported(x), layer(x))


def test_fast_products_follow_no_device_and_no_default(monkeypatch):
    options = dict(rule="quaternion", freeze_rule=True)
    with torch.device("meta"):
        layer = PHMLinear(512, 512, 4, **options)
    layer = layer.to_empty(device="cpu")
    other, x = PHMLinear(512, 512, 4, **options), torch.randn(600, 512)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = PHMLinear(512, 512, 4, dtype=torch.float32, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    layer.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), other.eval()(x))


@pytest.mark.parametrize("rule", ["learned", "random"])
def test_cp_rules_where_half_precision_is_the_default(rule):
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = PHMLinear(64, 64, 4, rule_rank=4, rule=rule)
        assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
        assert layer(torch.ones(3, 64)).isfinite().all()
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_rule_that_was_shared_on_the_meta_device_is_refused():
    """to_empty parts it: the second layer would have what was in memory."""
    first = PHMLinear(8, 8, 4, device="meta")
    for source in (first, PHMLinear(8, 8, 4, rule_lr=1, device="meta").rule):
        for kind in (PHMLinear, PHMEmbedding):
            second = kind(8, 8, 4, rule=source, device="meta")
            second.reset_parameters()
            second.to_empty(device="cpu")
            with pytest.raises(RuntimeError, match="shared on the meta device"):
                second.reset_parameters()


def test_meta_device_and_dtype():
    assert PHMLinear(8, 8, 2, device="meta").weight.is_meta
    assert PHMLinear(8, 8, 2, dtype=torch.float64).weight.dtype == torch.float64


ROWS = ["dense", "learned", "quaternion", "low rank", "rule rank"]


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_a_fused_layer(name):
    def split():
        fused = PHMLinear(16, 48, **VARIANTS[name])
        return fused, PHMLinearRows.split(fused, [16, 20, 12])

    fused, parts = split()
    x = torch.randn(3, 16)
    torch.testing.assert_close(torch.cat([part(x) for part in parts], -1), fused(x))
    torch.testing.assert_close(torch.cat([p.weight for p in parts]), fused.weight)
    for part in parts:
        torch.testing.assert_close(torch.jit.script(part)(x), part(x))
        assert part.bias.shape == (part.out_features,)
    model = nn.ModuleList(parts)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in fused.parameters())
    trained = {k for k in model.state_dict() if "blocks" in k}
    assert all(key.startswith("0.") for key in trained)
    other = nn.ModuleList(split()[1])
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other[2](x), parts[2](x))
    with pytest.raises(ValueError, match="do not add up to out_features=48"):
        PHMLinearRows.split(fused, [16, 16])
    fused.bias.data.zero_()
    assert parts[2].bias.all()  # each has its own
