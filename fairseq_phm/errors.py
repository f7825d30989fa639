"""The error for input that cannot be used."""

import sys
from typing import Any


class DataError(ValueError):
    """Input that cannot be used; the message is one line that names file and line."""


def one_line(error: BaseException) -> str:
    """Say in one line what is wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
