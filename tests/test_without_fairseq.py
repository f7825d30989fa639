"""The layers with torch alone, and in models that are not fairseq's."""

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest
import torch
from conftest import ROOT

import fairseq_phm
from fairseq_phm import PHMLinear, count_parameters, substitute


def python(code):
    """Run code where fairseq is not installed."""
    code = "import sys; sys.modules['fairseq'] = None\n" + code
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )


def test_layers_need_torch_alone():
    done = python(
        "import torch\n"
        "from fairseq_phm import PHMLSTM, PHMLSTMCell, PHMLinear, PHMSpec\n"
        "from fairseq_phm import count_parameters, multiplication_rule, substitute\n"
        "from fairseq_phm import average, checkpoint\n"
        "hook = sys.excepthook\n"
        "PHMLSTM(8, 8, 4)(torch.zeros(3, 1, 8)), PHMLSTMCell(8, 8, 2)\n"
        "model = torch.nn.TransformerEncoderLayer(8, 2)\n"
        "model.fc1, model.fc2 = model.linear1, model.linear2\n"
        "substitute(model, PHMSpec(2, rule_rank=2), projections={'ffn': ['fc1']})\n"
        "assert isinstance(model.fc1, PHMLinear)\n"
        "print(len(multiplication_rule('quaternion')))\n"
        "assert sys.excepthook is sys.__excepthook__\n"
        "assert not [m for m in sys.modules if m.startswith('fairseq.')]\n"
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from fairseq_phm import PHMTransformerModel",
        "import fairseq_phm; fairseq_phm.TSVClassificationTask",
    ],
)
def test_models_name_the_command_that_installs_fairseq(code):
    done = python(code)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: fairseq_phm.")
    assert "needs fairseq: pip install 'fairseq_phm[fairseq]'" in last


def test_a_folder_called_fairseq_is_no_fairseq(monkeypatch):
    spec = ModuleSpec("fairseq", None, is_package=True)  # of a namespace package
    monkeypatch.setattr(fairseq_phm.util, "find_spec", lambda name: spec)
    assert not fairseq_phm.has_fairseq()


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "flags",
        "params --arch phm_transformer",
        "densify a b",
        "export --to onnx a b",
        "predict --path a --input b --output c",
        "compress a b --n 4",
    ],
)
def test_commands_name_it_in_one_line(arguments):
    done = python(
        f"sys.argv[1:] = {arguments.split()}\n"
        "import runpy; runpy.run_module('fairseq_phm', run_name='__main__')"
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: fairseq_phm.")
    assert "needs fairseq: pip install 'fairseq_phm[fairseq]'" in done.stderr


def test_a_model_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.MarianConfig(
        vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=4,
        decoder_attention_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.MarianMTModel(config)
    dense = count_parameters(model)["projections"]
    substitute(model, 4)
    layers = [m for m in model.modules() if isinstance(m, PHMLinear)]
    assert len(layers) == 2 * 6 + 2 * 10
    assert count_parameters(model)["projections"] < 0.3 * dense
    source, target = torch.randint(2, 50, (2, 3, 7))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(input_ids=source, labels=target).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    generated = model.eval().generate(source, max_new_tokens=5)
    assert generated.shape[0] == 3
