"""Write a file whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator

from .errors import DataError


@contextmanager
def written_whole(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file that takes the name ``path`` when the block has ended well.

    Args:
        path: of the file; another one of that name is replaced then, and not before.
        mode: ``w`` or ``wb``.
        options: of ``open``.

    Raises:
        DataError: the file cannot be written; nothing is left of it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open(mode, **options) as file:
            yield file
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"{path}: {reason}") from None
    finally:
        partial.unlink(missing_ok=True)
