"""Reading a folder that holds a run, or another thing that was saved, wherever it lies."""

import dataclasses
import functools
import json
import typing
import warnings
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from safetensors import SafetensorError, safe_open

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.files import is_there, is_visible, read_json
from saehelpers.runs.folders import VERSION, run_id, settings
from saehelpers.runs.identities import identity
from saehelpers.runs.saving import WEIGHTS, damaged, fingerprint_of
from saehelpers.runs.wanted import Config, Wanted

if TYPE_CHECKING:
    import pandas

Record = Annotated[
    dict[str, Any],
    Wanted("a record with its config", lambda record: isinstance(record.get("config"), dict)),
]


@checked
def load_run(
    root: Path | str, config: Config
) -> tuple[dict[str, torch.Tensor], "pandas.DataFrame", dict[str, Any]] | None:
    """(tensors, history, record) of the run of this config; None if it was not trained yet.

    Raises:
        ValueError: the folder is damaged, or belongs to another config.
    """
    folder = Path(root) / run_id(config)
    while is_there(folder):
        version = _version(folder)
        try:
            return _read_run(folder, config)
        except (OSError, ValueError) as error:
            # another process may have put another in its place meanwhile: then that one is read
            if version and _version(folder) == version:
                raise damaged(folder, str(error)) from error
    return None


def _version(folder: Path) -> tuple[int, ...]:
    """Tells a folder from others that take its place; nothing if there is none."""
    with suppress(FileNotFoundError):
        about = folder.stat()
        return about.st_ino, about.st_mtime_ns, about.st_ctime_ns
    return ()


def _read_run(
    folder: Path, config: Any
) -> tuple[dict[str, torch.Tensor], "pandas.DataFrame", dict[str, Any]]:
    import pandas as pd

    record = read_json(folder / "config.json")
    if not (isinstance(record, dict) and isinstance(record.get("config"), dict)):
        raise ValueError("its config.json is none of a run")
    if record["config"] != json.loads(json.dumps(settings(config))):
        raise ValueError("its config.json describes another run")
    _check_record(folder, record)
    try:
        datetime.fromisoformat(record.get("created_utc"))
    except (TypeError, ValueError) as error:
        raise ValueError("its config.json does not say when it was made") from error
    read = _check_files(folder, record)
    history = read.get("history.csv") or (folder / "history.csv").read_bytes()
    return _checked_tensors(folder, record), pd.read_csv(BytesIO(history)), record


def _checked_tensors(folder: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"its {WEIGHTS} is damaged ({error})") from error
    _check_contents(WEIGHTS, identity(tensors), record)
    return tensors


def _check_record(folder: Path, record: dict[str, Any]) -> None:
    """Raise a ValueError if a record is not as it was saved; say so if it cannot be told."""
    if "fingerprint" not in record and "contents" not in record:
        _say_unchecked(folder.parent)
    elif record.get("fingerprint") != fingerprint_of(record):
        raise ValueError("its config.json is not as it was saved")


@functools.cache
def _say_unchecked(parent: Path) -> None:
    """Once for all runs in a folder."""
    warnings.warn(
        f"runs in {parent} that were saved by an earlier release have no fingerprints: whether "
        "they are as they were saved cannot be checked",
        stacklevel=2,
    )


def _check_files(folder: Path, record: dict[str, Any], whole: bool = True) -> dict[str, bytes]:
    """Those beside the weights, as they are; all that were saved, if it is the whole folder."""
    names = set(record.get("contents", {})) - {WEIGHTS}
    read = {n: (folder / n).read_bytes() for n in names if whole or (folder / n).exists()}
    for name, data in sorted(read.items()):
        _check_contents(name, fingerprint_of(data), record)
    return read


def _check_contents(name: str, found: str, record: dict[str, Any]) -> None:
    if found != record.get("contents", {}).get(name, found):
        raise ValueError(f"its {name} is not as it was saved")


@checked
def local_folder(source: Path | str, names: Iterable[str], subfolder: str = "") -> Path:
    """A folder, as it is; or of a Hugging Face hub repository, with the files that are named.

    `subfolder`: the folder in it that is meant, and that the files are in.

    Raises:
        FileNotFoundError: it is neither.
    """
    if is_there(Path(source)):
        return Path(source) / subfolder
    with extra("text"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

    patterns = [f"{subfolder}/{name}".lstrip("/") for name in names]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns)) / subfolder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"nothing at {str(source)!r}: neither a local folder nor to be reached on the "
            "Hugging Face hub. Pass a folder that is there, or a repository's name, owner/name."
        ) from error


