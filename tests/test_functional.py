"""Rules and weights against independent float64 NumPy computations."""

import numpy as np
import pytest
import torch

from fairseq_phm.functional import (
    ALGEBRAS,
    STARTS,
    cp_rule,
    kronecker_sum,
    low_rank_blocks,
    make_cp_factors,
    make_rule,
    materialize,
    multiplication_rule,
    phm_linear,
    random_rule,
)
from fairseq_phm.spec import check_sizes


def numpy_kronecker_sum(rule, blocks):
    rule, blocks = rule.double().numpy(), blocks.double().numpy()
    return sum(np.kron(a, s) for a, s in zip(rule, blocks))


def product(name, x, y):
    return torch.einsum("ipq,...i,...q->...p", multiplication_rule(name).double(), x, y)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("height,width", [(1, 1), (3, 7), (32, 8)])
def test_kronecker_sum_is_exact(n, height, width):
    rule, blocks = random_rule(n), torch.randn(n, height, width)
    exact = numpy_kronecker_sum(rule, blocks)
    H = kronecker_sum(rule, blocks)
    assert H.shape == (n * height, n * width) and H.is_contiguous()
    np.testing.assert_allclose(H.numpy(), exact, rtol=0, atol=2e-6 * n**0.5)


@pytest.mark.parametrize("name", ALGEBRAS)
def test_fixed_rule_is_bitwise_exact_where_one_block_contributes(name):
    rule = multiplication_rule(name)
    blocks = torch.randn(len(rule), 3, 5)
    exact = numpy_kronecker_sum(rule, blocks).astype(np.float32)
    assert np.array_equal(kronecker_sum(rule, blocks).numpy(), exact)


