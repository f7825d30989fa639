"""Layers of any sizes, rules, types and layouts against sums of Kronecker products.

``HYPOTHESIS_PROFILE=many`` tries 2,000 examples of each instead of 30.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from fairseq.modules import MultiheadAttention
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fairseq_phm import PHMLSTM, PHMLinear, PHMLSTMCell
from fairseq_phm.functional import (
    ALGEBRAS,
    cp_linear,
    cp_rule,
    factored_linear,
    kronecker_rows,
    kronecker_sums,
    low_rank_blocks,
    materialize,
    phm_linear,
)
from fairseq_phm.functional.dispatch import CP, FACTORED, WEIGHT
from fairseq_phm.modules import PHMLinearRows
from fairseq_phm.modules.attention import Attention

NAMED = {n: name for name, n in ALGEBRAS.items() if n > 1}
PATHS = ("table", "weight", "weight first", "factored", "CP")
seeds = st.integers(0, 2**31)


def has_half():
    """Whether this torch multiplies in fp16 on the CPU."""
    x = torch.ones(2, 2, 2, dtype=torch.half)
    try:
        nn.functional.linear(x[0], x[0]), torch.baddbmm(x, x, x)
    except RuntimeError:
        return False
    return True


LOW = [torch.bfloat16, torch.half] if has_half() else [torch.bfloat16]
dtypes = st.sampled_from([torch.float, torch.double, *LOW])


@contextmanager
def forced(path):
    """Layers take one path whatever the sizes are, where they can."""

    def choose(*sizes_and_rank):
        if path in ("weight", "weight first"):
            return WEIGHT
        if path == "CP":
            return CP if sizes_and_rank[-1] else WEIGHT
        return FACTORED

    with pytest.MonkeyPatch.context() as patch:
        if path != "table":
            patch.setattr("fairseq_phm.modules.linear.choose_path", choose)
            patch.setattr(
                "fairseq_phm.functional.dispatch.weight_goes_first",
                lambda input, weight: path == "weight first",
            )
        patch.setattr("fairseq_phm.functional.cp_rules.CHUNK", 0)
        patch.setattr("fairseq_phm.functional.cp_rules.FEWEST", 3)
        yield


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "transposed": lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "inner": lambda x: nn.functional.pad(x, (1, 2))[..., 1:-2],
    "expanded": lambda x: x[:1].expand_as(x) if x.dim() > 1 and len(x) else x,
}
layouts = st.sampled_from(list(LAYOUTS))


@st.composite
def inputs(draw, width, dtype, max_dims=3):
    """Make a tensor (..., width) of any layout, perhaps without tokens."""
    shape = draw(st.lists(st.integers(0, 4), max_size=max_dims))
    torch.manual_seed(draw(seeds))
    return LAYOUTS[draw(layouts)](torch.randn(*shape, width).to(dtype))


@st.composite
def options_of_layers(draw, max_n=6):
    """Draw n and the options of a layer that fit it."""
    n = draw(st.sampled_from([*range(1, max_n + 1), 8]))
    kinds = ["learned", "random", "low rank"]
    if n > 1:
        kinds += ["tensor", "CP rank", "CP rank"] + ["algebra"] * (n in NAMED)
    kind = draw(st.sampled_from(kinds))
    options = dict(n=n, freeze_rule=draw(st.booleans()) if n > 1 else False)
    options["rule_lr"] = draw(st.sampled_from([None, 1, 3.0, 16]))
    if kind == "random":
        options["rule"] = "random"
    elif kind == "low rank":
        options["rank"] = draw(st.integers(1, 4))
    elif kind == "algebra":
        options["rule"] = NAMED[n]
    elif kind == "tensor":
        torch.manual_seed(draw(seeds))
        options["rule"] = torch.randn(n, n, n)
    elif kind == "CP rank":
        options["rule_rank"] = draw(st.integers(1, n * n))
        options["rule"] = draw(st.sampled_from(["learned", "random"]))
    return options


@st.composite
def layers(draw, types=dtypes):
    """Make a layer, or a slice of one, in either mode."""
    options, dtype = draw(options_of_layers()), draw(types)
    n = options["n"]
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    torch.manual_seed(draw(seeds))
    layer = PHMLinear(n * width, n * height, bias=draw(st.booleans()), **options)
    if n * height > 1 and draw(st.booleans()):
        cut = draw(st.integers(1, n * height - 1))
        parts = PHMLinearRows.split(layer, [cut, n * height - cut])
        layer = draw(st.sampled_from(parts))
    return layer.to(dtype).train(draw(st.booleans()))


@dataclass
class Exact:
    """A layer in float64, by its definition: leaves, and what they make."""

    leaves: dict
    rows: tuple

    @classmethod
    def of(cls, layer, change=lambda x: x):
        names = ("rule_u", "rule_v", "rule_w", "rule", "blocks_u", "blocks_v", "blocks")
        found = {name: layer.stored(name) is not None for name in names}
        leaves = {
            name: change(getattr(layer, name).detach().double()).requires_grad_()
            for name in (*names, "bias")
            if found.get(name, getattr(layer, name) is not None)
        }
        return cls(leaves, layer._rows)

    def weight(self):
        get = self.leaves.get
        blocks, rule = get("blocks"), get("rule")
        if blocks is None:
            blocks = torch.einsum("iar,irb->iab", get("blocks_u"), get("blocks_v"))
        if get("rule_u") is not None:
            factors = (get(f"rule_{one}") for one in "uvw")
            rule = torch.einsum("ir,pr,qr->ipq", *factors)
        if rule is None:
            return blocks[0][slice(*self.rows)]
        H = sum(torch.kron(A, S) for A, S in zip(rule, blocks))
        return H[slice(*self.rows)]

    def __call__(self, x):
        y = x @ self.weight().t()
        return y if "bias" not in self.leaves else y + self.leaves["bias"]


def assert_close(mine, exact, sizes, dtype):
    """Entries differ by a few roundings of all summands; ``sizes`` sums their sizes."""
    assert mine.shape == exact.shape and mine.dtype == dtype
    info = torch.finfo(dtype)
    bound = 4 * info.eps * sizes + 8 * info.smallest_normal
    assert (mine.double() - exact).abs().le(bound).all(), (mine, exact, bound)


@pytest.mark.parametrize("path", PATHS)
@given(st.data())
def test_layers_equal_the_sum_of_kronecker_products(path, data):
    layer = data.draw(layers())
    dtype = layer.stored("blocks" if layer.rank == 0 else "blocks_u").dtype
    x = data.draw(inputs(layer.in_features, dtype))
    sizes = [Exact.of(layer, change) for change in (lambda x: x, torch.abs)]
    with torch.no_grad(), forced(path):
        kept = [layer(x) for _ in range(2)]  # in eval mode the second time H is kept
        expected = [one(v.double()) for one, v in zip(sizes, (x, x.abs()))]
        for y in kept:
            assert_close(y, *expected, dtype)
    if path == "weight first":
        return  # has no gradients
    given_x = x.detach().requires_grad_()
    with forced(path):
        y = layer(given_x)
    assert_close(y.detach(), *expected, dtype)
    gradient = torch.randn(y.shape).to(dtype)
    y.backward(gradient)
    gradients = []
    for one, change in zip(sizes, (lambda x: x, torch.abs)):
        own_x = change(x.detach().double()).requires_grad_()
        one(own_x).backward(change(gradient.double()))
        gradients.append({"x": own_x, **one.leaves})
    for name, leaf in gradients[0].items():
        mine = given_x if name == "x" else layer.stored(name)
        if name == "bias":
            mine = layer.bias
        if not isinstance(mine, nn.Parameter) and name != "x":
            assert mine.grad is None  # frozen
            continue
        found = torch.zeros_like(mine) if mine.grad is None else mine.grad
        # Sums of roundings of the rows above: of the forward and the backward pass.
        assert_close(found, leaf.grad, 2 * gradients[1][name].grad, dtype)


@pytest.mark.parametrize("path", ["weight", "factored", "CP"])
@settings(max_examples=settings().max_examples // 3)
@given(st.data())
def test_gradcheck(path, data):
    layer = data.draw(layers(st.just(torch.double)))
    assume(layer.rule_lr == 1)  # times_rate gives the gradient of A, by design
    x = data.draw(inputs(layer.in_features, torch.double, max_dims=1))
    names, values = zip(*layer.named_parameters())
    values = [value.detach().requires_grad_() for value in values]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    with forced(path):
        arguments = (x.detach().contiguous().requires_grad_(), *values)
        assert torch.autograd.gradcheck(call, arguments, fast_mode=True)


@given(st.data())
def test_functions_take_any_layout(data):
    n, height, width = (data.draw(st.integers(1, 5)) for _ in range(3))
    dtype = data.draw(dtypes)
    torch.manual_seed(data.draw(seeds))
    rank = data.draw(st.integers(1, n * n))

    def new(*shape):
        return LAYOUTS[data.draw(layouts)](torch.randn(*shape).to(dtype))

    x = data.draw(inputs(n * width, dtype))
    rule, blocks, bias = new(n, n, n), new(n, height, width), new(n * height)
    u, v, w = new(n, rank), new(n, rank), new(n, rank)
    start = data.draw(st.integers(0, n * height - 1))
    stop = data.draw(st.integers(start + 1, n * height))
    rows = torch.randint(n * height, (2, 3))

    def products(x, rule, blocks, bias, u, v, w):
        H = sum(torch.kron(A, S) for A, S in zip(rule, blocks))
        own = torch.einsum("ir,pr,qr->ipq", u, v, w)
        of_cp = sum(torch.kron(A, S) for A, S in zip(own, blocks))
        return [
            x @ H.t() + bias,
            x @ H.t() + bias,
            x @ H[start:stop].t() + bias[start:stop],
            torch.cat([H, of_cp]),
            H[start:stop],
            H[rows],
            own,
            x @ of_cp.t() + bias,
            torch.bmm(blocks, blocks.mT),
        ]

    tensors = (x, rule, blocks, bias, u, v, w)
    exact = products(*(one.double().contiguous() for one in tensors))
    sizes = products(*(one.double().abs().contiguous() for one in tensors))
    made = [
        phm_linear(x, rule, blocks, bias),
        factored_linear(x, rule, blocks, bias),
        factored_linear(x, rule, blocks, bias[start:stop], start, stop),
        kronecker_sums([rule, cp_rule(u, v, w)], [blocks, blocks]),
        materialize(rule, blocks, start, stop),
        kronecker_rows(rule, blocks, rows),
        cp_rule(u, v, w),
        cp_linear(x, u, v, w, blocks, bias),
        low_rank_blocks(blocks, blocks.mT),
    ]
    for one in zip(made, exact, sizes):
        assert_close(*one, dtype)


@given(
    st.tuples(st.integers(-1, 12), st.integers(-1, 12), st.integers(-1, 6)),
    st.sampled_from(["learned", "random", *ALGEBRAS, "other", torch.ones(2, 2, 2)]),
    st.integers(-1, 3),
    st.integers(-1, 10),
    st.sampled_from([None, 0, 2, float("nan")]),
    st.booleans(),
)
def test_a_layer_is_made_or_refused_in_one_line(sizes, rule, rank, R, rate, freeze):
    options = dict(rule=rule, rank=rank, rule_rank=R, rule_lr=rate, freeze_rule=freeze)
    try:
        layer = PHMLinear(*sizes, **options)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert layer(torch.zeros(2, sizes[0])).shape == (2, sizes[1])
    with pytest.raises(RuntimeError, match="shape"):
        layer(torch.zeros(2, sizes[0] + 1))


def expanded(lstm):
    """The nn.LSTM with the weights that a PHMLSTM computes."""
    twin = nn.LSTM(
        lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bias, lstm.batch_first,
        bidirectional=lstm.bidirectional, dtype=torch.double,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            place = name.rpartition("_l")[2]
            layer, _, backward = place.partition("_")
            directions = 2 if lstm.bidirectional else 1
            cell = lstm.cells[int(layer) * directions + bool(backward)]
            if name.startswith("weight"):
                phm = cell.ih if "_ih" in name else cell.hh
                parts = [Exact.of(one).weight() for one in phm]
                parameter.copy_(torch.cat(parts))
            elif name.startswith("bias_ih"):
                parameter.copy_(cell.bias)
            else:
                parameter.zero_()
    return twin


@st.composite
def lstms(draw):
    options = draw(options_of_layers(max_n=4))
    n = options["n"]
    shape = dict(
        num_layers=draw(st.integers(1, 3)), bias=draw(st.booleans()),
        bidirectional=draw(st.booleans()), batch_first=draw(st.booleans()),
        gates=draw(st.sampled_from(["separate", "fused"])),
    )  # fmt: skip
    torch.manual_seed(draw(seeds))
    sizes = [n * draw(st.integers(1, 3)) for _ in range(2)]
    dtype = draw(st.sampled_from([torch.float, torch.double]))
    lstm = PHMLSTM(*sizes, **options, **shape).to(dtype).train(draw(st.booleans()))
    return lstm, dtype


@given(st.data())
def test_lstms_equal_nn_lstm(data):
    lstm, dtype = data.draw(lstms())
    twin = expanded(lstm).train(lstm.training)
    batch, time = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    shape = (batch, time) if lstm.batch_first else (time, batch)
    x = LAYOUTS[data.draw(layouts)](torch.randn(*shape, lstm.input_size, dtype=dtype))
    hx = None
    if data.draw(st.booleans()):
        hx = [torch.randn(len(lstm.cells), batch, lstm.hidden_size) for _ in range(2)]
    lengths, is_sorted = None, data.draw(st.booleans())
    if batch and time and data.draw(st.booleans()):
        lengths = [data.draw(st.integers(1, time)) for _ in range(batch)]
        lengths = sorted(lengths, reverse=True) if is_sorted else lengths
    results = []
    for model, kind in ((twin, torch.double), (lstm, dtype)):
        given_x = input = x.detach().to(kind).requires_grad_()
        if lengths:
            input = pack_padded_sequence(
                input, lengths, lstm.batch_first, enforce_sorted=is_sorted
            )
        state = hx and tuple(one.to(kind) for one in hx)
        try:
            output, (h, c) = model(input, state)
        except RuntimeError as error:  # of nn.LSTM for no time steps
            results.append(str(error))
            continue
        output = output.data if lengths else output
        (output.sin().sum() + h.sum() + 2 * c.sin().sum()).backward()
        results.append([output, h, c, given_x.grad])
    exact, mine = results
    if isinstance(exact, str) or isinstance(mine, str):
        assert mine == exact
        return
    close = dict(atol=1e-5, rtol=1e-4) if dtype is torch.float else {}
    for one, other in zip(mine, exact):
        torch.testing.assert_close(one.double(), other.double(), **close)
    for name, parameter in twin.named_parameters():
        if not name.startswith("weight"):
            continue
        own = [p for p in lstm.cells.parameters() if p.grad is not None]
        found = torch.autograd.grad(
            getattr(lstm, name), own, parameter.grad.to(dtype), allow_unused=True
        )
        for p, gradient in zip(own, found):
            if gradient is not None:
                torch.testing.assert_close(p.grad, gradient, atol=1e-4, rtol=1e-4)


@given(st.data())
def test_cells_equal_nn_lstm_cells(data):
    options = data.draw(options_of_layers(max_n=4))
    n = options["n"]
    sizes = [n * data.draw(st.integers(1, 3)) for _ in range(2)]
    torch.manual_seed(data.draw(seeds))
    gates = data.draw(st.sampled_from(["separate", "fused"]))
    bias = data.draw(st.booleans())
    cell = PHMLSTMCell(*sizes, bias=bias, gates=gates, **options).double()
    cell.train(data.draw(st.booleans()))
    twin = nn.LSTMCell(*sizes, bias, dtype=torch.double)
    with torch.no_grad():
        twin.weight_ih.copy_(torch.cat([Exact.of(one).weight() for one in cell.ih]))
        twin.weight_hh.copy_(torch.cat([Exact.of(one).weight() for one in cell.hh]))
        if bias:
            twin.bias_ih.copy_(cell.bias)
            twin.bias_hh.zero_()
    shape = data.draw(st.sampled_from([(), (1,), (3,), (0,)]))
    x = torch.randn(*shape, sizes[0], dtype=torch.double)
    hx = None
    if data.draw(st.booleans()):
        hx = tuple(torch.randn(*shape, sizes[1], dtype=torch.double) for _ in range(2))
    for mine, exact in zip(cell(x, hx), twin(x, hx)):
        torch.testing.assert_close(mine, exact)
    with torch.no_grad():
        torch.testing.assert_close(cell(x, hx), twin(x, hx))


@pytest.mark.parametrize("path", PATHS)
@given(st.data())
def test_attention_equals_fairseqs_with_the_expanded_weights(path, data):
    options = data.draw(options_of_layers(max_n=4))
    n, heads = options["n"], data.draw(st.integers(1, 3))
    width = n * heads * data.draw(st.integers(1, 2))
    cross, fused = data.draw(st.booleans()), data.draw(st.booleans())
    torch.manual_seed(data.draw(seeds))
    kinds = dict(self_attention=not cross, encoder_decoder_attention=cross)
    twin = MultiheadAttention(width, heads, **kinds).double()
    ours = MultiheadAttention(width, heads, **kinds)
    if fused:
        parts = PHMLinearRows.split(PHMLinear(width, 3 * width, **options), [width] * 3)
    else:
        parts = [PHMLinear(width, width, **options) for _ in range(3)]
    ours.q_proj, ours.k_proj, ours.v_proj = parts
    ours.out_proj = PHMLinear(width, width, **options)
    ours = ours.double()
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    with torch.no_grad():
        for name in names:
            phm, dense = getattr(ours, name), getattr(twin, name)
            dense.weight.copy_(Exact.of(phm).weight())
            dense.bias.copy_(phm.bias)
    Attention.adopt(ours)
    training = data.draw(st.booleans())
    ours.train(training), twin.train(training)
    lengths = st.integers(1, 4)
    targets, sources, batch = (data.draw(lengths) for _ in range(3))
    sources = sources if cross else targets
    query = torch.randn(targets, batch, width, dtype=torch.double, requires_grad=True)
    key = torch.randn(sources, batch, width, dtype=torch.double, requires_grad=True)
    key = key if cross else query
    padding = None
    if data.draw(st.booleans()):
        real = torch.tensor([data.draw(st.integers(1, sources)) for _ in range(batch)])
        padding = torch.arange(sources) >= real[:, None]
    future = None
    if not cross and data.draw(st.booleans()):
        future = torch.full((targets, targets), -torch.inf).double().triu(1)
    weights = data.draw(st.booleans())
    results = []
    for attention in (ours, twin):
        with forced(path if path != "weight first" else "weight"):
            y, shares = attention(
                query, key, key, padding, attn_mask=future, static_kv=cross,
                need_weights=weights,
            )  # fmt: skip
        gradients = torch.autograd.grad(y.sin().sum(), [query, *[key] * cross])
        with torch.no_grad(), forced(path):
            again = attention(
                query, key, key, padding, attn_mask=future, static_kv=cross,
                need_weights=weights,
            )  # fmt: skip
        torch.testing.assert_close(again, (y, shares))
        results.append([y, *gradients, *([shares] if weights else [])])
    # as fairseq's slower way, ours takes the softmax that it returns in fp32
    close = dict(atol=1e-6, rtol=1e-5) if weights else {}
    for mine, exact in zip(*results):
        torch.testing.assert_close(mine.double(), exact.double(), **close)
