"""Worlds whose features are known, of several kinds: what verdicts are calibrated on."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from saehelpers.datasets import make_action, make_toy
from saehelpers.datasets.synthetic import (
    Correlation,
    HierarchyConfig,
    SyntheticFeatures,
    World,
    random_correlation,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Seed, one_of
from saehelpers.symmetry import Group, LinearAction

GROUP = Group.named("C4")
TREES = HierarchyConfig(8, 3, 1, exclusive_share=0.5)
PLAIN = World(32, 32, 200, firing="constant", largest_probability=0.06, magnitude_std=0.2)
WORLDS = {  # kinds without a group
    "independent": PLAIN,
    "correlated": PLAIN,  # of which pairs fire together
    # of children in the samples in which their parents fire
    "hierarchical": replace(PLAIN, d=28, largest_probability=0.25, hierarchy=TREES),
    "superposition": replace(PLAIN, n_features=64, d=20, largest_probability=0.03),
}  # fmt: skip
ORBITS = World(16, 32, 200, firing="linear", largest_probability=0.2, smallest_probability=0.05,
               magnitude_std=0.2)  # fmt: skip
TURNING = {  # and those in which features turn
    "toy": None,
    "orbits": ORBITS,
    "orbits in trees": replace(ORBITS, firing="constant", largest_probability=0.25,
                               hierarchy=replace(TREES, n_roots=4), correlation_rank=8,
                               correlation_scale=0.2),
}  # fmt: skip
CORRELATED = 0.06, (0.5, 0.9)  # share of pairs, and how strongly
KINDS = (*WORLDS, *TURNING)


@checked
@dataclass(frozen=True)
class KnownWorld:
    """A world of a kind, whose features are known; `action` turns them, where a group does."""

    kind: str
    seed: Seed
    features: SyntheticFeatures
    action: LinearAction | None


@checked
def known_world(kind: Annotated[str, one_of(KINDS)], seed: Seed) -> KnownWorld:
    """The world of a kind and a seed: features, how they fire, and how C4 turns them.

    independent: 32 features of R^32. correlated: 6 % of the pairs, by a
    copula, at 0.5 to 0.9. hierarchical: children
    fire within their parents, of half the families at most one. superposition: 64 features of
    R^20. toy: that of notebook 01, 16 orthonormal features. orbits: 16 features of R^32, each in
    four orientations. orbits in trees: correlated and nested, too.
    """
    if kind in WORLDS:
        features = replace(WORLDS[kind], seed=seed).features()
        if kind == "correlated":
            generator = torch.Generator().manual_seed(seed)
            matrix, _ = random_correlation(features.n_features, *CORRELATED, generator)
            features = replace(features, correlation=Correlation.dense(matrix))
        return KnownWorld(kind, seed, features, None)
    if kind == "toy":
        toy = make_toy(1, 16, GROUP.order, seed)
        return KnownWorld(kind, seed, SyntheticFeatures(toy.features, 1 / 16), toy.action)
    generator = torch.Generator().manual_seed(seed)
    action = make_action(GROUP.order, ORBITS.d, generator, "shift")
    return KnownWorld(kind, seed, replace(TURNING[kind], seed=seed).features(action), action)
