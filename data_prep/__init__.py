"""Data sets: where they come from and how they become what fairseq trains on.

``python -m data_prep --help`` is the command, :func:`data_prep.prepare.prepare` the
function behind it, ``data_prep/datasets/`` has one declarative file per data set.
"""

SPLITS = ("train", "valid", "test")
LANGUAGES = ("de", "en", "et", "id", "mk", "ro", "vi")
"""Languages of the demo corpus: those of the paper's translation tables."""


class DataError(ValueError):
    """Data that cannot be used; the message is one line that names file and line."""
