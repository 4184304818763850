"""Hierarchies: a feature fires only where its parent does."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive


@dataclass(frozen=True)
class Node:
    """A feature, or a group of features, and what hangs below it.

    feature: index into the dictionary; None for an organisational node, which holds its
        children together and itself is no feature.
    children: nodes, or nested dicts with the fields of a node. They fire only where this
        node does; below an organisational node, where that node's own parent does.
    exclusive: of the children at most one fires.
    """

    feature: int | None = None
    children: "tuple[Node | Mapping, ...] | list[Node | Mapping]" = ()
    exclusive: bool = False
    name: str = ""

    def __str__(self) -> str:
        what = "" if self.feature is None else str(self.feature)
        return " ".join(part for part in (what, self.name) if part) or "group"


@dataclass(frozen=True)
class _Level:
    """Nodes of the same depth, `start` to `stop` in order, the children of a parent together."""

    start: int
    stop: int
    parents: Int[Tensor, " children"]
    groups: list[Tensor]  # exclusive siblings (n_groups, size), by the size of their group


class Hierarchy:
    """A forest of features.

    What features would do on their own is taken as given; then, from the roots down, a node
    that would fire does so only if its parent fires, and of exclusive siblings that would
    fire, one is chosen uniformly. An organisational node would fire where any of its
    children would.

    Args:
        roots: the trees: nodes, or nested dicts with the fields of a `Node`.
        n_features: size of the dictionary; features in no tree fire as they would.

    Raises:
        ValueError: a node is its own ancestor, hangs below two parents, or repeats a feature;
            a feature is not in the dictionary; fewer than two exclusive children; a dict
            with an unknown field.
    """

    @checked
    def __init__(self, roots: Iterable[Node | Mapping], n_features: Positive):
        self.n_features = n_features
        roots = list(roots)  # nodes are told apart by their id: all must stay alive
        seen: set[int] = set()
        features: set[int] = set()
        self.roots = [_checked(root, (), seen, features, n_features) for root in roots]
        self._nodes: list[Node] = []
        self._parents: list[int] = []  # -1 for a root
        self._levels: list[_Level] = []
        self._list_levels()
        self._features = [-1 if node.feature is None else node.feature for node in self._nodes]
        self._real = _indices(i for i, f in enumerate(self._features) if f >= 0)
        self._index = _indices(f for f in self._features if f >= 0)
        self._groupings = [
            (i, _indices(j for j, parent in enumerate(self._parents) if parent == i))
            for i, node in enumerate(self._nodes)
            if node.feature is None
        ][::-1]  # from the leaves up

    def _list_levels(self) -> None:
        level = [(root, -1) for root in self.roots]
        while level:
            start = len(self._nodes)
            sizes: dict[int, list[list[int]]] = {}
            members: dict[int, list[int]] = {}
            for node, parent in level:
                if parent >= 0 and self._nodes[parent].exclusive:
                    members.setdefault(parent, []).append(len(self._nodes))
                self._nodes.append(node)
                self._parents.append(parent)
            for group in members.values():
                sizes.setdefault(len(group), []).append(group)
            self._levels.append(
                _Level(
                    start,
                    len(self._nodes),
                    _indices(parent for _, parent in level),
                    [torch.tensor(groups) for groups in sizes.values()],
                )
            )
            level = [
                (child, i)
                for i in range(start, len(self._nodes))
                for child in self._nodes[i].children
            ]

    def __call__(
        self, fires: Bool[Tensor, "n n_features"], generator: torch.Generator
    ) -> Bool[Tensor, "n n_features"]:
        """What is left of the firings; `fires` is changed in place and returned."""
        state = torch.zeros(len(fires), len(self._nodes), dtype=torch.bool)
        state[:, self._real] = fires[:, self._index]
        for node, children in self._groupings:
            state[:, node] = state[:, children].any(1)
        for level in self._levels:
            for groups in level.groups:
                state[:, groups] = _choose_one(state[:, groups], generator)
            if level.start:
                state[:, level.start : level.stop] &= state[:, level.parents]
        fires[:, self._index] = state[:, self._real]
        return fires

    @checked
    def silenced(
        self, coefficients: Float[Tensor, "n n_features"]
    ) -> Float[Tensor, "n n_features"]:
        """0 wherever the nearest feature above is 0; in place, from the roots down."""
        above = self.parents()
        for level in self._levels[1:]:
            features = self._features[level.start : level.stop]
            children = [feature for feature in features if feature in above]
            parents = [above[child] for child in children]
            coefficients[:, children] *= coefficients[:, parents] > 0
        return coefficients

    @checked
    def effective_probabilities(
        self, probabilities: Float[Tensor, " n_features"]
    ) -> Float[Tensor, " n_features"]:
        """How often each feature fires within the hierarchy, in closed form.

            P(i fires) = p_i s_i P(parent of i fires)

        s_i: the probability of being chosen among the exclusive siblings of i and of the
        organisational nodes above it. Of siblings that would fire with probabilities q,
        E[1 / (1 + number of the others)] = integral over t in [0, 1] of
        prod over the others of (1 - q_j + q_j t). Holds for features that are drawn
        independently, with magnitudes above 0; others must be counted (`firing_rates`).
        """
        own = probabilities.double().tolist()
        would = self._would_fire(own)
        given = [1.0] * len(self._nodes)  # that what hangs below may fire, if it would
        effective = list(own)
        for i, feature in enumerate(self._features):
            chosen = self._chance_of_choice(i, would) * self._given_parent(i, given)
            given[i] = chosen
            if feature >= 0:
                effective[feature] = given[i] = own[feature] * chosen
        return torch.tensor(effective, dtype=torch.float64).to(probabilities)

    @checked
    def compensated_probabilities(
        self, targets: Float[Tensor, " n_features"]
    ) -> Float[Tensor, " n_features"]:
        """Probabilities to draw with, so that each feature fires as often as its target.

        Solves `effective_probabilities(p) = targets` from the roots down; siblings that
        exclude each other by the fixed-point iteration p <- target / s(p), which rises to
        the smallest solution.

        Raises:
            ValueError: a feature would have to fire more often than its parent, or exclusive
                children together as often as their parent or more; an organisational node is
                itself one of exclusive children.
        """
        wanted, drawn = targets.double().tolist(), targets.double().tolist()
        above = self.parents()
        for parent in [-1, *range(len(self._nodes))]:
            children = [i for i, p in enumerate(self._parents) if p == parent]
            features = [self._features[i] for i in children if self._features[i] >= 0]
            exclusive = parent >= 0 and self._nodes[parent].exclusive
            if exclusive and len(features) < len(children):
                raise ValueError(
                    f"node {self._nodes[parent]} has organisational nodes among its exclusive "
                    "children: their probabilities cannot be compensated"
                )
            ceilings = [wanted[above[f]] if f in above else 1.0 for f in features]
            shares = [
                wanted[f] / c if c else (math.inf if wanted[f] else 0.0)
                for f, c in zip(features, ceilings, strict=True)
            ]
            if max(shares, default=0.0) > 1 or (exclusive and sum(shares) >= 1):
                rates = ", ".join(f"{wanted[f]:.4g}" for f in features)
                raise ValueError(
                    f"features {features} cannot fire with probabilities {rates} below a parent "
                    f"that fires with {ceilings[0]:.4g}"
                )
            solution = _solve_exclusive(shares) if exclusive else shares
            for feature, value in zip(features, solution, strict=True):
                drawn[feature] = value
        return torch.tensor(drawn, dtype=torch.float64).to(targets)

    def parents(self) -> dict[int, int]:
        """The nearest feature above each feature that has one."""
        found = {}
        for i, feature in enumerate(self._features):
            above = self._parents[i]
            while above >= 0 and self._features[above] < 0:
                above = self._parents[above]
            if feature >= 0 and above >= 0:
                found[feature] = self._features[above]
        return found

    def __str__(self) -> str:
        return "\n".join(line for root in self.roots for line in _drawn(root, "", ""))

    def _would_fire(self, own: list[float]) -> list[float]:
        would = [own[f] if f >= 0 else 0.0 for f in self._features]
        for node, children in self._groupings:
            would[node] = 1 - float(np.prod([1 - would[c] for c in children.tolist()]))
        return would

    def _chance_of_choice(self, node: int, would: list[float]) -> float:
        parent = self._parents[node]
        if parent < 0 or not self._nodes[parent].exclusive:
            return 1.0
        siblings = [i for i, p in enumerate(self._parents) if p == parent]
        chances = _chances(np.array([would[i] for i in siblings]))
        return float(chances[siblings.index(node)])

    def _given_parent(self, node: int, given: list[float]) -> float:
        parent = self._parents[node]
        return 1.0 if parent < 0 else given[parent]


def _indices(values: Iterable[int]) -> Int[Tensor, " n"]:
    return torch.tensor(list(values), dtype=torch.long)


def _choose_one(
    would: Bool[Tensor, "n n_groups size"], generator: torch.Generator
) -> Bool[Tensor, "n n_groups size"]:
    """Of the members of each group that would fire, one."""
    priorities = torch.rand(would.shape, generator=generator).mul_(would)
    chosen = torch.zeros_like(would).scatter_(-1, priorities.argmax(-1, keepdim=True), True)
    return chosen.logical_and_(would)


def _chances(would: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """For each of n coins, E[1 / (1 + number of successes of the others)].

    The integral of `effective_probabilities`, by a quadrature that is exact for polynomials
    of its degree, n - 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(len(would) // 2 + 1)
    t, weights = (nodes + 1) / 2, weights / 2
    factors = 1 - would[:, None] * (1 - t)  # (n, nodes), positive: t > 0
    return (factors.prod(0) / factors) @ weights


def _solve_exclusive(targets: list[float]) -> list[float]:
    wanted = np.asarray(targets)
    p = wanted
    for _ in range(100_000):
        new = wanted / _chances(p)
        if np.abs(new - p).max() < 1e-12:
            break
        p = new
    if np.abs(p * _chances(p) - wanted).max() > 1e-6:
        raise ValueError(f"no probabilities were found for exclusive shares of {targets}")
    return p.tolist()


def _checked(
    given: "Node | Mapping",
    path: tuple[int, ...],
    seen: set[int],
    features: set[int],
    n_features: int,
) -> Node:
    """The node with its children as nodes, after all checks."""
    if id(given) in path:
        raise ValueError("a node of the hierarchy is its own ancestor")
    if id(given) in seen:
        raise ValueError("a node of the hierarchy hangs below two parents")
    seen.add(id(given))
    if isinstance(given, Mapping):
        unknown = set(given) - set(Node.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown fields of a node: {', '.join(map(str, sorted(unknown)))}")
        node = Node(**given)
    else:
        node = given
    if node.feature is not None:
        if not 0 <= node.feature < n_features:
            raise ValueError(f"feature {node.feature} is not one of 0 to {n_features - 1}")
        if node.feature in features:
            raise ValueError(f"feature {node.feature} stands in the hierarchy twice")
        features.add(node.feature)
    if node.exclusive and len(node.children) < 2:
        raise ValueError(f"node {node} has fewer than two children to exclude each other")
    below = (*path, id(given))
    children = tuple(_checked(c, below, seen, features, n_features) for c in node.children)
    return Node(node.feature, children, node.exclusive, node.name)


def _drawn(node: Node, first: str, rest: str) -> Iterator[str]:
    """The lines of a tree."""
    yield f"{first}{node}{' (one of)' if node.exclusive else ''}"
    for child in node.children[:-1]:
        yield from _drawn(child, f"{rest}├── ", f"{rest}│   ")
    for child in node.children[-1:]:
        yield from _drawn(child, f"{rest}└── ", f"{rest}    ")
