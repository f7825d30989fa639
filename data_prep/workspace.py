"""The folder of a data set: complete steps, skipped when nothing has changed."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import logging
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence
from uuid import uuid4

from filelock import FileLock, Timeout

from . import DataError

logging.getLogger("filelock").setLevel(logging.WARNING)  # fairseq logs every INFO

MANIFEST = "manifest.json"
RECORD = "step.json"
MADE_BY = ("command", "versions")
"""Entries of the manifest that say how the steps were made."""
PARTIAL = ".making-"
"""Start of the names of incomplete files and folders."""


class Workspace:
    """A folder that is filled step by step, by one process at a time.

    A step is a sub-folder. It is written under a temporary name and renamed when it is
    complete. Its record holds hashes of its inputs, its parameters, its code and its
    files. The step runs again when one of these has changed.

    Raises:
        DataError: another process uses the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: Dict[str, Dict[str, Any]] = {}

    def __enter__(self) -> Workspace:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise DataError(f"{self.folder}: another process is at work here") from None
        self._clean()
        return self

    def __exit__(self, *_: Any) -> None:
        self._clean()
        self._lock.release()

    def _clean(self) -> None:
        """Remove what killed processes, and their children, have left."""
        for left in self.folder.glob(f"{PARTIAL}*"):
            _remove(left)

    def step(
        self,
        name: str,
        inputs: Mapping[str, Path],
        parameters: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any]],
        code: Sequence[ModuleType],
    ) -> Path:
        """Run a step, unless its folder is up to date. Returns this folder.

        Args:
            name: of the step and its sub-folder.
            inputs: files that the result depends on. The keys are names that stay the
                same when the files move.
            parameters: other values that the result depends on, as JSON.
            make: fills an empty folder and returns what goes into the record.
            code: modules that do the work. The step runs again when one changes.

        Raises:
            DataError: also for a full disk. The folder is then as it was before.
        """
        place = self.folder / name
        old = _read_record(place / RECORD)
        hashes = {
            key: _fingerprint(path, old.get("seen", {})) for key, path in inputs.items()
        }
        sources = "".join(inspect.getsource(module) for module in code)
        stamp = {
            "inputs": {key: found[2] for key, found in hashes.items()},
            "parameters": dict(parameters),
            "code": hashlib.sha256(sources.encode()).hexdigest(),
        }
        if old.get("stamp") == json.loads(json.dumps(stamp)) and _whole(place, old):
            self.records[name] = old
            print(f"{name}: unchanged", flush=True)
            return place
        (self.folder / MANIFEST).unlink(missing_ok=True)
        seen = {str(inputs[key]): found for key, found in hashes.items()}
        record = _make(place, make, {"stamp": stamp, "seen": seen})
        self.records[name] = record
        summary = _summary(record["result"])
        print(f"{name}: {summary} ({record['seconds']} s)", flush=True)
        return place

    def write_manifest(self, head: Mapping[str, Any]) -> Dict[str, Any]:
        """Write the manifest, unless nothing has changed. Returns its contents.

        :data:`MADE_BY` stays what it was where all steps are unchanged.

        It holds ``head`` and, for each step, the result, the seconds, what the step
        was made from, and the hashes of its files. It exists only when all steps are
        complete.
        """
        path = self.folder / MANIFEST
        manifest = json.loads(json.dumps(head))
        known = _read_record(path)
        manifest.update({key: known[key] for key in MADE_BY if key in known})
        if {key: known.get(key) for key in manifest} == manifest:
            return known
        manifest["steps"] = {
            name: {
                **record["result"],
                "seconds": record["seconds"],
                "made_from": record["stamp"],
                "sha256": {file: found[2] for file, found in record["files"].items()},
            }
            for name, record in self.records.items()
        }
        write_json(path, manifest)
        return manifest


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, for a file or a folder.

    When the block ends, what was written there replaces ``path``. When it raises,
    ``path`` stays as it was and the temporary file or folder is removed.

    Raises:
        DataError: it cannot be written, as on a full disk.
    """
    # A unique name: a child of a killed process may still write to an old one.
    partial = path.with_name(f"{PARTIAL}{path.name}-{uuid4().hex[:8]}")
    replaced = partial.with_name(f"{partial.name}-old")
    try:
        yield partial
        if path.is_dir():
            os.replace(path, replaced)
        os.replace(partial, path)
    except OSError as error:
        if error.filename and not str(error.filename).startswith(str(partial)):
            raise
        free = ""
        if error.errno == errno.ENOSPC and path.parent.is_dir():
            size = shutil.disk_usage(path.parent).free / 2**20
            free = f" ({size:,.0f} MiB are free there)"
        raise DataError(f"{path}: {error.strerror or error}{free}") from None
    finally:
        if replaced.exists() and not path.exists():  # interrupted in between
            os.replace(replaced, path)
        _remove(partial)
        _remove(replaced)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, with :func:`atomic_path`."""
    with atomic_path(path) as partial:
        partial.write_text(_as_json(value), encoding="utf-8")


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fingerprint(path: Path, seen: Mapping[str, List[Any]]) -> List[Any]:
    """Size, time and hash of a file. The hash is taken from ``seen`` if it has the
    same size and time.
    """
    try:
        status = path.stat()
        known = seen.get(str(path))
        if known and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known
        return [status.st_size, status.st_mtime_ns, sha256(path)]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _make(
    place: Path,
    make: Callable[[Path], Mapping[str, Any]],
    made_from: Mapping[str, Any],
) -> Dict[str, Any]:
    """Fill the folder of a step. Returns its record, which starts as ``made_from``."""
    start = time.time()
    with atomic_path(place) as partial:
        partial.mkdir()
        record = {
            **made_from,
            "result": dict(make(partial)),
            "seconds": round(time.time() - start, 1),
            "files": {
                str(path.relative_to(partial)): _fingerprint(path, {})
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
        }
        (partial / RECORD).write_text(_as_json(record), encoding="utf-8")
    return record


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read_record(path: Path) -> Dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _whole(place: Path, record: Mapping[str, Any]) -> bool:
    """Whether every file of a complete step has the recorded hash."""
    known = {str(place / name): found for name, found in record["files"].items()}
    try:
        return all(
            _fingerprint(Path(path), known)[2] == found[2]
            for path, found in known.items()
        )
    except DataError:
        return False


def _summary(result: Mapping[str, Any]) -> str:
    """A result in one line: ``train 58 pairs, dropped empty 2; valid 9 pairs``."""
    parts = []
    for key, value in result.items():
        if not isinstance(value, dict):
            parts.append(f"{key} {value}")
            continue
        words = [f"{k} {v:,}" for k, v in value.items() if isinstance(v, (int, float))]
        for kind in ("dropped", "repaired"):
            found = ", ".join(f"{k} {v:,}" for k, v in value.get(kind, {}).items())
            words += [f"{kind}: {found}"] if found else []
        parts += [f"{key} {', '.join(words)}"] if words else []
    return "; ".join(parts)
