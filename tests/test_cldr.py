"""The demo corpus: repeatable, clean, disjoint, complete or absent."""

import unicodedata
from pathlib import Path
from random import Random

import pytest
from babel import Locale

from data_prep import LANGUAGES, DataError
from data_prep.cldr import fact_makers, sentence_pairs, write_corpus

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


def test_facts_follow_cldr():
    text = {pair: repr(sentence_pairs("en", pair, 2000, 1)) for pair in ("de", "mk")}
    for known in (" kilometers", " Kilometer", "Germany", "Deutschland", "Donnerstag"):
        assert known in text["de"]
    assert "hundred and" in text["de"] and "hundred and" not in text["mk"]
    assert "четврток" in text["mk"]


def test_splits_are_disjoint_on_each_side(tmp_path):
    out = tmp_path / "corpus"
    write_corpus("en", "ro", out, SIZES, seed=5)
    for language in ("en", "ro"):
        lines = {
            split: (out / f"{split}.{language}").read_text("utf-8").splitlines()
            for split in SIZES
        }
        assert {split: len(found) for split, found in lines.items()} == SIZES
        assert len(set().union(*lines.values())) == sum(SIZES.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    write = Path.write_bytes

    def fail_later(path, data):
        if path.name == "valid.de":
            raise OSError("disk full")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail_later)
    with pytest.raises(DataError, match="corpus: disk full"):
        write_corpus("en", "de", tmp_path / "corpus", SIZES)
    assert list(tmp_path.iterdir()) == []


def test_existing_data_is_kept(tmp_path):
    (tmp_path / "train.en").write_text("mine\n")
    with pytest.raises(FileExistsError, match="not empty"):
        write_corpus("en", "de", tmp_path, SIZES)
    assert (tmp_path / "train.en").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("src", "tgt", "named"), [("en", "fr", "'fr'"), ("xx", "de", "'xx'"), ("de",) * 3]
)
def test_bad_languages_are_named(src, tgt, named, tmp_path):
    with pytest.raises(ValueError, match=named) as caught:
        write_corpus(src, tgt, tmp_path / "corpus")
    assert "de, en, et, id, mk, ro, vi" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
