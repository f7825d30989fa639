"""The sum of n Kronecker products that is nearest to given weights.

A weight H (out, in) is cut into n x n parts of size out/n x in/n, and each part becomes
a row of the rearranged weight (n^2, m), m = out in / n^2. A PHM weight
H = sum_i kron(A_i, S_i), rearranged, is the matrix product A' S, with A' (n^2, n) the
rules as columns and S (n, m) the blocks as rows. The rearrangement keeps the Frobenius
norm, so the nearest sum is the nearest matrix of rank n: the truncated singular value
decomposition (Van Loan and Pitsianis, "Approximation with Kronecker products", 1993).
Weights that share a rule stand side by side, as one rearranged weight.
"""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor

SWEEPS = 200
"""Steps of alternating least squares at most."""
ENOUGH = 1e-5
"""Relative decrease of the error below which these end."""
EXACT = 1e-10
"""Relative error that is none."""
EXACT_SEARCH, SHORT_SEARCH = (8, 300), (1, 60)
"""Of the decomposition of one rule: random starts, and steps of each, at most; where
the weights are a sum of n products, and where more than the rule is lost."""
MOST = 150
"""Numbers of a rule's factors, 3 n R, that this decomposition is tried for."""
CP_STARTS = 4
"""Of the search for a rule of CP rank R."""


def rearrange(weight: Tensor, n: int) -> Tensor:
    """Return the n x n parts of a weight (out, in) as rows, (n^2, out in / n^2).

    >>> rule, blocks = torch.randn(2, 2, 2), torch.randn(2, 3, 5)
    >>> H = sum(torch.kron(rule[i], blocks[i]) for i in range(2))
    >>> rearrange(H, 2).allclose(rule.flatten(1).t() @ blocks.flatten(1), atol=1e-5)
    True
    """
    height, width = weight.size(0) // n, weight.size(1) // n
    parts = weight.reshape(n, height, n, width).transpose(1, 2)
    return parts.reshape(n * n, height * width)


def nearest_rule(parts: Tensor, like: Tensor) -> Tuple[Tensor, Tensor]:
    """Find the rule and blocks whose sum is nearest: the truncated decomposition.

    The squared error is the sum of the squared singular values after the n-th.

    Args:
        parts: rearranged weights, (n^2, m).
        like: a rule (n, n, n) that the result resembles, see :func:`resembling`.

    Returns:
        Rule (n, n, n) and blocks (n, m).
    """
    n = len(like)
    u, s, v = torch.linalg.svd(parts, full_matrices=False)
    return resembling(u[:, :n], s[:n, None] * v[:n], like)


def resembling(u: Tensor, v: Tensor, like: Tensor) -> Tuple[Tensor, Tensor]:
    """Choose among the rules and blocks of one sum: those that resemble a given rule.

    Rule and blocks are determined up to an invertible n x n matrix between them. Here
    the A_i are orthogonal and of one norm, rotated to be as close as possible to those
    of ``like`` (orthogonal Procrustes), and have its norm.

    Args:
        u: (n^2, k) with orthonormal columns, k <= n.
        v: (k, m).
        like: rule (n, n, n).

    Returns:
        Rule (n, n, n) and blocks (n, m) whose sum is the one of u v.
    """
    n = len(like)
    flat = like.reshape(n, n * n)
    turned, _, back = torch.linalg.svd(u.t() @ flat.t(), full_matrices=False)
    turn = turned @ back
    norm = flat.norm() / len(turn) ** 0.5 or 1.0
    return (norm * (u @ turn)).t().reshape(n, n, n), turn.t() @ v / norm


def nearest_blocks(parts: Tensor, rule: Tensor) -> Tensor:
    """Find the blocks (n, m) whose sum with a fixed rule (n, n, n) is nearest.

    Args:
        parts: rearranged weights, (n^2, m).
        rule: its matrices may depend on each other: the smallest blocks are taken.
    """
    return torch.linalg.pinv(rule.flatten(1).t()) @ parts


class CPFit(NamedTuple):
    """Rule factors u, v, w (n, R), blocks (n, m), and the relative error per sweep."""

    u: Tensor
    v: Tensor
    w: Tensor
    blocks: Tensor
    errors: List[float]


