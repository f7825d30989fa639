"""Downloads data sets, cleans them and prepares them for ``fairseq-train``.

The command is ``python -m data_prep``, the function :func:`data_prep.prepare.prepare`.
Each file in ``data_prep/datasets/`` declares one data set.
"""

import logging
import os
import sys
from contextlib import contextmanager
from typing import Iterator

SPLITS = ("train", "valid", "test")
LANGUAGES = ("de", "en", "et", "id", "mk", "ro", "vi")
"""Languages of the demo corpus: those of the paper's translation tables."""


class DataError(ValueError):
    """An error in the data. The message is one line; it names the file and the line."""


@contextmanager
def errors_in_one_line(name: str) -> Iterator[None]:
    """End the program with one line for what went wrong, which ``name`` begins.

    What libraries log as INFO or DEBUG is kept: fairseq, imported, shows it all.
    """
    logging.disable(logging.INFO)
    try:
        yield
        sys.stdout.flush()
    except ValueError as error:
        if "DataError" not in {kind.__name__ for kind in type(error).__mro__}:
            raise  # by name: the plugin's is another one, and slow to import
        sys.exit(f"{name}: {error}")
    except BrokenPipeError:  # as of | head: nobody reads what is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{name}: {where}{error.strerror or error}")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
