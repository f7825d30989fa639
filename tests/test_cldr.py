"""The demo corpus: repeatable, clean, disjoint."""

import unicodedata
from random import Random

import pytest
from babel import Locale

from data_prep import LANGUAGES, DataError, cldr, declaration
from data_prep.cldr import fact_makers, sentence_pairs, write_corpus
from data_prep.prepare import prepare
from data_prep.workspace import Workspace

pytestmark = pytest.mark.one_version

PAIRS = ["en-de", "en-vi", "en-id", "de-en", "ro-en", "en-et", "en-mk", "en-ro"]
SIZES = {"train": 300, "valid": 40, "test": 50}


@pytest.mark.parametrize("pair", PAIRS)
def test_sentences_are_clean_and_distinct(pair):
    pairs = sentence_pairs(*pair.split("-"), count=200, seed=3)
    assert len(pairs) == 200
    for side in zip(*pairs):
        assert len(set(side)) == 200
        for sentence in side:
            assert sentence == unicodedata.normalize("NFC", sentence)
            assert sentence == " ".join(sentence.split(" ")) == sentence.strip() != ""
            kinds = {unicodedata.category(char) for char in sentence if char != " "}
            assert not kinds & {"Cc", "Cf", "Zs", "Zl", "Zp"}


@pytest.mark.parametrize("src", LANGUAGES)
def test_every_ordered_pair_works(src):
    for tgt in set(LANGUAGES) - {src}:
        assert len(sentence_pairs(src, tgt, count=5, seed=1)) == 5


def test_the_seed_decides():
    first, again, other = (sentence_pairs("en", "de", 100, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sentence_pairs("en", "de", 30, 1) == first[:30]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_fact_has_one_translation(pair):
    locales = tuple(Locale(language) for language in pair.split("-"))
    rng, translations = Random(1), {}
    for maker in fact_makers(locales):
        for _ in range(150):
            source, target = maker(rng, locales)
            assert translations.setdefault(source, target) == target


def test_names_are_unique_in_both_languages():
    names = {"a": "1 2", "b": "3 2", "c": "4 5", "d": "6 7", "e": "6 8"}
    found = cldr._names(names, lambda key, at: names[key].split()[at], (0, 1))
    assert found == {"c": ("4", "5")}


def test_what_has_no_name_is_left_out():
    def render(amount, key, locale):
        return f"{amount} {'litres' if key == 'volume' else key}"  # as babel does

    assert cldr._named("volume mass", render, ("en", "de")) == ["volume"]


def test_hours_are_those_of_the_language():
    assert [cldr._hours(Locale(at)) for at in ("en", "de", "vi")] == ["hm", "Hm", "Hm"]


def test_facts_follow_cldr():
    text = {pair: repr(sentence_pairs("en", pair, 2000, 1)) for pair in ("de", "mk")}
    for known in (" kilometers", " Kilometer", "Germany", "Deutschland", "Donnerstag"):
        assert known in text["de"]
    assert "hundred and" in text["de"] and "hundred and" not in text["mk"]
    assert "четврток" in text["mk"]


def test_splits_are_disjoint_on_each_side(tmp_path):
    write_corpus("en", "ro", tmp_path, SIZES, seed=5)
    for language in ("en", "ro"):
        lines = {
            split: (tmp_path / f"{split}.{language}").read_text("utf-8").splitlines()
            for split in SIZES
        }
        assert {split: len(found) for split, found in lines.items()} == SIZES
        assert len(set().union(*lines.values())) == sum(SIZES.values())


@pytest.mark.parametrize("pair", [("en", "fr"), ("fr", "en")])
def test_other_languages_are_named(pair, tmp_path):
    with pytest.raises(DataError, match=r"unknown language 'fr' \(supported: de, en, "):
        write_corpus(*pair, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_generator_makes_the_corpus_anew(tmp_path, monkeypatch):
    code = {}

    def step(work, name, inputs, parameters, make, modules):
        code[name] = modules
        raise DataError("enough")

    monkeypatch.setattr(Workspace, "step", step)
    with pytest.raises(DataError, match="enough"):
        prepare(declaration.load("cldr"), tmp_path)
    assert cldr in code["raw"]
