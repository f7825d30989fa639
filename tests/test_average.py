"""Means of checkpoints: entries, weights H, what stays as it was, and bad input."""

import sys

import numpy as np
import pytest
import torch
from conftest import Task, tiny_transformer

from fairseq_phm import PHMLSTM, DataError, PHMLinear
from fairseq_phm.average import average, find_checkpoints, main, nearest_factors
from fairseq_phm.functional import kronecker_sum

VARIANTS = {
    "a rule per map": dict(phm_share_rule="none"),
    "a rule per block": dict(phm_share_rule="block"),
    "a rule per layer": dict(phm_share_rule="layer", phm_fuse_qkv=True),
    "a rule per stack": dict(phm_share_rule="stack", phm_ffn_n=2),
    "a rule": dict(phm_share_rule="model", phm_decoder_n=2),
    "a rule per pair, fused": dict(phm_fuse_qkv=True),
    "a rule for v and out, fused": dict(phm_share_rule="value", phm_fuse_qkv=True),
    "frozen": dict(phm_rule="quaternion", phm_freeze_rule=True, phm_fuse_qkv=True),
    "n=16": dict(phm_n=16),
}


@torch.no_grad()
def write(folder, model, updates, move=0.3):
    """Checkpoints of a model that moves by ``move`` of its size between them."""
    torch.manual_seed(7)
    paths = []
    for update in updates:
        for parameter in model.parameters():
            parameter += (
                move * parameter.std(correction=0) * torch.randn_like(parameter)
            )
        state = {
            "model": model.state_dict(),
            "cfg": {"at": update},
            "optimizer_history": [{"num_updates": update}],
            "last_optimizer_state": {"large": 1},
        }
        paths.append(folder / f"checkpoint_1_{update}.pt")
        torch.save(state, paths[-1])
    return paths


def states(paths):
    return [torch.load(path)["model"] for path in paths]


def weights(make, state):
    """H of each PHM layer of a new model with this state."""
    model = make()
    model.load_state_dict(state)
    modules = model.double().named_modules()
    return {k: m.weight.detach() for k, m in modules if isinstance(m, PHMLinear)}


def assert_nearer(make, paths):
    """The mean of weights is nearer to the mean H than the mean of factors is."""
    each = [weights(make, state) for state in states(paths)]
    means = {key: sum(h[key] for h in each) / len(each) for key in each[0]}
    total = {}
    for kind in ("factors", "weights"):
        made = average(paths, kind)
        found = weights(make, made.checkpoint["model"])
        off = [(found[key] - means[key]).square().sum().item() for key in means]
        total[kind] = sum(off)
        if len(made.distances[kind]) == len(means):
            relative = [(o**0.5 / means[k].norm()) for k, o in zip(means, off)]
            measured = max(made.distances[kind].values())
            assert measured == pytest.approx(max(relative).item(), abs=1e-6)
    for rule, distance in made.distances["weights"].items():
        assert distance <= made.distances["factors"][rule] + 1e-6
    return total


def test_mean_of_factors_is_that_of_numpy(tmp_path):
    paths = write(tmp_path, tiny_transformer(Task()), [1, 2, 3])
    checkpoint = average(paths).checkpoint
    inputs = states(paths)
    assert checkpoint["model"].keys() == inputs[0].keys()
    for key, value in checkpoint["model"].items():
        expected = np.mean([state[key].double().numpy() for state in inputs], axis=0)
        assert value.dtype == inputs[0][key].dtype
        if value.is_floating_point():
            np.testing.assert_array_equal(value.numpy(), expected.astype(np.float32))
    assert checkpoint["cfg"] == {"at": 3} and "last_optimizer_state" not in checkpoint


@pytest.mark.parametrize("name", VARIANTS)
def test_mean_of_weights_is_nearer(name, tmp_path):
    def make():
        return tiny_transformer(Task(), **VARIANTS[name])

    total = assert_nearer(make, write(tmp_path, make(), [1, 2, 3]))
    if name == "frozen":
        assert total["weights"] < 1e-9 and total["factors"] < 1e-9
    else:
        assert total["weights"] < 0.99 * total["factors"]


@pytest.mark.parametrize("gates", ["separate", "fused"])
def test_mean_of_weights_of_an_lstm(gates, tmp_path):
    def make():
        return PHMLSTM(16, 32, n=4, num_layers=2, gates=gates)

    total = assert_nearer(make, write(tmp_path, make(), [1, 2]))
    assert total["weights"] < 0.99 * total["factors"]


def test_equal_checkpoints_are_their_mean(tmp_path):
    for name in VARIANTS:
        model = tiny_transformer(Task(), **VARIANTS[name])
        paths = write(tmp_path, model, [1, 2, 3], move=0)
        made = average(paths, "weights")
        for key, value in made.checkpoint["model"].items():
            np.testing.assert_array_equal(value, model.state_dict()[key])
        assert max(made.distances["weights"].values()) < 1e-15


