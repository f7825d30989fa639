"""Rules of CP rank R: R block products instead of n^2."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from .tracing import can_write_out

CHUNK = 2**19
"""Numbers that are mixed and multiplied at a time: what is between stays in caches."""

FEWEST = 256
"""Tokens of a chunk at least, however wide the layer."""


def cp_rule(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """A[i, p, q] = sum_r u[i, r] v[p, r] w[q, r].

    Args:
        u, v, w: (n, R), or (..., n, R) of several rules.

    Returns:
        Tensor (n, n, n), or (..., n, n, n).
    """
    u, v, w = (
        u[..., :, None, None, :],
        v[..., None, :, None, :],
        w[..., None, None, :, :],
    )
    return (u * v * w).sum(-1)


def fast_products(name: str) -> Optional[Tuple[Tensor, Tensor, Tensor]]:
    """Return factors (n, R) of an algebra's rule with R below n^2, or None.

    They are float32 and on the CPU.

    Three products for complex numbers (Gauss), eight for quaternions (Howell and Lafon,
    1975), the least that there are.

    >>> from fairseq_phm.functional import multiplication_rule
    >>> for name in ("complex", "quaternion"):
    ...     factors = fast_products(name)
    ...     print(cp_rule(*factors).equal(multiplication_rule(name)))
    True
    True
    """
    if name not in _EXACT:
        return None
    weights, inputs, outputs = [
        torch.tensor(table, dtype=torch.float32, device="cpu") for table in _EXACT[name]
    ]
    return weights.t().contiguous(), outputs.contiguous(), inputs.t().contiguous()


# The product of a = (a0, a1, ...) and b: its parts are rows of the third table times
# the products of (row of the first table times a) and (row of the second times b).
_EXACT = {
    "complex": (
        [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
        [[1.0, 0.0], [-1.0, 1.0], [1.0, 1.0]],
        [[1.0, 0.0, -1.0], [1.0, 1.0, 0.0]],
    ),
    "quaternion": (
        [
            [0.0, 1.0, 0.0, 1.0],
            [1.0, 0.0, -1.0, 0.0],
            [1.0, 0.0, 1.0, 0.0],
            [0.0, -1.0, 0.0, 1.0],
            [0.0, 0.0, -1.0, 1.0],
            [1.0, 1.0, 0.0, 0.0],
            [1.0, -1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 1.0],
        ],
        [
            [0.0, 1.0, 1.0, 0.0],
            [1.0, 0.0, 0.0, 1.0],
            [1.0, 0.0, 0.0, -1.0],
            [0.0, 1.0, -1.0, 0.0],
            [0.0, 0.0, 1.0, -1.0],
            [1.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 1.0],
            [1.0, -1.0, 0.0, 0.0],
        ],
        [
            [-0.5, 0.5, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0],
            [-0.5, -0.5, -0.5, 0.5, 0.0, 1.0, 0.0, 0.0],
            [0.5, -0.5, 0.5, 0.5, 0.0, 0.0, 1.0, 0.0],
            [0.5, 0.5, -0.5, 0.5, 0.0, 0.0, 0.0, 1.0],
        ],
    ),
}


def make_cp_factors(
    start: str, n: int, rank: int, generator: Optional[torch.Generator] = None
) -> Tuple[Tensor, Tensor, Tensor]:
    """Make factors (n, R) of a rule that learns, of mean square 1.

    Args:
        start: ``"random"``: see :func:`random_cp_factors`. ``"learned"``: v and w are
            equal and orthogonal, n columns at a time. Where R = n, u is the identity,
            the R products T_r being free blocks whatever u is: then the weights H of
            two layers with this rule have a product of the same kind, as those of an
            associative algebra do.
        n, rank: sizes.
        generator: source of random numbers; default: torch's own.

    >>> A = cp_rule(*make_cp_factors("learned", 4, 4))
    >>> squares, others = A @ A, A[0] @ A[1]
    >>> squares.allclose(A * squares.norm() / A.norm(), atol=1e-5)
    True
    >>> others.abs().max() < 1e-5
    tensor(True)
    """
    u, v, w = random_cp_factors(n, rank, generator)
    if start == "random":
        return u, v, w
    if rank == n:
        v = v * (n / v.norm())
        u = torch.eye(n, dtype=torch.float32).to(v.dtype)  # torch 2.2 has no half one
        return u, v, v.clone()
    scale = cp_rule(u, v, v).square().mean() ** (-1 / 6)
    return u * scale, v * scale, v * scale


def random_cp_factors(
    n: int, rank: int, generator: Optional[torch.Generator] = None
) -> Tuple[Tensor, Tensor, Tensor]:
    """Make factors (n, R) of a random rule of mean square 1, as ``random_rule``.

    Their columns are random and orthogonal, n at a time: no two of the R products
    start out alike.
    """

    default = torch.get_default_dtype()
    dtype = torch.promote_types(default, torch.float32)  # as QR needs

    def factor() -> Tensor:
        squares = [
            torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=dtype))[0]
            for _ in range((rank + n - 1) // n)
        ]
        return torch.cat(squares, 1)[:, :rank]

    u, v, w = factor(), factor(), factor()
    scale = cp_rule(u, v, w).square().mean() ** (-1 / 6)
    u, v, w = ((factor * scale).to(default) for factor in (u, v, w))
    return u, v, w


def cp_linear(
    input: Tensor,
    u: Tensor,
    v: Tensor,
    w: Tensor,
    blocks: Tensor,
    bias: Optional[Tensor] = None,
) -> Tensor:
    """Compute a PHM layer whose rule is :func:`cp_rule` (u, v, w), without H.

    With x_q and y_p the n parts of input and output, y_p = sum_r v[p, r] T_r x'_r,
    where T_r = sum_i u[i, r] S_i and x'_r = sum_q w[q, r] x_q. The R products take
    R in out / n^2 multiply-adds a token, mixing takes R (in + out) more.

    Args:
        input: (..., in).
        u, v, w: (n, R).
        blocks: (n, out/n, in/n), ``blocks[i]`` = S_i.
        bias: (out,) or None.

    Returns:
        Tensor (..., out).

    >>> u, v, w, blocks = *torch.randn(3, 2, 3), torch.randn(2, 4, 5)
    >>> rule, x = cp_rule(u, v, w), torch.randn(6, 10)
    >>> H = sum(torch.kron(rule[i], blocks[i]) for i in range(2))
    >>> cp_linear(x, u, v, w, blocks).allclose(x @ H.t(), atol=1e-4)
    True
    """
    n, height, width = blocks.shape
    tokens = input.reshape(-1, n, width)
    combined = (u.t() @ blocks.reshape(n, -1)).view(-1, height, width).transpose(1, 2)
    shift = None if bias is None else bias.view(1, n, height)
    size = max(FEWEST, CHUNK // (w.size(1) * (height + width)))
    if not can_write_out(input, u, v, w, blocks, bias):
        parts = [
            _products(chunk, v, w, combined, shift) for chunk in tokens.split(size)
        ]
        output = torch.cat(parts)
    else:
        output = input.new_empty(tokens.size(0), n, height)
        for chunk, part in zip(tokens.split(size), output.split(size)):
            _products(chunk, v, w, combined, shift, out=part)
    return output.view(*input.shape[:-1], n * height)


def _products(
    tokens: Tensor,
    v: Tensor,
    w: Tensor,
    combined: Tensor,
    bias: Optional[Tensor],
    out: Optional[Tensor] = None,
) -> Tensor:
    count = tokens.size(0)
    mixed = torch.bmm(w.t().expand(count, -1, -1), tokens)  # (token, r, column)
    products = torch.bmm(mixed.transpose(0, 1), combined).transpose(0, 1)
    mixing = v.expand(count, -1, -1)
    if bias is None:
        return torch.bmm(mixing, products, out=out)
    return torch.baddbmm(bias, mixing, products, out=out)
