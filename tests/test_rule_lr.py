"""The rule's own learning rate, and that it holds under all that fairseq does."""

import argparse
import copy
import io
import logging

import pytest
import torch
from conftest import Task, padded_batch, tiny_transformer
from fairseq import optim
from fairseq.models.ema import EMA
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf
from torch import distributed, multiprocessing, nn

from fairseq_phm import PHMLinear
from fairseq_phm.average import average
from fairseq_phm.functional import default_rule_lr

RULES = {
    "full": (dict(), ["rule"]),
    "rule rank": (dict(rule_rank=6), ["rule_u", "rule_v", "rule_w"]),
}


def twins(rate, dtype=torch.double, **options):
    """The same layer with this learning rate of the rule and with 1."""
    torch.manual_seed(1)
    made = PHMLinear(16, 24, 4, rule_lr=rate, dtype=dtype, **options)
    plain = PHMLinear(16, 24, 4, rule_lr=1, dtype=dtype, **options)
    plain.load_state_dict(made.state_dict())
    return made, plain


def loss(layer, seed=2):
    x = torch.randn(
        5, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )
    return layer(x.to(layer.bias.dtype)).square().sum()


def values(layer, names):
    return [getattr(layer, name).detach().clone() for name in names]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rate", [0.25, 3.0, 8.0, 64.0])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.98)),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    ],
    ids=["adam", "sgd"],
)
def test_one_step_is_so_many_times_as_long(name, rate, optimizer):
    options, names = RULES[name]
    layer, plain = twins(rate, **options)
    before = values(plain, names)
    norms = []
    for one in (layer, plain):
        loss(one).backward()
        norms.append(nn.utils.clip_grad_norm_(one.parameters(), 1.0))
        optimizer(one.parameters()).step()
    assert torch.equal(*norms)  # what --clip-norm sees
    for start, new, usual in zip(before, values(layer, names), values(plain, names)):
        assert not torch.equal(usual, start)
        torch.testing.assert_close(new - start, rate * (usual - start))
    torch.testing.assert_close(layer.blocks, plain.blocks)
    torch.testing.assert_close(layer.bias, plain.bias)


