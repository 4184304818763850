"""What public functions and configs take, checked where somebody calls them.

`checked` reads a signature: its types, the shapes of its tensors, and what `wanted` says of
numbers and texts. Whatever is called from inside the package is let through: what a user gives
is looked at once, where it comes in, and never in a loop of training.
"""

import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import torch
from torch import Tensor

from saehelpers.runs.wanted import Allowed, Wanted, shown

INSIDE = "saehelpers."
PASSED_ON = ("dataclasses", "jaxtyping", "beartype")  # that call for whoever calls them
NOTHING = Allowed(0)
ROWS = 2**18  # of a tensor that are looked at in one go
NUMBERS = {"Float": "floating-point numbers", "Real": "numbers", "Bool": "truth values",
           "Int": "whole numbers", "Integer": "whole numbers", "UInt8": "bytes"}  # fmt: skip
WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text",
         Path: "a path", Tensor: "a tensor", type(None): "None"}  # fmt: skip


def checked(thing: Callable) -> Callable:
    """A function, or a class of data, whose arguments are checked where users call it.

    Raises:
        TypeError: an argument is of another type; names it, what it is and what is wanted.
        ValueError: a number or text is none of those wanted; a tensor is empty, not finite, of
            another shape, or of one that does not go with that of another argument.
    """
    return _checked(thing, always=False)


def checked_config(thing: type) -> type:
    """A dataclass whose fields are checked wherever an instance is made, inside as well.

    Numbers must be Python's own, and tuples tuples: a config is hashed and written to JSON.
    """
    return _checked(thing, always=True)


def _checked(thing: Callable, always: bool) -> Callable:
    if isinstance(thing, type):
        thing.__init__ = _checked(thing.__init__, always)
        return thing
    call = _Call(thing, always)

    @functools.wraps(thing)
    def check_and_call(*arguments: Any, **named: Any) -> Any:
        if not torch.compiler.is_compiling() and (always or _from_outside(sys._getframe(1))):
            call.check(arguments, named)
        return thing(*arguments, **named)

    return check_and_call