@pytest.mark.parametrize("m", [1, 3, 40])
def test_nearest_factors_are_the_truncated_decomposition(m):
    torch.manual_seed(0)
    rules = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    blocks = torch.randn(3, 4, m, dtype=torch.float64)
    rule, mean = nearest_factors(rules, blocks)
    joined = torch.einsum("tipq,tim->pqm", rules, blocks).reshape(16, m) / 3
    u, s, v = torch.linalg.svd(joined, full_matrices=False)
    nearest = u[:, :4] * s[:4] @ v[:4]
    torch.testing.assert_close(
        torch.einsum("ipq,im->pqm", rule, mean).view(16, m), nearest
    )
    assert rule.norm() == pytest.approx(rules[-1].norm().item())
    # the same H from another gauge of an input: the same result
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    rules[0] = torch.einsum("ij,jpq->ipq", turn, rules[0])
    blocks[0] = turn @ blocks[0]
    again = nearest_factors(rules, blocks)
    torch.testing.assert_close(again[0], rule)
    torch.testing.assert_close(again[1], mean)


def test_types_and_shared_entries(tmp_path):
    inputs = []
    for update, number in enumerate([1.0, 2.0, 4.0]):
        tied = torch.full((2,), number)
        inputs.append(
            {
                "a": tied,
                "b": tied,
                "half": torch.full((3,), 1000 * number, dtype=torch.float16),
                "bf16": torch.full((3,), number, dtype=torch.bfloat16),
                "steps": torch.tensor(int(number)),
                "mask": torch.tensor([number > 1]),
            }
        )
        history = [{"num_updates": [5, 9, 7][update]}]
        state = {"model": inputs[-1], "optimizer_history": history}
        torch.save(state, tmp_path / f"{update}.pt")
    paths = [tmp_path / f"{update}.pt" for update in range(3)]
    made = average(paths, "weights")
    model = made.checkpoint["model"]
    assert made.updates == [5, 7, 9] and made.distances == {}
    assert {k: v.dtype for k, v in model.items()} == {
        k: v.dtype for k, v in inputs[0].items()
    }
    assert model["a"].data_ptr() == model["b"].data_ptr()
    assert model["half"].tolist() == [torch.tensor(7000 / 3).half().item()] * 3
    assert model["steps"] == 2 and model["mask"].all()  # those of the most updates


def test_half_precision_factors(tmp_path):
    paths = write(tmp_path, tiny_transformer(Task()).half(), [1, 2])
    made = average(paths, "weights")
    model = made.checkpoint["model"]
    assert all(v.dtype == torch.float16 for k, v in model.items() if "blocks" in k)
    rules = made.distances["weights"]
    assert all(rules[k] < made.distances["factors"][k] for k in rules)
    again = average(paths[::-1], "weights").checkpoint["model"]  # it goes by updates
    assert all(torch.equal(again[key], value) for key, value in model.items())


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line: exit message or code, what it printed, its errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["average", *map(str, arguments)])
        code = None
        try:
            main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def test_the_last_checkpoints_of_a_folder(tmp_path, capsys):
    for name in ("_1_1000", "_2_200", "_1_90", "3", "10", "_best", "_last", "_x_1"):
        (tmp_path / f"checkpoint{name}.pt").touch()
    found = find_checkpoints([tmp_path], 2)
    assert [path.name for path in found] == [
        "checkpoint_2_200.pt",
        "checkpoint_1_1000.pt",
    ]
    assert len(find_checkpoints([tmp_path], 8)) == 3
    assert capsys.readouterr().err.count("\n") == 1
    for path in tmp_path.glob("checkpoint_*_*"):
        path.unlink()
    files = [tmp_path, tmp_path / "other.pt", tmp_path / "checkpoint10.pt"]
    found = find_checkpoints(files, 2)
    assert [path.name for path in found] == [
        "checkpoint3.pt",
        "checkpoint10.pt",
        "other.pt",
    ]


def test_command_line(command, tmp_path):
    model = tiny_transformer(Task())
    write(tmp_path, model, [10, 20])
    out = tmp_path / "averaged.pt"
    code, output, errors = command(
        "--inputs", tmp_path, "--output", out, "--mean", "weights"
    )
    assert code is None and errors.count("\n") == 1
    assert "has 2 numbered checkpoints, not 8" in errors
    assert "mean of 2 checkpoints, updates 10 to 20" in output
    assert "mean of weights: " in output and "(written)" in output
    model.load_state_dict(torch.load(out)["model"])
    assert not list(tmp_path.glob("*.partial"))


