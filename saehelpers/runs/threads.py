"""One thread, wherever what comes out is kept: sums over several differ in their last digits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context, or a function that it decorates, torch computes with one thread.

    Training does: the same config gives the same bits on any number of cores, in this process or
    in one of several beside each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
