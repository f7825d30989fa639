"""H and the gradients through it by Triton kernels, for GPUs.

One kernel writes each number of H once and in its place, where a batched product writes
rows that are then moved: a third of the traffic. One more gives both gradients from one
reading of that of H. Sums are in float32.

Not measured on a GPU yet: tested by Triton's interpreter and compiled for one, but
chosen only once a measured table says so, see ``triton_builds``.
"""

from typing import Any, Callable, List, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tracing import is_tracing
from .weight import kronecker_sums_by_bmm

TILE = 4096
"""Numbers of H that a program writes: few enough for registers."""
PLACES = 64
"""Numbers of each block whose gradients a program computes."""


def kronecker_sums_by_triton(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
    """Compute ``kronecker_sums`` in one launch for each layer.

    Differentiable twice; the second time, and a first with ``create_graph``, by plain
    tensor code. torch.compile takes it without a graph break from torch 2.6 on. Neither
    for autocast nor for TorchScript.

    Args:
        rules: of each layer, (n, parts, n): all of A_i, or some of their rows.
        blocks: of each layer, (n, out/n, in/n).

    Returns:
        Tensor (number of layers * parts * out/n, in).

    Raises:
        TypeError: unless all are float32, all float16, or all bfloat16.
    """
    dtypes = {factor.dtype for factor in (*rules, *blocks)}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float16, torch.bfloat16}:
        raise TypeError(
            "rules and blocks must be of one type, float32, float16 or bfloat16, got "
            + ", ".join(sorted(map(str, dtypes)))
        )
    return _KroneckerSums.apply(*rules, *blocks)


