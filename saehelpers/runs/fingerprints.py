"""A few digits that are the same for code that does the same."""

import dataclasses
import dis
import functools
import hashlib
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

import torch

PLAIN = int | float | complex | str | bytes | bool | None


def code_fingerprint(thing: Any) -> str:
    """First 8 digits of the SHA-256 of what a function or class does, or what is made of them.

    Bytecode counts, not the text, so that comments do not matter and every process of one
    release of Python finds the same digits. So do numbers, strings and tensors that the code
    names, and functions and classes of its own module; those of other modules do by name alone.
    """
    return hashlib.sha256("\n".join(_parts(thing, None, set())).encode()).hexdigest()[:8]


def _parts(thing: Any, module: str | None, seen: set[int]) -> Iterator[str]:
    """What tells a thing, as code of a module sees it, from others."""
    if isinstance(thing, FunctionType | type):
        yield thing.__name__  # pickled by value, a class forgets where it was defined
        if module in (None, thing.__module__) and id(thing) not in seen:
            seen.add(id(thing))
            parts = _of_class if isinstance(thing, type) else _of_function
            yield from parts(thing, thing.__module__, seen)
    elif isinstance(thing, PLAIN):
        yield repr(thing)
    elif isinstance(thing, torch.Tensor):
        from saehelpers.runs.folders import fingerprint  # whose runs depend on code

        yield fingerprint({"": thing})
    elif isinstance(thing, tuple | list):
        yield from _of_each(thing, module, seen)
    elif type(thing) is dict:  # no registry, whose contents others decide
        yield from _of_each((part for item in thing.items() for part in item), module, seen)
    elif isinstance(thing, set | frozenset):
        yield from sorted(_of_each(thing, module, seen))
    elif isinstance(thing, staticmethod | classmethod):
        yield from _parts(thing.__func__, module, seen)
    elif isinstance(thing, property):
        yield from _of_each((thing.fget, thing.fset), module, seen)
    elif isinstance(thing, functools.cached_property):
        yield from _parts(thing.func, module, seen)
    elif isinstance(thing, functools.partial):
        yield from _of_each((thing.func, thing.args, thing.keywords), module, seen)
    elif dataclasses.is_dataclass(thing):
        values = (getattr(thing, field.name) for field in dataclasses.fields(thing))
        yield from _of_each(values, module, seen)
    else:
        yield type(thing).__qualname__


def _of_each(things: Iterable[Any], module: str | None, seen: set[int]) -> Iterator[str]:
    for thing in things:
        yield from _parts(thing, module, seen)


def _of_function(function: FunctionType, module: str, seen: set[int]) -> Iterator[str]:
    yield from _of_each((function.__defaults__, function.__kwdefaults__), module, seen)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, module, seen)
    for code in _codes(function.__code__):
        yield code.co_code.hex()
        yield repr(code.co_names)
        constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
        yield from _of_each((c for c in constants if c != function.__doc__), module, seen)
        read = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        for name in sorted(read & function.__globals__.keys()):
            yield from _parts(function.__globals__[name], module, seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _of_class(cls: type, module: str, seen: set[int]) -> Iterator[str]:
    yield from _of_each(cls.__bases__, module, seen)
    for name, value in vars(cls).items():
        function = isinstance(value, FunctionType)
        if function or not name.startswith("__"):
            yield name
            yield from _parts(value, module, seen)