def fairseq_config(bf16=False, lr=1e-3):
    common = dict(fp16_no_flatten_grads=False, bf16=bf16, model_parallel_size=1)
    common.update(fp16_init_scale=1, fp16_scale_window=None, fp16_scale_tolerance=0.0,
                  threshold_loss_scale=None, min_loss_scale=1e-4, fp16_adam_stats=False,
                  on_cpu_convert_precision=False)  # fmt: skip
    adam = dict(_name="adam", adam_betas="(0.9, 0.98)", tpu=False, lr=[lr])
    return OmegaConf.create(
        dict(
            common=common,
            optimizer=adam,
            optimization=dict(update_freq=[1]),
            distributed_training=dict(distributed_world_size=1),
        )
    )


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("name", RULES)
def test_flattening_in_half_precision(name, dtype, monkeypatch):
    """fairseq joins all parameters into one vector of fp32 and steps on that."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    options, names = RULES[name]
    for rate in (1.0, 16.0):
        layer = twins(rate, torch.float, **options)[0].to(dtype)
        before = values(layer, names)
        parameters = list(layer.parameters())
        config = fairseq_config(bf16=dtype == torch.bfloat16, lr=1e-2)
        optimizer = FP16Optimizer.build_optimizer(config, parameters)
        if dtype == torch.half:  # fairseq flattens in bfloat16 on GPUs only
            (flat,) = optimizer.fp32_params.values()
            assert flat.numel() == sum(p.numel() for p in parameters)
        optimizer.backward(loss(layer))
        optimizer.step()
        for start, new in zip(before, values(layer, names)):
            # Adam's first step has the length lr; half of the last bit is rounding
            rounding = torch.finfo(dtype).eps * new.float().abs().clamp(min=1)
            moved = (new.float() - start.float()).abs()
            assert ((moved - rate * 1e-2).abs() < rounding).all()


@pytest.mark.parametrize("dtype", [torch.float, torch.half, torch.bfloat16])
@pytest.mark.parametrize("name", RULES)
def test_saving_and_loading_changes_no_bit(name, dtype):
    options, names = RULES[name]
    layer, plain = twins(32.0, torch.float, **options)
    layer, plain = layer.to(dtype), plain.to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=dtype) * 0.01)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file)
    assert set(state) == {"blocks", "bias", *names}
    other = PHMLinear(16, 24, 4, rule_lr=32.0, dtype=dtype, **options)
    other.load_state_dict(state)
    for one, two in zip(layer.parameters(), other.parameters()):
        assert torch.equal(one, two)
    plain.load_state_dict(state)  # with another rate: the same weight
    assert torch.equal(plain.weight, layer.weight)
    for name in names:
        assert torch.equal(getattr(plain, name), getattr(layer, name))


@pytest.mark.parametrize("options", [dict(rule_lr=1), dict(freeze_rule=True)])
def test_a_rule_without_a_rate_can_be_set(options):
    layer = PHMLinear(8, 8, 2, **options)
    other = PHMLinear(8, 8, 2, rule=layer, **options)
    layer.rule = layer.rule + 1
    assert torch.equal(layer.weight, PHMLinear.build_weight(layer))
    assert layer.rule.sum() == 8 + 2
    assert layer.rule.requires_grad == ("rule_lr" in options)
    assert (other.rule.sum() == 8 + 2) == ("rule_lr" in options)


def test_a_rule_can_be_set():
    layer = PHMLinear(8, 8, 2, rule_lr=8)
    layer.rule = torch.arange(8.0).view(2, 2, 2)
    assert torch.equal(layer.rule, torch.arange(8.0).view(2, 2, 2))
    assert torch.equal(layer.scaled_rule, torch.arange(8.0).view(2, 2, 2) / 8)
    other = PHMLinear(8, 8, 2, rule=layer.rule)
    assert other.scaled_rule is layer.scaled_rule and other.rule_lr == 8
    layer.rule = nn.Parameter(torch.ones(2, 2, 2))
    assert layer.scaled_rule is None and layer.rule.is_leaf
    assert other.rule.sum() == 28


@pytest.mark.parametrize("name", ["rule_u", "rule_v", "rule_w"])
def test_each_factor_can_be_a_parameter_of_its_own(name):
    layer = PHMLinear(8, 8, 4, rule_rank=3, rule_lr=8)
    x, before = torch.randn(5, 8), layer.full_rule()
    setattr(layer, name, nn.Parameter(getattr(layer, name).detach()))
    assert torch.equal(layer.full_rule(), before)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_missing_and_misshapen_rules_are_named_as_in_the_checkpoint():
    model = nn.Sequential(PHMLinear(8, 8, 2))
    with pytest.raises(RuntimeError, match=r'Missing key.*"0\.rule"'):
        model.load_state_dict(
            {"0.blocks": torch.zeros(2, 4, 4), "0.bias": torch.ones(8)}
        )
    state = {**model.state_dict(), "0.rule": torch.ones(3, 3, 3)}
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.rule: "):
        model.load_state_dict(state)


def test_the_mean_of_checkpoints_is_that_of_the_rules(tmp_path):
    models = [tiny_transformer(Task(), phm_rule="random", seed=s) for s in (1, 2)]
    paths = []
    for i, model in enumerate(models):
        paths.append(tmp_path / f"checkpoint_1_{i}.pt")
        history = [{"num_updates": i}]
        torch.save(
            {"model": model.state_dict(), "optimizer_history": history}, paths[-1]
        )
    for mean in ("factors", "weights"):
        made = average(paths, mean)
        model = tiny_transformer(Task(), seed=3)
        model.load_state_dict(made.checkpoint["model"])
        if mean == "factors":
            for path in ("encoder.layers.0.self_attn.v_proj", "decoder.layers.1.fc2"):
                rules = [m.get_submodule(path).rule for m in models]
                torch.testing.assert_close(
                    model.get_submodule(path).rule, (rules[0] + rules[1]) / 2
                )


def test_exponential_moving_average():
    model = tiny_transformer(Task(), phm_rule="random")
    config = argparse.Namespace(
        ema_decay=0.5, ema_seed_model=None, ema_fp32=True, ema_update_freq=1,
        ema_start_update=0,
    )  # fmt: skip
    ema = EMA(model, config)
    fc1 = "encoder.layers.0.fc1"
    before = model.get_submodule(fc1).rule.detach().clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    ema.step(model, updates=1)
    torch.testing.assert_close(ema.get_model().get_submodule(fc1).rule, 1.5 * before)


def _train_half(rank, folder, layer):
    """A process of two that see half of the batch each."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    ddp = nn.parallel.DistributedDataParallel(copy.deepcopy(layer))  # of this process
    torch.save(_train(ddp, rank), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def _train(layer, rank=None):
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(3)).double()
    if rank is not None:
        x = x[rank::2]
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    return getattr(layer, "module", layer).state_dict()


