"""Saving a run's folder: what is in it, where it came from, and by what damage is noticed.

    config.json    the config and its class, where it came from, and
        contents       fingerprints of the tensors and of every other file, by the file's name
        fingerprint    that of all the rest of config.json

A fingerprint is the first 16 digits of a SHA-256, of tensors their `identity`. It costs what
reading does: 0.06 s for 100 MB.
"""

import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from saehelpers.runs import distributed
from saehelpers.runs.checking import checked
from saehelpers.runs.files import save_tensors, temporary_folder
from saehelpers.runs.folders import VERSION, added_to, run_id, settings
from saehelpers.runs.identities import DIGITS, identity
from saehelpers.runs.wanted import Config, Metadata

if TYPE_CHECKING:
    import pandas

WEIGHTS = "weights.safetensors"


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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {name: text.encode() for name, text in files.items()}
    record = {"version": VERSION, "kind": type(config).__name__, "config": settings(config)}
    record |= added_to(config) | provenance() | ({"metadata": dict(metadata)} if metadata else {})
    contents = {name: fingerprint_of(data) for name, data in texts.items()}
    record = json.loads(json.dumps(record | {"contents": contents | {WEIGHTS: identity(tensors)}}))
    record["fingerprint"] = fingerprint_of(record)
    with temporary_folder(folder, overwrite) as temporary:
        text = json.dumps(record, indent=2) + "\n"
        (temporary / "config.json").write_text(text, encoding="utf-8")
        save_tensors(temporary / WEIGHTS, tensors)
        for name, data in texts.items():
            (temporary / name).write_bytes(data)


def fingerprint_of(content: bytes | dict[str, Any]) -> str:
    """That of a text file, whatever ends its lines; or of a record, but for its own."""
    if isinstance(content, dict):
        rest = {name: value for name, value in content.items() if name != "fingerprint"}
        content = json.dumps(rest, sort_keys=True).encode()
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:DIGITS]


@checked
def damaged(folder: Path, why: str) -> ValueError:
    return ValueError(
        f"the run in {folder} cannot be used: {why}. Delete that folder, or pass force=True, "
        "and it is trained again."
    )
