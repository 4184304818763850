"""Which library computes matrix products in float32."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FLOAT32_ERROR = 1e-5


@contextmanager
def fast_products(device: str) -> Iterator[None]:
    """On an AMD processor, products at torch's "medium" precision, if that keeps float32 there.

    On CPUs that precision means another library (oneDNN), which takes half the time on AMD's
    processors, and more time on Intel's. It is used only if a product comes out right to float32.
    On a GPU it would mean TensorFloat-32.
    """
    if device != "cpu" or not _is_amd() or not _medium_is_float32():
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not on Linux
        return False


@functools.cache
def _medium_is_float32() -> bool:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", enabled=False):
        found = left @ right
    torch.set_float32_matmul_precision(before)
    return bool((found - exact).abs().max() < FLOAT32_ERROR * exact.abs().max())