def _from_outside(frame: types.FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    while name.partition(".")[0] in PASSED_ON and frame.f_back is not None:
        frame = frame.f_back
        name = frame.f_globals.get("__name__", "")
    return not name.startswith(INSIDE)


class _Call:
    """A function's signature, with its annotations as they are once all modules are loaded."""

    def __init__(self, function: Callable, is_config: bool):
        self.function, self.is_config = function, is_config

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        names = vars(sys.modules[self.function.__module__])
        return {
            name: _evaluated(parameter.annotation, names)
            for name, parameter in self.signature.parameters.items()
            if parameter.annotation is not parameter.empty
        }

    def check(self, arguments: tuple, named: dict[str, Any]) -> None:
        try:
            given = self.signature.bind(*arguments, **named).arguments
        except TypeError:
            return  # Python says so itself, when the function is called
        check = _Check(self.is_config)
        for name, value in given.items():
            parameter = self.signature.parameters[name]
            if name not in self.hints or value is parameter.default:
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                check.items(name, value, self.hints[name])
            elif parameter.kind is not parameter.VAR_KEYWORD:
                check(name, value, self.hints[name])


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation that is text as what it names; of a package not imported here, the text."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except (NameError, AttributeError):
        return annotation


@dataclass
class _Check:
    """Raises an error unless a value is what a hint says.

    sizes: of axes that have a name, with the argument that each was first met in.
    """

    is_config: bool
    sizes: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def __call__(self, name: str, value: Any, hint: Any, allowed: Allowed = NOTHING) -> None:
        origin, parts = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return
        if origin is Annotated:
            self(name, value, parts[0], _also(allowed, parts[1:]))
            for wanted in parts[1:]:
                if isinstance(wanted, Wanted) and not wanted.holds(value):
                    raise ValueError(f"{name} must be {wanted.words}, got {shown(value)}")
        elif origin in (Union, types.UnionType):
            self.any_of(name, value, parts, allowed)
        elif hint is Tensor or hasattr(hint, "dim_str"):
            self.tensor(name, value, hint, allowed)
        elif origin is Literal:
            _demand(value in parts, name, value, hint)
        elif origin is tuple:
            several = tuple if self.is_config else Sequence
            _demand(isinstance(value, several) and not isinstance(value, str), name, value, hint)
            if parts[-1] is Ellipsis:
                self.items(name, value, parts[0], allowed)
            else:
                _demand(len(value) == len(parts), name, value, hint)
                for i, part in enumerate(parts):
                    self(f"{name}[{i}]", value[i], part, allowed)
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            _demand(isinstance(value, Mapping), name, value, hint)
            for key, item in value.items():
                self(f"{name}[{key!r}]", item, parts[1], allowed)
        elif isinstance(origin, type) and issubclass(origin, Iterable):
            if (
                origin is not list
                and hasattr(value, "__array__")
                and getattr(value, "ndim", 0) == 1
            ):
                value = list(value)  # an array, or a column of a table
            several = Sequence if issubclass(origin, Sequence) else Iterable
            _demand(isinstance(value, several), name, value, hint)
            _demand(not isinstance(value, str | bytes), name, value, hint)
            if isinstance(value, Sequence):
                self.items(name, value, parts[0], allowed)
        elif origin is Callable or hint is Callable:
            _demand(callable(value), name, value, hint)
        elif isinstance(hint, str):
            _demand(_is_called(type(value), hint), name, value, hint)
        elif isinstance(hint, type):
            self.instance(name, value, hint, allowed)

    def items(self, name: str, values: Sequence, hint: Any, allowed: Allowed = NOTHING) -> None:
        if isinstance(hint, type) and {*map(type, values)} <= {hint} - {float}:
            return
        for i, value in enumerate(values):
            self(f"{name}[{i}]", value, hint, allowed)

    def any_of(self, name: str, value: Any, hints: tuple, allowed: Allowed) -> None:
        """What fits none of several types: by the first whose type it is, why it does not."""
        if isinstance(value, str) and not value and Path in hints:
            raise ValueError(f"{name} must be a path, got ''")
        failed, sizes = None, dict(self.sizes)
        for hint in hints:
            try:
                return self(name, value, hint, allowed)
            except ValueError as error:
                failed = failed or error
            except TypeError as error:
                if f"{name}[" in str(error):
                    failed = failed or error
            self.sizes = dict(sizes)
        if failed is not None:
            raise failed
        raise TypeError(f"{name} must be {_words_of_any(hints)}, got {shown(value)}")

    def instance(self, name: str, value: Any, kind: type, allowed: Allowed) -> None:
        if kind is float:
            real = int | float if self.is_config else Real
            _demand(isinstance(value, real) and not isinstance(value, bool), name, value, kind)
            if Allowed.NUMBERS not in allowed and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        elif kind is int:
            whole = int if self.is_config else Integral
            _demand(isinstance(value, whole) and not isinstance(value, bool), name, value, kind)
        else:
            kind = bool | np.bool_ if kind is bool and not self.is_config else kind
            _demand(isinstance(value, kind), name, value, kind)

    def tensor(self, name: str, value: Any, hint: Any, allowed: Allowed) -> None:
        array = getattr(hint, "array_type", Tensor)
        _demand(isinstance(value, array), name, value, hint)
        if hint is not array:
            _demand(isinstance(value, _of_any_shape(hint)), name, value, hint)
        shape = tuple(value.shape)
        if Allowed.EMPTY not in allowed and 0 in shape:
            raise ValueError(
                f"{name} is empty, of shape {shape}: it needs one of each axis or more"
            )
        if hint is not array:
            self.shape(name, shape, hint.dim_str.split())
        if Allowed.NUMBERS not in allowed:
            check_finite(name, value)

    def shape(self, name: str, shape: tuple[int, ...], axes: list[str]) -> None:
        free = [axis for axis in axes if axis == "..." or axis.startswith("*")]
        wanted = f"({', '.join('|G|' if axis == 'order' else axis for axis in axes)})"
        n_free = len(shape) - len(axes) + 1
        if n_free < 0 or (not free and n_free != 1):
            raise ValueError(f"{name} must have the shape {wanted}, got {shape}")
        place = 0
        for axis in axes:
            size = shape[place] if axis not in free else shape[place : place + n_free]
            place += n_free if axis in free else 1
            if axis == "...":
                continue
            if axis.isdecimal():
                if int(axis) != size:
                    raise ValueError(f"{name} must have the shape {wanted}, got {shape}")
                continue
            before, other = self.sizes.setdefault(axis, (size, name))
            if before != size:
                and_other = f", as {other} has {before}" if other != name else ""
                raise ValueError(
                    f"{name} must have the shape {wanted}, got {shape}: its {axis} is {size}"
                    f"{and_other or f' and {before}'}"
                )


def _also(allowed: Allowed, metadata: tuple) -> Allowed:
    for more in metadata:
        allowed |= more if isinstance(more, Allowed) else NOTHING
    return allowed


def _demand(holds: bool, name: str, value: Any, hint: Any) -> None:
    if not holds:
        raise TypeError(f"{name} must be {_words(hint)}, got {shown(value)}")


def _is_called(kind: type, names: str) -> bool:
    """Whether a class, or one that it is made from, is called "package.Name", or one of several."""
    called = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__}
    return not called.isdisjoint(names.split(" | "))


@functools.cache
def _of_any_shape(hint: Any) -> Any:
    return hint.dtype[hint.array_type, "..."]


def check_finite(name: str, value: Tensor | np.ndarray) -> None:
    """Raise a ValueError unless all numbers of this tensor, or array, are finite."""
    if 0 not in value.shape and not _is_finite(value):
        raise ValueError(f"{name} has NaN or infinite values, of shape {tuple(value.shape)}")


def _is_finite(value: Tensor | np.ndarray) -> bool:
    """In one pass, without a copy; through a window where it is mapped from a file."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if not value.is_floating_point():
        return True
    parts = value.detach().split(ROWS) if value.ndim else [value.detach()]
    return all(bool(torch.stack(torch.aminmax(part)).isfinite().all()) for part in parts)


def _words_of_any(hints: tuple) -> str:
    words = [_words(hint) for hint in hints if hint is not str or Path not in hints]
    return " or ".join(dict.fromkeys(words))


def _words(hint: Any) -> str:
    """What a type is called in a sentence."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _words(parts[0])
    if origin in (Union, types.UnionType):
        return _words_of_any(parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is Callable or hint is Callable:
        return "a function"
    if hasattr(hint, "dim_str"):
        kind = NUMBERS.get(hint.dtype.__name__, "numbers")
        array = "an array" if hint.array_type is np.ndarray else "a tensor"
        return f"{array} ({', '.join(hint.dim_str.split())}) of {kind}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a dict, each value {_words(parts[1])}"
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"a tuple ({', '.join(map(_words, parts))})"
    if origin is not None and parts:
        return f"{'a tuple' if origin is tuple else 'a list'}, each item {_words(parts[0])}"
    return WORDS.get(hint) or (hint if isinstance(hint, str) else f"a {hint.__name__}")
