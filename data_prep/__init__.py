"""Downloads data sets, cleans them and prepares them for ``fairseq-train``.

The command is ``python -m data_prep``, the function :func:`data_prep.prepare.prepare`.
Each file in ``data_prep/datasets/`` declares one data set.
"""

import os
import sys
from typing import NoReturn

SPLITS = ("train", "valid", "test")
LANGUAGES = ("de", "en", "et", "id", "mk", "ro", "vi")
"""Languages of the demo corpus: those of the paper's translation tables."""


class DataError(ValueError):
    """An error in the data. The message is one line; it names the file and the line."""


def close_output() -> NoReturn:
    """End the program: nobody reads what it prints."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
