"""What comes of a call: an error that is clear, one that is not, or none."""

import ast
import contextlib
import functools
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import saehelpers

PACKAGE = str(Path(saehelpers.__file__).parent)
CALLED_WRONGLY = ("missing", "unexpected keyword argument", "positional argument")


def outcome(function: Callable, arguments: dict[str, Any], name: str) -> tuple[str, str]:
    """(kind, message) of a call with a bad argument of this name."""
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.chdir("."):
            _call(function, arguments)
    except Exception as error:
        return _kind(error, name), f"{type(error).__name__}: {error}"
    return "accepted", ""


def _call(function: Callable, arguments: dict[str, Any]) -> None:
    arguments = dict(arguments)
    several = arguments.pop("*", ())
    result = function(*several, **arguments)
    if isinstance(result, AbstractContextManager) and hasattr(result, "gen"):
        with result:
            return
    if isinstance(result, Iterator):
        list(result)


def _kind(error: Exception, name: str) -> str:
    if isinstance(error, TypeError) and any(words in str(error) for words in CALLED_WRONGLY):
        return "clear"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not (frame.filename.startswith(PACKAGE) and frame.lineno in _raises(frame.filename)):
        return "deep"
    return "clear" if re.search(rf"\b{re.escape(name)}\b", str(error)) else "unnamed"


@functools.cache
def _raises(file: str) -> set[int]:
    """The lines of a file that raise an error of its own, or hand one on that was made there."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
