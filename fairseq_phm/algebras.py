"""Known algebras, how near a rule is to one, and how alike two rules are.

Many rules say the same: H = sum_i kron(A_i, S_i) stays what it is when the A_i are
mixed and the S_i are mixed back, and a model stays what it is when its layers agree on
another basis of the n parts between them. Distances here are what is left after the
best such changes: any mixing of the summands, and rotations of inputs and outputs.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from .functional import ALGEBRAS, associative_rule, multiplication_rule

STARTS, STEPS = 6, 40
"""Of the search for a change of basis: starts, and steps from each at most."""


class Match(NamedTuple):
    """The algebra that is nearest to a rule.

    ``distance`` is between 0 and sqrt(2), ``turned`` the rule in the algebra's basis
    and ``table`` the rule of the algebra, both (n, n, n).
    """

    name: str
    distance: float
    turned: Tensor
    table: Tensor


def known_algebras(n: int) -> Dict[str, Tensor]:
    """Make the rules (n, n, n) of known algebras of dimension n, by name.

    >>> list(known_algebras(3))
    ['polynomials modulo x^3 + 1', '3 separate numbers']
    """
    found = {
        f"{name}s" if n > 2 else "complex numbers": multiplication_rule(name)
        for name, size in ALGEBRAS.items()
        if size == n > 1
    }
    if n >= 8 and n & (n - 1) == 0:
        found[f"Clifford algebra Cl(0, {n.bit_length() - 1})"] = associative_rule(n)
    root = round(n**0.5)
    if root > 1 and root * root == n:
        found[f"{root} x {root} matrices"] = _matrices(root)
    for sign in (-1, 1):
        if (n, sign) == (2, 1) or (n % 2 and sign == -1):
            continue  # the complex numbers; of odd n, with -x for x, both are one
        rule = torch.zeros(n, n, n)
        for i in range(n):
            for q in range(n):
                rule[i, (i + q) % n, q] = 1 if i + q < n else -sign
        found[f"polynomials modulo x^{n} {'-+'[sign > 0]} 1"] = rule
    if n > 2:  # for n = 2 those modulo x^2 - 1, in another basis
        diagonal = torch.zeros(n, n, n)
        diagonal[range(n), range(n), range(n)] = 1
        found[f"{n} separate numbers"] = diagonal
    return found


def _matrices(root: int) -> Tensor:
    """Make the rule of square matrices: e_ab e_bd = e_ad."""
    eye = torch.eye(root)
    rule = torch.einsum("ax,by,dz->abxdyz", eye, eye, eye)  # i = ab, p = xd, q = yz
    return rule.reshape(root**2, root**2, root**2)


def span(rule: Tensor) -> Tensor:
    """Return an orthonormal basis (..., n, n^2) of what the A_i span.

    Directions that the A_i hardly reach count as the others do.
    """
    flat = rule.double().flatten(-2)
    u, _, v = torch.linalg.svd(flat, full_matrices=False)
    return u @ v


def similarity(first: Tensor, second: Tensor) -> float:
    """Return the mean squared cosine of the principal angles between two spans.

    It is 1 for equal spans, 0 for orthogonal ones, and about 1/n for random rules.

    Args:
        first, second: as of :func:`span`, (n, n^2).
    """
    return float((first @ second.t()).square().sum() / len(first))


def nearest_algebra(rules: Sequence[Tensor]) -> Sequence[Match]:
    """Find the known algebra nearest to each rule of one n, up to a change of basis.

    The distance |A - B| of the rules, with orthonormal A_i and B_i and divided by
    sqrt(n), is made small by rotations of summands, inputs and outputs, one after the
    other (each is an orthogonal Procrustes problem), from no rotation and from random
    ones; it is an upper bound, as the search ends in a local minimum.

    Args:
        rules: (n, n, n) each.
    """
    n = rules[0].size(0)
    flat = span(torch.stack(list(rules)))
    best: Dict[int, Match] = {}
    for name, table in known_algebras(n).items():
        table = table.double()
        distances, turned = _turn(flat, table / table[0].norm())
        for i, distance in enumerate(distances.tolist()):
            if i not in best or distance < best[i].distance - 1e-6:
                scaled = turned[i] * table[0].norm()
                best[i] = Match(name, distance, scaled, table)
    return [best[i] for i in range(len(rules))]


def random_distance(n: int, count: int = 4) -> float:
    """Return the mean distance of random rules to their nearest algebra, to compare."""
    generator = torch.Generator().manual_seed(7)
    rules = torch.randn(count, n, n, n, generator=generator)
    return sum(one.distance for one in nearest_algebra(list(rules))) / count


def _turn(flat: Tensor, table: Tensor) -> Tuple[Tensor, Tensor]:
    """Turn rules to an algebra: distances (rules,), turned rules (rules, n, n, n).

    P, Q and R, as rotations ``left`` and ``right`` and as ``mix``, maximise the sum of
    <P' (sum_j R_ji A_j) Q, B_i>.
    """
    count, n, starts = len(flat), len(table), STARTS
    A = flat.view(count, 1, n, n, n).expand(count, starts, n, n, n)
    B = table.expand(count, starts, n, n, n)
    generator = torch.Generator().manual_seed(1)
    left = _rotations(starts, n, generator).expand(count, starts, n, n)
    right = _rotations(starts, n, generator).expand(count, starts, n, n)
    before = torch.full((count,), -1.0, dtype=torch.float64)
    for _ in range(STEPS):
        seen = left.mT[:, :, None] @ A @ right[:, :, None]
        mix = _procrustes(seen.flatten(-2) @ B.flatten(-2).mT)
        A_mixed = (mix.mT @ A.flatten(-2)).view_as(A)
        left = _procrustes((A_mixed @ right[:, :, None] @ B.mT).sum(2))
        right = _procrustes((A_mixed.mT @ left[:, :, None] @ B).sum(2))
        turned = left.mT[:, :, None] @ A_mixed @ right[:, :, None]
        alike = (turned * B).sum((2, 3, 4)) / n
        highest = alike.max(dim=1)
        if (highest[0] - before).max() < 1e-7:
            break
        before = highest[0]
    turned = turned[torch.arange(count), highest[1]]
    return (2 - 2 * highest[0]).clamp_min(0).sqrt(), turned


def _rotations(starts: int, n: int, generator: torch.Generator) -> Tensor:
    """Make the identity and random rotations, (starts, n, n)."""
    random = torch.randn(starts, n, n, generator=generator, dtype=torch.float64)
    random[0] = torch.eye(n)
    return torch.linalg.qr(random)[0]


def _procrustes(products: Tensor) -> Tensor:
    """Return the orthogonal matrices X with the largest <X, M>."""
    u, _, v = torch.linalg.svd(products)
    return u @ v
