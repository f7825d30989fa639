"""Multiplication rules: the tensors A of y = (sum_i A_i kron S_i) x + b.

A rule has shape (n, n, n). Of the rule of an algebra, ``rule[i, p, q]`` is the
coefficient of the basis element e_p in the product e_i e_q.
"""

from __future__ import annotations

import math
from typing import Optional, Union

import torch
from torch import Tensor

ALGEBRAS = {"real": 1, "complex": 2, "quaternion": 4, "octonion": 8, "sedenion": 16}
"""Algebras with a fixed rule, and their dimension n."""


STARTS = ("learned", "random")
"""How a learned rule may start, besides as a named algebra or a given tensor."""


def multiplication_rule(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make the rule (n, n, n) of a Cayley-Dickson algebra.

    Args:
        name: ``real`` (n = 1), ``complex`` (2), ``quaternion`` (4, Hamilton's
            product), ``octonion`` (8) or ``sedenion`` (16).
        dtype: type of the result; all entries are -1, 0 or 1.

    Raises:
        ValueError: for any other name.

    Source: Cayley-Dickson doubling (a, b)(c, d) = (ac - conj(d) b, d a + b conj(c))
    with e_0 = 1; Zhang et al. (ICLR 2021), section 2 for the quaternions.

    >>> multiplication_rule("complex").tolist()
    [[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]]]
    """
    if name not in ALGEBRAS:
        raise ValueError(
            f"unknown rule {name!r}: choose one of {', '.join(ALGEBRAS)}, "
            + ", ".join(STARTS)
        )
    basis = torch.eye(ALGEBRAS[name], dtype=dtype)
    products = _cayley_dickson_product(basis[:, None, :], basis[None, :, :])
    return products.transpose(1, 2).contiguous()


def is_start(rule: object) -> bool:
    """Return True for the names in :data:`STARTS`."""
    return isinstance(rule, str) and rule in STARTS


def associative_rule(n: int) -> Tensor:
    """Make the rule (n, n, n) of an associative algebra; its entries are -1, 0, 1.

    For n = 2^k the Clifford algebra Cl(0, k): the complex numbers, the quaternions, and
    for 8 and 16 what octonions and sedenions are not, associative: the weights H of two
    layers with this rule have a product of the same kind, and there is one that undoes
    the other. For other n the negacyclic numbers, polynomials modulo x^n + 1.

    >>> associative_rule(4).equal(multiplication_rule("quaternion"))
    True
    >>> associative_rule(3)[1, 0, 2]  # x times x^2
    tensor(-1.)
    >>> for n in (2, 3, 8, 16):  # A_i A_j is what e_i e_j multiplies with
    ...     A = associative_rule(n)
    ...     products = torch.einsum("ipm,jmq->ijpq", A, A)
    ...     print(products.equal(torch.einsum("imj,mpq->ijpq", A, A)))
    True
    True
    True
    True
    """
    rule = torch.zeros(n, n, n)
    power_of_two = n & (n - 1) == 0
    for i in range(n):
        for q in range(n):
            if power_of_two:
                rule[i, i ^ q, q] = _clifford_sign(i, q)
            else:
                rule[i, (i + q) % n, q] = 1 if i + q < n else -1
    return rule


def _clifford_sign(i: int, q: int) -> int:
    """Of e_i e_q, the bits of i and q being the generators, whose squares are -1."""
    swaps, rest = 0, i
    while rest:
        rest >>= 1
        swaps += bin(rest & q).count("1")
    swaps += bin(i & q).count("1")
    return -1 if swaps % 2 else 1


def times_rate(parameter: Tensor, rate: float) -> Tensor:
    """Return rate * parameter, whose gradient goes to the parameter unchanged.

    So a step of an optimizer moves the product by ``rate`` times that step, while the
    norm of the gradients is that of the product: a learning rate for one parameter
    that holds where parameters are joined into one, as fairseq does for fp16.

    Args:
        parameter: of any shape.
        rate: above 0; a power of two makes the product and its division exact.

    >>> x = torch.ones(2, requires_grad=True)
    >>> times_rate(x, 8.0).sum().backward()
    >>> times_rate(x, 8.0).tolist(), x.grad.tolist()
    ([8.0, 8.0], [1.0, 1.0])
    """
    if rate == 1.0:
        return parameter
    if not parameter.requires_grad:
        return parameter * rate
    return (parameter * rate).detach() + (parameter - parameter.detach())


def default_rule_lr(in_features: int, out_features: int, rule_rank: int = 0) -> float:
    """Learning rate of a rule, in learning rates of the optimizer, by sizes.

    Adam moves every parameter about equally far. The entries of a rule are of the size
    1, those of blocks of about 1/sqrt(in): at one rate the rule hardly moves. As good
    learning rates fall about as 1 / width, a rate in proportion to the width keeps a
    rule's steps at a few hundredths of its size: on small Transformers (width 128, peak
    4e-3, n = 4) 8 was better than 1, and with 32 the steps were too long. Half of it
    was better for the factors of a rule of CP rank R, whose steps add up.

    Returns:
        The power of two nearest to min(in, out) / 16, at least 1; half for a rule of
        CP rank R.

    >>> default_rule_lr(128, 512), default_rule_lr(512, 512, rule_rank=8)
    (8.0, 16.0)
    """
    share = min(in_features, out_features) / (32 if rule_rank else 16)
    return 2.0 ** max(0, round(math.log2(share)))


def random_rule(n: int, generator: Optional[torch.Generator] = None) -> Tensor:
    """Make a random rule (n, n, n) whose vectors ``rule[:, p, q]`` have length sqrt(n).

    Equal lengths give all n x n parts of H the same variance. The length is chosen for
    Adam, which moves every parameter about equally far: to first order, and for
    unrelated gradients of the parts, a step then lowers the loss as much as in a dense
    layer, and 1/sqrt(n) as much with length 1.

    >>> random_rule(5).square().mean(0).allclose(torch.ones(5, 5))
    True
    """
    rule = torch.randn(n, n, n, generator=generator)
    return rule * math.sqrt(n) / rule.norm(dim=0, keepdim=True)


def make_rule(
    rule: Union[str, Tensor], n: int, generator: Optional[torch.Generator] = None
) -> Tensor:
    """Make a float32 rule (n, n, n) from a name or a tensor.

    ``"learned"`` is :func:`associative_rule`, ``"random"`` :func:`random_rule`; the
    other names are those of :func:`multiplication_rule`.

    Raises:
        ValueError: for an unknown name, or a rule whose size is not (n, n, n).
    """
    if isinstance(rule, str):
        if rule == "learned":
            return associative_rule(n)
        if rule == "random":
            return random_rule(n, generator)
        made = multiplication_rule(rule)
        described = f"rule {rule!r}"
    elif isinstance(rule, Tensor):
        made = rule.detach().clone()
        described = "the given rule"
    else:
        raise ValueError(f"rule must be a name or a tensor, got {type(rule).__name__}")
    if made.shape != (n, n, n):
        sizes = "x".join(map(str, made.shape))
        raise ValueError(
            f"{described} has size {sizes}, but n={n} needs {n}x{n}x{n}; "
            f"the nearest n that fits this rule is {made.size(0) if made.dim() else 1}"
        )
    if not made.is_meta and not made.any():
        raise ValueError(f"{described} is zero everywhere")
    return made


def _cayley_dickson_product(x: Tensor, y: Tensor) -> Tensor:
    if x.size(-1) == 1:
        return x * y
    a, b = x.chunk(2, dim=-1)
    c, d = y.chunk(2, dim=-1)
    product = _cayley_dickson_product
    return torch.cat(
        [
            product(a, c) - product(_conjugate(d), b),
            product(d, a) + product(b, _conjugate(c)),
        ],
        dim=-1,
    )


def _conjugate(x: Tensor) -> Tensor:
    return torch.cat([x[..., :1], -x[..., 1:]], dim=-1)
