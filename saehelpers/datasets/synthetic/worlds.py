"""Synthetic worlds as configs: everything that decides features and how they fire."""

import random
from dataclasses import dataclass
from typing import Annotated

import torch

from saehelpers.datasets.synthetic.correlation import low_rank_correlation
from saehelpers.datasets.synthetic.dictionaries import near_orthogonal
from saehelpers.datasets.synthetic.features import SyntheticFeatures
from saehelpers.datasets.synthetic.firing import PROBABILITY_KINDS, firing_probabilities
from saehelpers.datasets.synthetic.hierarchy import Hierarchy, Node
from saehelpers.datasets.synthetic.magnitudes import FoldedNormal, Linear, PerFeature, values
from saehelpers.runs.checking import checked_config
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import Count, Positive, Rate, Seed, Share, Weight, one_of
from saehelpers.symmetry import LinearAction

COMPENSATIONS = ("none", "exact", "first_order")


@checked_config
@dataclass(frozen=True)
class HierarchyConfig:
    """Trees that are grown level by level, over the first features.

    Args:
        n_roots: the first features of all.
        branching: children of each node, or the least and the largest number, drawn for each
            node.
        depth: levels below the roots.
        exclusive_share: of the nodes whose depth is among `exclusive_depths` (that of roots is 0;
            the second may be None), the children of so many exclude each other.
        compensation: what is done so that features fire as often as their probabilities say:
            "none"; "exact", see `Hierarchy.compensated_probabilities`; or "first_order", as
            SAELens does, see `Hierarchy.roughly_compensated`.
        scales: children are scaled by their parents.

    Raises:
        ValueError: fewer than 2 children, or a range that falls.
    """

    n_roots: Positive
    branching: int | tuple[int, int]
    depth: Positive
    exclusive_share: Share = 0.0
    exclusive_depths: tuple[int, int | None] = (0, None)
    compensation: Annotated[str, one_of(COMPENSATIONS)] = "none"
    scales: bool = False

    def __post_init__(self):
        least, most = self.branches
        if not 2 <= least <= most:
            raise ValueError(
                f"branching must be 2 or more, or two such numbers that rise, got {self.branching}"
            )
        first, last = self.exclusive_depths
        if first < 0 or (last is not None and last < first):
            raise ValueError(
                "exclusive_depths must be two numbers from 0 that rise, got "
                f"{self.exclusive_depths}"
            )

    @property
    def branches(self) -> tuple[int, int]:
        return (self.branching,) * 2 if isinstance(self.branching, int) else self.branching

    def grow(self, n_features: int, seed: int) -> Hierarchy:
        """The trees.

        Raises:
            ValueError: they need more features than there are.
        """
        draws = random.Random(seed)
        children: list[range] = []
        level, depths, n_nodes = range(self.n_roots), [0] * self.n_roots, self.n_roots
        for depth in range(1, self.depth + 1):
            first = n_nodes
            for _ in level:
                children.append(range(n_nodes, n_nodes + draws.randint(*self.branches)))
                n_nodes = children[-1].stop
            level = range(first, n_nodes)
            depths += [depth] * len(level)
        if n_nodes > n_features:
            raise ValueError(
                f"the hierarchy needs {n_nodes} features ({self.n_roots} roots, {self.branching} "
                f"children each, {self.depth} levels below), there are {n_features}: take fewer "
                "roots, children or levels, or more features"
            )
        start, stop = self.exclusive_depths
        eligible = [
            i
            for i in range(len(children))
            if start <= depths[i] <= (self.depth if stop is None else stop)
        ]
        exclusive = set(draws.sample(eligible, int(self.exclusive_share * len(eligible))))
        made: list[Node] = [Node(i) for i in range(n_nodes)]
        for i in reversed(range(len(children))):  # from the leaves up
            below = tuple(made[children[i].start : children[i].stop])
            made[i] = Node(i, below, i in exclusive, scales=self.scales)
        return Hierarchy(made[: self.n_roots], n_features)


