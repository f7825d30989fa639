"""Models of all kinds through all that torch and fairseq do with a module.

Outputs stay equal, tied rules stay tied, and a kept weight is never stale.
"""

import argparse
import copy
import io
import pickle
import shutil
import threading

import pytest
import torch
from conftest import Task, padded_batch, tiny_transformer
from fairseq.models.ema import EMA
from torch import nn
from torch.utils.data import DataLoader

from fairseq_phm import PHMLSTM, PHMLinear
from fairseq_phm.modules.factors import STORED, Factors
from fairseq_phm.modules.linear import PHMLinearRows

BATCH = padded_batch(Task())
X = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def tied(**options):
    owner = PHMLinear(16, 24, 4, **options)
    rank = options.get("rule_rank", 0)
    second = PHMLinear(24, 16, 4, rule=owner, rule_rank=rank)
    return nn.Sequential(owner, nn.Tanh(), second)


MODELS = {
    "full": lambda: PHMLinear(16, 24, 4, rule="random", rule_lr=8),
    "CP rank": lambda: PHMLinear(16, 24, 4, rule="random", rule_rank=4, rule_lr=8),
    "tied": lambda: tied(rule="random", rule_lr=8),
    "tied, rate 1": lambda: tied(rule="random", rule_lr=1),
    "tied CP rank": lambda: tied(rule="random", rule_rank=6, rule_lr=8),
    "frozen": lambda: PHMLinear(16, 24, 4, rule="quaternion", freeze_rule=True),
    "low rank": lambda: PHMLinear(16, 24, 4, rank=2),
    "LSTM": lambda: PHMLSTM(16, 8, 4, bidirectional=True, rule="random", rule_lr=8),
    "Transformer": lambda: tiny_transformer(
        Task(), phm_rule="random", phm_share_rule="stack", phm_fuse_qkv=True,
        encoder_layers=1, decoder_layers=1, encoder_learned_pos=True,
        decoder_learned_pos=True,
    ),
}  # fmt: skip


def made(name, seed):
    torch.manual_seed(seed)
    model = MODELS[name]()
    if name == "Transformer":  # it has seeds of its own
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) / 50)
    return model


@pytest.fixture(params=MODELS, ids=str)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return made(kind, 1).eval()


def arguments(model, dtype=torch.float):
    is_transformer = hasattr(model, "encoder")
    return tuple(BATCH.values()) if is_transformer else (X.to(dtype),)


def first(output):
    return output[0] if isinstance(output, tuple) else output


def output(model, dtype=torch.float):
    return first(model(*arguments(model, dtype)))


def ties(model):
    """Which factors of which layers are one tensor."""
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, Factors):
            for name in STORED:
                held = layer.stored(name)
                if isinstance(held, nn.Parameter):
                    found.setdefault(id(held), []).append((path, name))
    return sorted(found.values())


@torch.no_grad()
def check(other, model, expected, dtype=torch.float, **close):
    """``other`` is the model: equal, tied alike, and its weights follow its factors."""
    torch.testing.assert_close(output(other, dtype).float(), expected, **close)
    assert ties(other) == ties(model)
    for parameter in other.parameters():
        parameter.data.mul_(1.25)
    changed = output(other, dtype)
    assert not torch.equal(changed.float(), expected)
    fresh = output(copy.deepcopy(other).train(), dtype)
    torch.testing.assert_close(changed, fresh)


def pickled(model, _):
    return pickle.loads(pickle.dumps(model))


def saved(model, _):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def state_dict(model, kind):
    other = made(kind, 2).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue())), strict=True)
    return other


def assigned(model, kind):
    other = made(kind, 2).eval()
    state = copy.deepcopy(model).state_dict()
    nn.Module.load_state_dict(other, state, assign=True)  # fairseq's has no assign
    return other


CONFIG = argparse.Namespace(
    ema_decay=0.0, ema_seed_model=None, ema_fp32=True, ema_update_freq=1,
    ema_start_update=0,
)  # fmt: skip


def averaged(model, kind):
    ema = EMA(made(kind, 2), CONFIG)
    ema.step(model, updates=1)
    return ema.get_model().eval()


def restored(model, kind):
    return EMA(model, CONFIG).reverse(made(kind, 2)).eval()


def swapped(model, kind):
    if not hasattr(torch.utils, "swap_tensors"):
        pytest.skip("torch 2.3 has it")
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return copy.deepcopy(model).double().float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


COPIES = {
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": pickled,
    "saved whole": saved,
    "state_dict": state_dict,
    "state_dict, assigned": assigned,
    "to double and back": lambda model, _: copy.deepcopy(model).double().float(),
    "swapped to double and back": swapped,
    "EMA": averaged,
    "EMA reversed": restored,
    "share_memory": lambda model, _: copy.deepcopy(model).share_memory(),
    "train and eval": lambda model, _: copy.deepcopy(model).train().eval(),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies(model, kind, make):
    with torch.no_grad():
        expected = output(model)
    check(make(model, kind), model, expected)
    with torch.no_grad():
        assert torch.equal(output(model), expected)


@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16, torch.half])
def test_types(model, kind, dtype):
    with torch.no_grad():
        expected = output(model)
    low = copy.deepcopy(model).to(dtype)
    try:
        with torch.no_grad():
            output(low, dtype)
    except RuntimeError as error:
        assert dtype is torch.half and "not implemented for 'Half'" in str(error)
        pytest.skip("this torch has no fp16 on the CPU")
    close = {} if dtype is torch.double else dict(atol=0.1, rtol=0.1)
    check(low, model, expected, dtype, **close)


