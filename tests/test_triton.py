"""The Triton kernels against NumPy's np.kron and plain tensor code.

On a GPU as they are, elsewhere by Triton's interpreter (see conftest.py).
"""

import numpy as np
import pytest
import torch

from fairseq_phm import PHMLinear
from fairseq_phm.functional import dispatch, kronecker_sum
from fairseq_phm.functional.weight import kronecker_sums_by_bmm
from fairseq_phm.modules import PHMLinearRows
from fairseq_phm.modules.batched_projections import BatchedProjections

pytest.importorskip("triton", minversion="3.0")
from fairseq_phm.functional import triton_weight  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def factors(n, height, width, layers=1, dtype=torch.float32):
    """Rules, then blocks, of some layers."""
    shapes = [(n, n, n)] * layers + [(n, height, width)] * layers
    torch.manual_seed(n)
    made = [torch.randn(*shape, device=DEVICE, dtype=dtype) for shape in shapes]
    return [factor.requires_grad_() for factor in made]


def by_triton(*all_factors):
    half = len(all_factors) // 2
    return triton_weight.kronecker_sums_by_triton(
        list(all_factors[:half]), list(all_factors[half:])
    )


def by_bmm(*all_factors):
    half = len(all_factors) // 2
    return kronecker_sums_by_bmm(list(all_factors[:half]), list(all_factors[half:]))


def assert_near(found, expected, dtype=torch.float32):
    for one, other in zip(found, expected):
        assert one.shape == other.shape and one.dtype == dtype
        atol = TOLERANCE[dtype] * other.abs().max().item()
        torch.testing.assert_close(one.to(other), other, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "n,height,width",
    [(2, 1, 1), (2, 33, 67), (3, 3, 7), (4, 16, 32), (5, 3, 7), (8, 2, 5), (16, 1, 3)],
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_weight_and_gradients_are_exact(n, height, width, dtype):
    if n > 5 and dtype != torch.float32 and DEVICE == "cpu":
        pytest.skip("the interpreter is slow")
    rule, blocks = factors(n, height, width, dtype=dtype)
    weight = by_triton(rule, blocks)
    exact = [factor.detach().double().requires_grad_() for factor in (rule, blocks)]
    kron = sum(np.kron(*pair) for pair in zip(*(f.detach().cpu() for f in exact)))
    assert_near([weight], [torch.from_numpy(kron).to(DEVICE)], dtype)
    gradient = torch.randn_like(weight)
    expected = torch.autograd.grad(
        kronecker_sum(*exact), exact, gradient.to(torch.double)
    )
    found = torch.autograd.grad(weight, (rule, blocks), gradient)
    assert_near(found, expected, dtype)


def test_layers_strides_and_frozen_factors():
    rule, other, *blocks = factors(3, 4, 6, layers=2)
    other.requires_grad_(False)
    blocks[0].requires_grad_(False)
    args = rule.transpose(0, 2)[:, :2], other[:, 1:], blocks[0], blocks[1]
    args = (*args[:3], args[3].view(3, 6, 4).transpose(1, 2))
    found, expected = by_triton(*args), by_bmm(*args)
    assert_near([found], [expected])
    wanted, gradient = (rule, blocks[1]), torch.randn_like(found).t().contiguous().t()
    assert_near(
        torch.autograd.grad(found, wanted, gradient),
        torch.autograd.grad(expected, wanted, gradient),
    )


def test_second_derivatives_also_of_a_shared_rule():
    rule, _, *blocks = factors(2, 3, 4, layers=2)

    def second(way):
        weight = way(rule, rule, *blocks)
        first = torch.autograd.grad(
            weight.sin().sum(), (rule, *blocks), create_graph=True
        )
        penalty = sum(gradient.square().sum() for gradient in first)
        return *first, *torch.autograd.grad(penalty, (rule, *blocks))

    assert_near(second(by_triton), second(by_bmm))


def test_other_types_are_refused():
    rule, blocks = factors(2, 3, 4)
    for wrong in (rule.double(), rule.half()):
        with pytest.raises(TypeError, match="must be of one type.*torch.float"):
            by_triton(wrong, blocks if wrong.dtype == torch.half else blocks.double())


@pytest.mark.skipif(not hasattr(torch.library, "triton_op"), reason="needs torch 2.6")
def test_compiles_without_graph_breaks():
    all_factors = factors(2, 3, 4, layers=2)
    backend = "eager" if DEVICE == "cpu" else "inductor"
    compiled = torch.compile(by_triton, backend=backend, fullgraph=True)
    weight, expected = compiled(*all_factors), by_bmm(*all_factors)
    assert_near([weight], [expected])
    gradient = torch.randn_like(weight)
    assert_near(
        torch.autograd.grad(weight, all_factors, gradient),
        torch.autograd.grad(expected, all_factors, gradient),
    )
    if DEVICE == "cpu":  # the real kernels cannot be traced while they are interpreted
        rules, blocks = all_factors[:2], all_factors[2:]
        tests = ("test_schema", "test_faketensor")
        for op, args in (
            (triton_weight._build_op, (rules, blocks)),
            (
                triton_weight._differentiate_op,
                (gradient[:6], *all_factors[1:3], True, False),
            ),
        ):
            torch.library.opcheck(op, args, test_utils=tests)


def test_layers_take_it_where_it_is_chosen(monkeypatch):
    calls = []

    def build(rules, blocks):
        calls.append(len(rules))
        return triton_weight._KroneckerSums.apply(*rules, *blocks)

    x = torch.randn(5, 8, device=DEVICE)
    rows = PHMLinearRows.split(PHMLinear(8, 24, 2, device=DEVICE), [8, 16])
    alike = [PHMLinear(8, 12, 4, rule_rank=3, device=DEVICE) for _ in range(3)]
    layers = [*rows, *alike, PHMLinear(8, 12, 2, rank=2, device=DEVICE)]

    def outputs():
        return [layer(x) for layer in layers] + BatchedProjections()(alike, x)

    expected = outputs()
    monkeypatch.setattr("fairseq_phm.functional.dispatch.triton_builds", lambda _: True)
    monkeypatch.setattr(triton_weight, "kronecker_sums_by_triton", build)
    assert_near(outputs(), expected)
    assert calls == [1] * len(layers) + [3]


def test_the_choice(monkeypatch):
    column = {(4, 512, 512, 0): 1, (4, 2048, 512, 0): 0}
    dispatch.triton_wins.cache_clear()
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    monkeypatch.setitem(
        dispatch.TUNING_TABLE, ("cuda", "float16", "triton, built"), column
    )
    assert dispatch.triton_wins(4, 500, 500, torch.float16)
    assert not dispatch.triton_wins(4, 2048, 512, torch.float16)
    assert not dispatch.triton_wins(4, 512, 512, torch.float64)
    assert not dispatch.triton_builds(torch.zeros(4, 128, 128, dtype=torch.float16))
    dispatch.triton_wins.cache_clear()
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    assert not dispatch.triton_wins(4, 512, 512, torch.float16)
    dispatch.triton_wins.cache_clear()