@checked_config
@dataclass(frozen=True)
class World:
    """A synthetic world: its features, and everything by which they fire.

    `features()` makes what it says; every draw comes from `seed`. The defaults but for the first
    two fields are those of the simplest world: independent features, without bias.

    Args:
        n_features, d: of the dictionary; unit rows.
        orthogonalisation_steps: by which rows are brought apart, see
            `dictionaries.near_orthogonal`; 0 leaves them random.
        bias_norm: of a random bias.
        firing: how probabilities fall from `largest_probability` to `smallest_probability` (of
            all features, "constant" is the largest alone), see `firing_probabilities`.
        exponent: of "zipfian" ones.
        correlation_rank, correlation_scale: of a random copula, see `low_rank_correlation`; no
            rank for none.
        hierarchy: trees over the first features, which fire most often.
        magnitude_mean, magnitude_std: one number for all features, or for each `Linear`,
            `Exponential` or `FoldedNormal`.
    """

    n_features: Positive
    d: Positive
    orthogonalisation_steps: Count = 0
    bias_norm: Weight = 0.0
    firing: Annotated[str, one_of(PROBABILITY_KINDS)] = "zipfian"
    largest_probability: Share = 0.3
    smallest_probability: Share = 0.01
    exponent: Rate = 1.0
    correlation_rank: Count = 0
    correlation_scale: Weight = 0.1
    hierarchy: HierarchyConfig | None = None
    magnitude_mean: Weight | PerFeature = 1.0
    magnitude_std: Weight | PerFeature = 0.0
    seed: Seed = 0

    def features(self, action: LinearAction | None = None) -> SyntheticFeatures:
        """The world itself.

        Args:
            action: of a group on the d dimensions, orthogonal, under which features are brought
                apart in all their orientations. Samples are as without it; what turns them is
                `Stream(features, ..., action)`, which leaves all coefficients as they are: trees
                and correlations are invariant.

        Raises:
            ValueError: the hierarchy needs more features than there are, or probabilities that
                cannot be compensated; rank and scale give no valid correlation.
        """
        return _made(self, action)

    def probabilities(self, hierarchy: Hierarchy | None) -> torch.Tensor:
        """Of firing, before a hierarchy, for which they are compensated as the config says."""
        wanted = firing_probabilities(
            self.firing, self.n_features, self.largest_probability, self.smallest_probability,
            self.exponent, _generator(self.seed),
        )  # fmt: skip
        compensation = "none" if self.hierarchy is None else self.hierarchy.compensation
        if compensation == "none":
            return wanted
        exact = compensation == "exact"
        return (hierarchy.compensated_probabilities if exact else hierarchy.roughly_compensated)(
            wanted
        )

    def magnitudes(self) -> dict[str, torch.Tensor]:
        """magnitude_mean and magnitude_std of each feature."""
        # the offsets of the seed are those of SAELens, where these values are not saved
        return {
            name: values(getattr(self, name), self.n_features, _generator(self.seed + offset))
            for offset, name in ((1, "magnitude_std"), (2, "magnitude_mean"))
        }


def _made(world: World, action: LinearAction | None) -> SyntheticFeatures:
    draws = _generator(world.seed)
    rows = torch.randn(world.n_features, world.d, generator=draws)
    bias = torch.randn(world.d, generator=draws)
    rows = near_orthogonal(rows, world.orthogonalisation_steps, action=action)
    cause = world if action is None else (world, action)
    hierarchy = correlation = None
    if world.hierarchy is not None:
        hierarchy = world.hierarchy.grow(world.n_features, world.seed + 3)
    if world.correlation_rank:
        correlation = low_rank_correlation(
            world.n_features, world.correlation_rank, world.correlation_scale,
            _generator(world.seed + 4),
        )  # fmt: skip
    return SyntheticFeatures(
        identified(rows, cause),
        world.probabilities(hierarchy),
        **world.magnitudes(),
        bias=identified(world.bias_norm * bias / bias.norm(), cause) if world.bias_norm else None,
        correlation=correlation,
        hierarchy=hierarchy,
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# the world of the benchmark, as its documentation has it (arXiv 2602.14687); generated here, with
# draws of its own, it is another sample of the same config than the one on the hub
SYNTH_SAE_BENCH = World(
    n_features=16_384,
    d=768,
    orthogonalisation_steps=100,
    bias_norm=0.5,
    firing="zipfian",
    largest_probability=0.4,
    smallest_probability=5e-4,
    exponent=0.5,
    correlation_rank=25,
    correlation_scale=0.1,
    hierarchy=HierarchyConfig(
        128, 4, 3, exclusive_share=1.0, compensation="first_order", scales=True
    ),
    magnitude_mean=Linear(5.0, 4.0),
    magnitude_std=FoldedNormal(0.5, 0.5),
)
