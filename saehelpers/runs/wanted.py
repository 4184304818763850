"""What numbers, texts and tables have to be, as annotations that `checking` reads."""

import dataclasses
import enum
import json
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Annotated, Any, Union

import torch
from torch import Tensor

LONGEST = 80  # characters of a value that are shown


class Allowed(enum.Flag):
    """Beside a type, what is refused elsewhere: tensors without samples; NaN and infinity."""

    EMPTY = enum.auto()
    NUMBERS = enum.auto()


@dataclass(frozen=True)
class Wanted:
    """What a value has to be, beyond its type, in words that follow "must be"."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: int | float) -> Wanted:
    return Wanted(f"{least:g} or more", lambda value: value >= least)


def one_of(choices: Collection[Any]) -> Wanted:
    """One of these, which may become more."""
    return Wanted(
        f"one of {', '.join(map(repr, choices))}",
        lambda value: isinstance(value, Hashable) and value in choices,
    )


def with_columns(*names: str) -> Wanted:
    """A table of pandas that has these columns."""
    return Wanted(
        f"a table with the columns {', '.join(names)}",
        lambda table: set(names) <= set(table.columns),
    )


def _is_device(text: str) -> bool:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError):  # a CPU build of torch asserts that there is CUDA
        return False
    return True


NOT_EMPTY = Wanted(
    "one or more, not empty", lambda value: not isinstance(value, Sized) or len(value)
)
EMPTY, RAW = Allowed.EMPTY, Allowed.EMPTY | Allowed.NUMBERS
Positive = Annotated[int, at_least(1)]
Count = Annotated[int, at_least(0)]
Seed = Annotated[int, Wanted("from 0 to 2^63 - 1", lambda seed: 0 <= seed < 2**63)]
Rate = Annotated[float, Wanted("above 0", lambda value: value > 0)]
Weight = Annotated[float, at_least(0)]
Share = Annotated[float, Wanted("from 0 to 1", lambda share: 0 <= share <= 1)]
Open = Annotated[float, Wanted("above 0 and below 1", lambda share: 0 < share < 1)]
Cosine = Annotated[float, Wanted("from -1 to 1", lambda cosine: -1 <= cosine <= 1)]
Name = Annotated[str, Wanted("a text that is not empty", bool)]
Device = Annotated[str, Wanted("a device that torch finds here, 'cpu' or 'cuda'", _is_device)]


def _is_json(value: Mapping) -> bool:
    try:
        json.dumps(dict(value))
    except (TypeError, ValueError):
        return False
    return True


def _is_from_zero(numbers: Tensor) -> bool:
    return not (numbers.dtype.is_signed and numbers.numel()) or int(numbers.min()) >= 0


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


Config = Annotated[Any, Wanted("a config, an instance of a dataclass", _is_config)]
AnyExecutor = Annotated[
    Any, Wanted("an executor, with `submit`", lambda one: hasattr(one, "submit"))
]
Metadata = Annotated[Mapping[str, Any], Wanted("of what JSON has: texts, numbers, lists", _is_json)]
FROM_ZERO = Wanted("of numbers from 0 up", _is_from_zero)


def bare(hint: Any) -> Any:
    """A type without what is wanted of its values."""
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(map(bare, typing.get_args(hint)))]  # noqa: UP007
    return hint


def check_columns(argument: str, table: Any, **names: str | Sequence[str]) -> None:
    """Raise a ValueError unless a table, which is this argument, has the columns others name."""
    for name, columns in names.items():
        for column in [columns] if isinstance(columns, str) else columns:
            if column not in table.columns:
                raise ValueError(
                    f"{name} must be of columns of {argument}, got {column!r}: it is {shown(table)}"
                )


def shown(value: Any) -> str:
    """A value in a few words, for errors."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        if value.ndim == 0:
            return f"a tensor of one number, {value.item()}"
        return f"a tensor of shape {tuple(value.shape)} and type {kind}"
    if hasattr(value, "columns") and hasattr(value, "to_csv"):
        return f"a table with the columns {', '.join(map(str, value.columns))}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape} and type {value.dtype}"
    short = reprlib.Repr()
    short.maxstring = short.maxother = LONGEST
    return short.repr(value)
