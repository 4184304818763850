"""Fingerprints of files, which are read once."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from saehelpers.runs.checking import checked
from saehelpers.runs.folders import write_atomically

SIDECAR = ".fingerprint"  # ends the name of the file beside another that keeps its fingerprint
LARGE = 2**26  # bytes of a file whose fingerprint is kept


@checked
def file_fingerprint(path: Path | str) -> str:
    """64 hexadecimal digits: the SHA-256 of a file.

    They are kept in a file beside it, `<name>.fingerprint`, with its size and time of change,
    and taken from there while these are the same, so that a large file is read once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what is kept beside the file is no fingerprint.
    """
    path = Path(path)
    about = path.stat()
    now = {"size": about.st_size, "changed_ns": about.st_mtime_ns}
    beside = path.with_name(path.name + SIDECAR)
    kept = _read_sidecar(beside)
    if kept and {name: kept[name] for name in now} == now:
        return kept["sha256"]
    with path.open("rb") as file:
        digits = hashlib.file_digest(file, "sha256").hexdigest()
    if about.st_size >= LARGE:  # a small one is read as fast
        record = json.dumps({**now, "sha256": digits}).encode()
        with contextlib.suppress(OSError):  # a folder that cannot be written to: read it again
            write_atomically(beside, record)
    return digits


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if {*kept} == {"size", "changed_ns", "sha256"} and len(kept["sha256"]) == 64:
            return kept
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{path} is no fingerprint of {path.name.removesuffix(SIDECAR)}: delete it")
