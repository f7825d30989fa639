"""Corpora: where sentences come from and how they become fairseq's binarised data."""

SPLITS = ("train", "valid", "test")
LANGUAGES = ("de", "en", "et", "id", "mk", "ro", "vi")
"""Languages of the demo corpus: those of the paper's translation tables."""
