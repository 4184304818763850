"""The arithmetic of sparse latents on a GPU, in Triton.

One program of a kernel makes some columns of one sum, or some inner products: it reads the rows
that its pairs name, some pairs at a time, and adds up in registers, so that nothing is written but
the result.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

PAIRS, COLUMNS = 16, 256  # that a program works on at a time; powers of two
WIDER = {torch.float64: tl.float64}  # what is summed in; else float32


@triton.jit
@no_type_check  # a wrapper that checks types, as tests put around functions, has no source
def _sum_rows(
    rows, index, starts, weights, sums, n_pairs, d,
    PAIRS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    start = tl.load(starts + own)
    stop = tl.load(starts + own + 1, mask=own + 1 < tl.num_programs(0), other=n_pairs)
    total = tl.zeros((PAIRS, COLUMNS), dtype=WIDE)
    for first in range(start, stop, PAIRS):
        pairs = first + tl.arange(0, PAIRS)
        there = pairs < stop
        begins = tl.load(index + pairs, mask=there, other=0) * d
        weight = tl.load(weights + pairs, mask=there, other=0.0).to(WIDE)
        mask = there[:, None] & inside[None, :]
        some = tl.load(rows + begins[:, None] + columns[None, :], mask=mask, other=0.0).to(WIDE)
        total += weight[:, None] * some
    tl.store(sums + own * d + columns, tl.sum(total, axis=0), mask=inside)


@triton.jit
@no_type_check
def _multiply_rows(
    left_rows, right_rows, left, right, products, n_pairs, d,
    PAIRS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    pairs = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    there = pairs < n_pairs
    left_begins = tl.load(left + pairs, mask=there, other=0)[:, None] * d
    right_begins = tl.load(right + pairs, mask=there, other=0)[:, None] * d
    total = tl.zeros((PAIRS, COLUMNS), dtype=WIDE)
    for first in range(0, d, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)[None, :]
        mask = there[:, None] & (columns < d)
        left_part = tl.load(left_rows + left_begins + columns, mask=mask, other=0.0)
        right_part = tl.load(right_rows + right_begins + columns, mask=mask, other=0.0)
        total += left_part.to(WIDE) * right_part.to(WIDE)
    tl.store(products + pairs, tl.sum(total, axis=1), mask=there)


def sum_rows(rows: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """`saehelpers.saes.sparse.rows.sum_rows`."""
    d = rows.shape[1]
    sums = rows.new_empty(len(starts), d)
    grid = (len(starts), triton.cdiv(d, COLUMNS))
    wide = WIDER.get(rows.dtype, tl.float32)
    with torch.cuda.device_of(rows):  # Triton launches on the current one
        _sum_rows[grid](
            rows.contiguous(), index.contiguous(), starts, weights.contiguous(), sums, len(index),
            d, PAIRS=PAIRS, COLUMNS=COLUMNS, WIDE=wide,
        )  # fmt: skip
    return sums


def multiply_rows(left_rows: Tensor, right_rows: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`saehelpers.saes.sparse.rows.multiply_rows`."""
    products = left_rows.new_empty(len(left))
    if len(left):
        grid = (triton.cdiv(len(left), PAIRS),)
        wide = WIDER.get(left_rows.dtype, tl.float32)
        with torch.cuda.device_of(left_rows):
            _multiply_rows[grid](
                left_rows.contiguous(), right_rows.contiguous(), left.contiguous(),
                right.contiguous(), products, len(left), left_rows.shape[1],
                PAIRS=PAIRS, COLUMNS=COLUMNS, WIDE=wide,
            )  # fmt: skip
    return products
