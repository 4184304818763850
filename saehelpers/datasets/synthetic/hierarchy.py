"""Hierarchies: a feature fires only where its parent does."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.datasets.synthetic.firing import positions
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive

# magnitudes of features in samples, by (samples, features): 0 where a feature would not fire
Draw = Callable[[Tensor, Tensor], Tensor]
SHOWN = 3  # features that errors name, of many


@dataclass(frozen=True)
class Node:
    """A feature, or a group of features, and what hangs below it.

    Args:
        feature: index into the dictionary; None for an organisational node, which holds its
            children together and itself is no feature.
        children: nodes, or nested dicts with the fields of a node. They fire only where this
            node does; below an organisational node, where that node's own parent does.
        exclusive: of the children at most one fires.
        scales: the children's magnitudes are multiplied by that of this feature (of the nearest
            one above an organisational node) over its mean.
    """

    feature: int | None = None
    children: "tuple[Node | Mapping, ...] | list[Node | Mapping]" = ()
    exclusive: bool = False
    name: str = ""
    scales: bool = False

    def __str__(self) -> str:
        what = "" if self.feature is None else str(self.feature)
        return " ".join(part for part in (what, self.name) if part) or "group"


class _Pairs(NamedTuple):
    """Nodes in samples: those that fire, or would.

    above: where each one's parent stands in the list that these were made from.
    magnitudes: 0 for organisational nodes.
    scale: the magnitude of the feature (the nearest above an organisational node) over its mean.
    """

    samples: Int[Tensor, " pairs"]
    nodes: Int[Tensor, " pairs"]
    above: Int[Tensor, " pairs"]
    magnitudes: Float[Tensor, " pairs"]
    scale: Float[Tensor, " pairs"]

    def at(self, index: Tensor) -> "_Pairs":
        return _Pairs(*(part[index] for part in self))


class _Forest:
    """The nodes of trees in a list, level by level, the children of a node together."""

    def __init__(self, roots: list[Node], n_features: int):
        self.nodes, self.parents = list(roots), [-1] * len(roots)  # -1 for a root
        self.children: list[range] = []
        for i, node in enumerate(self.nodes):  # which grows
            self.children.append(range(len(self.nodes), len(self.nodes) + len(node.children)))
            self.nodes += node.children
            self.parents += [i] * len(node.children)
        self.features = [-1 if node.feature is None else node.feature for node in self.nodes]
        self.feature, is_feature = _indices(self.features), _indices(self.features) >= 0
        self.first = _indices(below.start for below in self.children)
        self.size = _indices(len(below) for below in self.children)
        self.exclusive = _indices(node.exclusive for node in self.nodes).bool()
        self.scales = _indices(node.scales for node in self.nodes).bool()
        self.node_of = torch.full((n_features,), -1)
        self.node_of[self.feature[is_feature]] = is_feature.nonzero()[:, 0]
        self.groups = _indices(i for i, node in enumerate(roots) if node.feature is None)
        on_top = torch.ones(n_features, dtype=torch.bool)
        on_top[self.feature[is_feature & (_indices(self.parents) >= 0)]] = False
        self.top = on_top.nonzero()[:, 0]

    def feature_above(self, node: int) -> int:
        """The feature of the nearest node above that has one; -1 if there is none."""
        above = self.parents[node]
        while above >= 0 and self.features[above] < 0:
            above = self.parents[above]
        return self.features[above] if above >= 0 else -1


class Hierarchy:
    """A forest of features.

    What features would do on their own is taken as given; then, from the roots down, a node
    that would fire does so only if its parent fires, and of exclusive siblings that would
    fire, one is chosen uniformly. An organisational node would fire where any of its
    children would. Where a magnitude is 0, a feature does not fire.

    What hangs below a node is drawn only where that node fires: samples cost what is active in
    them, whatever the forest holds.

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

    @functools.cached_property
    def _forest(self) -> _Forest:
        return _Forest(self.roots, self.n_features)

    @property
    def top(self) -> Int[Tensor, " top"]:
        """Features that hang below nothing: roots, and those in no tree."""
        return self._forest.top

    def scaling(self) -> list[int]:
        """Features whose magnitudes scale others."""
        forest, found = self._forest, set()
        for i, node in enumerate(forest.nodes):
            if node.scales and len(node.children):
                feature = forest.features[i]
                found.add(feature if feature >= 0 else forest.feature_above(i))
        return sorted(found - {-1})

    def descend(
        self,
        n_samples: int,
        top: tuple[Tensor, Tensor, Tensor],
        draw: Draw,
        means: Float[Tensor, " n_features"],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All that fires: samples, features and magnitudes, in no order.

        Args:
            top: the same of the features at the top.
            draw: what a feature would do in a sample; asked once for each at most.
            means: of the features' magnitudes, for those that scale others.
        """
        samples, features, magnitudes = top
        forest = self._forest
        nodes = forest.node_of[features]
        inside = positions(nodes >= 0)
        active = _Pairs(
            samples[inside], nodes[inside], nodes[inside], magnitudes[inside],
            magnitudes[inside] / means[features[inside]],
        )  # fmt: skip
        if len(forest.groups):  # at the root: what is below them may fire in every sample
            everywhere = torch.arange(n_samples).repeat_interleave(len(forest.groups))
            groups, ones = forest.groups.repeat(n_samples), torch.ones(len(everywhere))
            at_root = everywhere, groups, groups, 0 * ones, ones
            active = _Pairs(*map(torch.cat, zip(active, at_root, strict=True)))
        found = [top]
        while len(active.nodes):
            active = self._fire_below(active, draw, means, generator)
            found.append((active.samples, forest.feature[active.nodes], active.magnitudes))
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _fire_below(
        self, active: _Pairs, draw: Draw, means: Tensor, generator: torch.Generator
    ) -> _Pairs:
        """The features that fire below nodes that do: children, and those of groups among them."""
        feature = self._forest.feature
        layers = [self._candidates(active, draw)]
        while len(groups := positions(feature[layers[-1].nodes] < 0)):
            below = self._candidates(layers[-1].at(groups), draw)
            layers.append(below._replace(above=groups[below.above]))
        would = [layer.magnitudes > 0 for layer in layers]
        for i in range(len(layers) - 1, 0, -1):
            would[i - 1][layers[i].above[would[i]]] = True
        above, fires, found = active.nodes, torch.ones(len(active.nodes), dtype=torch.bool), []
        for layer, own in zip(layers, would, strict=True):
            own &= self._chosen(own, layer.above, above, generator)
            own &= fires[layer.above]
            found.append(layer.at(positions(own & (feature[layer.nodes] >= 0))))
            above, fires = layer.nodes, own
        joined = _Pairs(*map(torch.cat, zip(*found, strict=True)))
        return joined._replace(scale=joined.magnitudes / means[feature[joined.nodes]])

    def _candidates(self, above: _Pairs, draw: Draw) -> _Pairs:
        """The children of nodes: groups, and the features that would fire."""
        forest = self._forest
        sizes = forest.size[above.nodes]
        parent = torch.arange(len(sizes)).repeat_interleave(sizes)
        shift = forest.first[above.nodes] - (sizes.cumsum(0) - sizes)
        nodes = shift[parent] + torch.arange(len(parent))
        features, samples = forest.feature[nodes], above.samples[parent]
        magnitudes = torch.zeros(len(nodes))
        real = positions(features >= 0)
        magnitudes[real] = draw(samples[real], features[real])
        kept = positions((magnitudes > 0) | (features < 0))
        parent, magnitudes = parent[kept], magnitudes[kept]
        scale = above.scale[parent]
        scaled = torch.where(forest.scales[above.nodes[parent]], scale * magnitudes, magnitudes)
        return _Pairs(samples[kept], nodes[kept], parent, scaled, scale)

    def _chosen(
        self, would: Tensor, above: Tensor, parents: Tensor, generator: torch.Generator
    ) -> Bool[Tensor, " pairs"]:
        """Of exclusive siblings that would fire, one; of others, all."""
        own = positions(would & self._forest.exclusive[parents[above]])
        # in double precision, so that no two are the largest
        priorities = torch.rand(len(own), generator=generator, dtype=torch.float64)
        largest = torch.zeros(len(parents), dtype=torch.float64)
        largest.scatter_reduce_(0, above[own], priorities, "amax")
        chosen = torch.ones_like(would)
        chosen[own] = priorities == largest[above[own]]
        return chosen

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
        own, forest = probabilities.double().tolist(), self._forest
        would = self._would_fire(own)
        given = [1.0] * len(forest.nodes)  # that what hangs below may fire, if it would
        chances = [1.0] * len(forest.nodes)
        for node, children in zip(forest.nodes, forest.children, strict=True):
            if node.exclusive:
                chances[children.start : children.stop] = _chances(
                    np.array([would[i] for i in children])
                ).tolist()
        effective = list(own)
        for i, feature in enumerate(forest.features):
            parent = forest.parents[i]
            given[i] = chances[i] * (1.0 if parent < 0 else given[parent])
            if feature >= 0:
                effective[feature] = given[i] = own[feature] * given[i]
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
                children together as often as their parent or more; says which, how far off, and
                how many more there are; an organisational node is itself one of exclusive
                children.
        """
        drawn, impossible = targets.double().tolist(), []
        for parent, features, exclusive, shares in self._shares(drawn[:]):
            if max(shares, default=0.0) > 1 or (exclusive and sum(shares) >= 1):
                impossible.append((sum(shares) if exclusive else max(shares), parent, features))
                continue
            solution = _solve_exclusive(shares) if exclusive else shares
            for feature, value in zip(features, solution, strict=True):
                drawn[feature] = value
        if impossible:
            raise ValueError(_impossible(targets.tolist(), impossible))
        return torch.tensor(drawn, dtype=torch.float64).to(targets)

    @checked
    def roughly_compensated(
        self, targets: Float[Tensor, " n_features"]
    ) -> Float[Tensor, " n_features"]:
        """`compensated_probabilities` to first order, of any targets: as SAELens has them.

            p_i = min(1, target_i / target_parent (1 + sum over exclusive siblings j of
            target_j / target_parent))

        Where siblings exclude each other features fire about as often as their targets, and more
        rarely where p is cut at 1. `effective_probabilities` says how often.

        Raises:
            ValueError: an organisational node is itself one of exclusive children.
        """
        drawn = targets.double().tolist()
        for _, features, exclusive, shares in self._shares(drawn[:]):
            for feature, share in zip(features, shares, strict=True):
                others = sum(shares) - share if exclusive else 0.0
                drawn[feature] = min(1.0, share * (1 + others)) if share else 0.0
        return torch.tensor(drawn, dtype=torch.float64).to(targets)

    def _shares(self, wanted: list[float]) -> Iterator[tuple[int, list[int], bool, list[float]]]:
        """Parents' features (-1 for none), their children's, whether these exclude each other,
        and in what share of the parent's samples each is to fire.
        """
        forest = self._forest
        families = [(-1, range(len(self.roots))), *enumerate(forest.children)]
        for parent, children in families:
            features = [forest.features[i] for i in children if forest.features[i] >= 0]
            exclusive = parent >= 0 and forest.nodes[parent].exclusive
            if exclusive and len(features) < len(children):
                raise ValueError(
                    f"node {forest.nodes[parent]} has organisational nodes among its exclusive "
                    "children: their probabilities cannot be compensated"
                )
            if not features:
                continue
            above = forest.feature_above(children[0]) if parent >= 0 else -1
            ceiling = wanted[above] if above >= 0 else 1.0
            yield (
                above,
                features,
                exclusive,
                [
                    wanted[f] / ceiling if ceiling else (math.inf if wanted[f] else 0.0)
                    for f in features
                ],
            )

    def parents(self) -> dict[int, int]:
        """The nearest feature above each feature that has one."""
        forest = self._forest
        above = {f: forest.feature_above(i) for i, f in enumerate(forest.features) if f >= 0}
        return {feature: parent for feature, parent in above.items() if parent >= 0}

    def __str__(self) -> str:
        return "\n".join(line for root in self.roots for line in _drawn(root, "", ""))

    def _would_fire(self, own: list[float]) -> list[float]:
        forest = self._forest
        would = [own[f] if f >= 0 else 0.0 for f in forest.features]
        for i in reversed(range(len(would))):  # from the leaves up
            if forest.features[i] < 0:
                would[i] = 1.0 - math.prod(1 - would[child] for child in forest.children[i])
        return would


def _impossible(targets: list[float], found: list[tuple[float, int, list[int]]]) -> str:
    """What cannot be compensated: the worst of it, and how much more there is."""
    share, parent, features = max(found, key=lambda each: each[0])
    rates = ", ".join(f"{targets[f]:.4g}" for f in features[:SHOWN])
    more = ", ..." if len(features) > SHOWN else ""
    ceiling = targets[parent] if parent >= 0 else 1.0
    others = f"; nor can those below {len(found) - 1} other nodes" if len(found) > 1 else ""
    return (
        f"features {features} cannot fire with probabilities {rates}{more} below a parent that "
        f"fires with {ceiling:.4g}: they would need {share:.3g} of its samples{others}"
    )


def _indices(values: Iterable[int]) -> Int[Tensor, " n"]:
    return torch.tensor(list(values), dtype=torch.long)


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
    return replace(node, children=children)


def _drawn(node: Node, first: str, rest: str) -> Iterator[str]:
    """The lines of a tree."""
    yield f"{first}{node}{' (one of)' if node.exclusive else ''}"
    for child in node.children[:-1]:
        yield from _drawn(child, f"{rest}├── ", f"{rest}│   ")
    for child in node.children[-1:]:
        yield from _drawn(child, f"{rest}└── ", f"{rest}    ")
