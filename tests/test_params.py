"""The table of parameters and multiply-adds."""

import argparse
import re

import pytest
import torch
from conftest import Task, tiny_transformer
from fairseq.models.transformer import TransformerModel

from fairseq_phm import PHMLSTM, count_parameters
from fairseq_phm.commands import main, params
from fairseq_phm.modules import WordVectors
from fairseq_phm.rebuild import build, dictionary_paths, vocabulary_sizes

SMALL = ["--arch", "phm_transformer_tiny", "--vocab-size", "100"]


@pytest.fixture
def table(capsys):
    """The table that a call prints: name of a row -> its numbers."""

    def call(*arguments):
        main(["params", *map(str, arguments)])
        found = {}
        for line in capsys.readouterr().out.splitlines()[1:]:
            name, *cells = re.split(r"\s{2,}", line)
            found[name] = [cell.replace(",", "") for cell in cells]
        return found

    return call


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(phm_fuse_qkv=True, phm_share_rule="layer"),
        dict(phm_n=1, share_all_embeddings=True),
        dict(phm_rule_rank=2, share_decoder_input_output_embed=True),
        dict(phm_rule="quaternion", phm_freeze_rule=True, phm_rank=2),
        dict(phm_embeddings=2, share_all_embeddings=True),
    ],
)
def test_sums_are_those_of_the_models(options):
    model = tiny_transformer(Task(), **options)
    listed = params.rows(model)
    counts = count_parameters(model)
    assert sum(row.parameters for row in listed) == counts["total"]
    inner = [r for r in listed if r.name not in (params.EMBEDDINGS, params.OUTPUT)]
    assert sum(row.parameters for row in inner) == counts["non_embedding"]
    dense_options = {k: v for k, v in options.items() if not k.startswith("phm_")}
    dense = tiny_transformer(Task(), phm_n=1, **dense_options)
    assert sum(row.dense for row in listed) == count_parameters(dense)["total"]
    assert isinstance(dense, TransformerModel.__mro__[1])


def test_sums_of_lstms():
    parsed = params._parse_model(argparse.ArgumentParser(), "phm_lstm", [])
    model = build(parsed, 40, 50).model
    inner = [r for r in params.rows(model) if r.name not in
             (params.EMBEDDINGS, params.OUTPUT)]  # fmt: skip
    counted = count_parameters(model)["non_embedding"]
    assert sum(row.parameters for row in inner) == counted


def test_the_projection_of_word_vectors_multiplies():
    words = torch.nn.Sequential(WordVectors(4, 100, 300, torch.rand(6, 100)))
    row = params.Row(params.EMBEDDINGS, 1, 400 + 30000, 400 + 30000, 30000, 30000)
    assert params.rows(words) == [row]


def test_an_architecture_with_flags(table):
    found = table(*SMALL, "--phm-n", "8", "--share-all-embeddings")
    assert found["embeddings"][:2] == ["12800", "12800"]
    # q, k, v, out and the feed-forward sublayers of 2 + 2 layers, and the output
    operations = 2 * (4 * 128**2 + 2 * 128 * 512) + 2 * (8 * 128**2 + 2 * 128 * 512)
    assert found["total"][3:] == [str(operations + 12800)] * 2
    ratio = float(found["all but embeddings and output"][2])
    assert 0.12 < ratio < 0.15