def test_kronecker_sum_has_no_temporary_larger_than_the_weight():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.largest = max(self.largest, out.numel())
            return out

    n = 16
    rule = random_rule(n).requires_grad_()
    blocks = torch.randn(n, 512 // n, 2048 // n, requires_grad=True)
    with Largest() as seen:
        kronecker_sum(rule, blocks).sum().backward()
    assert seen.largest <= 512 * 2048


def test_materialize_rows_equal_rows_of_the_whole():
    rule, blocks = random_rule(4), torch.randn(4, 6, 2)
    H = kronecker_sum(rule, blocks)
    for start in range(24):
        for stop in range(start + 1, 25):
            rows = materialize(rule, blocks, start, stop)
            assert torch.allclose(rows, H[start:stop], atol=1e-6)
        torch.testing.assert_close(materialize(rule, blocks, start), H[start:])
    assert torch.equal(materialize(None, blocks[:1], 2), blocks[0, 2:])
    assert materialize(None, blocks[:1]) is not None
    assert torch.equal(materialize(None, blocks[:1], 2, 5), blocks[0, 2:5])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_gradcheck(n):
    torch.manual_seed(n)
    rule = torch.randn(n, n, n, dtype=torch.double, requires_grad=True)
    u = torch.randn(n, 3, 2, dtype=torch.double, requires_grad=True)
    v = torch.randn(n, 2, 2, dtype=torch.double, requires_grad=True)
    bias = torch.randn(3 * n, dtype=torch.double, requires_grad=True)
    x = torch.randn(2, 5, 2 * n, dtype=torch.double, requires_grad=True)

    def layer(x, rule, u, v, bias):
        rule = None if n == 1 else rule
        return phm_linear(x, rule, low_rank_blocks(u, v), bias)

    assert torch.autograd.gradcheck(layer, (x, rule, u, v, bias))
    assert torch.autograd.gradgradcheck(layer, (x, rule, u, v, bias))


def test_quaternion_table_and_matrix():
    one, i, j, k = torch.eye(4, dtype=torch.double)
    table = {
        (0, 0): one, (0, 1): i, (0, 2): j, (0, 3): k,
        (1, 0): i, (1, 1): -one, (1, 2): k, (1, 3): -j,
        (2, 0): j, (2, 1): -k, (2, 2): -one, (2, 3): i,
        (3, 0): k, (3, 1): j, (3, 2): -i, (3, 3): -one,
    }  # fmt: skip
    basis = (one, i, j, k)
    for (a, b), expected in table.items():
        assert torch.equal(product("quaternion", basis[a], basis[b]), expected)
    r, x, y, z = 2.0, 3.0, 5.0, 7.0
    matrix = [[r, -x, -y, -z], [x, r, -z, y], [y, z, r, -x], [z, -y, x, r]]
    H = kronecker_sum(
        multiplication_rule("quaternion"), torch.tensor([r, x, y, z])[:, None, None]
    )
    assert H.tolist() == matrix


@pytest.mark.parametrize("name,n", ALGEBRAS.items())
def test_algebra_laws(name, n):
    torch.manual_seed(0)
    rule = multiplication_rule(name)
    assert rule.shape == (n, n, n)
    assert set(rule.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(rule.abs().sum(0), torch.ones(n, n))
    x, y, z = torch.randn(3, 20, n, dtype=torch.double)
    one = torch.eye(n, dtype=torch.double)[0]
    assert torch.equal(product(name, one, x), x)
    assert torch.equal(product(name, x, one), x)
    for i in range(1, n):
        e = torch.eye(n, dtype=torch.double)[i]
        assert torch.equal(product(name, e, e), -one)
    xy_z = product(name, product(name, x, y), z)
    x_yz = product(name, x, product(name, y, z))
    assert torch.allclose(xy_z, x_yz) == (n <= 4)
    norms = product(name, x, y).norm(dim=-1), x.norm(dim=-1) * y.norm(dim=-1)
    assert torch.allclose(*norms) == (n <= 8)
    commutes = torch.allclose(product(name, x, y), product(name, y, x))
    assert commutes == (n <= 2)
    alternative = (
        product(name, product(name, x, x), y),
        product(name, x, product(name, x, y)),
    )
    assert torch.allclose(*alternative) == (n <= 8)


def test_sedenions_have_zero_divisors():
    e = torch.eye(16, dtype=torch.double)
    assert any(
        torch.count_nonzero(product("sedenion", e[3] + e[10], e[a] + s * e[b])) == 0
        for a in range(16)
        for b in range(a + 1, 16)
        for s in (1, -1)
    )


@pytest.mark.parametrize(
    "sizes,names",
    [
        ((512, 2048, 3), "in_features=512, out_features=2048.* 2, 4"),
        ((512, 2048, 0), "n=0 .*in_features=512, out_features=2048.* 1"),
        ((512, 2048, -4), "n=-4 .* 1"),
        ((510, 2050, 4), "in_features=510, out_features=2050.* 2, 5"),
        ((7, 7, 2), "nearest n that fit: 1, 7"),
        ((512, 512, 1024), "nearest n that fit: 512"),
        ((0, 4, 1), "in_features=0"),
        ((8, 8, 2.5), "n=2.5"),
    ],
)
def test_size_errors_name_sizes_and_the_nearest_n(sizes, names):
    with pytest.raises(ValueError, match=names) as caught:
        check_sizes(*sizes)
    assert "\n" not in str(caught.value)


def test_rule_errors():
    with pytest.raises(ValueError, match="unknown rule 'octonions'.*octonion"):
        multiplication_rule("octonions")
    with pytest.raises(ValueError, match="unknown rule 'hamilton'.*learned"):
        make_rule("hamilton", 4)
    with pytest.raises(ValueError, match="'quaternion' has size 4x4x4.*n=8.* 4"):
        make_rule("quaternion", 8)
    with pytest.raises(ValueError, match="has size 2x2x3, but n=2 needs 2x2x2"):
        make_rule(torch.zeros(2, 2, 3), 2)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("n", [2, 3, 4, 8, 16])
def test_factors_start_with_entries_of_the_size_1(start, n):
    """Then the size of blocks follows from that of H, and one learning rate suits."""
    rule = make_rule(start, n)
    assert rule[rule != 0].square().mean().item() == pytest.approx(1, rel=1e-4)
    for rank in {1, n - 1, n, n + 1, 2 * n, n * n}:
        factors = make_cp_factors(start, n, rank)
        assert all(factor.shape == (n, rank) for factor in factors)
        assert len({factor.data_ptr() for factor in factors}) == 3
        assert all(0.2 < factor.square().mean() ** 0.5 < 2 for factor in factors)
        square = cp_rule(*factors).square().mean().item()
        assert square == pytest.approx(1, rel=1e-4)
