"""Finite groups: their multiplication, apart from what the elements do to anything."""

import functools
import hashlib
import json
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY, Name
from saehelpers.symmetry import tables


@checked
@dataclass(frozen=True, repr=False)
class Group:
    """A finite group: its multiplication, and elements that generate it.

    Elements are numbered 0 .. order - 1, and element 0 is the identity. How they act is told
    apart from the group: on inputs by a function (see `image_action`), on vectors by a
    `LinearAction`.

    The cyclic and dihedral groups have names: `Group.named("C4")`, whose element p is g^p, and
    `Group.named("D4")`, whose element p + n q is g^p h^q, with h g = g^-1 h. Any other group is
    made of its table, of permutations (`from_permutations`), or of two groups (`product`).

    Args:
        name: a label; those of C_n and D_n are theirs alone.
        table: (order, order), of nested sequences, an array or a tensor, and kept as tuples:
            `table[g][h]` is the element g h, which acts as h and then as g.
        generators: elements whose products are all others; by default the first that suffice.

    Raises:
        ValueError: the table is not that of a group (says which law fails, and where), or the
            generators do not make all of it.
    """

    name: Name
    table: Any
    generators: tuple = ()

    def __post_init__(self):
        table = tables.as_table(self.table)
        tables.check_laws(table)
        object.__setattr__(self, "table", tuple(map(tuple, table.tolist())))
        generators = tuple(
            self.checked(one, "generators") for one in self.generators
        ) or tables.first_generators(table)
        object.__setattr__(self, "generators", generators)
        made = int(tables.products(table, generators).sum())
        if made < self.order:
            raise ValueError(
                f"the generators {generators} make {made} of the {self.order} elements"
            )
        if self.has_name and (self.table, generators) != tables.table_of(self.name):
            raise ValueError(
                f"the name {self.name!r} is that of a cyclic or dihedral group with another "
                "table, or other generators: choose another"
            )

    @classmethod
    @checked
    def named(cls, name: Name) -> "Group":
        """The group called `name`: "C" or "D" and its number of rotations, as in "C4"."""
        if tables.parse(name) is None:
            raise ValueError(
                f"unknown group {name!r}; known are the cyclic groups 'C1', 'C2', ... and the "
                "dihedral groups 'D1', 'D2', ...; any other must be given itself, not by name"
            )
        return _named(name)

    @classmethod
    @checked
    def from_permutations(cls, name: Name, generators: Sequence[Sequence[int]]) -> "Group":
        """The group that permutations of 0 .. n - 1 generate; `permutation[i]` is where i goes.

        Elements are numbered by their words (see `words`): of a rotation and a flip as in D_n.
        """
        permutations = [tuple(map(operator.index, permutation)) for permutation in generators]
        if not permutations:
            raise ValueError(
                "a group of permutations needs a generator, got none: generators is empty"
            )
        degree = len(permutations[0])
        for i, permutation in enumerate(permutations):
            if sorted(permutation) != list(range(degree)):
                raise ValueError(
                    f"generators[{i}] must be a permutation of 0 to {degree - 1}, "
                    f"got {list(permutation)}"
                )
        words = _words(permutations, _after, tuple(range(degree)))
        number = {element: i for i, element in enumerate(words)}
        left = [np.array([number[_after(g, h)] for h in words]) for g in permutations]
        table = [
            functools.reduce(lambda row, g: left[g][row], reversed(word), np.arange(len(words)))
            for word in words.values()
        ]
        return cls(name, np.stack(table), tuple(number[g] for g in permutations))

    @classmethod
    @checked
    def product(cls, first: "Group", second: "Group", name: Name | None = None) -> "Group":
        """The direct product: element a + |first| b is a of the first and b of the second."""
        a, b = np.array(first.table), np.array(second.table)
        # [b, a, d, c]: (a, b) times (c, d)
        table = a[None, :, None] + len(a) * b[:, None, :, None]
        order = first.order * second.order
        own = [g for g in first.generators if g]
        own += [first.order * g for g in second.generators if g]
        return cls(
            f"{first.name}x{second.name}" if name is None else name,
            table.reshape(order, order),
            tuple(own),
        )

    @checked
    def subgroup(self, name: Name, elements: Annotated[Sequence[int], NOT_EMPTY]) -> "Group":
        """The subgroup of these elements under a name; its element i is the i-th of them.

        Raises:
            ValueError: they make others or do not begin with element 0, or the name is that of a
                cyclic or dihedral group with another table.
        """
        number = {element: i for i, element in enumerate(elements)}
        try:
            table = [[number[self.compose(g, h)] for h in elements] for g in elements]
        except KeyError as error:
            raise ValueError(
                f"elements must have all of their products among them, {error.args[0]} is missing "
                f"in {list(elements)}"
            ) from error
        named = tables.parse(name) is not None
        return Group(name, table, Group.named(name).generators if named else ())

    @property
    def order(self) -> int:
        """|G|, the number of elements."""
        return len(self.table)

    @property
    def has_name(self) -> bool:
        """Whether the group is one of C_n and D_n, which their name tells."""
        return tables.parse(self.name) is not None

    @property
    def identifier(self) -> str:
        """What stands for the group in configs: the name of C_n or D_n; of any other group its
        name and 8 digits of the SHA-256 of its table and generators."""
        if self.has_name:
            return self.name
        text = json.dumps([self.table, self.generators])
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def compose(self, second, first) -> int:
        """The element that acts as `first`, then as `second`."""
        return self.table[self.checked(second, "second")][self.checked(first, "first")]

    def inverse(self, elements) -> int | Tensor:
        """The element that undoes an element, or a tensor of those of a tensor of elements."""
        elements = self.checked(elements)
        if isinstance(elements, int):
            return self.table[elements].index(0)
        return self.multiplication.eq(0).int().argmax(1).to(elements.device)[elements]

    def element_order(self, element) -> int:
        """How often an element acts until all is as before."""
        return len(self.powers(self.checked(element, "element")))

    def powers(self, element) -> list[int]:
        """The identity, and the powers of an element until they come back to it."""
        element, powers = self.checked(element, "element"), [0]
        while (power := self.compose(element, powers[-1])) != 0:
            powers.append(power)
        return powers

    def checked(self, elements: Any, name: str = "elements") -> int | Tensor:
        """An element as an int, or a tensor of elements as it is.

        Raises:
            ValueError: it is not of this group.
        """
        where = f"{name}: {self.name} has elements 0 to {self.order - 1}, got"
        if isinstance(elements, Tensor) and elements.ndim:
            if elements.dtype == torch.bool or elements.is_floating_point():
                raise ValueError(f"{where} a tensor of {elements.dtype}")
            outside = elements[(elements < 0) | (elements >= self.order)]
            if len(outside):
                raise ValueError(f"{where} {outside[0].item()} in a tensor of elements")
            return elements
        try:
            element = operator.index(elements)
        except TypeError:
            element = -1
        if isinstance(elements, bool) or not 0 <= element < self.order:
            raise ValueError(f"{where} {elements!r}")
        return element

    @functools.cached_property
    def multiplication(self) -> Int[Tensor, "order order"]:
        """The table as a tensor."""
        return torch.tensor(self.table)

    @functools.cached_property
    def words(self) -> tuple[tuple[int, ...], ...]:
        """Of each element a word: places of generators in `generators`, the last acts first."""
        words = _words(self.generators, lambda g, h: self.table[g][h], 0)
        return tuple(words[element] for element in range(self.order))

    @property
    def letters(self) -> list[str]:
        """A letter for each generator: g and h; g1, g2, ... of more than two."""
        n = len(self.generators)
        return ["g", "h"][:n] if n <= 2 else [f"g{i + 1}" for i in range(n)]

    def __str__(self) -> str:
        abelian = "" if torch.equal(self.multiplication, self.multiplication.T) else "not "
        letters = self.letters
        made = [
            f"{letter} = {g} (order {self.element_order(g)})"
            for letter, g in zip(letters, self.generators, strict=True)
        ]
        shown = [
            f"{element} = {_spelled(word, letters)}" for element, word in enumerate(self.words[:12])
        ]
        rest = ", ..." if self.order > len(shown) else ""
        return (
            f"{self.name}: {self.order} elements, {abelian}abelian\n"
            f"generators: {', '.join(made)}\nelements: {', '.join(shown)}{rest}"
        )

    def __repr__(self) -> str:
        return f"<Group {self.identifier} of {self.order} elements>"

    def __reduce__(self):
        if self.has_name:
            return Group.named, (self.name,)
        return Group, (self.name, self.table, self.generators)


