"""The classification task and models, through the real commands."""

import argparse
import random
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, hydra_train, run
from fairseq.data import Dictionary
from forked import python
from torch import nn

from fairseq_phm import (
    PHMLSTMClassifier,
    PHMTransformerClassifier,
    TSVClassificationTask,
)
from fairseq_phm.better_transformer import leave_better_transformer
from fairseq_phm.modules import WordVectors
from fairseq_phm.predict import predict
from fairseq_phm.tasks import DataError

ROWS = {"train": 240, "valid": 37, "test": 41}
PAIR = ["--text-columns", "1,2", "--label-column", "3"]
SINGLE = ["--text-columns", "1", "--label-column", "3"]
SMALL = ["--encoder-embed-dim", "20", "--dropout", "0"]
TRAIN = [
    "--task", "tsv_classification", "--criterion", "sentence_prediction",
    "--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric",
    "--optimizer", "adam", "--lr", "0.01", "--batch-size", "16", "--cpu",
    "--required-batch-size-multiple", "1", "--num-workers", "0", "--log-format", "json",
    "--no-epoch-checkpoints", "--user-dir", "fairseq_phm", *SMALL,
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Rows whose label says whether the second sentence has a cat."""
    folder = tmp_path_factory.mktemp("tsv")
    rng = random.Random(1)
    for split, count in ROWS.items():
        with (folder / f"{split}.tsv").open("w") as file:
            for i in range(count):
                animals = rng.choice(["cat", "dog"]), ["cat", "dog", "cow"][i % 3]
                rest = [rng.choices("abcde", k=rng.randint(1, 6)) for _ in range(2)]
                sentences = [" ".join([*r, a, *r[:1]]) for r, a in zip(rest, animals)]
                print(*sentences, "no" if i % 3 else "yes", sep="\t", file=file)
    with (folder / "vectors.txt").open("w") as file:
        for word in ["cat", "dog", "cow", "a", "b", "c", "unseen"]:
            print(word, *(f"{rng.gauss(0, 1):.4f}" for _ in range(6)), file=file)
    return folder


def train(corpus, folder, *flags, check=True, epochs=1):
    return run(
        "train", corpus, "--save-dir", folder, "--max-epoch", epochs, *TRAIN, *flags,
        check=check,
    )  # fmt: skip


def predict_command(*arguments):
    return python("-m", "fairseq_phm.predict", *arguments, "--cpu")


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    output = train(
        corpus, folder, *PAIR, "--arch", "phm_lstm_classifier", "--phm-n", "5",
        "--vectors", corpus / "vectors.txt", epochs=4,
    )  # fmt: skip
    return folder, output


def test_learns_and_keeps_the_most_accurate_checkpoint(trained):
    folder, output = trained
    reached = list(map(float, re.findall(r'"valid_accuracy": "([\d.]+)"', output)))
    assert len(reached) == 4 and max(reached) > 90
    state = torch.load(folder / "checkpoint_best.pt", weights_only=False)
    assert state["extra_state"]["best"] == max(reached)
    assert "6 words with fixed vectors, 2 with trained ones" in output


def test_predicts_every_row_without_data_and_vectors(corpus, trained, tmp_path):
    checkpoint = trained[0] / "checkpoint_best.pt"
    moved = corpus.rename(corpus.with_name("elsewhere"))
    try:
        done = predict_command(
            "--path", checkpoint, "--input", moved / "test.tsv",
            "--output", tmp_path / "out.tsv", "--batch-size", "7",
        )  # fmt: skip
    finally:
        moved.rename(corpus)
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split("\t") for line in (tmp_path / "out.tsv").open()]
    assert [name.strip() for name in header] == ["label", "no", "yes"]
    truth = [line.rstrip().split("\t")[2] for line in (corpus / "test.tsv").open()]
    assert len(rows) == ROWS["test"]
    for label, no, yes in rows:
        assert float(no) + float(yes) == pytest.approx(1, abs=1e-5)
        assert label == ("no" if float(no) > float(yes) else "yes")
    right = sum(row[0] == label for row, label in zip(rows, truth))
    assert f"accuracy {100 * right / len(rows):.2f}" in done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "out.tsv"]


def test_prediction_does_not_depend_on_the_batch(corpus, trained):
    paths = [str(trained[0] / f"checkpoint_{name}.pt") for name in ("best", "last")]
    one = predict(paths, corpus / "test.tsv", batch_size=1)
    many = predict(paths, corpus / "test.tsv", batch_size=64)
    torch.testing.assert_close(one.scores, many.scores, atol=1e-5, rtol=0)
    alone = [predict([path], corpus / "test.tsv").scores for path in paths]
    torch.testing.assert_close(sum(alone) / 2, many.scores, atol=1e-5, rtol=0)


def test_nothing_that_is_read_is_overwritten(corpus, trained, tmp_path):
    model, rows = tmp_path / "a.pt", tmp_path / "rows.tsv"
    shutil.copy(trained[0] / "checkpoint_best.pt", model)
    shutil.copy(corpus / "test.tsv", rows)
    for output in (model, rows):
        before = output.read_bytes()
        done = predict_command("--path", model, "--input", rows, "--output", output)
        assert done.returncode == 1 and f"error: {output}: is the input" in done.stderr
        assert output.read_bytes() == before


def test_its_parameters_are_listed_and_it_has_no_dense_counterpart(trained, tmp_path):
    model = str(trained[0] / "checkpoint_best.pt")
    state = torch.load(model, weights_only=False)["model"]
    done = python("-m", "fairseq_phm", "params", model)
    total = sum(v.numel() for k, v in state.items() if k != "words.fixed")
    assert f" {total:,} " in done.stdout.splitlines()[-1], done.stderr
    done = python("-m", "fairseq_phm", "densify", model, tmp_path / "x.pt")
    assert "phm_lstm_classifier has no counterpart in fairseq" in done.stderr


@pytest.mark.parametrize("what", ["labels", "words", "lowercase"])
def test_models_that_know_something_else(corpus, trained, tmp_path, what):
    """They are not averaged, and not trained on with this data."""
    first, other = trained[0] / "checkpoint_best.pt", tmp_path / "other.pt"
    state = torch.load(first, weights_only=False)
    known = state["task_state"]["vocabulary"]
    if what == "lowercase":
        state["cfg"]["task"][what] = True
    else:
        known[what] = [*known[what][1:], known[what][0]]
    torch.save(state, other)
    with pytest.raises(DataError, match=f"other.pt: has other .*{what}.* than .*_best"):
        predict([str(first), str(other)], tmp_path / "rows.tsv")
    if what in known:
        output = train(
            corpus, tmp_path, *PAIR, "--arch", "phm_lstm_classifier", "--phm-n", "5",
            "--vectors", corpus / "vectors.txt", "--restore-file", other, check=False,
        )  # fmt: skip
        last = output.rstrip().splitlines()[-1]
        assert last == f"error: {other}: has other {what} than {corpus}"


def test_fixed_vectors_stay_and_the_rest_learns(corpus, trained):
    state = torch.load(trained[0] / "checkpoint_best.pt", weights_only=False)
    words = state["task_state"]["vocabulary"]
    fixed = state["model"]["words.fixed"]
    file = {
        fields[0]: torch.tensor([float(f) for f in fields[1:]])
        for fields in (line.split() for line in (corpus / "vectors.txt").open())
    }
    assert sorted(words["words"][words["trained"] :]) == sorted(set(file) - {"unseen"})
    for word, vector in zip(words["words"][words["trained"] :], fixed):
        torch.testing.assert_close(vector, file[word])
    assert state["model"]["words.trained"].shape == (4 + 2, 6)
    assert state["model"]["words.trained"][1].eq(0).all()  # padding


@pytest.mark.parametrize(
    "arch, flags",
    [
        ("phm_lstm_classifier", [*PAIR, "--phm-n", "1"]),
        ("quaternion_lstm_classifier", SINGLE),
        ("phm_transformer_classifier", [*PAIR, "--phm-n", "2", "--phm-rank", "3"]),
        ("phm_transformer_classifier", [*SINGLE, "--phm-n", "1"]),
        ("quaternion_transformer_classifier", SINGLE),
    ],
)
def test_every_model_trains_resumes_and_validates(corpus, tmp_path, arch, flags):
    flags = [*flags, "--arch", arch]
    train(corpus, tmp_path, *flags)
    output = train(corpus, tmp_path, *flags, epochs=2)
    assert "Loaded checkpoint" in output and '"epoch": 2' in output
    output = run(
        "validate", corpus, "--task", "tsv_classification", *flags[:4], "--path",
        tmp_path / "checkpoint_best.pt", "--user-dir", "fairseq_phm", "--batch-size",
        "16", "--required-batch-size-multiple", "1", "--cpu", "--valid-subset", "test",
        "--log-format", "json",
    )  # fmt: skip
    assert "accuracy" in output


def test_hydra(corpus, tmp_path):
    config = {
        "task": {"_name": "tsv_classification", "data": str(corpus)},
        "model": {"_name": "phm_lstm_classifier", "phm_n": 2, "encoder_embed_dim": 8},
        "criterion": {"_name": "sentence_prediction"},
        "optimizer": {"_name": "adam"},
        "optimization": {"lr": [0.01], "max_update": 3},
        "lr_scheduler": {"_name": "fixed"},
        "dataset": {
            "batch_size": 16, "num_workers": 0, "required_batch_size_multiple": 1,
        },
        "checkpoint": {
            "save_dir": str(tmp_path), "best_checkpoint_metric": "accuracy",
            "maximize_best_checkpoint_metric": True,
        },
        "common": {"user_dir": str(ROOT / "fairseq_phm"), "cpu": True},
    }  # fmt: skip
    hydra_train(config, tmp_path)
    done = predict_command(
        "--path", tmp_path / "checkpoint_best.pt", "--input", corpus / "test.tsv",
        "--output", tmp_path / "out.tsv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


BAD = {
    "a b\tc\n": "train.tsv:3: the label is column 3, but the line has 2",
    "a b\tc\tperhaps\n": "train.tsv:3: unknown label 'perhaps', expected yes or no",
    "a b\t\tyes\n": "train.tsv:3: the sentence in column 2 is empty",
}


@pytest.mark.parametrize("line", BAD, ids=repr)
def test_bad_training_data_is_one_line(corpus, tmp_path, line):
    rows = (corpus / "train.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "train.tsv").write_text("".join([*rows[:2], line, *rows[2:]]))
    (tmp_path / "valid.tsv").write_text("".join(rows[:5]))
    output = train(
        tmp_path, tmp_path / "out", *PAIR, "--arch", "phm_lstm_classifier",
        "--labels", "yes,no", check=False,
    )  # fmt: skip
    assert output.rstrip().splitlines()[-1] == f"error: {tmp_path}/{BAD[line]}"
    assert "Traceback" not in output
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_faults_in_other_splits_show_before_training(corpus, tmp_path, split):
    rows = (corpus / "train.tsv").read_text().splitlines(keepends=True)
    for name in ROWS:
        bad = "a\tb\tmaybe\n" if name == split else ""
        (tmp_path / f"{name}.tsv").write_text("".join(rows[:8]) + bad)
    output = train(
        tmp_path, tmp_path / "out", *PAIR, "--arch", "phm_lstm_classifier", check=False
    )
    last = output.rstrip().splitlines()[-1]
    assert last.endswith(f"{split}.tsv:9: unknown label 'maybe', expected no or yes")


def test_wrong_width_of_vectors(corpus, tmp_path):
    vectors = tmp_path / "v.txt"
    vectors.write_text("cat 1 2 3\ndog 1 2\n")
    output = train(
        corpus, tmp_path / "out", *PAIR, "--arch", "phm_lstm_classifier",
        "--vectors", vectors, check=False,
    )  # fmt: skip
    last = output.rstrip().splitlines()[-1]
    assert last.startswith(f"error: {vectors}:2: the vector of 'dog' has 2 numbers")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--path": "none.pt"}, "none.pt: no such checkpoint"),
        ({"--input": "none.tsv"}, "none.tsv: No such file or directory"),
        ({"--output": "no/such/folder.tsv"}, "folder.tsv: no such folder: "),
        ({"--output": "."}, "error: .: "),
        ({"--input": "a\tb\tperhaps\n"}, ":1: unknown label 'perhaps'"),
    ],
)
def test_bad_predictions_are_one_line(corpus, trained, tmp_path, change, message):
    arguments = {
        "--path": trained[0] / "checkpoint_best.pt",
        "--input": corpus / "test.tsv",
        "--output": tmp_path / "out.tsv",
        **change,
    }
    if "\t" in str(arguments["--input"]):
        (tmp_path / "in.tsv").write_text(arguments["--input"])
        arguments["--input"] = tmp_path / "in.tsv"
    done = predict_command(*(part for item in arguments.items() for part in item))
    assert done.returncode == 1
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.tsv").exists()


def test_a_diverged_model_predicts_nothing(corpus, trained, tmp_path):
    checkpoint = torch.load(trained[0] / "checkpoint_best.pt", weights_only=False)
    head = [key for key in checkpoint["model"] if key.startswith("classification")]
    checkpoint["model"][head[-1]].fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "nan.pt")
    with pytest.raises(DataError, match="nan.pt: the probabilities are not finite"):
        predict([str(tmp_path / "nan.pt")], corpus / "test.tsv")


class Words:
    """What a model asks of the task."""

    labels = ["no", "yes"]
    fixed_vectors = None
    vectors_width = 0

    def __init__(self, sentences):
        self.source_dictionary = Dictionary()
        for i in range(20):
            self.source_dictionary.add_symbol(f"w{i}")
        self.trained_words = len(self.source_dictionary)
        self.columns = SimpleNamespace(text=range(sentences))


@pytest.mark.parametrize(
    "options, count",
    [
        (dict(phm_n=1), 721_200),
        (dict(phm_n=2), 361_264),
        (dict(phm_n=5), 146_200),
        (dict(phm_n=10), 81_200),
        (dict(phm_n=4, phm_rule="quaternion", phm_freeze_rule=True), 180_000 + 1_200),
    ],
)
def test_encoder_parameters_of_the_paper(options, count):
    args = SimpleNamespace(**options)
    encoder = PHMLSTMClassifier.build_model(args, Words(2)).encoder
    assert sum(p.numel() for p in encoder.parameters()) == count


@pytest.mark.parametrize(
    "n, share, count",
    [
        (1, "none", 393_216),
        (2, "none", 196_704),  # the paper's counts: a rule for each projection
        (4, "none", 99_072),
        (8, "none", 55_296),
        (4, None, 98_304 + 8 * 64),
        (8, "block", 49_152 + 6 * 512),
    ],
)
def test_agreement_encoder_has_the_papers_weights(n, share, count):
    options = SimpleNamespace(phm_n=n, phm_share_rule=share)
    model = PHMTransformerClassifier.build_model(options, Words(1))
    biases_and_norms = sum(
        p.numel() for name, p in model.encoder.named_parameters()
        if name.endswith("bias") or "norm" in name
    )  # fmt: skip
    assert (
        sum(p.numel() for p in model.encoder.parameters()) - biases_and_norms == count
    )


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_fit_are_one_line(heads):
    options = SimpleNamespace(encoder_attention_heads=heads)
    with pytest.raises(DataError, match=f"heads {heads} does not divide .*-dim 128"):
        PHMTransformerClassifier.build_model(options, Words(1))


@pytest.mark.parametrize("model", [PHMLSTMClassifier, PHMTransformerClassifier])
@pytest.mark.parametrize("n", [1, 4])
def test_padding_changes_nothing(model, n):
    torch.manual_seed(0)
    net = model.build_model(
        SimpleNamespace(phm_n=n, encoder_embed_dim=32), Words(2)
    ).eval()
    leave_better_transformer(net)
    first, second = torch.randint(4, 24, (2, 3, 5))
    padded = nn.functional.pad(first, (0, 4), value=1)
    torch.testing.assert_close(net(first, second)[0], net(padded, second)[0])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_words_are_dropped_before_the_lstm(dropout):
    sizes = SimpleNamespace(phm_n=4, encoder_embed_dim=32, dropout=dropout)
    states = PHMLSTMClassifier.build_model(sizes, Words(1)).encoder
    vectors, padding = torch.randn(3, 5, 32), torch.zeros(3, 5, dtype=torch.bool)
    one, other = (states(vectors, padding) for _ in range(2))
    assert torch.equal(one, other) == (not dropout)
    assert torch.equal(*(states.eval()(vectors, padding) for _ in range(2)))


@pytest.mark.parametrize("fixed, scale", [(None, 32**0.5), (torch.ones(3, 32), 1)])
def test_only_learned_words_are_scaled(fixed, scale):
    words = Words(1)
    words.fixed_vectors, words.vectors_width = fixed, 32
    sizes = SimpleNamespace(phm_n=4, encoder_embed_dim=32)
    net = PHMTransformerClassifier.build_model(sizes, words)
    assert net.encoder.embed_scale == scale
    assert all(layer.normalize_before for layer in net.encoder.layers)


def test_word_vectors_learn_only_their_first_rows():
    torch.manual_seed(0)
    fixed = torch.randn(3, 5)
    words = WordVectors(4, 5, 5, fixed)
    tokens = torch.tensor([[0, 6, 1], [4, 3, 1]])
    output = words(tokens)
    torch.testing.assert_close(output[0, 1], fixed[2])
    torch.testing.assert_close(output[1, 1], words.trained[3])
    assert not output[:, 2].any()  # the padding
    output.sum().backward()
    assert words.trained.grad.abs().sum(1).gt(0).tolist() == [True, False, False, True]


FOREIGN = {
    "of another task": (
        {"args": argparse.Namespace(task="translation", arch="phm_lstm")},
        "a model of another task: translation, not tsv_classification",
    ),
    "of no task": ({}, "a model of another task: none, not tsv_classification"),
    "of odd options": ({"args": 3, "cfg": 4}, "damaged: its options are no options "),
    "cut": (
        {"cfg": {"task": {"_name": "tsv_classification"}}},
        "no classifier of this plugin: ",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_checkpoints_are_one_line(tmp_path, name):
    held, message = FOREIGN[name]
    path = tmp_path / "a.pt"
    torch.save({"model": {"w": torch.ones(1)}, **held}, path)
    with pytest.raises(DataError) as caught:
        predict([str(path)], tmp_path / "in.tsv")
    line = str(caught.value)
    assert line.startswith(f"{path}: {message}") and "\n" not in line


def make_task(data, **options):
    defaults = dict(
        text_columns="1,2", label_column=3, header=False, labels=None,
        word_tokenizer="space", lowercase=False, vectors=None, min_count=1, seed=1,
    )  # fmt: skip
    return TSVClassificationTask(
        SimpleNamespace(data=str(data), **{**defaults, **options})
    )


@pytest.mark.parametrize(
    "given, message",
    [
        (None, "train.tsv: all labels are 'yes'"),
        ("yes,yes,no", "--labels yes,yes,no: a label is empty or occurs twice"),
        ("yes,no,", "--labels yes,no,: a label is empty or occurs twice"),
    ],
)
def test_bad_labels(tmp_path, given, message):
    (tmp_path / "train.tsv").write_text("a\tb\tyes\nc\td\tyes\n")
    with pytest.raises(DataError, match=message):
        _ = make_task(tmp_path, labels=given).labels


def test_words_that_spell_the_dictionarys_own_symbols_are_unknown(tmp_path):
    (tmp_path / "train.tsv").write_text("<pad>\t<unk> a\tyes\n<s> b\tc\tno\n")
    (tmp_path / "v.txt").write_text("<unk> 1 2\na 3 4\n<pad> 5 6\n")
    task = make_task(tmp_path, vectors=tmp_path / "v.txt")
    words = task.source_dictionary
    dataset = task.load_dataset("train")
    batch = dataset.collater([dataset[0], dataset[1]])["net_input"]
    unknown, padding = words.unk(), words.pad()
    b, c = words.index("b"), words.index("c")
    assert len({b, c, unknown}) == 3
    assert batch["src_tokens"].tolist() == [[unknown, padding], [unknown, b]]
    assert batch["pair_tokens"].tolist() == [[unknown, len(words) - 1], [c, padding]]
    assert task.fixed_vectors.tolist() == [[3, 4]] and task.fixed_words == 1
    assert task.labels == ["no", "yes"]  # sorted, or as they are given
    assert make_task(tmp_path, labels="yes, no").labels == ["yes", "no"]
