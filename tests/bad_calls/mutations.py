"""What an argument may not be, by what it is in a call that works."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")


def mutations(value: Any) -> Iterator[tuple[str, Any]]:
    """(description, value) of everything that is put into the place of an argument."""
    if isinstance(value, Tensor):
        yield from _of_tensor(value)
    elif isinstance(value, np.ndarray):
        yield from [("text", "nonsense"), ("empty", value[:0]), ("axis more", value[None])]
    elif isinstance(value, bool):
        yield from [("text", "yes"), ("number", 2)]
    elif isinstance(value, int):
        yield from [("-1", -1), ("0", 0), ("2.5", 2.5), ("text", "3"), ("NaN", NAN), ("None", None)]
    elif isinstance(value, float):
        yield from [("NaN", NAN), ("inf", INF), ("-1", -1.0), ("text", "x")]
    elif isinstance(value, str):
        yield from [("number", 3), ("None", None), ("misspelt", "misspelt-q"), ("empty", "")]
    elif isinstance(value, Path):
        yield from [("number", 3), ("empty text", ""), ("None", None)]
    elif isinstance(value, pd.DataFrame):
        misspelt = value.rename(columns=lambda name: f"{name}s")
        yield from [("text", "nonsense"), ("None", None), ("misspelt columns", misspelt)]
    elif isinstance(value, list | tuple):
        yield from [("text", "nonsense"), ("number", 3), ("items of another kind", [object()])]
        yield "empty", value[:0]
    elif isinstance(value, Mapping):
        yield from [("list", []), ("text", "nonsense"), ("items of another kind", {"q": object()})]
    else:
        yield from [("text", "nonsense-q"), ("number", 2.5)]
        if value is not None:
            yield "None", None


def _of_tensor(value: Tensor) -> Iterator[tuple[str, Any]]:
    yield from [("text", "nonsense"), ("None", None), ("list", value.tolist())]
    if value.ndim:
        yield from [("empty", value[:0]), ("axis fewer", value[0])]
    yield "axis more", value[None]
    if value.is_floating_point():
        for text, number in (("NaN", NAN), ("inf", INF)):
            bad = value.clone()
            bad.view(-1)[-1] = number
            yield text, bad
    else:
        yield "with a fraction", value.float() + 0.5
        if value.dtype == torch.long:
            yield "negative", value - 1000
