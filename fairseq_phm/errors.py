"""The error for input that cannot be used."""

import sys
from contextlib import contextmanager
from typing import Any, Iterator


class DataError(ValueError):
    """Input that cannot be used; the message is one line that names file and line."""


def one_line(error: BaseException) -> str:
    """Say in one line what is wrong: the first one, and what its colon leads to.

    >>> one_line(RuntimeError("Error in loading:\\n\\tUnexpected key: a\\n\\tand b"))
    'Error in loading: Unexpected key: a'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    several = 2 if lines and lines[0].endswith(":") else 1
    return " ".join(lines[:several])[:300] or type(error).__name__


@contextmanager
def wrong_options_are_data_errors() -> Iterator[None]:
    """Turn a ValueError into a DataError, which a program shows in one line."""
    show_data_errors_in_one_line()
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise DataError(one_line(error)) from error


def show_data_errors_in_one_line() -> None:
    """Let a program that ends with a DataError print its message alone."""
    others = sys.excepthook
    if getattr(others, "shows_data_errors", False):
        return

    def show(kind: type, error: BaseException, trace: Any) -> None:
        if issubclass(kind, DataError):
            print(f"error: {error}", file=sys.stderr)
        else:
            others(kind, error, trace)

    show.shows_data_errors = True
    sys.excepthook = show
