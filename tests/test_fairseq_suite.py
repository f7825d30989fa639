"""The gate of fairseq's own tests, on a checkout with a handful of tests."""

import fairseq_suite
import pytest

pytestmark = pytest.mark.one_version

TYPES = """
from fairseq.models.lstm import LSTMModel
from fairseq.models.transformer import TransformerModel
from fairseq.modules import multihead_attention
from torch import nn


def test_transformer():
    assert TransformerModel.__module__.startswith("fairseq.")


def test_lstm():
    assert LSTMModel.__module__.startswith("fairseq.")


def test_attention_is_dense():
    assert type(multihead_attention.MultiheadAttention(8, 2).q_proj) is nn.Linear


def test_attention_has_its_size():
    assert multihead_attention.MultiheadAttention(8, 2).q_proj.weight.shape == (8, 8)


def test_that_fails_anyway():
    raise AssertionError


def test_arch():
    from fairseq import options

    parser = options.get_training_parser()
    flags = ["data", "--arch", "transformer_iwslt_de_en"]
    assert options.parse_args_and_arch(parser, flags).arch == flags[-1]
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_types.py").write_text(TYPES)
    return tmp_path


def test_what_fails_only_with_phm_layers_is_counted(checkout, capfd):
    status = fairseq_suite.main(["--fairseq", str(checkout), "--tests", "types"])
    lines = capfd.readouterr().out.splitlines()
    found = {line.split()[0].partition(".")[2]: line.split()[1:] for line in lines}
    assert "test_that_fails_anyway" not in found
    assert found["test_attention_has_its_size"] == ["passed", "passed"]
    for name in ("transformer", "lstm", "attention_is_dense", "arch"):
        assert found[f"test_{name}"] == ["passed", "failed", "<--"]
    assert status == 1 and lines[-1].startswith("5 of 6 pass plain, 4 of these fail")


@pytest.mark.parametrize("phm, status", [("passed", 0), ("skipped", 1)])
def test_status(checkout, monkeypatch, phm, status):
    results = {False: {"a": "passed", "b": "failed"}, True: {"a": phm, "b": "failed"}}
    monkeypatch.setattr(fairseq_suite, "run", lambda _, phm: results[phm])
    arguments = ["--fairseq", str(checkout), "--tests", "types"]
    assert fairseq_suite.main(arguments) == status


def test_a_checkout_without_tests_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fairseq_suite.main(["--fairseq", str(tmp_path)])
    assert "no such file: " in capsys.readouterr().err
