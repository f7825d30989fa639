"""Spellings of models, and the widths they stand for."""

import subprocess
import sys

import pytest
from conftest import ROOT, tiny_transformer
from fairseq.models import ARCH_CONFIG_REGISTRY

from fairseq_phm import count_parameters
from fairseq_phm.models.classifier import (
    LSTMClassifierConfig,
    TransformerClassifierConfig,
)
from recipes.driver.models import CLASSIFIERS, DENSE, WIDTHS, Model

SPELLINGS = [
    ("dense", "dense", "dense"),
    ("dense/4", "dense, widths / 4", "dense-4"),
    ("quaternion", "quaternion", "quaternion"),
    ("quaternion-wide", "quaternion, wide", "quaternion-wide"),
    ("2", "PHM n=2", "n2"),
    ("4", "PHM n=4", "n4"),
    ("4r4", "PHM n=4, R=4", "n4r4"),
    ("4-wide", "PHM n=4, wide", "n4-wide"),
    ("8r16-wide", "PHM n=8, R=16, wide", "n8r16-wide"),
    ("4r4-whole", "PHM n=4, R=4, whole", "n4r4-whole"),
    ("quaternion-wide-whole", "quaternion, wide, whole", "quaternion-wide-whole"),
]


@pytest.mark.parametrize("text,name,slug", SPELLINGS)
def test_spelling(text, name, slug):
    model = Model.parse(text)
    assert (str(model), model.name, model.slug) == (text, name, slug)
    assert Model.parse(str(model)) == model


def test_order_of_tables():
    texts = "8r8-wide 4-wide 8r8 dense/4 16 4r4 8 quaternion 4 dense dense/2".split()
    found = [str(model) for model in sorted(map(Model.parse, texts), key=key)]
    assert found == (
        "dense dense/2 dense/4 quaternion 4 4r4 8 8r8 16 4-wide 8r8-wide".split()
    )


def key(model):
    return model.order


@pytest.mark.parametrize(
    "text,message",
    [
        ("x", "x: dense, quaternion or a whole number n"),
        ("", ": dense, quaternion or"),
        ("4-", "4-: dense, quaternion or"),
        ("-4", "-4: dense, quaternion or"),
        ("quaternion4", "quaternion4: dense, quaternion or"),
        ("dense-wide", "dense-wide: dense, quaternion or"),
        ("dense-whole", "dense-whole: dense, quaternion or"),
        ("0", "0: n must be at least 2"),
        ("4r0", "4r0: the rank R of NrR is 1 to 16, n^2"),
        ("4r17", "4r17: the rank R of NrR is 1 to 16, n^2"),
        ("dense/1", "dense/1: widths are divided by 2 or more"),
    ],
)
def test_bad_spellings(text, message):
    with pytest.raises(ValueError) as error:
        Model.parse(text)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_flags():
    def flags(text, arch="phm_transformer_tiny"):
        return " ".join(Model.parse(text).flags(arch))

    tiny = "--arch phm_transformer_tiny --phm-n"
    assert flags("dense") == f"{tiny} 1" and flags("4") == f"{tiny} 4"
    assert flags("8r8") == f"{tiny} 8 --phm-rule-rank 8"
    assert flags("quaternion") == "--arch quaternion_transformer_tiny"
    for text, attention, ffn in (("4-wide", 256, 1024), ("dense/4", 32, 128)):
        widths = f"--phm-attention-dim {attention} --encoder-ffn-embed-dim {ffn}"
        assert f"{widths} --decoder-ffn-embed-dim {ffn}" in flags(text)
    assert "--phm-attention-dim 1024" in flags("quaternion-wide", "phm_transformer")
    assert flags("4r4-whole").endswith("--phm-rule-rank 4 --phm-embeddings 4")
    assert flags("quaternion-whole").endswith("_tiny --phm-embeddings 4")
    lm = flags("dense/4", "phm_transformer_lm_tiny")
    assert lm.endswith("--phm-attention-dim 32 --decoder-ffn-embed-dim 128")
    for text, arch, message in (
        ("dense/64", "phm_transformer_tiny", "dense/64: 64 does not divide the inner"),
        ("4-wide", "phm_lstm", "4-wide: no other inner widths are known for phm_lstm"),
        ("4-whole", "phm_lstm", "4-whole: no PHM embeddings are known for phm_lstm"),
    ):
        with pytest.raises(ValueError, match=message):
            flags(text, arch)


@pytest.mark.parametrize("arch", WIDTHS)
def test_widths_are_those_of_the_architectures(arch):
    class Args:
        pass

    ARCH_CONFIG_REGISTRY[arch](Args)
    for side in ("encoder", "decoder")["_lm" in arch :]:
        attention, ffn, heads = (
            getattr(Args, f"{side}_{name}")
            for name in ("embed_dim", "ffn_embed_dim", "attention_heads")
        )
        attention = getattr(Args, "phm_attention_dim", 0) or attention
        assert (attention, ffn, heads) == WIDTHS[arch]


def test_widths_are_those_of_the_classifiers():
    attention, ffn = (
        getattr(TransformerClassifierConfig, f"encoder_{name}")
        for name in ("embed_dim", "ffn_embed_dim")
    )
    assert CLASSIFIERS == {
        "phm_lstm_classifier": {"LSTM": LSTMClassifierConfig.encoder_embed_dim},
        "phm_transformer_classifier": {"attention": attention, "FFN": ffn},
    }


def test_dense_model_of_equal_parameters(task):
    def size(text):
        options = Model.parse(text).options("phm_transformer_tiny")
        sizes = dict(encoder_embed_dim=128, decoder_embed_dim=128)
        ffn = dict(encoder_ffn_embed_dim=512, decoder_ffn_embed_dim=512)
        model = tiny_transformer(task, **{**sizes, **ffn, **options})
        return count_parameters(model)["non_embedding"]

    for n in (2, 4):
        assert size(f"dense/{n}") == pytest.approx(size(str(n)), rel=0.1)
    assert size("4-wide") == pytest.approx(size("2"), rel=0.1)


def test_peers():
    def peers(text, arch="phm_transformer_tiny"):
        return list(map(str, Model.parse(text).peers(arch)))

    assert peers("4") == ["4r4", "dense", "dense/4"]
    assert peers("8-wide") == ["8r8-wide", "dense", "dense/4"]
    assert peers("5") == ["5r5", "dense"]  # 128 / 5
    assert peers("4", "phm_lstm") == ["4r4", "dense"]
    assert Model.parse("dense").peers("phm_transformer") == [DENSE]


def test_needs_nothing_but_python():
    """Nor TOML, which Python before 3.11 has not."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "sys.modules.update(tomllib=None, tomli=None);"
        "import recipes.driver.options as options;"
        "options.parse_classification(['snli']);"
        "options.parse_translation(['wmt18-en-ro', '--size', 'paper', '--wide']);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'tqdm')))"
    )
    assert not subprocess.run([sys.executable, "-S", "-c", code, ROOT]).returncode
