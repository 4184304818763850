"""Activations with known features: dictionaries, firing, hierarchies, and streams of samples."""

from saehelpers.datasets.synthetic.dictionaries import make_features, make_orbit_features
from saehelpers.datasets.synthetic.features import SparseCoefficients, Stream, SyntheticFeatures
from saehelpers.datasets.synthetic.firing import (
    Correlation,
    CorrelationReport,
    firing_probabilities,
    low_rank_correlation,
    nearest_correlation,
    random_correlation,
)
from saehelpers.datasets.synthetic.hierarchy import Hierarchy, Node

__all__ = [
    "Correlation",
    "CorrelationReport",
    "Hierarchy",
    "Node",
    "SparseCoefficients",
    "Stream",
    "SyntheticFeatures",
    "firing_probabilities",
    "low_rank_correlation",
    "make_features",
    "make_orbit_features",
    "nearest_correlation",
    "random_correlation",
]
