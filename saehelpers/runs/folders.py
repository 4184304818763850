"""A run: a frozen config, its hash, its folder under models/, and where it came from.

    models/<name>-<hash8>/
        config.json           the config, library versions, git commit, time
        weights.safetensors   the tensors
        history.csv           how training went

The folder is written under a temporary name and renamed, so that one that exists is whole.
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from saehelpers.runs import distributed
from saehelpers.runs.extras import extra

if TYPE_CHECKING:
    import pandas

VERSION = 1  # raised when the meaning of training changes


def added_later(default: Any) -> Any:
    """A config field that was added when runs had been made already.

    It is left out of the hash and of config.json while it has its default, so that those
    runs keep their names.
    """
    return dataclasses.field(default=default, metadata={"added_later": True})


def settings(config: Any) -> dict[str, Any]:
    """A config dataclass as nested dicts."""
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if not (field.metadata.get("added_later") and getattr(config, field.name) == field.default)
    }
    return {
        name: settings(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
    }


def config_hash(config: Any) -> str:
    """SHA-256 of the sorted JSON of a config dataclass and the version of training."""
    text = json.dumps({"version": VERSION, **settings(config)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def run_id(config: Any) -> str:
    """`<name>-<first 8 digits of the hash>`; the config has a field `name`."""
    return f"{config.name}-{config_hash(config)[:8]}"


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """First 8 digits of the SHA-256 of named tensors: the same weights, the same digits."""
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


def save_run(
    root: Path | str,
    config: Any,
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
        _write_run(folder, config, tensors, history, overwrite, files)
    distributed.wait_for_all()
    return folder


def _write_run(folder, config, tensors, history, overwrite, files) -> None:
    with temporary_folder(folder) as temporary:
        record = {"version": VERSION, "config": settings(config), **provenance()}
        (temporary / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, temporary / "weights.safetensors")
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        history.to_csv(temporary / "history.csv", index=False, float_format="%.6g")
        if overwrite:
            shutil.rmtree(folder, ignore_errors=True)


def load_run(
    root: Path | str, config: Any
) -> tuple[dict[str, torch.Tensor], "pandas.DataFrame", dict[str, Any]] | None:
    """(tensors, history, record) of the run of this config; None if it was not trained yet.

    Raises:
        ValueError: the folder is damaged, or belongs to another config.
    """
    import pandas as pd

    folder = Path(root) / run_id(config)
    if not folder.exists():
        return None
    try:
        record = json.loads((folder / "config.json").read_text())
        with safe_open(folder / "weights.safetensors", framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        history = pd.read_csv(folder / "history.csv")
        same = record["config"] == json.loads(json.dumps(settings(config)))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise damaged(folder, repr(error)) from error
    if not same:
        raise damaged(folder, "its config.json describes another run")
    return tensors, history, record


def local_folder(source: Path | str, patterns: list[str]) -> Path:
    """A folder, as it is; or of a Hugging Face hub repository, with the files that are named.

    Raises:
        FileNotFoundError: it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    with extra("text"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"no SAEs at {str(source)!r}: neither a local folder nor to be reached on the "
            "Hugging Face hub. Pass a folder that holds them."
        ) from error


def damaged(folder: Path, why: str) -> ValueError:
    return ValueError(
        f"the run in {folder} cannot be used: {why}. Delete that folder, or pass force=True, "
        "and it is trained again."
    )


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` at the end: what exists is whole.

    A folder that is there by then is kept, and this one dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end: the file is never half there."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and to the disk before it takes the place of another."""
    with temporary_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
