"""Downloads data sets, cleans them and prepares them for ``fairseq-train``.

The command is ``python -m data_prep``, the function :func:`data_prep.prepare.prepare`.
Each file in ``data_prep/datasets/`` declares one data set.
"""

SPLITS = ("train", "valid", "test")
LANGUAGES = ("de", "en", "et", "id", "mk", "ro", "vi")
"""Languages of the demo corpus: those of the paper's translation tables."""


class DataError(ValueError):
    """An error in the data. The message is one line; it names the file and the line."""