@checked
def rotations_and_flips(group: Group) -> tuple[int, int]:
    """(n, 1) of C_n, and (n, 2) of D_n, whose element p + n q is g^p h^q.

    Raises:
        ValueError: another group.
    """
    if not group.has_name:
        raise ValueError(f"rotations and flips make up C_n and D_n, not {group.name}")
    return tables.parse(group.name)


@checked
def given_or_named(identifier: str, group: Group | None) -> Group:
    """The group that a config names, which must be given unless it is a C_n or D_n.

    Raises:
        ValueError: another one was given, or none where one is needed.
    """
    if group is None:
        return Group.named(identifier)
    if group.identifier != identifier:
        raise ValueError(
            f"the config's group is {identifier!r}, the group given is {group.identifier!r}, by "
            "their identifier"
        )
    return group


# --- making groups ---


@functools.cache
def _named(name: str) -> Group:
    return Group(name, *tables.table_of(name))


def _after(second: tuple[int, ...], first: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(second[i] for i in first)


def _words(
    generators: Sequence[Hashable], multiply: Callable, identity: Hashable
) -> dict[Hashable, tuple[int, ...]]:
    """A word for each element that generators make, in the order in which they are numbered.

    From the last generator to the first: H is the group of those behind it. Every element is
    r h, with h of H, and r the representative of its coset, reached from the left. With a
    rotation and a flip: r = g^p, h = h^q.
    """
    words = {identity: ()}
    for i in reversed(range(len(generators))):
        subgroup, covered = words, set(words)
        representatives, searched = [(identity, ())], 0
        while searched < len(representatives):
            searched = len(representatives)
            for letter in range(i, len(generators)):
                for representative, word in representatives:  # which grows
                    found = multiply(generators[letter], representative)
                    if found not in covered:
                        representatives.append((found, (letter, *word)))
                        covered.update(multiply(found, h) for h in subgroup)
                    if len(covered) > tables.LARGEST:
                        raise ValueError(f"the generators make more than {tables.LARGEST} elements")
        words = {
            multiply(representative, h): word + last
            for h, last in subgroup.items()
            for representative, word in representatives
        }
    return words


def _spelled(word: tuple[int, ...], letters: Sequence[str]) -> str:
    runs = [(letters[letter], len(list(run))) for letter, run in groupby(word)]
    return " ".join(letter if n == 1 else f"{letter}^{n}" for letter, n in runs) or "e"
