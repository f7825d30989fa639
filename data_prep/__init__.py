"""Corpora: where sentences come from and how they become fairseq's binarised data."""