def test_functional_call_and_gradients(model):
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    inputs = arguments(model)

    def loss(parameters):
        return first(torch.func.functional_call(model, parameters, inputs)).sin().sum()

    with torch.no_grad():
        expected = output(model)
    found = torch.func.grad(loss)(parameters)
    output(model).sin().sum().backward()
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter)
        gradient = gradient if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            parameter.mul_(1.5)
        scaled = {name: 1.5 * p for name, p in parameters.items()}
        called = first(torch.func.functional_call(model, scaled, inputs))
        torch.testing.assert_close(called, output(other))
        assert torch.equal(output(model), expected)


def test_vmap_over_models(model, kind):
    if kind in ("LSTM", "Transformer"):
        pytest.skip("torch has no vmap of LSTMs, and fairseq asks for values")
    models = [model, made(kind, 2).eval()]
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0])

    def call(parameters, buffers):
        state = (parameters, buffers)
        return first(torch.func.functional_call(base, state, arguments(model)))

    with torch.no_grad():
        together = torch.func.vmap(call)(parameters, buffers)
        for one, found in zip(models, together):
            torch.testing.assert_close(found, output(one), atol=1e-5, rtol=1e-4)
        check(base, models[0], output(models[0]))


@pytest.mark.one_version
@pytest.mark.parametrize(
    "kind", ["full", "tied CP rank", "frozen", "LSTM"], indirect=True
)
@pytest.mark.parametrize("training", [False, True])
def test_compiled(model, kind, training):
    backend = "aot_eager"
    if kind == "full" and not training and shutil.which("g++"):
        backend = "inductor"
    torch._dynamo.reset()
    compiled = torch.compile(model.train(training), backend=backend)
    for factor in (1, 1.5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        with torch.set_grad_enabled(training):
            expected = output(model)
            found = first(compiled(*arguments(model)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if training:
        found.sin().sum().backward()
        gradients = [copy.copy(p.grad) for p in model.parameters()]
        model.zero_grad()
        expected.sin().sum().backward()
        for parameter, gradient in zip(model.parameters(), gradients):
            torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)


def test_scripted_and_traced(model, kind):
    with torch.no_grad():
        expected = output(model)
        ways = [lambda: torch.jit.trace(model, arguments(model), check_trace=False)]
        if kind != "LSTM":
            ways.append(lambda: torch.jit.script(model))
        if kind == "Transformer":
            ways = ways[1:]  # fairseq's decoder returns what cannot be traced
        for way in ways:
            torch.testing.assert_close(
                first(way()(*arguments(model))), expected, atol=1e-5, rtol=1e-4
            )
    check(model, model, expected)


class Outputs(torch.utils.data.Dataset):
    """A data set that is made by a model, in the process of a worker."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 2

    def __getitem__(self, index):
        with torch.no_grad():
            return output(self.model)


def test_forked_worker(model):
    with torch.no_grad():
        expected = output(model)  # the weight is kept now
    loader = DataLoader(
        Outputs(model), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    for found in loader:
        torch.testing.assert_close(found, expected)
    check(model, model, expected)


def test_threads_that_call_one_model(model):
    results, failures = [], []

    def call():
        try:
            with torch.no_grad():
                results.extend(output(model) for _ in range(8))
        except Exception as error:
            failures.append(error)

    with torch.no_grad():
        expected = output(copy.deepcopy(model))
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(results) == 32
    for found in results:
        torch.testing.assert_close(found, expected)
    check(model, model, expected)


class Meeting(nn.Module):
    """Waits, while its model loads a state dict, for that of another thread."""

    barrier = threading.Barrier(2, timeout=60)

    def _load_from_state_dict(self, *arguments):
        self.barrier.wait()

    def _save_to_state_dict(self, *arguments):
        self.barrier.wait()


def test_threads_that_save_and_load_tied_rules():
    """One model is saved by both, each loads one of its own."""
    owner, _, second = tied(rule_rank=4)
    one = nn.Sequential(owner, Meeting(), second)
    failures = []

    def load():
        owner, _, second = tied(rule_rank=4)
        model = nn.Sequential(owner, Meeting(), second)
        try:
            state = one.state_dict()
            assert "2.rule_v" not in state
            model.load_state_dict(state)
        except (AssertionError, RuntimeError) as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_rows_keep_their_blocks_in_state_dicts_with_variables():
    rows = PHMLinearRows.split(PHMLinear(8, 16, 4), [8, 8])
    for _ in range(2):
        for one in rows:
            assert set(one.state_dict(keep_vars=True)) == {"blocks", "bias", "rule"}


@pytest.mark.parametrize("rule_lr", [1, 8])
def test_a_tied_rule_that_nothing_loads_is_missing(rule_lr):
    def make():
        first = PHMLinear(8, 8, 4, rule_lr=rule_lr)
        return nn.Sequential(first, PHMLinear(8, 8, 4, rule=first))

    state = make().state_dict()
    assert "1.rule" not in state
    with torch.device("meta"):
        separated = make()
    separated = separated.to_empty(device="cpu")
    with pytest.raises(RuntimeError, match='Missing key.* "1.rule"'):
        separated.load_state_dict(state)
    assert separated.load_state_dict(state, strict=False).missing_keys == ["1.rule"]
    whole = make()
    assert not whole.load_state_dict(state, strict=False).missing_keys
    del state["0.rule"]
    assert set(whole.load_state_dict(state, strict=False).missing_keys) == {
        "0.rule", "1.rule"
    }  # fmt: skip
