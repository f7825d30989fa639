"""Attention in fewer steps against fairseq's own, from the same parameters."""

import copy
import pickle

import pytest
import torch
from conftest import padded_batch, tiny_transformer
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from torch import nn

from fairseq_phm.functional import dense_linear
from fairseq_phm.functional.weight_first import weight_first
from fairseq_phm.modules import DenseLinear, PHMLinear, PHMLinearRows
from fairseq_phm.modules.attention import Attention, repeats
from fairseq_phm.modules.batched_projections import project_at_once
from fairseq_phm.modules.cache import WeightCache

WIDTH, HEADS, BATCH, LENGTH = 16, 4, 6, 5
MAPS = {
    "dense": lambda: [nn.Linear(WIDTH, WIDTH) for _ in range(3)],
    "separate": lambda: [PHMLinear(WIDTH, WIDTH, 4, rule_lr=2) for _ in range(3)],
    "fused": lambda: PHMLinearRows.split(PHMLinear(WIDTH, 3 * WIDTH, 4), [WIDTH] * 3),
    "low rank": lambda: [PHMLinear(WIDTH, WIDTH, 2, rank=3) for _ in range(3)],
    "rule rank": lambda: [PHMLinear(WIDTH, WIDTH, 4, rule_rank=3) for _ in range(3)],
    "no bias": lambda: [PHMLinear(WIDTH, WIDTH, 2, bias=False) for _ in range(3)],
    "no bias of k": lambda: [PHMLinear(WIDTH, WIDTH, 4, bias=i != 1) for i in range(3)],
    "mixed": lambda: [PHMLinear(WIDTH, WIDTH, n) for n in (2, 4, 4)],
}


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(1)


def attention_pair(maps, cross=False, **options):
    """Ours, and fairseq's that holds the same maps."""
    theirs = MultiheadAttention(
        WIDTH, HEADS, self_attention=not cross, encoder_decoder_attention=cross,
        **options,
    )  # fmt: skip
    theirs.q_proj, theirs.k_proj, theirs.v_proj = MAPS[maps]()
    ours = MultiheadAttention.__new__(MultiheadAttention)
    ours.__dict__ = {**theirs.__dict__, "_modules": dict(theirs._modules)}
    Attention.adopt(ours)
    assert type(ours) is Attention and type(theirs) is MultiheadAttention
    # fairseq's quick way needs biases; the slow one is the same mathematics
    theirs._set_skip_embed_dim_check()
    return ours, theirs


def batch(cross):
    """Query, key and value, and padding at the end of some sentences."""
    query = torch.randn(LENGTH, BATCH, WIDTH, requires_grad=True)
    key = torch.randn(LENGTH + 2, BATCH, WIDTH, requires_grad=True) if cross else query
    padding = torch.arange(len(key)) >= torch.tensor([[2], [4], [5], [5], [3], [5]])
    return query, key, padding


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("heads", [None, False, True])
def test_equals_fairseq(maps, cross, training, heads):
    ours, theirs = attention_pair(maps, cross)
    ours.train(training)
    query, key, padding = batch(cross)
    future = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
    for mask in (None, padding):
        arguments = dict(
            key_padding_mask=mask,
            static_kv=cross,
            attn_mask=None if cross else future,
            need_weights=heads is not None,
            need_head_weights=bool(heads),
        )
        results = []
        for attention in (ours, theirs):
            y, weights = attention(query, key, key, **arguments)
            gradients = torch.autograd.grad(
                y.square().mean(), [query, key, *attention.parameters()],
                allow_unused=True,
            )  # fmt: skip
            assert (weights is None) == (heads is None)
            results.append([y, *gradients, *([] if weights is None else [weights])])
        for mine, other in zip(*results):
            if other is None:
                assert mine is None
            else:
                torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("weights", [False, True])
@torch.no_grad()
def test_decoding_equals_fairseq(maps, weights):
    """Hypotheses are shuffled and dropped as in beam search, and across sentences."""
    orders = [[1, 0, 2, 5, 5, 4], [0, 1, 2, 3, 4, 5], [3, 5, 4], [0, 0, 1], [2, 0], [1]]
    for cross in (False, True):
        pair = attention_pair(maps, cross)
        _, key, padding = batch(True)
        key, padding = (x.repeat_interleave(3, d) for x, d in ((key, 1), (padding, 0)))
        key, padding = key[:, :BATCH], padding[:BATCH]
        states = [{}, {}]
        hypotheses = BATCH
        for order in orders:
            query = torch.randn(1, hypotheses, WIDTH)
            inputs = (query, key, key) if cross else (query, query, query)
            results = [
                attention.eval()(
                    *inputs,
                    key_padding_mask=padding if cross else None,
                    incremental_state=state,
                    static_kv=cross,
                    need_weights=weights,
                )
                for attention, state in zip(pair, states)
            ]
            torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)
            new_order = torch.tensor(order)
            for attention, state in zip(pair, states):
                # fairseq leaves static keys alone unless the number changes
                if cross and attention is pair[1]:
                    buffer = attention._get_input_buffer(state)
                    for name, x in buffer.items():
                        buffer[name] = None if x is None else x[new_order].contiguous()
                else:
                    attention.reorder_incremental_state(state, new_order)
            key, padding = key[:, new_order], padding[new_order]
            hypotheses = len(order)


