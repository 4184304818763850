"""Activations with known features: dictionaries, firing, hierarchies, and streams of samples."""

from saehelpers.datasets.synthetic.dictionaries import make_features, make_orbit_features
from saehelpers.datasets.synthetic.features import Stream, SyntheticFeatures
from saehelpers.datasets.synthetic.firing import (
    Correlation,
    CorrelationReport,
    firing_probabilities,
    nearest_correlation,
    random_correlation,
)
from saehelpers.datasets.synthetic.hierarchy import Hierarchy, Node

__all__ = [
    "Correlation",
    "CorrelationReport",
    "Hierarchy",
    "Node",
    "Stream",
    "SyntheticFeatures",
    "firing_probabilities",
    "make_features",
    "make_orbit_features",
    "nearest_correlation",
    "random_correlation",
]
