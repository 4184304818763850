"""Fingerprints of files, kept beside them: a large file is read once, and damage is noticed.

<name>.fingerprint    the size of the file, when it was changed, its SHA-256, and `own`, which
                      tells whether these are as they were written
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from saehelpers.runs.checking import checked
from saehelpers.runs.files import read_json, write_atomically

LARGE = 2**26  # bytes: a smaller file is read as fast as its fingerprint
SIDECAR = ".fingerprint"
FIELDS = ("size", "changed_ns", "sha256")


@checked
def file_fingerprint(path: Path | str) -> str:
    """64 hexadecimal digits: the SHA-256 of a file.

    That of a large file is kept beside it, and taken from there while the file's size and time of
    change are the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what is kept beside the file is no fingerprint.
    """
    path = Path(path)
    about, kept = path.stat(), _kept(path)
    if kept and (kept["size"], kept["changed_ns"]) == (about.st_size, about.st_mtime_ns):
        return kept["sha256"]
    digits = _digits(path)
    if about.st_size >= LARGE:
        with contextlib.suppress(OSError):  # a folder that cannot be written to: read it again
            _keep(path, about, digits)
    return digits


def keep_fingerprint(written: Path, path: Path) -> None:
    """Keep the fingerprint of a file that was written and is about to be renamed to `path`."""
    _keep(path, written.stat(), _digits(written))


def check_file(path: Path) -> None:
    """Raise a ValueError if a file is not the one whose fingerprint is kept beside it, if any is.

    The whole file is read: 0.06 s for 100 MB, and what the disk takes.
    """
    kept = _kept(path)
    if kept and kept["sha256"] != _digits(path):
        raise ValueError(f"{path} is damaged: it is not as it was written")


def _digits(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path, about: os.stat_result, digits: str) -> None:
    record = dict(zip(FIELDS, (about.st_size, about.st_mtime_ns, digits), strict=True))
    write_atomically(_beside(path), json.dumps(record | {"own": _own(record)}).encode())


def _kept(path: Path) -> dict[str, Any] | None:
    beside = _beside(path)
    try:
        record = read_json(beside)
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if isinstance(record, dict) and set(record) == {*FIELDS}:
        return None  # of an earlier release, which could not tell whether it is as it was written
    if isinstance(record, dict) and record == record | {"own": _own(record)}:
        return record
    raise ValueError(f"{beside} is no fingerprint of {path.name}: delete it")


def _own(record: dict[str, Any]) -> str:
    text = json.dumps([record.get(name) for name in FIELDS])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)
