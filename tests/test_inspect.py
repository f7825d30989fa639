"""Inspection of rules: algebras, spectra, similarity, the page, bad input."""

import argparse
import re
import sys
from html.parser import HTMLParser

import pytest
import torch
from conftest import Task, tiny_transformer

from fairseq_phm import PHMLSTM, DataError, PHMLinear
from fairseq_phm.algebras import (
    known_algebras,
    nearest_algebra,
    random_distance,
    similarity,
    span,
)
from fairseq_phm.commands import inspect as command
from fairseq_phm.functional import associative_rule
from fairseq_phm.inspection import inspect
from fairseq_phm.nearest import rearrange

pytestmark = pytest.mark.one_version

pytest.importorskip("matplotlib")


def in_another_basis(rule):
    """Mix the summands, and rotate inputs and outputs."""
    n = len(rule)
    left, right = torch.linalg.qr(torch.randn(2, n, n))[0]
    mixed = torch.linalg.qr(torch.randn(n, n))[0] @ torch.diag(torch.rand(n) + 0.5)
    return torch.einsum("ij,jpq->ipq", mixed, left @ rule @ right)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_algebras_are_found_in_any_basis(n):
    torch.manual_seed(0)
    known = known_algebras(n)
    found = nearest_algebra([in_another_basis(rule) for rule in known.values()])
    for name, match in zip(known, found):
        assert match.name == name and match.distance < 1e-3
        assert match.turned.allclose(match.table, atol=0.01)
    assert min(random_distance(n), 0.4) > 0.3


def test_algebras_have_their_dimension_and_products():
    for n in (2, 4, 8, 16):
        known = known_algebras(n)
        assert len(known) >= 2
        for rule in known.values():
            assert rule.shape == (n, n, n)
            assert torch.linalg.matrix_rank(rule.flatten(1)) == n
    separate = known_algebras(4)["4 separate numbers"]
    matrices = known_algebras(4)["2 x 2 matrices"]
    a, b = torch.randn(2, 4)
    torch.testing.assert_close(torch.einsum("i,ipq,q->p", a, separate, b), a * b)
    product = torch.einsum("i,ipq,q->p", a, matrices, b)
    torch.testing.assert_close(product, (a.view(2, 2) @ b.view(2, 2)).flatten())


def test_similarity_does_not_depend_on_the_mixing():
    torch.manual_seed(0)
    rule, other = associative_rule(4), torch.randn(4, 4, 4)
    mixed = torch.einsum("ij,jpq->ipq", torch.randn(4, 4), rule)
    assert similarity(span(rule), span(mixed)) == pytest.approx(1, abs=1e-5)
    assert similarity(span(rule), span(other)) < 0.6
    eye = torch.eye(16).view(4, 4, 4, 4)
    assert similarity(span(eye[0]), span(eye[1])) == 0


def test_spectra_are_those_of_the_rearranged_weight():
    for n in (2, 4):
        layer = PHMLinear(8, 16, n=n, rule="random")
        (found,) = inspect({"model": layer.state_dict()}).layers
        parts = rearrange(layer.weight.detach().double(), n)
        values = torch.linalg.svdvals(parts)
        torch.testing.assert_close(found.values, values[:n], atol=1e-5, rtol=1e-5)
        shares = values[:n].square() / values.square().sum()
        entropy = -(shares * shares.log()).sum()
        assert found.effective == pytest.approx(entropy.exp().item(), rel=1e-4)
    with torch.no_grad():
        layer.blocks[1:] = layer.blocks[0]
    (found,) = inspect({"model": layer.state_dict()}).layers
    assert found.effective == pytest.approx(1, abs=1e-3)
    layer.blocks.data.zero_()
    assert inspect({"model": layer.state_dict()}).layers[0].effective == 0
    small = PHMLinear(4, 8, n=4)  # blocks of two numbers each
    (found,) = inspect({"model": small.state_dict()}).layers
    assert len(found.values) == 4 and not found.values[2:].any()


def checkpoint(**options):
    model = tiny_transformer(Task(), **options)
    return {"args": argparse.Namespace(**options), "model": model.state_dict()}


