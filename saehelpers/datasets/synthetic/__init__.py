"""Activations with known features: dictionaries, firing, hierarchies, worlds, and streams."""

from saehelpers.datasets.synthetic.correlation import (
    Correlation,
    CorrelationReport,
    low_rank_correlation,
    nearest_correlation,
    random_correlation,
)
from saehelpers.datasets.synthetic.dictionaries import (
    Superposition,
    make_features,
    make_orbit_features,
    near_orthogonal,
    superposition,
)
from saehelpers.datasets.synthetic.features import SparseCoefficients, Stream, SyntheticFeatures
from saehelpers.datasets.synthetic.firing import firing_probabilities
from saehelpers.datasets.synthetic.hierarchy import Hierarchy, Node
from saehelpers.datasets.synthetic.magnitudes import Exponential, FoldedNormal, Linear
from saehelpers.datasets.synthetic.world_files import load_world, save_world
from saehelpers.datasets.synthetic.worlds import SYNTH_SAE_BENCH, HierarchyConfig, World

__all__ = [
    "SYNTH_SAE_BENCH",
    "Correlation",
    "CorrelationReport",
    "Exponential",
    "FoldedNormal",
    "Hierarchy",
    "HierarchyConfig",
    "Linear",
    "Node",
    "SparseCoefficients",
    "Stream",
    "Superposition",
    "SyntheticFeatures",
    "World",
    "firing_probabilities",
    "load_world",
    "low_rank_correlation",
    "make_features",
    "make_orbit_features",
    "near_orthogonal",
    "nearest_correlation",
    "random_correlation",
    "save_world",
    "superposition",
]