def spoiled(folder, make):
    """Two checkpoints of a model, the second changed by ``make``."""
    paths = write(folder, tiny_transformer(Task()), [1, 2])
    state = torch.load(paths[1])
    make(state["model"])
    torch.save(state, paths[1])
    return paths


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda folder: [], "no checkpoints"),
        (lambda folder: [folder / "none.pt"], "none.pt: No such file"),
        (lambda folder: find_checkpoints([folder], 8), "no checkpoint_EPOCH_UPDATES"),
        (lambda folder: text(folder), "text.pt: no checkpoint: "),
        (lambda folder: numbers(folder), "no checkpoint of fairseq: it has no 'model'"),
        (
            lambda f: spoiled(f, lambda m: m.pop("decoder.layers.0.fc1.bias")),
            r"_2.pt: no entry decoder.layers.0.fc1.bias, which .*_1.pt has",
        ),
        (
            lambda f: spoiled(f, lambda m: m.update(extra=torch.ones(1))),
            r"_1.pt: no entry extra, which .*_2.pt has",
        ),
        (
            lambda f: spoiled(
                f, lambda m: m.update({"encoder.layers.0.fc1.bias": torch.ones(2)})
            ),
            r"_2.pt: encoder.layers.0.fc1.bias is 2, in .*_1.pt 64",
        ),
        (
            lambda f: spoiled(f, lambda m: m["encoder.layers.0.fc1.bias"].fill_(NAN)),
            "_2.pt: encoder.layers.0.fc1.bias has numbers that are not finite",
        ),
        (
            lambda f: write(f, tiny_transformer(Task(), phm_rank=2), [1]),
            "k_proj has low-rank blocks: use --mean factors",
        ),
        (
            lambda f: write(f, tiny_transformer(Task(), phm_rule_rank=2), [1]),
            "k_proj has a rule of CP rank R: use --mean factors",
        ),
        (
            lambda f: write(f, rules_of_others(), [1]),
            "cannot tell whose rule 2 shares: use --mean factors",
        ),
        (
            lambda f: saved(f, {"a.rule": torch.ones(3, 3, 3), "a.blocks": BLOCKS}),
            "a.rule and its blocks do not fit: ",
        ),
        (
            lambda f: saved(f, {"rule": BLOCKS, "blocks": BLOCKS.sum()}),
            "a.pt: damaged: blocks is a single number",
        ),
        (
            lambda f: saved(f, {"a": BLOCKS, "b": BLOCKS.to_sparse()}),
            "a.pt: (damaged: b is no plain tensor|no checkpoint: refused)",
        ),
        (
            lambda f: saved(f, {"a": BLOCKS}, optimizer_history="x"),
            "a.pt: damaged: its optimizer_history is no list of dicts",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(make, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        average(make(tmp_path), "weights")
    assert "\n" not in str(error.value)
    if "use --mean factors" in message:
        assert average(make(tmp_path), "factors").distances == {}


BLOCKS = torch.ones(2, 2, 2)
NAN = float("nan")


def saved(folder, model, **others):
    torch.save({"model": model, **others}, folder / "a.pt")
    return [folder / "a.pt"]


def text(folder):
    (folder / "text.pt").write_text("no tensors")
    return [folder / "text.pt"]


def numbers(folder):
    torch.save([1], folder / "numbers.pt")
    return [folder / "numbers.pt"]


def rules_of_others():
    """Layers outside any fairseq model: whose rule the third has is not stored."""
    first, second = PHMLinear(8, 8, n=2), PHMLinear(8, 8, n=2)
    return torch.nn.Sequential(first, second, PHMLinear(8, 8, n=2, rule=first.rule))


def test_bad_options_end_in_one_line(command, tmp_path):
    (path,) = write(tmp_path, PHMLinear(8, 8, n=2), [1])
    for arguments, message in [
        (("--inputs", path, "--output", path), "is the input"),
        (("--inputs", path, "--output", tmp_path / "no" / "x.pt"), "no such folder"),
        (
            ("--inputs", path, "--output", tmp_path / "x.pt", "--num-checkpoints", 0),
            "at least 1",
        ),
    ]:
        code, _, errors = command(*arguments)
        assert code and message in (errors.splitlines() or [code])[-1]


def test_kronecker_sums_of_a_root_layer(tmp_path):
    """A layer that is the whole model has entries without a path."""
    paths = write(tmp_path, PHMLinear(8, 8, n=2), [1, 2])
    made = average(paths, "weights")
    mean = sum(kronecker_sum(s["rule"], s["blocks"]) for s in states(paths)) / 2
    model = made.checkpoint["model"]
    off = (kronecker_sum(model["rule"], model["blocks"]) - mean).norm() / mean.norm()
    assert made.distances["weights"]["rule"] == pytest.approx(off.item(), abs=1e-6)
