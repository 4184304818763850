"""What every notebook begins with: its folder, and parameters that can work."""

import ast
import json
import operator
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from saehelpers.runs.checking import checked

FOLDER = "notebooks"


def enter_notebooks() -> Path:
    """Make the folder of the notebooks the current one, and return it.

    It is looked for above the current folder, wherever the kernel was started, and beside this
    package.

    Raises:
        FileNotFoundError: it is at neither place.
    """
    here, package = Path.cwd(), Path(__file__).resolve().parents[2]
    for folder in (here, *here.parents, package):
        found = folder / FOLDER
        if (found / "01_toy_model.ipynb").is_file():
            os.chdir(found)
            return found
    raise FileNotFoundError(
        f"the notebooks are neither at or above {here} nor beside the package in {package}: start "
        "the kernel inside the clone of the collection"
    )


@checked
def check_parameters(
    notebook: str,
    values: Mapping[str, Any],
    known: Mapping[str, Collection[Any]] | None = None,
    least: Mapping[str, float | int | str] | None = None,
    most: Mapping[str, float | int | str] | None = None,
    multiples: Mapping[str, int | str] | None = None,
    may_be_empty: Collection[str] = (),
) -> None:
    """Stop with a sentence where a parameter of a notebook cannot work.

    Args:
        notebook: the beginning of its file's name, "01" say.
        values: the parameters by name (`globals()`); each must be of the type that it has in the
            notebook's parameter cell.
        known: what parameters may be; of a list, each of its items.
        least, most: bounds of numbers; of a list or dict, of its numbers. A bound is a number, or
            the name of another parameter: all of its numbers.
        multiples: what numbers must be a multiple of: a number, or the name of a parameter.
        may_be_empty: lists that need no value; of the others, each needs one.

    Raises:
        TypeError: a parameter is of another type.
        ValueError: it is not among those known, beyond a bound, no multiple, or an empty list.
    """
    defaults = _defaults(notebook)
    for name in may_be_empty:
        if name not in defaults:
            raise ValueError(f"may_be_empty has {name!r}, which is no parameter of the notebook")
    for name, default in defaults.items():
        if name not in values:
            raise ValueError(f"values lacks {name}, a parameter of the notebook")
        _check_type(name, values[name], default)
        if isinstance(default, list) and values[name] in ([], ()) and name not in may_be_empty:
            raise ValueError(f"{name} is empty: it needs one value or more")
    for name, choices in (known or {}).items():
        for item in _items(values[name]):
            if item not in choices:
                listed = ", ".join(repr(choice) for choice in choices)
                raise ValueError(f"{name} has {item!r}, which is unknown; known are {listed}")
    for bounds, sentence, holds in (
        (least, "must be {} or more", operator.ge),
        (most, "must be {} or less", operator.le),
        (multiples, "must be a multiple of {}", lambda item, bound: item % bound == 0),
    ):
        for name, bound in (bounds or {}).items():
            _check_bound(name, bound, values, sentence, holds)


def _check_bound(name: str, bound, values: Mapping[str, Any], sentence: str, holds) -> None:
    for limit in _items(values[bound] if isinstance(bound, str) else bound):
        for item in _items(values[name]):
            if None not in (item, limit) and not holds(item, limit):
                shown = f"{limit:g} ({bound})" if isinstance(bound, str) else f"{limit:g}"
                raise ValueError(f"{name} {sentence.format(shown)}, got {item!r}")


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def _defaults(notebook: str) -> dict[str, Any]:
    """The parameters of a notebook, as its file has them."""
    found = list(enter_notebooks().glob(f"{notebook}*.ipynb"))
    if len(found) != 1:
        raise FileNotFoundError(f"notebook must begin one file's name, got {notebook!r}")
    (path,) = found
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    statements = ast.parse("".join(cell["source"])).body
    return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}


def _check_type(name: str, value: Any, default: Any) -> None:
    kinds = {bool: bool, int: int, float: (int, float), str: str, list: (list, tuple), dict: dict}
    kind = kinds.get(type(default), object)
    if value is None or (isinstance(value, kind) and isinstance(value, bool) <= (kind is bool)):
        return
    if default is None:
        return
    hint = ""
    if isinstance(value, str) and isinstance(default, list | dict):
        hint = f": papermill reads it with -y '{name}: {value}', not with -p"
    raise TypeError(
        f"{name} must be of type {type(default).__name__}, as {default!r} is, got {value!r}{hint}"
    )