def test_keys_are_stored_once_a_sentence():
    ours, _ = attention_pair("separate", cross=True)
    key = torch.randn(3, 2, WIDTH).repeat_interleave(5, 1)
    state = {}
    with torch.no_grad():
        ours.eval()(torch.randn(1, 10, WIDTH), key, key, None, state, False, True)
        assert ours._get_input_buffer(state)["prev_key"].size(0) == 2
        ours.reorder_incremental_state(state, torch.tensor([7, 7, 5, 9, 8]))
        assert ours._get_input_buffer(state)["prev_key"].size(0) == 1
    columns = torch.randn(3, 4, 2)
    assert repeats(columns) == 1
    assert repeats(columns[:, [0, 0, 0, 0, 1, 1]]) == 2
    assert repeats(columns[:, [0, 0, 0, 1, 1]]) == 1


@pytest.mark.parametrize("maps", ["separate", "fused"])
@torch.no_grad()
def test_the_kept_weight_is_never_stale(maps):
    ours, theirs = attention_pair(maps)
    ours.eval()
    query = torch.randn(LENGTH, BATCH, WIDTH)

    def agree():
        mine, other = (a(query, query, query)[0] for a in (ours, theirs))
        return torch.allclose(mine, other, atol=1e-5)

    assert agree() and agree()
    for layer in (ours.q_proj, ours.k_proj, ours.v_proj):
        layer.blocks.data[0] += 1
        assert agree()
        layer.rule = layer.rule * 1.5
        assert agree()
        layer.rule_lr *= 2
        assert agree()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    torch.testing.assert_close(
        copied(query, query, query), ours(query, query, query), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_the_kept_weight_goes_when_a_layer_trains():
    ours, _ = attention_pair("separate")
    query = torch.randn(LENGTH, BATCH, WIDTH)
    for layer in (ours.q_proj, ours.k_proj, ours.v_proj):
        ours.eval()(query, query, query)
        assert ours._cache._kept is not None
        layer.train()
        assert ours._cache._kept is None
    expected = ours.eval()(query, query, query)[0]
    assert torch.equal(copy.deepcopy(ours)(query, query, query)[0], expected)


@torch.no_grad()
def test_equal_keys_with_other_padding_are_other_sentences():
    ours, theirs = attention_pair("separate", cross=True)
    key = torch.randn(4, 1, WIDTH).expand(4, 4, WIDTH)
    padding = torch.arange(4) >= torch.tensor([[4], [4], [2], [2]])
    query = torch.randn(1, 4, WIDTH)
    states = {}, {}
    mine, other = (
        attention.eval()(query, key, key, padding, state, static_kv=True)
        for attention, state in zip((ours, theirs), states)
    )
    torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    assert ours._get_input_buffer(states[0])["prev_key"].size(0) == 2
    assert repeats(key, padding) == 2 and repeats(key, padding[[0, 2, 2, 2]]) == 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_queries_without_a_key_get_zeros(weights, causal):
    """Of a sentence that is all padding, and before the first word of one."""
    ours, theirs = attention_pair("separate")
    query, key, _ = batch(False)
    padding = torch.arange(LENGTH) < torch.tensor([[LENGTH], [2], [0], [0], [0], [0]])
    future = torch.full((LENGTH, LENGTH), -torch.inf).triu(1) if causal else None
    options = dict(key_padding_mask=padding, attn_mask=future, need_weights=weights)
    output, shares = ours(query, key, key, **options)
    lonely = torch.zeros(LENGTH, BATCH, dtype=torch.bool)
    lonely[:, 0], lonely[:2, 1] = True, causal
    bias = ours.out_proj.bias.expand_as(output)
    assert torch.equal(output[lonely], bias[lonely])
    expected, others = theirs(query, key, key, **options)
    torch.testing.assert_close(output[~lonely], expected[~lonely])
    if weights:
        assert not shares.transpose(0, 1)[lonely].any()
        rest = ~lonely.T
        torch.testing.assert_close(shares[rest], others[rest])
    output.sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("queries,sentences", [(3, 0), (0, 2)])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_nothing_to_attend(queries, sentences, cross, weights):
    ours, _ = attention_pair("separate", cross)
    query = torch.randn(queries, sentences, WIDTH)
    key = torch.randn(LENGTH, sentences, WIDTH) if cross else query
    y, shares = ours(query, key, key, need_weights=weights)
    assert y.shape == query.shape
    assert not weights or shares.shape == (sentences, queries, len(key))


def test_half_precision_and_autocast():
    for maps in ("dense", "separate", "fused"):
        ours, theirs = attention_pair(maps)
        query, key, padding = batch(False)
        future = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        with torch.autocast("cpu", torch.bfloat16):
            results = [
                a(query, key, key, padding, attn_mask=future, need_weights=False)[0]
                for a in (ours, theirs)
            ]
        torch.testing.assert_close(*results, atol=0.1, rtol=0.1)
        ours, low = ours.bfloat16(), query.bfloat16()
        for weights in (False, True):
            y, shares = ours(low, low, low, attn_mask=future, need_weights=weights)
            assert y.dtype == torch.bfloat16
            assert not weights or shares.dtype == torch.float32


@pytest.mark.parametrize(
    "option", [dict(add_bias_kv=True), dict(add_zero_attn=True), dict(dropout=0.0)]
)
def test_what_only_fairseq_can(option):
    ours, theirs = attention_pair("dense", **option)
    theirs.skip_embed_dim_check = ours.skip_embed_dim_check = False
    query, key, padding = batch(False)
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    mask = future if "dropout" in option else None  # truth values, not numbers
    mine, other = (
        a(query, key, key, padding, attn_mask=mask)[0] for a in (ours, theirs)
    )
    torch.testing.assert_close(mine, other)


def test_dropout_that_is_retained():
    """In eval mode, as fairseq-generate --retain-dropout has it."""
    ours = attention_pair("separate", dropout=0.5)[0].eval()
    query, _, _ = batch(False)
    ours.dropout_module.apply_during_inference = True
    for weights in (False, True):
        one, other = (
            ours(query, query, query, need_weights=weights)[0] for _ in range(2)
        )
        assert not torch.equal(one, other)


def test_rows_that_are_no_neighbours():
    query, key, value = MAPS["fused"]()
    x = torch.randn(3, WIDTH)
    for layers in ([query, value], [key, query]):
        found = project_at_once(layers, x, WeightCache())
        torch.testing.assert_close(found, [layer(x) for layer in layers])


def test_models_have_it_and_script_without(task):
    for n in (1, 4):
        model = tiny_transformer(task, phm_n=n).eval()
        kinds = {type(m) for m in model.modules() if isinstance(m, MultiheadAttention)}
        assert kinds == {Attention}
        assert type(model.decoder.output_projection) is DenseLinear
        generator = SequenceGenerator([model], task.target_dictionary, beam_size=2)
        torch.jit.script(generator)
        model(**padded_batch(task))


@pytest.mark.parametrize("maps", ["separate", "fused"])
@torch.no_grad()
def test_hooks_of_projections_are_called(maps):
    attention = attention_pair(maps)[0].eval()
    query, _, padding = batch(False)
    before = attention(query, query, query, padding)[0]
    calls = []
    attention.v_proj.register_forward_pre_hook(lambda *_: calls.append("before"))
    attention.v_proj.register_forward_hook(lambda *_: calls.append("after"))
    torch.testing.assert_close(attention(query, query, query, padding)[0], before)
    assert calls == ["before", "after"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
@torch.no_grad()
def test_weight_first(bias, shape):
    layer, x = nn.Linear(7, 5, bias), torch.randn(*shape, 7)
    y = weight_first(x, layer.weight, layer.bias)
    assert y.is_contiguous()
    torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close(dense_linear(x, layer.weight, layer.bias), layer(x))


@pytest.mark.parametrize("maps", sorted(set(MAPS) - {"no bias", "no bias of k"}))
def test_pruned_heads_are_those_of_the_dense_twin(maps):
    """fairseq reads the biases of all projections."""
    ours, theirs = attention_pair(maps)
    ours.out_proj = theirs.out_proj = PHMLinear(WIDTH, WIDTH, 4)
    twin = MultiheadAttention(WIDTH, HEADS, self_attention=True)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer, dense = getattr(ours, name), getattr(twin, name)
        dense.weight.data.copy_(layer.weight)
        dense.bias.data.copy_(layer.bias)
    query, _, padding = batch(False)
    heads = ours._get_reserve_head_index(num_heads_to_keep=2)
    assert heads == twin._get_reserve_head_index(num_heads_to_keep=2)
    for attention in (ours, twin):
        attention._adaptive_prune_heads(heads)
        attention._set_skip_embed_dim_check()
    found, expected = (
        attention(query, query, query, padding)[0] for attention in (ours, twin)
    )
    torch.testing.assert_close(found, expected)
    assert ours.num_heads == 2 and ours.q_proj.weight.shape == (WIDTH // 2, WIDTH)