def nearest_cp(parts: Tensor, like: Tuple[Tensor, Tensor, Tensor]) -> CPFit:
    """Find a rule of CP rank R and blocks whose sum is near: a local optimum.

    H = sum_r kron(v_r w_r', T_r) with T_r = sum_i u[i, r] S_i. Alternating least
    squares (Kolda and Bader, "Tensor decompositions and applications", 2009, section
    3.4) solves for v, w and all T_r in turn, so that the error never rises; for R > n,
    where the T_r are of rank n together, the solution for them is a regression of
    reduced rank. The best of several starts is kept: ``like``; for R <= n eigenvectors
    of two mixtures of the parts, which are exact where the weights have such a rule;
    for R > n factors of the best full rule, see :func:`_decompose`, which are exact
    there as a rule, and random numbers.

    Args:
        parts: rearranged weights, (n^2, m).
        like: factors u, v, w (n, R) whose norms the result has; u is kept for R <= n.
    """
    u, v, w = like
    n, rank = u.shape
    generator = torch.Generator().manual_seed(1)
    left, s, right = torch.linalg.svd(parts, full_matrices=False)
    core = (left * s).view(n, n, -1)
    found: List[Tuple[Tensor, Tensor, Tensor, List[float]]] = []
    for start in range(CP_STARTS):
        if start == CP_STARTS - 1:
            first = v, w
        elif start == 0 and n < rank and 3 * n * rank <= MOST:
            lost = (s[n:].norm() / s.norm()).item() if s[0] else 0.0
            first = _decompose(core[:, :, :n], rank, max(EXACT, lost / 100), generator)
        else:
            first = _start(core, rank, generator)
        found.append(_alternate(core, *first))
        if found[-1][3][-1] < EXACT:
            break
    v, w, products, errors = min(found, key=lambda one: one[3][-1])
    norms = [one.norm() / rank**0.5 for one in like[1:]]
    products = products @ right / (norms[0] * norms[1])
    if rank <= n:
        return CPFit(
            u, v * norms[0], w * norms[1], torch.linalg.pinv(u.t()) @ products, errors
        )
    x, s, y = torch.linalg.svd(products, full_matrices=False)
    kept = min(n, len(s))
    scale = u.norm() / kept**0.5
    blocks, u = parts.new_zeros(n, parts.size(1)), torch.zeros_like(u)
    u[:kept], blocks[:kept] = scale * x[:, :kept].t(), s[:kept, None] * y[:kept] / scale
    return CPFit(u, v * norms[0], w * norms[1], blocks, errors)


def relative_error(parts: Tensor, rule: Tensor, blocks: Tensor) -> float:
    """Return |H - sum_i kron(A_i, S_i)| / |H|, Frobenius; 0 for H = 0.

    Args:
        parts: H rearranged, (n^2, m).
        rule: (n, n, n).
        blocks: (n, m).
    """
    whole = parts.norm().item()
    off = (parts - rule.flatten(1).t() @ blocks).norm().item()
    return off / whole if whole else 0.0


def _alternate(
    core: Tensor, v: Tensor, w: Tensor
) -> Tuple[Tensor, Tensor, Tensor, List[float]]:
    """Return v, w with columns of length 1, products (R, k) and errors."""
    whole, errors = core.norm().item() or 1.0, [float("inf")]
    v, w = _unit(v), _unit(w)
    products = _products(core, v, w)
    for _ in range(SWEEPS):
        v = _factor(core, w, products)
        w = _unit(_factor(core.transpose(0, 1), v, products))
        v = _unit(v)
        products = _products(core, v, w)
        made = torch.einsum("pr,qr,rk->pqk", v, w, products)
        errors.append((core - made).norm().item() / whole)
        if errors[-1] < EXACT or errors[-2] - errors[-1] < ENOUGH * errors[-1]:
            break
    return v, w, products, errors[1:]


