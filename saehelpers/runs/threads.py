"""One thread, wherever what comes out is kept: sums over several differ in their last digits."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive

_ALLOWED = ContextVar("threads that torch may compute with", default=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context, or a function that it decorates, torch computes with one thread.

    Training does: the same config gives the same bits on any number of cores, in this process or
    in one of several beside each other. `several_threads` allows more.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(_ALLOWED.get())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@checked
@contextmanager
def several_threads(count: Positive) -> Iterator[None]:
    """Within the context, what computes with one thread elsewhere does so with `count`.

    For an SAE so large that its products take most of the time. Its last digits then depend on
    the number of threads.
    """
    token = _ALLOWED.set(count)
    try:
        yield
    finally:
        _ALLOWED.reset(token)
