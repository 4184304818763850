"""Groups acting on images and on activations."""

from saehelpers.symmetry.actions import (
    LinearAction,
    canonical_direction,
    canonicalise,
    fit_action,
    infer_element,
    report_action,
    usual_fit,
)
from saehelpers.symmetry.groups import Group

__all__ = [
    "Group",
    "LinearAction",
    "canonical_direction",
    "canonicalise",
    "fit_action",
    "infer_element",
    "report_action",
    "usual_fit",
]