def _products(core: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Solve for all T_r, as rows; of rank n together."""
    n, rank = v.shape
    mixing = (v[:, None] * w).reshape(n * n, rank)
    gram = (v.t() @ v) * (w.t() @ w)
    inverse = torch.linalg.pinv(gram, hermitian=True) @ mixing.t()
    products = inverse @ core.reshape(n * n, -1)
    if rank <= n:
        return products
    x, s, y = torch.linalg.svd(mixing @ products, full_matrices=False)
    return inverse @ (x[:, :n] * s[:n] @ y[:n])


def _factor(core: Tensor, other: Tensor, products: Tensor) -> Tensor:
    """Solve for v (n, R), given w as ``other``, and for w, the core transposed."""
    gram = (other.t() @ other) * (products @ products.t())
    right = torch.einsum("pqk,qr,rk->rp", core, other, products)
    return (torch.linalg.pinv(gram, hermitian=True) @ right).t()


def _unit(factor: Tensor) -> Tensor:
    return factor / factor.norm(dim=0).clamp_min(torch.finfo(factor.dtype).tiny)


def _decompose(
    rule: Tensor, rank: int, enough: float, generator: torch.Generator
) -> Tuple[Tensor, Tensor]:
    """Find v and w (n, R) of a CP decomposition of a rule (n, n, k), the best of some.

    Alternating least squares would end far from a decomposition of rank R > n, so all
    factors move together: Levenberg-Marquardt steps from random numbers (Tomasi and
    Bro, "A comparison of algorithms for fitting the PARAFAC model", 2006).

    Args:
        rule: each summand as strong as it is in the weights.
        rank: R.
        enough: relative error that is small beside what n summands lose.
        generator: source of random numbers.
    """
    rule = rule / (rule.norm() or 1.0)
    best: Tuple[float, List[Tensor]] = (float("inf"), [])
    starts, steps = EXACT_SEARCH if enough < ENOUGH else SHORT_SEARCH
    for _ in range(starts):
        factors = [
            torch.randn(size, rank, generator=generator, dtype=rule.dtype)
            / (rank**0.5 * size) ** 0.5
            for size in rule.shape
        ]
        found = _levenberg_marquardt(rule, factors, enough, steps)
        best = min(best, found, key=lambda one: one[0])
        if best[0] < enough:
            break
    return best[1][0], best[1][1]


def _levenberg_marquardt(
    rule: Tensor, factors: List[Tensor], enough: float, steps: int
) -> Tuple[float, List[Tensor]]:
    """Return the error of a CP decomposition, and its factors (size, R)."""

    def rest(factors: List[Tensor]) -> Tensor:
        return rule - torch.einsum("pr,qr,kr->pqk", *factors)

    sizes = [factor.numel() for factor in factors]
    missing, damping = rest(factors), 1.0
    for _ in range(steps):
        jacobian = torch.cat([_derivative(factors, at) for at in range(3)], dim=1)
        gram, gradient = jacobian.t() @ jacobian, jacobian.t() @ missing.flatten()
        before = missing.norm().item()
        while damping < 1 / EXACT:
            damped = gram + damping * torch.eye(len(gram), dtype=gram.dtype)
            step = torch.linalg.solve(damped, gradient).split(sizes)
            moved = [one + move.view_as(one) for one, move in zip(factors, step)]
            after = rest(moved)
            if after.norm().item() < before:
                break
            damping *= 4
        else:
            break
        factors, missing, damping = moved, after, max(damping / 4, EXACT)
        error = missing.norm().item()
        if error < enough or before - error < min(ENOUGH, enough) * error:
            break
    return missing.norm().item(), factors


def _derivative(factors: List[Tensor], at: int) -> Tensor:
    """Return that of a CP tensor by one of its factors, (numbers, size R)."""
    eye = torch.eye(len(factors[at]), dtype=factors[at].dtype)
    terms = ["pr", "qr", "kr"]
    terms[at] = terms[at][0] + "a"
    made = [*factors[:at], eye, *factors[at + 1 :]]
    return torch.einsum(f"{','.join(terms)}->pqkar", *made).reshape(
        -1, factors[at].numel()
    )


def _start(
    core: Tensor, rank: int, generator: torch.Generator
) -> Tuple[Tensor, Tensor]:
    """Return v and w (n, R) to start from."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=core.dtype)

    n, _, count = core.shape
    if rank > n:
        return random(n, rank), random(n, rank)
    rows = torch.linalg.svd(core.reshape(n, -1), full_matrices=False)[0][:, :rank]
    columns = core.transpose(0, 1).reshape(n, -1)
    columns = torch.linalg.svd(columns, full_matrices=False)[0][:, :rank]
    first, second = (rows.t() @ (core @ random(count)) @ columns for _ in range(2))
    vectors = torch.linalg.eig(first @ torch.linalg.pinv(second))[1]
    vectors = vectors.real + vectors.imag  # of conjugate ones two that differ
    return rows @ vectors, columns @ (torch.linalg.pinv(vectors) @ first).t()
