"""Every bad call, and what came of it."""

import contextlib
import importlib
import inspect
import io
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from saehelpers.runs import REGISTRIES

from . import valid_data, valid_evaluation, valid_figures, valid_foundations, valid_training
from .accepted import ACCEPTED, known
from .by_hand import HAND
from .mutations import mutations
from .outcomes import outcome

ROOMS = ("runs", "symmetry", "saes", "datasets", "networks", "evaluation", "training",
         "experiments", "figures")  # fmt: skip
CALLS = (
    valid_foundations.CALLS | valid_data.CALLS | valid_evaluation.CALLS | valid_training.CALLS
    | valid_figures.CALLS
)  # fmt: skip


def public_names() -> set[str]:
    """Those of every room's `__all__`, but for its modules."""
    found = set()
    for room in ROOMS:
        module = importlib.import_module(f"saehelpers.{room}")
        for name in module.__all__:
            if not isinstance(getattr(module, name), ModuleType):
                found.add(f"{room}.{name}")
    return found


def valid(name: str) -> tuple[Callable, dict[str, Any]]:
    """A public name's function, and arguments that it takes."""
    with contextlib.chdir("."):  # one of them enters the folder of the notebooks
        made = CALLS[name]()
    if isinstance(made, tuple):
        return made
    room, thing = name.split(".")
    return getattr(importlib.import_module(f"saehelpers.{room}"), thing), made


def bad_calls() -> Iterator[tuple[str, str, str, Callable]]:
    """(name, argument, what is wrong with it, what makes the function and its arguments)."""
    for name, call in CALLS.items():
        if call is None:
            continue
        function, arguments = valid(name)
        several = arguments.pop("*", ())
        for i, value in enumerate(several):
            for text, bad in mutations(value):
                replaced = [*several[:i], bad, *several[i + 1 :]]
                yield name, _name_of_several(function), text, _maker(name, {"*": replaced})
        for argument, parameter in _parameters(function).items():
            if argument not in arguments and parameter.default in (parameter.empty, None):
                continue
            value = arguments.get(argument, parameter.default)
            for text, bad in mutations(value):
                yield name, argument, text, _maker(name, {argument: bad})
    for name, arguments, argument, text in HAND:
        yield name, argument, text, _maker(name, arguments)


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {n: p for n, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _name_of_several(function: Callable) -> str:
    parameters = inspect.signature(function).parameters.values()
    return next(p.name for p in parameters if p.kind is p.VAR_POSITIONAL)


def _maker(name: str, changed: dict[str, Any]) -> Callable:
    def make() -> tuple[Callable, dict[str, Any]]:
        function, arguments = valid(name)
        changes = changed() if callable(changed) else changed
        return function, arguments | changes

    return make


@contextlib.contextmanager
def silent_folder() -> Iterator[None]:
    """Within the context, a folder of its own is the current one, and nothing is printed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def every_outcome() -> list[dict[str, str]]:
    """A row for each bad call; `kind` is "harmless" for what `accepted` explains."""
    rows = []
    with silent_folder():
        for name, argument, text, make in bad_calls():
            kind, message = outcome(*make(), argument)
            if kind == "accepted" and known(ACCEPTED, name, argument, text):
                kind = "harmless"
            _forget_what_was_added()
            rows.append({"name": name, "argument": argument, "bad": text, "kind": kind,
                         "message": message[:300]})  # fmt: skip
    return rows


def _forget_what_was_added() -> None:
    for registry in REGISTRIES:
        for name in registry.added:
            del registry[name]