QUATERNION = dict(phm_n=4, phm_rule="quaternion")
KINDS = {
    "learned": (dict(phm_n=4, phm_rule="learned"), 20, "an associative algebra"),
    "default": (dict(phm_n=4, phm_share_rule="pairs"), 20, "an associative algebra"),
    "earlier": (dict(phm_n=4, phm_share_rule="none"), 32, "it is not known how"),
    "quaternion": (QUATERNION, 20, "quaternions"),
    "frozen": (dict(phm_freeze_rule=True, **QUATERNION), 1, "quaternions"),
    "random": (dict(phm_n=2, phm_rule="random", phm_ffn_n=1), 12, "random numbers"),
    "CP": (dict(phm_n=4, phm_rule="learned", phm_rule_rank=4), 20, "random factors"),
    "fused": (dict(phm_n=2, phm_rule="learned", phm_fuse_qkv=True), 16, "algebra"),
    "tied": (dict(phm_n=2, phm_embeddings=2, share_all_embeddings=True), 21, "known"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rules_of_transformers(kind):
    options, rules, start = KINDS[kind]
    found = inspect(checkpoint(**options))
    assert len(found.rules) == rules and start in found.start
    names = [name for rule in found.rules for name in rule.layers]
    assert sorted(names) == sorted(layer.name for layer in found.layers)
    assert len(found.layers) == {"random": 24, "fused": 22, "tied": 33}.get(kind, 32)
    assert found.rank == (4 if kind == "CP" else 0)
    if kind in ("learned", "default", "quaternion", "frozen"):
        assert {match.name for match in found.matches} == {"quaternions"}
        assert max(match.distance for match in found.matches) < 1e-5
        assert max(move.entries for move in found.moves) < 1e-6
        assert found.alike[4].allclose(torch.ones(rules, rules))
    elif kind == "CP":  # v = w orthogonal, u the identity: numbers one by one
        assert {match.name for match in found.matches} == {"4 separate numbers"}
    if kind in ("random", "earlier", "CP"):
        assert found.moves == []
    text = command.__doc__ and found.frozen
    assert bool(text) == (kind == "frozen")


def test_fused_layers_that_are_stored_as_q():
    state = checkpoint(**KINDS["fused"][0])
    names = [layer.name for layer in inspect(state).layers]
    for key in list(state["model"]):
        if "self_attn.k_proj" in key and not key.endswith("bias"):
            other = key.replace("k_proj", "q_proj")
            state["model"][other] = state["model"].pop(key)
    assert sorted(layer.name for layer in inspect(state).layers) == sorted(names)


def test_rules_that_moved_come_first():
    state = checkpoint(phm_n=4, phm_rule="learned")
    keys = [key for key in state["model"] if key.endswith("rule")]
    torch.manual_seed(0)
    state["model"][keys[3]] += 0.5 * torch.randn(4, 4, 4)
    state["model"][keys[7]] *= 1.1
    moves = inspect(state).moves
    assert [move.name + ".rule" for move in moves[:2]] == [keys[3], keys[7]]
    assert moves[0].entries > 0.3 and moves[0].span > 0.1
    assert moves[1].entries == pytest.approx(0.1, abs=1e-4) and moves[1].span < 1e-6


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps the sources of pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        for name, value in attributes:
            assert name != "href"
            if name == "src":
                self.sources.append(value)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def call(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(list(map(str, arguments))))


def test_the_page(tmp_path, capsys):
    options = dict(phm_n=4, phm_ffn_n=2, phm_rule="learned", phm_share_rule="layer")
    state = checkpoint(encoder_layers=1, decoder_layers=1, **options)
    torch.save(state, tmp_path / "a&b.pt")
    call(tmp_path / "a&b.pt", "--out", tmp_path / "page")
    files = {path.name for path in (tmp_path / "page").iterdir()}
    pictures = {"algebras.png", "spectrum.png", "similarity.png", "moves.png"}
    kinds = ("stored", "turned", "algebra")
    pictures |= {f"rule-{i}-{kind}.png" for i in range(1, 5) for kind in kinds}
    assert files == pictures | {"index.html"}
    text = (tmp_path / "page" / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert not reader.open and len(reader.sources) == len(pictures)
    assert all(one.startswith("data:image/png;base64,") for one in reader.sources)
    assert "http" not in text and "<h1>The rules of a&amp;b.pt</h1>" in text
    assert "16 PHM layers" in text and "n = 2, 4" in re.sub(r"\s+", " ", text)
    assert capsys.readouterr().out.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a&b.pt", "page"]


def test_a_page_of_many_layers_is_short(tmp_path):
    """Of more than 40 rows those at both ends are drawn; narrow screens are told."""
    torch.manual_seed(0)
    layers = [PHMLinear(8, 8, n=2, rule="random") for _ in range(60)]
    state = torch.nn.Sequential(*layers).state_dict()
    options = argparse.Namespace(phm_rule="learned")
    torch.save({"args": options, "model": state}, tmp_path / "many.pt")
    call(tmp_path / "many.pt", "--out", tmp_path / "page")
    for name in ("algebras", "spectrum", "similarity", "moves"):
        png = (tmp_path / "page" / f"{name}.png").read_bytes()
        assert int.from_bytes(png[20:24], "big") < 1000, name
    text = " ".join((tmp_path / "page" / "index.html").read_text().split())
    for words in (
        "Of 60 rules, the 20 nearest and the 20 furthest are drawn.",
        "Of 60 layers, the 20 with the least and the 20 with the most are drawn.",
        "Of 60 rules, the 40 that moved most are drawn.",
        "<details><summary>60 rules</summary>", 'name="viewport"',
    ):  # fmt: skip
        assert words in text
    assert text.count("<figure>") == 8 * 3


def test_lstms_and_a_page_without_a_start(tmp_path):
    lstm = PHMLSTM(8, 8, n=2, rule_rank=2)
    torch.save({"model": lstm.state_dict()}, tmp_path / "lstm.pt")
    call(tmp_path / "lstm.pt", "--out", tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text()
    assert "8 PHM layers" in text and "moved is unknown" in " ".join(text.split())
    assert not (tmp_path / "page" / "moves.png").exists()


def others_rules():
    first, second = PHMLinear(8, 8, n=2), PHMLinear(8, 8, n=2)
    return torch.nn.Sequential(first, second, PHMLinear(8, 8, n=2, rule=first.rule))


def spoiled():
    model = PHMLinear(8, 8, n=2).state_dict()
    model["rule"] = torch.ones(2, 3, 2)
    return {"model": model}


def replaced(key, value):
    return {"model": {**PHMLinear(8, 8, n=2).state_dict(), key: torch.tensor(value)}}


def infinite(key):
    model = PHMLinear(8, 8, n=2).state_dict()
    model[key][0] = float("nan")
    return {"model": model}


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: {"model": torch.nn.Linear(2, 2).state_dict()}, "has no PHM layers"),
        (lambda: {"model": PHMLinear(8, 8, n=1).state_dict()}, "has no PHM layers"),
        (lambda: {"model": others_rules().state_dict()}, "cannot tell whose rule 2"),
        (lambda: {"other": 1}, "no checkpoint of fairseq"),
        (spoiled, "rules and blocks do not fit"),
        (lambda: replaced("blocks", 1.0), "damaged: blocks is a single number"),
        (lambda: replaced("rule", [1.0, 2.0]), "rules and blocks do not fit"),
        (lambda: replaced(7, 1.0), "damaged: 7 in its model is no name"),
        (lambda: infinite("rule"), "rule has numbers that are not finite"),
        (lambda: infinite("blocks"), "blocks has numbers that are not finite"),
    ],
)
def test_bad_input_is_one_line(make, message, tmp_path):
    torch.save(make(), tmp_path / "bad.pt")
    with pytest.raises(DataError, match=f"bad.pt: .*{message}") as error:
        call(tmp_path / "bad.pt", "--out", tmp_path / "page")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_folders_and_damaged_files_are_one_line(tmp_path, monkeypatch):
    path = tmp_path / "text.pt"
    path.write_text("no tensors")
    (tmp_path / "link").symlink_to("nothing")
    for out, message in [
        (tmp_path, "exists already; choose a new folder"),
        (tmp_path / "link", "exists already; choose a new folder"),
        (tmp_path / "no" / "page", "no: no such folder"),
        (tmp_path / "page", "text.pt: no checkpoint"),
    ]:
        with pytest.raises(DataError, match=message):
            call(path, "--out", out)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "fairseq_phm.page", raising=False)
    monkeypatch.delattr("fairseq_phm.page", raising=False)
    with pytest.raises(DataError, match="pip install matplotlib"):
        call(path, "--out", tmp_path / "page")
