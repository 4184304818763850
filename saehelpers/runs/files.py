"""Files and folders that are written whole or not at all, and what killed writers leave.

What is written has a hidden name at first, beside the one that it takes at the end:

    .<name>-<machine>-<process>-<token>           being written
    .<name>-<machine>-<process>-<token>-before    what had the name, until the new one has it

The next writer beside them clears those whose process is gone; a folder that was to take the
place of another and was whole takes it.
"""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saehelpers.runs.checking import checked

ASIDE = "-before"
HIDDEN = re.compile(rf"\.(.+)-([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{16}}({ASIDE})?")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that nothing but writing has
EXCHANGE_SECONDS = 2.0  # that a folder which is being exchanged is waited for, at most
POLL_SECONDS = 0.01


@checked
@contextmanager
def temporary_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` at the end: what exists is whole.

    A folder that is there by then is kept, and this one dropped; with `overwrite` it is put
    aside, and deleted once this one has its name. It and its files have the permissions that
    the umask gives: safetensors keeps others from reading what it writes.

    Raises:
        OSError: it cannot be written (names it); what was there is left as it was.
    """
    temporary = _beside(folder)
    aside = temporary.with_name(temporary.name + ASIDE)
    guarded(folder, temporary.mkdir)
    try:
        with naming_full_disk(folder):
            yield temporary
        for path in temporary.iterdir():
            path.chmod(temporary.stat().st_mode & 0o666)
        guarded(folder, lambda: _take_place(temporary, folder, aside if overwrite else None))
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)


def _take_place(temporary: Path, folder: Path, aside: Path | None) -> None:
    if aside is not None:
        with suppress(FileNotFoundError):
            folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise


@checked
@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end: the file is never half there.

    It has the permissions that the umask gives: safetensors keeps others from reading what it
    writes.

    Raises:
        OSError: it cannot be written (names it); what was there is left as it was.
    """
    temporary = _beside(path)
    guarded(path, lambda: temporary.touch(exist_ok=False))
    permissions = temporary.stat().st_mode
    try:
        with naming_full_disk(path):
            yield temporary
        temporary.chmod(permissions)
        guarded(path, lambda: temporary.replace(path))
    finally:
        temporary.unlink(missing_ok=True)


@checked
def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and to the disk before it takes the place of another."""
    with temporary_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, from whatever device and however they lie.

    Raises:
        OSError: it cannot be written; safetensors has an error of its own for that.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, None if metadata is None else dict(metadata))
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def guarded(
    path: Path, write: Callable[[], object], what: str = "it", another: str = "another"
) -> None:
    """Run a write; let its OSError name the path, and what to do."""
    try:
        write()
    except OSError as error:
        raise _unwritten(path, error, what, another) from error


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Within the context a full disk is told with the path; other errors are not of writing."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError, what: str = "it", another: str = "another") -> OSError:
    why = os.strerror(error.errno) if error.errno else error
    return type(error)(
        error.errno,
        f"{what} cannot be written ({why}); nothing was changed. Free space, make the folder "
        f"writable, or choose {another}",
        str(path),
    )


def read_json(path: Path) -> Any:
    """What a JSON file says, with a byte-order mark or without.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in UTF-8, no JSON, or so deeply nested that it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@checked
def check_free(folder: Path, overwrite: bool, suffixes: tuple[str, ...]) -> None:
    """Raise a FileExistsError if a folder to be written is there, unless it may be replaced.

    With `overwrite` it may if all that it holds are files with these suffixes.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{folder} is there already: pass overwrite=True to replace it, or choose another"
        )
    held = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    others = [path.name for path in held if path.is_dir() or path.suffix not in suffixes]
    if others:
        raise FileExistsError(
            f"{folder} is not replaced: {others[0]} in it is no file that would be written there. "
            "Choose another folder, or delete it yourself"
        )


def is_visible(path: Path, folder: Path) -> bool:
    """Whether nothing on the way from a folder to a path below it is hidden, as left-overs are."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


# --- what killed writers leave ---


def is_there(folder: Path) -> bool:
    """Whether a folder that writers exchange is there.

    One that is just being exchanged is waited for; an exchange that was killed is finished.
    """
    until = time.monotonic() + EXCHANGE_SECONDS
    while not folder.exists() and _left_beside(folder) and time.monotonic() < until:
        with suppress(OSError):  # a disk that cannot be written to
            clear_left(folder.parent)
        time.sleep(POLL_SECONDS)
    return folder.exists()


def clear_left(parent: Path) -> None:
    """Delete what writers that are gone have left in a folder; let whole folders take their place.

    A folder that was put aside is there for as long as the one that takes its place was whole.
    """
    for path, found in _left_in(parent):
        if found[2] != _machine() or psutil.pid_exists(int(found[3])):
            continue
        target = parent / found[1]
        if found[4] and not target.exists():
            new = path.with_name(path.name.removesuffix(ASIDE))
            with suppress(OSError):  # of two that clear, one is first
                (new if new.exists() else path).rename(target)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _left_in(parent: Path) -> list[tuple[Path, re.Match]]:
    """Those that were put aside first: they tell which of the others are whole."""
    if not parent.is_dir():
        return []
    found = [
        (path, HIDDEN.fullmatch(path.name)) for path in sorted(parent.glob(".*"), reverse=True)
    ]
    return [(path, match) for path, match in found if match is not None]


def _left_beside(folder: Path) -> bool:
    """Whether the folder was put aside, for another to take its place."""
    return any(match[1] == folder.name and match[4] for _, match in _left_in(folder.parent))


def _beside(path: Path) -> Path:
    """A hidden name beside a path, which nobody else has; `tempfile` would ignore the umask."""
    if not path.parent.is_dir():
        guarded(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
    clear_left(path.parent)
    token = f"{_machine()}-{os.getpid()}-{secrets.token_hex(8)}"
    return path.with_name(f".{path.name}-{token}")


@functools.cache
def _machine() -> str:
    """Tells machines apart that share a disk, and containers that number processes anew."""
    numbering = Path("/proc/self/ns/pid")
    told = f"{platform.node()} {numbering.readlink() if numbering.is_symlink() else ''}"
    return hashlib.sha256(told.encode()).hexdigest()[:8]