@pytest.mark.parametrize(
    "flags, operations",
    [
        (["4"], 128 * 512 // 4 + 4 * (128 + 512)),
        (["8"], 128 * 512 // 2 + 8 * (128 + 512)),
        (["9"], 128 * 512),
        (["4", "--phm-rank", "2"], 128 * 512),
    ],
)
def test_multiply_adds_of_cp_rules(table, flags, operations):
    found = table(*SMALL, "--phm-n", "4", "--phm-rule-rank", *flags)
    row = found["encoder.layers.*.fc1 (2)"]
    assert row[3] == str(2 * operations)
    assert row[4] == str(2 * 128 * 512)


def test_two_vocabularies(table):
    found = table(*SMALL, "--source-vocab-size", "50")
    assert found["embeddings"][0] == str(150 * 128)
    assert found["output projection"][0] == str(100 * 128)


def test_lstms(table):
    found = table("--arch", "phm_lstm", "--vocab-size", "100", "--phm-n", "4")
    assert found["encoder.lstm"][1] == str(4 * 512 * 1024 + 8 * 512)
    dense = torch.nn.LSTM(8, 4, num_layers=2, bidirectional=True)
    (row,) = params.rows(PHMLSTM(8, 4, 2, num_layers=2, bidirectional=True))
    assert row.dense == sum(p.numel() for p in dense.parameters())


def test_a_language_model_with_fewer_outputs(table, tmp_path):
    args = params._parse_model(argparse.ArgumentParser(), "phm_transformer_lm_tiny", [])
    built = build(args, 12, 9)
    path = tmp_path / "model.pt"
    torch.save({"args": built.args, "model": built.model.state_dict()}, path)
    rows, dim = table(path), built.args.decoder_embed_dim
    assert rows["embeddings"][0] == str(12 * dim)
    assert rows["output projection"][0] == str(9 * dim)


def test_vocabularies_of_adaptive_inputs_and_of_data(tmp_path):
    parts = {
        f"decoder.embed_tokens.embeddings.{i}.0.weight": torch.ones(size, 2)
        for i, size in enumerate((10, 5))
    }
    assert vocabulary_sizes(parts) == (15, 15)
    for name in ("train.xx-yy.xx.idx", "dict.xx.txt", "dict.yy.txt"):
        (tmp_path / name).touch()
    checkpoint = {"cfg": {"task": {"_name": "translation"}}}  # languages as inferred
    found = dictionary_paths(checkpoint, tmp_path)
    assert [path.name for path in found] == ["dict.xx.txt", "dict.yy.txt"]


def test_a_checkpoint(table, tmp_path):
    model = params._parse_model(
        argparse.ArgumentParser(), "phm_transformer_tiny", ["--phm-n", "4"]
    )
    built = build(model, 40, 40)
    path = tmp_path / "model.pt"
    torch.save({"args": built.args, "model": built.model.state_dict()}, path)
    assert table(path) == table("--arch", "phm_transformer_tiny", "--vocab-size", "40")
    state = built.model.state_dict()
    state["encoder.layers.0.fc1_weight"] = torch.ones(1)  # as 0.12.2 copies weights
    torch.save({"args": built.args, "model": state}, path)
    assert table(path) == table("--arch", "phm_transformer_tiny", "--vocab-size", "40")
    options = {"_name": "phm_transformer_tiny", "encoder": 5}
    torch.save({"cfg": {"model": options}, "model": built.model.state_dict()}, path)
    with pytest.raises(SystemExit, match="^error: .*model.pt: 'int' object has no"):
        main(["params", str(path)])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--arch", "nothing"], "--arch nothing: unknown; those with PHM are phm_"),
        (["--arch", "phm_transformer", "--nothing"], "unrecognized arguments"),
        (["--arch", "phm_transformer", "--phm-n", "3"], "nearest n that fit: 2, 4"),
        (["--arch", "phm_lstm_classifier"], "depend on the data: give a checkpoint"),
        (["--arch", "phm_transformer", "--vocab-size", "2"], "at least 5 symbols"),
        (["--arch", "phm_lstm", "--source-vocab-size", "4"], "at least 5 symbols"),
        (
            ["--arch", "phm_transformer", "--encoder-embed-path", "none.txt"],
            "error: --arch phm_transformer: ",
        ),
        (
            ["--arch", "phm_transformer_lm", "--adaptive-softmax-cutoff", "20000"],
            "error: --arch phm_transformer_lm: cannot specify cutoff larger",
        ),
        *(
            (["--arch", "phm_transformer_tiny", flag, "0"], "error: --arch phm_tr")
            for flag in ("--encoder-embed-dim", "--encoder-attention-heads")
        ),
        ([], "a checkpoint or --arch is needed"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["params", *arguments])
    assert end.value.code
    errors = capsys.readouterr().err.splitlines()
    assert message in (errors[-1] if errors else end.value.code)
