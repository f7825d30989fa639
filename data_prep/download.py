"""Resumable downloads with checksums."""

from __future__ import annotations

import os
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from . import DataError
from .workspace import sha256

BUSY = (429, 500, 502, 503, 504)  # HTTP codes after which the request is repeated
SECONDS = 30  # of silence after which a connection counts as lost


def download(url: str, path: Path, expected: str = "") -> str:
    """Download ``url`` to ``path``, unless the file exists. Returns its SHA-256.

    A broken connection is renewed as long as bytes arrive. An incomplete download
    stays in ``path.part``. The next call continues it, unless the server has a new
    version. ``path`` itself exists only when it is complete.

    Args:
        expected: SHA-256 of the file in hexadecimal; "" accepts any.

    Raises:
        DataError: no connection, an HTTP error, or a wrong checksum. A download with a
            wrong checksum is removed.
    """
    expected = expected.lower()
    if not path.is_file():
        partial = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _session() as session:
            best = _size(partial)
            while True:
                try:
                    if _fetch(session, url, partial):
                        break
                    reason = "the server closed the connection"
                except (requests.RequestException, HTTPError) as error:
                    reason = _reason(error)
                except OSError as error:
                    raise DataError(f"{partial}: {error.strerror or error}") from None
                if _size(partial) <= best:
                    so_far = f"; {best:,} bytes so far, rerun to resume" if best else ""
                    raise DataError(f"{url}: {reason}{so_far}")
                best = _size(partial)
        found = sha256(partial)
        if expected and found != expected:
            size = partial.stat().st_size
            _version(partial).unlink(missing_ok=True)
            partial.unlink()
            raise DataError(
                f"{url}: {size:,} bytes have the SHA-256 {found}, expected: {expected}"
            )
        os.replace(partial, path)
        _version(partial).unlink(missing_ok=True)
        return found
    found = sha256(path)
    if expected and found != expected:
        raise DataError(
            f"{path} has the SHA-256 {found}, expected: {expected}; remove it"
        )
    return found


def _fetch(session: requests.Session, url: str, partial: Path) -> bool:
    """Request the rest of ``partial``. Returns whether it is complete."""
    version = _version(partial)
    headers = {"Accept-Encoding": "identity"}
    have = _size(partial) if version.is_file() else 0
    if have:
        headers["Range"] = f"bytes={have}-"
        headers["If-Range"] = version.read_text()
    with session.get(url, headers=headers, stream=True, timeout=SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            partial.unlink()
            return _fetch(session, url, partial)
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            have = 0
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        version.unlink(missing_ok=True)
        if tag and not tag.startswith("W/"):
            version.write_text(tag)
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with partial.open("ab" if have else "wb") as file, tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=partial.stem,
            disable=None,
        ) as bar:  # fmt: skip
            # As it is: servers declare archives to be a compressed Content-Encoding.
            for block in answer.raw.stream(1 << 16, decode_content=False):
                bar.update(file.write(block))
    return total is None or _size(partial) == total


def _session() -> requests.Session:
    session = requests.Session()
    again = Retry(total=2, backoff_factor=0.5, status_forcelist=BUSY)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    return session


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version(partial: Path) -> Path:
    """File with the ETag or the date of the version that ``partial`` is a part of."""
    return partial.with_name(partial.name + ".version")


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"{answer.status_code} {answer.reason}"
    cause = str(error).rpartition("Caused by ")[2].splitlines()
    return f"{type(error).__name__} {' '.join(cause[:1])}"
