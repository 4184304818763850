"""A run: a frozen config, its hash, its folder under models/, and where it came from.

    models/<name>-<hash8>/
        config.json           the config and its class, library versions, git commit, time
        weights.safetensors   the tensors
        history.csv           how training went

The folder is written under a temporary name and renamed, so that one that exists is whole.
`reading` reads a folder of which nothing but its path is known.
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from saehelpers.runs import distributed
from saehelpers.runs.checking import checked
from saehelpers.runs.registry import extensions
from saehelpers.runs.wanted import Config, Metadata, bare

if TYPE_CHECKING:
    import pandas

FLOATS = (float, float | None)
VERSION = 1  # raised when the meaning of training changes


def added_later(default: Any) -> Any:
    """A config field that was added when runs had been made already.

    It is left out of the hash and of config.json while it has its default, so that those
    runs keep their names.
    """
    return dataclasses.field(default=default, metadata={"added_later": True})


@checked
def settings(config: Config, nested: bool = True) -> dict[str, Any]:
    """A config dataclass as nested dicts (or a dict of its fields as they are).

    What a field of type float holds is a float: configs that are equal have one hash.
    """
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if bare(field.type) in FLOATS and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not (field.metadata.get("added_later") and value == field.default):
            values[field.name] = (
                settings(value) if nested and dataclasses.is_dataclass(value) else value
            )
    return values


@checked
def config_hash(config: Config) -> str:
    """SHA-256 of the sorted JSON of a config dataclass and the version of training.

    Of what it names that users have added, the code counts, too: see `registry.extensions`.
    """
    text = json.dumps({"version": VERSION, **settings(config), **_added(config)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _added(config: Config) -> dict[str, dict[str, str]]:
    """Nothing, where all that a config names is built in."""
    found = extensions(config)
    return {"extensions": found} if found else {}


@checked
def run_id(config: Config) -> str:
    """`<name>-<first 8 digits of the hash>`; the config has a field `name`."""
    return f"{config.name}-{config_hash(config)[:8]}"


@checked
def described(config: Config) -> str:
    """What `print` shows of a run: its class and id, what it is made of, and its settings.

    It is the `__str__` of every config that has a name. Settings that are off are left out.
    """
    values = {name: getattr(config, name) for name in settings(config) if name != "name"}
    parts = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    rest = {name: value for name, value in values.items() if name not in parts}
    paragraphs = [*(f"{name}: {part}" for name, part in parts.items()), listed(rest)]
    return "\n".join([f"{type(config).__name__} {run_id(config)}", *map(_wrapped, paragraphs)])


@checked
def listed(values: Mapping[str, Any]) -> str:
    """Settings by name, without those that are off."""
    shown = {k: v for k, v in values.items() if v or type(v) is int}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, 96, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


@checked
def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """First 8 digits of the SHA-256 of named tensors, as runs before `identity` have them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(tensor.flatten().view(torch.uint8).numpy())  # numpy knows no bfloat16
    return digest.hexdigest()[:8]


def now_utc() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def git_state() -> tuple[str, bool]:
    """(short commit, whether the tree was dirty) of the checkout; ("", False) outside one."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "", False


def provenance() -> dict[str, Any]:
    commit, dirty = git_state()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "created_utc": now_utc(),
    }


@checked
def save_run(
    root: Path | str,
    config: Config,
    tensors: dict[str, torch.Tensor],
    history: "pandas.DataFrame",
    overwrite: bool = False,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a run's folder below `root`, whole or not at all, and return it.

    A folder that is there already is kept (another process finished the same config first)
    unless `overwrite`. `files`: further text files, by name (a tokeniser, say). Of several
    processes that train together, all call this, and the first one writes.
    """
    folder = Path(root) / run_id(config)
    if distributed.is_first():
        rows = history.to_csv(index=False, float_format="%.6g")
        write_folder(folder, config, tensors, {**files, "history.csv": rows}, overwrite)
    distributed.wait_for_all()
    return folder


@checked
def write_folder(
    folder: Path,
    config: Config,
    tensors: Mapping[str, torch.Tensor],
    files: Mapping[str, str] = MappingProxyType({}),
    overwrite: bool = False,
    metadata: Metadata = MappingProxyType({}),
) -> None:
    """Write a config, tensors and text files into a folder of any name, as `save_run` does."""
    record = {"version": VERSION, "kind": type(config).__name__, "config": settings(config)}
    record |= _added(config) | provenance() | ({"metadata": dict(metadata)} if metadata else {})
    with temporary_folder(folder, overwrite) as temporary:
        (temporary / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, temporary / "weights.safetensors")
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")


@checked
def damaged(folder: Path, why: str) -> ValueError:
    return ValueError(
        f"the run in {folder} cannot be used: {why}. Delete that folder, or pass force=True, "
        "and it is trained again."
    )


@checked
@contextmanager
def temporary_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` at the end: what exists is whole.

    A folder that is there by then is kept, and this one dropped; with `overwrite` it is put
    aside, and deleted once this one has its name. It and its files have the permissions that
    the umask gives: safetensors keeps others from reading what it writes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(folder)
    aside = temporary.with_name(f"{temporary.name}-before")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            path.chmod(temporary.stat().st_mode & 0o666)
        if overwrite:
            with suppress(FileNotFoundError):
                folder.rename(aside)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)


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


@checked
@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end: the file is never half there.

    It has the permissions that the umask gives.
    """
    temporary = _beside(path)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A hidden name beside a path, which nobody else has; `tempfile` would ignore the umask."""
    return path.with_name(f".{path.name}-{secrets.token_hex(8)}")


@checked
def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and to the disk before it takes the place of another."""
    with temporary_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
