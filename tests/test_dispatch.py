"""Every path of the PHM product against NumPy's np.kron and against each other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from fairseq_phm import PHMLinear
from fairseq_phm.functional import (
    choose_path,
    cp_linear,
    factored_linear,
    fast_products,
    random_cp_factors,
    random_rule,
)
from fairseq_phm.functional.dispatch import CP, FACTORED, WEIGHT
from fairseq_phm.functional.tuning_table import TUNING_TABLE
from fairseq_phm.functional.weight_first import weight_first


def oracle(x, rule, blocks, bias):
    rule, blocks, x = (t.detach().double().numpy() for t in (rule, blocks, x))
    y = x @ sum(np.kron(a, s) for a, s in zip(rule, blocks)).T
    return y if bias is None else y + bias.detach().double().numpy()


@pytest.fixture(params=["without the weight", "weight"])
def forced(request, monkeypatch):
    """Layers take one path whatever the sizes are."""

    def choose(*sizes_and_rule_rank):
        if request.param == "weight":
            return WEIGHT
        return CP if sizes_and_rule_rank[-1] else FACTORED

    monkeypatch.setattr("fairseq_phm.modules.linear.choose_path", choose)
    return request.param


@pytest.mark.parametrize("height,width", [(6, 2), (2, 6)])
@torch.no_grad()
def test_some_outputs_of_the_factored_path(height, width):
    rule, blocks, bias = random_rule(4), torch.randn(4, height, width), torch.randn(99)
    x = torch.randn(2, 3, 4 * width)
    whole = factored_linear(x, rule, blocks)
    for start in range(4 * height):
        for stop in range(start + 1, 4 * height + 1):
            b = bias[: stop - start] if start % 2 else None
            y = factored_linear(x, rule, blocks, b, start, stop)
            expected = whole[..., start:stop] + (0 if b is None else b)
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height,width", [(3, 2), (2, 3)])
@pytest.mark.parametrize("stop", [None, 5])
def test_gradcheck_of_the_factored_path(height, width, stop):
    def new(*shape):
        return torch.randn(*shape, dtype=torch.double, requires_grad=True)

    inputs = new(3, 2 * width), new(2, 2, 2), new(2, height, width), new(4)
    inputs = (*inputs[:3], new(4 if stop else 2 * height))

    def call(*tensors):
        return factored_linear(*tensors, *((1, 5) if stop else ()))

    if stop and height == 2:
        pytest.skip("four outputs only")
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_transforms_of_torch_func(bias):
    factors, blocks = random_cp_factors(4, 4), torch.randn(4, 3, 7)
    x, weight = torch.randn(5, 6, 28), torch.randn(12, 28)
    bias = torch.randn(12) if bias else None
    for product in (
        lambda x: cp_linear(x, *factors, blocks, bias),
        lambda x: weight_first(x, weight, bias),
    ):
        torch.testing.assert_close(torch.func.vmap(product)(x), product(x))
        moved = product(x) if bias is None else product(x) - bias
        found = torch.func.jvp(product, (x,), (x,))
        torch.testing.assert_close(found, (product(x), moved))
        with forward_ad.dual_level():
            dual = product(forward_ad.make_dual(x, x))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, moved)


def test_gradcheck_of_cp_linear():
    shapes = [(3, 4), (2, 3), (2, 3), (2, 3), (2, 3, 2), (6,)]
    inputs = [
        torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes
    ]
    assert torch.autograd.gradcheck(cp_linear, inputs)
    assert torch.autograd.gradgradcheck(cp_linear, inputs)


def test_a_rule_of_cp_rank_learns_to_be_any_other_of_that_rank():
    torch.manual_seed(0)
    target = PHMLinear(8, 8, 2, rule_rank=2)
    layer = PHMLinear(8, 8, 2, rule_rank=2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(600):
        x = torch.randn(32, 8)
        loss = (layer(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


@pytest.fixture(params=[0, 3], ids=["full rule", "CP rank"])
def layer(request):
    torch.manual_seed(0)
    return PHMLinear(48, 64, 4, rule_rank=request.param)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_dtypes_and_autocast(forced, layer, dtype):
    layer.eval()
    x = torch.randn(5, 48)
    exact = oracle(x, layer.full_rule(), layer.blocks, layer.bias)
    tolerance = 1e-6 if dtype is torch.float64 else 0.05
    if dtype is torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y.float().numpy(), exact, atol=tolerance)
    try:
        y = layer.to(dtype)(x.to(dtype))
    except RuntimeError as error:
        assert dtype is torch.float16 and "not implemented for 'Half'" in str(error)
        pytest.skip("this torch has no fp16 on the CPU")
    assert y.dtype == dtype
    np.testing.assert_allclose(y.double().numpy(), exact, atol=tolerance)


@torch.no_grad()
def test_edits_reach_every_path(forced, layer):
    layer.eval()
    x = torch.randn(3, 48)
    layer(x)
    for parameter in layer.parameters():
        parameter.data.mul_(1.5)
        exact = oracle(x, layer.full_rule(), layer.blocks, layer.bias)
        np.testing.assert_allclose(layer(x).numpy(), exact, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_compiles_without_graph_breaks(forced, layer, training, grad):
    torch._dynamo.reset()
    layer.train(training)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(grad):
        for tokens in (3, 7):
            x = torch.randn(tokens, 48)
            torch.testing.assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_trace_fits_other_sizes(forced, layer):
    layer.eval()
    traced = torch.jit.trace(layer, torch.randn(1, 48), check_trace=False)
    x = torch.randn(9, 48)
    torch.testing.assert_close(traced(x), layer(x), atol=1e-5, rtol=1e-5)


def test_wrong_width_is_an_error_on_every_path(forced, layer):
    with pytest.raises(RuntimeError, match="shape"):
        layer(torch.zeros(3, 96))


def test_the_choice():
    cpu, fp32 = "cpu", torch.float32
    for (device, dtype, column), limits in TUNING_TABLE.items():
        place = device, getattr(torch, dtype), column.endswith("kept")
        for (*sizes, rank), limit in limits.items():

            def chosen(tokens, sizes=sizes, place=place, rank=rank):
                return choose_path(tokens, *sizes, *place, rank)

            if column.startswith("factored"):
                assert chosen(limit) == (FACTORED if limit else WEIGHT)
                assert chosen(limit + 1) == WEIGHT
            elif column == "CP rank, built":
                assert chosen(4096) == (CP if limit else WEIGHT)
                assert chosen(limit - 1) == WEIGHT
            elif column == "CP rank, kept" and limit:
                assert chosen(4096) == CP
    assert choose_path(1, 8, 2000, 500, cpu, fp32, True) == FACTORED
    assert choose_path(4096, 8, 2000, 500, cpu, fp32, True) == WEIGHT
    assert choose_path(4096, 8, 2000, 500, cpu, fp32, False, 8) == CP
    assert choose_path(0, 8, 2000, 500, cpu, fp32, True) == WEIGHT
    for place in (("meta", fp32), (cpu, torch.float64)):
        assert choose_path(1, 8, 2000, 500, *place, True) == WEIGHT


def test_width_256_is_measured_itself():
    """It is as far from 128, where H is faster, as from 512."""
    for (_, _, column), limits in TUNING_TABLE.items():
        assert any(sizes[1:3] == (256, 256) for sizes in limits), column
    assert choose_path(1500, 4, 256, 256, "cpu", torch.float32, False, 4) == CP


@pytest.mark.parametrize("training", [True, False])
def test_quaternions_by_eight_products(training, monkeypatch):
    """Only while the frozen rule is Hamilton's; the results are those of H."""
    layer = PHMLinear(2048, 512, 4, rule="quaternion", freeze_rule=True).train(training)
    x = torch.randn(300, 2048)
    with torch.set_grad_enabled(training):
        assert layer._path(x) == CP
        y = layer(x)
        torch.testing.assert_close(
            y, nn.functional.linear(x, layer.weight, layer.bias), atol=1e-4, rtol=1e-4
        )
        if training:
            y.sum().backward()
            assert layer.blocks.grad is not None
        layer.rule = layer.rule * 2
        assert layer._path(x) == WEIGHT
    learning = PHMLinear(2048, 512, 4, rule="quaternion").train(training)
    assert learning._path(x) == WEIGHT
    for name, products in (("complex", 3), ("quaternion", 8), ("octonion", None)):
        factors = fast_products(name)
        assert (factors and factors[0].size(1)) == products