class _KroneckerSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        half = len(factors) // 2
        build = _build_op if is_tracing() else _build
        return build(list(factors[:half]), list(factors[half:]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:
        factors, needed = ctx.saved_tensors, ctx.needs_input_grad
        half = len(factors) // 2
        if torch.is_grad_enabled() and not is_tracing():
            own = [factor.view_as(factor) for factor in factors]  # of a shared one each
            again = kronecker_sums_by_bmm(own[:half], own[half:])
            return torch.autograd.grad(again, own, gradient, create_graph=True)
        differentiate = _differentiate_op if is_tracing() else _differentiate
        of_rules: List[Optional[Tensor]] = []
        of_blocks: List[Optional[Tensor]] = []
        for i, part in enumerate(gradient.chunk(half)):
            wanted = needed[i], needed[half + i]
            if any(wanted):
                sums, own = differentiate(part, factors[i], factors[half + i], *wanted)
            of_rules.append(sums.sum(0).to(factors[i].dtype) if wanted[0] else None)
            of_blocks.append(own if wanted[1] else None)
        return (*of_rules, *of_blocks)


@triton.jit
def _build_kernel(
    weight, rule, blocks, stride_i, stride_p, stride_q, pairs, places, width,
    N: tl.constexpr, PAIRS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """PAIRS parts (p, q) of H, at PLACES places (a, b) of each."""
    pair = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    rule += pair // N * stride_p + pair % N * stride_q
    blocks += place
    total = tl.zeros((PAIRS, PLACES), tl.float32)
    for _ in range(N):
        a = tl.load(rule, pair < pairs, 0).to(tl.float32)
        s = tl.load(blocks, place < places, 0).to(tl.float32)
        total += a[:, None] * s[None, :]
        rule += stride_i
        blocks += places
    part = (pair // N).to(tl.int64) * places * N + pair % N * width
    row = (place // width).to(tl.int64) * width * N + place % width
    inside = (pair < pairs)[:, None] & (place < places)[None, :]
    total = total.to(weight.dtype.element_ty)
    tl.store(weight + part[:, None] + row[None, :], total, inside)


@triton.jit
def _differentiate_kernel(
    gradient, rule, blocks, of_rule, of_blocks, stride_i, stride_p, stride_q,
    pairs, places, width, N: tl.constexpr, RULE: tl.constexpr, BLOCKS: tl.constexpr,
    SUMMANDS: tl.constexpr, PAIRS: tl.constexpr, PLACES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Of SUMMANDS i: the gradients of blocks at PLACES places, and what these places
    give to those of the rule."""
    summand = tl.program_id(1) * SUMMANDS + tl.arange(0, SUMMANDS)
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    row = (place // width).to(tl.int64) * width * N + place % width
    own = summand.to(tl.int64)[:, None] * places + place[None, :]
    within = (summand < N)[:, None] & (place < places)[None, :]
    if RULE:
        s = tl.load(blocks + own, within, 0).to(tl.float32)
        of_rule += tl.program_id(0).to(tl.int64) * N * pairs
    total = tl.zeros((SUMMANDS, PLACES), tl.float32)
    for start in range(0, pairs, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        part = (pair // N).to(tl.int64) * places * N + pair % N * width
        inside = (pair < pairs)[:, None] & (place < places)[None, :]
        g = tl.load(gradient + part[:, None] + row[None, :], inside, 0).to(tl.float32)
        inside = (summand < N)[:, None] & (pair < pairs)[None, :]
        if BLOCKS:
            entry = pair // N * stride_p + pair % N * stride_q
            a = tl.load(rule + summand[:, None] * stride_i + entry[None, :], inside, 0)
            total += tl.dot(a.to(tl.float32), g, input_precision=PRECISION)
        if RULE:
            products = tl.dot(s, tl.trans(g), input_precision=PRECISION)
            tl.store(
                of_rule + summand[:, None] * pairs + pair[None, :], products, inside
            )
    if BLOCKS:
        tl.store(of_blocks + own, total.to(of_blocks.dtype.element_ty), within)


def _build(
    rules: List[Tensor], blocks: List[Tensor], kernel: Any = _build_kernel
) -> Tensor:
    weight = _new_weight(rules, blocks)
    n, height, width = blocks[0].shape
    pairs, places = rules[0].size(1) * n, height * width
    own_pairs = min(16, triton.next_power_of_2(pairs))
    own_places = TILE // own_pairs
    grid = triton.cdiv(places, own_places), triton.cdiv(pairs, own_pairs)
    with torch.cuda.device_of(weight):
        for part, rule, own in zip(weight.chunk(len(rules)), rules, blocks):
            kernel[grid](
                part, rule, own.contiguous(), *rule.stride(), pairs, places, width,
                N=n, PAIRS=own_pairs, PLACES=own_places,
            )  # fmt: skip
    return weight


def _differentiate(
    gradient: Tensor,
    rule: Tensor,
    blocks: Tensor,
    rule_wanted: bool,
    blocks_wanted: bool,
    kernel: Any = _differentiate_kernel,
) -> Tuple[Tensor, Tensor]:
    found = _new_gradients(gradient, rule, blocks, rule_wanted, blocks_wanted)
    n, height, width = blocks.shape
    pairs, places = rule.size(1) * n, height * width
    # The tensor cores' tf32 holds any float16 and bfloat16: products are exact there.
    precision = "ieee" if rule.dtype == torch.float32 else "tf32"
    with torch.cuda.device_of(gradient):
        kernel[triton.cdiv(places, PLACES), triton.cdiv(n, 16)](
            gradient.contiguous(), rule, blocks.contiguous(), *found, *rule.stride(),
            pairs, places, width, N=n, RULE=rule_wanted, BLOCKS=blocks_wanted,
            SUMMANDS=16, PAIRS=16, PLACES=PLACES,  # 16: the least that tl.dot takes
            PRECISION=precision,
        )  # fmt: skip
    return found


def _new_weight(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
    n, height, width = blocks[0].shape
    return blocks[0].new_empty(len(rules) * rules[0].size(1) * height, n * width)


def _new_gradients(
    gradient: Tensor,
    rule: Tensor,
    blocks: Tensor,
    rule_wanted: bool,
    blocks_wanted: bool,
) -> Tuple[Tensor, Tensor]:
    """Of the rule, as summands (number of programs, n, parts, n), and of the blocks."""
    programs = triton.cdiv(blocks.size(1) * blocks.size(2), PLACES)
    return (
        rule.new_empty(
            programs if rule_wanted else 0, *rule.shape, dtype=torch.float32
        ),
        blocks.new_empty(blocks.shape if blocks_wanted else (0,)),
    )


_build_op: Callable = _build
_differentiate_op: Callable = _differentiate
if hasattr(torch.library, "triton_op"):  # torch 2.6: the compiler sees the kernels

    @torch.library.triton_op("fairseq_phm::kronecker_sums", mutates_args=())
    def _build_op(rules: List[Tensor], blocks: List[Tensor]) -> Tensor:
        return _build(rules, blocks, torch.library.wrap_triton(_build_kernel))

    @torch.library.triton_op("fairseq_phm::kronecker_gradients", mutates_args=())
    def _differentiate_op(
        gradient: Tensor,
        rule: Tensor,
        blocks: Tensor,
        rule_wanted: bool,
        blocks_wanted: bool,
    ) -> Tuple[Tensor, Tensor]:
        return _differentiate(
            gradient,
            rule,
            blocks,
            rule_wanted,
            blocks_wanted,
            torch.library.wrap_triton(_differentiate_kernel),
        )

    _build_op.register_fake(_new_weight)
    _differentiate_op.register_fake(_new_gradients)