@checked
def unreadable(folder: Path, why: str) -> ValueError:
    """The error that says why a folder that somebody gave cannot be loaded."""
    return ValueError(
        f"{folder} cannot be loaded: {why}. Copy or download it once more, or train it again."
    )


@checked
def read_record(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        FileNotFoundError: it has none; says what is there instead.
        ValueError: it is damaged, of something else, or of a later version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no run in {folder}: {_instead(folder)}")
    try:
        record = read_json(path)
    except ValueError as error:
        raise unreadable(folder, f"its config.json is damaged ({error})") from error
    found = record if isinstance(record, dict) else {}
    version = found.get("version")
    if not (isinstance(found.get("config"), dict) and isinstance(version, int)):
        raise ValueError(
            f"{folder} holds no run: its config.json has no 'version' and 'config'. Models of "
            "Hugging Face are read by load_pretrained_language_model and load_encoder of "
            "saehelpers.networks"
        )
    if version > VERSION:
        raise ValueError(
            f"{folder} was written by a later release of saehelpers, in version {version} of the "
            f"format; this one reads up to {VERSION}: upgrade it"
        )
    try:
        _check_record(folder, record)
        _check_files(folder, record, whole=False)
    except ValueError as error:
        raise unreadable(folder, str(error)) from error
    return record


def _instead(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if folder.is_file():
        return "that is a file; pass the folder that it lies in"
    if (folder / "cfg.json").exists():
        return "that is an SAE of SAELens, which saehelpers.saes.load_sae_lens reads"
    found = [path for path in folder.glob("*/config.json") if is_visible(path, folder)]
    below = sorted(str(path.parent) for path in found)
    if below:
        some = ", ".join(below[:3]) + (", ..." if len(below) > 3 else "")
        return f"it has no config.json. Those below it have, pass one of them: {some}"
    return "it has no config.json"


@checked
def read_tensors(folder: Path, record: Record) -> dict[str, torch.Tensor]:
    """The tensors of a folder with this config.json, by name.

    Raises:
        ValueError: the file that they are in is missing, damaged, or not as it was saved.
    """
    try:
        return _checked_tensors(folder, record)
    except FileNotFoundError as error:
        raise unreadable(folder, f"it has no {WEIGHTS}") from error
    except (OSError, ValueError) as error:
        raise unreadable(folder, str(error)) from error


@checked
def read_config(folder: Path, record: Record, classes: Iterable[type]) -> Any:
    """The config that a record tells of, an instance of one of the dataclasses.

    A record names its class; those that were written before it did are known by their fields.

    Raises:
        ValueError: it is of no such class, or its values do not fit.
    """
    values, classes = record["config"], list(classes)
    known = ", ".join(cls.__name__ for cls in classes)
    if "kind" in record:
        found = [cls for cls in classes if cls.__name__ == record["kind"]]
        what = f"a {record['kind']}"
    else:
        found = [cls for cls in classes if _has_fields_of(cls, values)]
        what = f"of no kind that is known by the fields {', '.join(values)}"
    if not found:
        raise ValueError(f"{folder} cannot be loaded: it is {what}. What can be is: {known}")
    try:
        return _rebuilt(found[0], values)
    except (AttributeError, TypeError) as error:
        raise unreadable(
            folder, f"its config.json is of no {found[0].__name__} ({error})"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{folder} cannot be loaded: {error}. What a notebook has added to SAEs must be "
            "there before; what a later release has added needs that release"
        ) from error


def _has_fields_of(cls: type, values: dict[str, Any]) -> bool:
    fields = dataclasses.fields(cls)
    needed = {field.name for field in fields if not field.metadata.get("added_later")}
    return needed <= set(values) <= {field.name for field in fields}


def _rebuilt(cls: type, values: dict[str, Any]) -> Any:
    """A config from its settings as they come back from JSON, where tuples are lists.

    It is not checked: a setting that was allowed when the run was made, or that a notebook had
    added, is none of what loading needs. What the run is made of, its SAE, is checked.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}")
    config = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise TypeError(f"it lacks {field.name!r}")
        value = values.get(field.name, field.default)
        if dataclasses.is_dataclass(hints[field.name]):
            value = dataclasses.replace(_rebuilt(hints[field.name], value))
        value = tuple(value) if isinstance(value, list) else value
        object.__setattr__(config, field.name, value)
    return config
