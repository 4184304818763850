"""Which library computes matrix products in float32."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

FLOAT32_ERROR = 1e-5


@contextmanager
def fast_products() -> Iterator[None]:
    """Products at torch's "medium" precision where the processor keeps float32 all the same.

    On CPUs that precision means another library (oneDNN), twice as fast on some. It is used only
    if a product comes out right to float32; where it means bfloat16 (CPUs with AMX), it is not.
    """
    before = torch.get_float32_matmul_precision()
    if _medium_is_float32():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _medium_is_float32() -> bool:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    found = left @ right
    torch.set_float32_matmul_precision(before)
    return bool((found - exact).abs().max() < FLOAT32_ERROR * exact.abs().max())
