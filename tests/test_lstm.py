"""PHMLSTM against nn.LSTM loaded with the materialised weights."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fairseq_phm import PHMLSTM, PHMLSTMCell


@pytest.mark.parametrize(
    "options_n", [(1, 721_200), (2, 361_264), (5, 146_200), (10, 81_200)]
)
def test_counts_of_the_300_dimensional_lstm(options_n):
    n, expected = options_n
    assert sum(p.numel() for p in PHMLSTM(300, 300, n).parameters()) == expected


def test_quaternion_count():
    lstm = PHMLSTM(300, 300, 4, rule="quaternion", freeze_rule=True)
    weights = sum(p.numel() for k, p in lstm.named_parameters() if "bias" not in k)
    assert weights == 180_000
    assert sum(p.numel() for p in lstm.parameters()) == 180_000 + 1200


def test_gate_order_and_rules():
    lstm = PHMLSTM(6, 4, 2)
    cell = lstm.cells[0]
    for gate in range(4):
        phm = cell.ih[gate]
        rule, blocks = phm.rule.detach().double(), phm.blocks.detach().double()
        H = sum(np.kron(a, s) for a, s in zip(rule.numpy(), blocks.numpy()))
        part = lstm.weight_ih_l0[4 * gate : 4 * gate + 4]
        np.testing.assert_allclose(part.detach().numpy(), H, atol=1e-6)
    fused = PHMLSTM(6, 4, 2, gates="fused").cells[0]
    assert len(fused.ih) == 1 and fused.ih[0].blocks.shape == (2, 8, 3)
    assert len({id(p.rule) for p in (*cell.ih, *cell.hh)}) == 8


def test_dropout_is_that_of_nn_lstm():
    lstm = PHMLSTM(12, 8, 4, num_layers=3, bidirectional=True, dropout=0.5)
    x, outputs = torch.randn(7, 2, 12), []
    for model in (lstm, lstm.built()):
        torch.manual_seed(1)
        outputs.append(model(x)[0])
    torch.testing.assert_close(*outputs)
    assert not torch.allclose(lstm.eval()(x)[0], outputs[0])


def test_unbatched_and_empty_input():
    lstm = PHMLSTM(12, 8, 4, bidirectional=True).eval()
    twin = lstm.built()
    assert not twin.training and lstm.train().built().training
    x = torch.randn(7, 12)
    for mine, expected in zip(lstm(x), twin(x)):
        torch.testing.assert_close(mine, expected)
    hx = (torch.randn(2, 8), torch.randn(2, 8))
    torch.testing.assert_close(lstm(x, hx)[0], twin(x, hx)[0])


@pytest.mark.parametrize("reset", [False, True])
def test_initial_spread_is_that_of_nn_lstm(reset):
    torch.manual_seed(0)
    with torch.device("meta" if reset else "cpu"):
        lstm = PHMLSTM(200, 300, 5)
    if reset:
        lstm.to_empty(device="cpu").reset_parameters()
    twin = nn.LSTM(200, 300)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        expected = getattr(twin, name).std().item()
        assert getattr(lstm, name).std().item() == pytest.approx(expected, rel=0.05)


def test_weights_are_used_no_longer_than_their_context():
    cell, x = PHMLSTMCell(8, 8, 4), torch.randn(3, 8)
    before = cell(x)[0]
    with pytest.raises(RuntimeError), cell.using(cell.weight_ih * 2, cell.weight_hh):
        assert not torch.equal(cell(x)[0], before)
        raise RuntimeError  # as out of memory, after which fairseq goes on
    assert torch.equal(cell(x)[0], before)


def test_weights_in_use_are_of_one_thread():
    cell, x, seen = PHMLSTMCell(8, 8, 4), torch.randn(3, 8), []
    other = threading.Thread(target=lambda: seen.append(cell(x)[0]))
    before = cell(x)[0]
    with cell.using(cell.weight_ih * 2, cell.weight_hh):
        other.start()
        other.join()
    assert torch.equal(seen[0], before)


def test_pruned_gates_learn_load_and_follow_edits():
    lstm, loaded = PHMLSTM(8, 8, 4), PHMLSTM(8, 8, 4)
    for one in (lstm, loaded):
        prune.l1_unstructured(one.cells[0].ih[0], "blocks", 0.5)
    x = torch.randn(3, 2, 8)
    for _ in range(2):
        lstm(x)[0].sum().backward()
    loaded.load_state_dict(lstm.state_dict())
    assert torch.equal(loaded(x)[0], lstm(x)[0])
    with torch.no_grad():
        before = lstm.eval()(x)[0]
        lstm.cells[0].ih[0].blocks_orig.zero_()
        assert not torch.equal(lstm(x)[0], before)


@torch.no_grad()
def test_factors_that_are_no_parameters_are_followed():
    lstm = PHMLSTM(8, 8, 4).eval()
    gate = lstm.cells[0].ih[0]
    blocks = gate.blocks.detach().clone()
    del gate._parameters["blocks"]
    gate.blocks = blocks  # as FSDP has it
    assert lstm.weight_ih_l0[:8].any()
    blocks.zero_()
    assert not lstm.weight_ih_l0[:8].any()


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: PHMLSTM(10, 8, 4), "n=4 does not fit in_features=10"),
        (lambda: PHMLSTM(8, 10, 4), "n=4 does not fit.*10"),
        (lambda: PHMLSTM(8, 8, 4, gates="both"), "unknown gates 'both'"),
        (lambda: PHMLSTM(8, 0, 4), "at least 1, got in_features=8, out_features=0"),
        (lambda: PHMLSTM(8, 8, 4, dropout=1.5), "dropout must be a probability"),
        (lambda: PHMLSTM(8, 8, 4, num_layers=0), "num_layers must be at least 1"),
        (lambda: PHMLSTM(8, 8, 4)(torch.ones(3, 2, 7)), "width 7, expected 8"),
        (lambda: PHMLSTM(8, 8, 4)(torch.ones(8)), "2 or 3 dimensions"),
        (
            lambda: PHMLSTM(8, 8, 4)(torch.ones(3, 2, 8), (torch.ones(1, 3, 8),) * 2),
            r"initial state has size \(1, 3, 8\), expected \(1, 2, 8\)",
        ),
        (lambda: PHMLSTMCell(8, 9, 2), "n=2 does not fit"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_copies_and_state():
    lstm = PHMLSTM(8, 8, 4, num_layers=2, bidirectional=True)
    assert lstm.weight_hh_l1_reverse.shape == (32, 8)
    assert lstm.weight_ih_l1.shape == (32, 16)
    for absent in ("weight_ih_l2", "weight_xx_l0", "weight_ih"):
        with pytest.raises(AttributeError, match=absent):
            getattr(lstm, absent)
    with pytest.raises(AttributeError, match="weight_ih_l0_reverse"):
        PHMLSTM(8, 8, 4, num_layers=2).weight_ih_l0_reverse  # noqa: B018
    other = copy.deepcopy(lstm)
    fresh = PHMLSTM(8, 8, 4, num_layers=2, bidirectional=True)
    fresh.load_state_dict(lstm.state_dict())
    x = torch.randn(3, 2, 8)
    for model in (other, fresh):
        torch.testing.assert_close(model(x)[0], lstm(x)[0])
