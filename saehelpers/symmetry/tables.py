"""Multiplication tables: those of C_n and D_n, and whether one is a group's."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

LARGEST = 4096  # elements of a group: the table of more takes hundreds of megabytes


def parse(name: str) -> tuple[int, int] | None:
    """(n, 1) of the name C_n and (n, 2) of D_n; None of any other."""
    match = re.fullmatch(r"([CD])([1-9]\d*)", name)
    return None if match is None else (int(match[2]), "CD".index(match[1]) + 1)


@functools.cache
def table_of(name: str) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """The table and the generators of C_n or D_n, with h g = g^-1 h."""
    n, n_flips = parse(name)
    if n * n_flips > LARGEST:
        raise ValueError(f"{name} has more than {LARGEST} elements: its table is too large")
    element = np.arange(n * n_flips)
    p, q = element % n, element // n
    turned = p[:, None] + np.where(q == 1, -1, 1)[:, None] * p
    table = turned % n + n * ((q[:, None] + q) % n_flips)
    return tuple(map(tuple, table.tolist())), (1 % n, n)[:n_flips]


def as_table(table: Any) -> np.ndarray:
    """A multiplication table as an array (order, order); a ValueError if it is none."""
    try:
        array = np.asarray(table)
        shape = array.shape
    except ValueError:
        shape = "rows of different lengths"
    if len(shape) != 2 or shape[0] != shape[1] or 0 in shape:
        raise ValueError(f"a multiplication table must be square, (order, order), got {shape}")
    order = len(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"a multiplication table holds element numbers, got {array.dtype}")
    outside = np.argwhere((array < 0) | (array >= order))
    if len(outside):
        g, h = outside[0].tolist()
        raise ValueError(
            f"a table of {order} elements holds 0 to {order - 1}, got table[{g}][{h}] = "
            f"{array[g, h]}"
        )
    return array


def products(table: np.ndarray, generators: Sequence[int]) -> np.ndarray:
    """Which elements are products of generators: a mask."""
    made, new = np.zeros(len(table), bool), np.array([0])
    while len(new):
        made[new] = True
        found = np.unique(table[np.array(generators, int)][:, new])
        new = found[~made[found]]
    return made


def first_generators(table: np.ndarray) -> tuple[int, ...]:
    """The first elements whose products are all others."""
    chosen, made = [], np.arange(len(table)) == 0
    while not made.all():
        chosen.append(int(made.argmin()))
        made = products(table, chosen)
    return tuple(chosen) or (0,)


def check_laws(table: np.ndarray) -> None:
    """Raise a ValueError, which names the law and the place, unless a table is a group's."""
    elements = np.arange(len(table))
    for product, form in ((table[0], "0 {}"), (table[:, 0], "{} 0")):
        wrong = np.flatnonzero(product != elements)
        if len(wrong):
            raise ValueError(
                "the table is of no group: element 0 must be the identity, and "
                f"{form.format(wrong[0])} = {product[wrong[0]]}"
            )
    # (a g) b = a (g b) for all a and b is enough for generators g (Light's test)
    for g in first_generators(table):
        left, right = table[table[:, g]], table[:, table[g]]
        wrong = np.argwhere(left != right)
        if len(wrong):
            a, b = wrong[0].tolist()
            raise ValueError(
                f"the table is of no group: not associative, ({a} {g}) {b} = {left[a, b]} and "
                f"{a} ({g} {b}) = {right[a, b]}"
            )
    without = np.flatnonzero((table != 0).all(axis=1))
    if len(without):
        raise ValueError(
            f"the table is of no group: element {without[0]} has no inverse, no product of it is 0"
        )
