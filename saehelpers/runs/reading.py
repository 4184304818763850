"""Reading a folder that holds a run, or another thing that was saved, wherever it lies."""

import dataclasses
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from safetensors import SafetensorError, safe_open

from saehelpers.runs import folders
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Config, Wanted

if TYPE_CHECKING:
    import pandas


@checked
def load_run(
    root: Path | str, config: Config
) -> tuple[dict[str, torch.Tensor], "pandas.DataFrame", dict[str, Any]] | None:
    """(tensors, history, record) of the run of this config; None if it was not trained yet.

    Raises:
        ValueError: the folder is damaged, or belongs to another config.
    """
    import pandas as pd

    folder = Path(root) / folders.run_id(config)
    if not folder.exists():
        return None
    try:
        record = json.loads((folder / "config.json").read_text())
        tensors = _tensors(folder)
        history = pd.read_csv(folder / "history.csv")
        same = record["config"] == json.loads(json.dumps(folders.settings(config)))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise folders.damaged(folder, repr(error)) from error
    if not same:
        raise folders.damaged(folder, "its config.json describes another run")
    return tensors, history, record


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


@checked
def local_folder(source: Path | str, names: Iterable[str], subfolder: str = "") -> Path:
    """A folder, as it is; or of a Hugging Face hub repository, with the files that are named.

    `subfolder`: the folder in it that is meant, and that the files are in.

    Raises:
        FileNotFoundError: it is neither.
    """
    if Path(source).exists():
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
        record = json.loads(path.read_text(encoding="utf-8"))
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
    if version > folders.VERSION:
        raise ValueError(
            f"{folder} was written by a later release of saehelpers, in version {version} of the "
            f"format; this one reads up to {folders.VERSION}: upgrade it"
        )
    return record


def _instead(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if folder.is_file():
        return "that is a file; pass the folder that it lies in"
    if (folder / "cfg.json").exists():
        return "that is an SAE of SAELens, which saehelpers.saes.load_sae_lens reads"
    below = sorted(str(path.parent) for path in folder.glob("*/config.json"))
    if below:
        some = ", ".join(below[:3]) + (", ..." if len(below) > 3 else "")
        return f"it has no config.json. Those below it have, pass one of them: {some}"
    return "it has no config.json"


@checked
def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder, by name.

    Raises:
        ValueError: the file that they are in is missing or damaged.
    """
    try:
        return _tensors(folder)
    except FileNotFoundError as error:
        raise unreadable(folder, "it has no weights.safetensors") from error
    except (OSError, SafetensorError) as error:
        raise unreadable(folder, f"its weights.safetensors is damaged ({error})") from error


Record = Annotated[
    dict[str, Any],
    Wanted("a record with its config", lambda record: isinstance(record.get("config"), dict)),
]


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