def test_two_processes_train_as_one(tmp_path):
    layer, _ = twins(8.0)
    shared = nn.Sequential(layer, PHMLinear(24, 16, 4, rule=layer, dtype=torch.double))
    multiprocessing.spawn(_train_half, (str(tmp_path), shared), 2)
    expected = _train(shared)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"rank{rank}.pt")
        assert state.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(state[key], expected[key])


def test_resumed_training_goes_on_bit_for_bit():
    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(**padded_batch(Task()))[0].float().logsumexp(-1).sum().backward()
            optimizer.step()

    def optimizer_of(model):
        return torch.optim.Adam(model.parameters(), lr=1e-2)

    whole = tiny_transformer(Task())
    optimizer = optimizer_of(whole)
    steps(whole, optimizer, 2)
    state = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    steps(whole, optimizer, 2)
    resumed = tiny_transformer(Task(), seed=5)
    resumed.load_state_dict(state[0])
    optimizer = optimizer_of(resumed)
    optimizer.load_state_dict(state[1])
    steps(resumed, optimizer, 2)
    for one, two in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(one, two)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_default_rates_are_powers_of_two(n):
    for width in (64, 128, 256, 512, 1024, 2048, 4096):
        for rank in (0, n):
            rate = default_rule_lr(width, 2 * width, rank)
            assert rate >= 1 and rate.hex().startswith("0x1.0000000000000p")
    assert PHMLinear(64, 96, n).rule_lr == default_rule_lr(64, 96) == 4
    assert PHMLinear(64, 96, n, rule_rank=n).rule_lr == 2
    assert PHMLinear(64, 96, n, rule_rank=n, rule_lr=3).rule_lr == 3


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "8", True])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match="rule_lr must be a number above 0, got"):
        PHMLinear(8, 8, 2, rule_lr=rate)


ADAFACTOR = dict(
    _name="adafactor", optimizer="adafactor", adafactor_eps="(1e-30, 1e-3)", lr=[1e-3],
    clip_threshold=1.0, decay_rate=-0.8, beta1=None, relative_step=False,
    warmup_init=False, weight_decay=0.0,
)  # fmt: skip


@pytest.mark.parametrize("name", ["adam", "adafactor", "adafactor, scaled"])
@pytest.mark.parametrize("fp16", [False, True])
def test_optimizers_that_undo_it_are_named(caplog, name, fp16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    caplog.set_level(logging.WARNING)
    config = fairseq_config()
    if name != "adam":
        scaled = name.endswith("scaled")
        adafactor = argparse.Namespace(**ADAFACTOR, scale_parameter=scaled)
        config = argparse.Namespace(**{**config, "optimizer": adafactor})
    layer = PHMLinear(8, 8, 2, rule_lr=8)
    if fp16:
        config.common.fp16_no_flatten_grads = True
        FP16Optimizer.build_optimizer(config, list(layer.half().parameters()))
    else:
        optim.build_optimizer(config.optimizer, layer.parameters())
    said = [r.message for r in caplog.records if "--phm-rule-lr" in r.message]
    assert len(said) == (name == "adafactor, scaled")
