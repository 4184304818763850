"""Tables on disk: locked while they are written, written whole, and known again when read.

toy.csv            the table, or toy.csv.gz, which has a checksum of its own
.toy.csv.check     CRC-32 of what was written last, and of what is written now
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock

from saehelpers.runs.files import guarded, write_atomically

OWN = "own"  # the folder of tables that were measured here
_guarded = partial(guarded, what="results", another="another with SAVE_PATH")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    _guarded(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
    lock = FileLock(path.with_name(f"{path.name.split('.')[0]}.lock"))
    _guarded(path, lock.acquire)
    try:
        yield
    finally:
        lock.release()


def read_text(path: Path) -> tuple[str, bool]:
    """What a table holds, uncompressed, and whether that was written here.

    Nothing if there is none. An empty .gz is cut short. Whatever others have made is taken for
    written: only beside what was written here lies a checksum.

    Raises:
        ValueError: it cannot be read.
    """
    data = path.read_bytes() if path.exists() else b""
    text = _decoded(path, data)
    while not (known := _is_known(path, text)):
        before, data = data, path.read_bytes()
        if data == before:  # or else another process has replaced it
            break
        text = _decoded(path, data)
    return text, known


def changed(path: Path) -> ValueError:
    return ValueError(
        f"{path} is not as it was written: damaged, or changed by hand. To keep it as it is, "
        f"delete {_check_path(path)}"
    )


def write_text(path: Path, text: str) -> None:
    """Replace a table, so that a process killed at any time leaves the old one or the new."""
    data = text.encode("utf-8")
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    elif path.parent.name == OWN:  # the old one is known until the new one is there
        old = [_check(_decoded(path, path.read_bytes()))] if path.exists() else []
        both = "\n".join([*old, _check(text)])
        _guarded(path, lambda: write_atomically(_check_path(path), both.encode()))
    _guarded(path, lambda: write_atomically(path, data))


def _decoded(path: Path, data: bytes) -> str:
    try:
        if path.suffix == ".gz" and path.exists():
            data = gzip.decompress(data or b"-")
        return data.decode("utf-8").replace("\r\n", "\n")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def _check(text: str) -> str:
    """Whatever blank lines and quotation marks an editor has added."""
    text = text.replace('"', "").lstrip("\n")
    while "\n\n" in text:
        text = text.replace("\n\n", "\n")
    return f"{zlib.crc32(text.encode()):08x}"


def _check_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.check")


def _checks(path: Path) -> list[str]:
    beside = _check_path(path)
    return beside.read_text(encoding="utf-8").split() if beside.exists() else []


def _is_known(path: Path, text: str) -> bool:
    checks = _checks(path)
    return not checks or not text or _check(text) in checks
