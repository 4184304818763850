"""A run: a frozen config, its hash, its folder under models/, and where it came from.

    models/<name>-<hash8>/
        config.json           the config and its class, library versions, git commit, time
        weights.safetensors   the tensors
        history.csv           how training went

`saving` writes the folder, `reading` reads it, also one of which nothing but its path is known.
"""

import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Mapping
from typing import Any

import torch

from saehelpers.runs.checking import checked
from saehelpers.runs.registry import extensions
from saehelpers.runs.wanted import Config, bare

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

    Of what it names that users have added, the code counts, too, and of what is built in and has
    changed, the version: see `registry.extensions`.
    """
    text = json.dumps({"version": VERSION, **settings(config), **added_to(config)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def added_to(config: Config) -> dict[str, dict[str, str]]:
    """Nothing, where all that a config names is built in and does what it always did."""
    found = extensions(config)
    return {"extensions": found} if found else {}


@checked
def run_id(config: Config) -> str:
    """`<name>-<first 8 digits of the hash>`; the config has a field `name`.

    Raises:
        ValueError: the name is none of a folder, but leads elsewhere, or hides it.
    """
    return f"{checked_name(config)}-{config_hash(config)[:8]}"


def checked_name(config: Config) -> str:
    """The name of a config, which may begin that of a folder or file."""
    name = config.name
    if name.startswith(".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise ValueError(
            "name begins that of a run's folder: it may neither begin with a dot nor hold / or \\, "
            f"got {name!r}"
        )
    return name


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
