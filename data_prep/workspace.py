"""A data set's folder: steps that are whole or absent, and skipped when unchanged."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, List, Mapping, Sequence
from uuid import uuid4

from filelock import FileLock, Timeout

from . import DataError

logging.getLogger("filelock").setLevel(logging.WARNING)  # fairseq lets all speak

MANIFEST = "manifest.json"
RECORD = "step.json"


class Workspace:
    """A folder that one process at a time fills step by step.

    A step is a sub-folder. It is made beside its place, under a name that starts with
    a dot, and moved there when it is complete, with a record of what it was made from:
    hashes of its inputs, its parameters and its code. It is made again when one of
    these, or a file in it, is not as recorded.

    Raises:
        DataError: another process is at work in the folder.
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
        for left in self.folder.glob(".making-*"):
            shutil.rmtree(left, ignore_errors=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def step(
        self,
        name: str,
        inputs: Mapping[str, Path],
        parameters: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any]],
        code: Sequence[ModuleType],
    ) -> Path:
        """Folder of the step, filled by ``make(folder)`` unless it is there already.

        Args:
            name: of the step and its sub-folder.
            inputs: files that the result depends on, by names that do not change when
                the files move.
            parameters: what else it depends on; JSON values.
            make: fills an empty folder; what it returns goes into the record.
            code: modules that do the work; a change in them makes the step again.

        Raises:
            DataError: also for a full disk. The folder is then as it was before.
        """
        place = self.folder / name
        old = _read_record(place / RECORD)
        seen = old.get("seen", {})
        hashes = {key: _fingerprint(path, seen) for key, path in inputs.items()}
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
        start = time.time()
        # A name of its own: a child of a killed process may still write to an old one.
        partial = self.folder / f".making-{name}-{uuid4().hex[:8]}"
        try:
            partial.mkdir()
            result = dict(make(partial))
            record = {
                "stamp": stamp,
                "result": result,
                "seconds": round(time.time() - start, 1),
                "files": {
                    str(path.relative_to(partial)): _fingerprint(path, {})
                    for path in sorted(partial.rglob("*"))
                    if path.is_file()
                },
                "seen": {str(inputs[key]): found for key, found in hashes.items()},
            }
            write_json(partial / RECORD, record)
            if place.exists():
                os.replace(place, self.folder / f".making-{name}-old")
            os.replace(partial, place)
        except OSError as error:
            if error.filename and not str(error.filename).startswith(str(partial)):
                raise
            free = shutil.disk_usage(self.folder).free / 2**20
            raise DataError(
                f"{place}: {error.strerror} ({free:,.0f} MiB are free there)"
            ) from None
        finally:
            for left in self.folder.glob(f".making-{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        self.records[name] = record
        print(f"{name}: {_summary(result)} ({record['seconds']} s)", flush=True)
        return place

    def write_manifest(self, head: Mapping[str, Any]) -> Dict[str, Any]:
        """Write the manifest, unless nothing has changed; its contents.

        ``head``, then by step: result, seconds, what it was made from, hashes of its
        files. Its presence says that the folder is complete.
        """
        path = self.folder / MANIFEST
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        manifest = dict(head)
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


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is whole or absent."""
    partial = path.with_name(f".making-{path.name}")
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fingerprint(path: Path, seen: Mapping[str, List[Any]]) -> List[Any]:
    """Size, time and hash; the hash is only computed when size or time differ."""
    try:
        status = path.stat()
        known = seen.get(str(path))
        if known and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known
        return [status.st_size, status.st_mtime_ns, sha256(path)]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _read_record(path: Path) -> Dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _whole(place: Path, record: Mapping[str, Any]) -> bool:
    """Whether every file of a finished step is as recorded."""
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
