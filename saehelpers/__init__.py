"""Sparse autoencoders for networks whose data has symmetries."""

from saehelpers.methods import SAERun
from saehelpers.objectives import OBJECTIVES
from saehelpers.saes import (
    SAE,
    ArchetypalSAE,
    BlockDiagonalSAE,
    EquivariantSAE,
    GroupCrosscoder,
    SAEConfig,
)
from saehelpers.symmetry import Group, LinearAction, fit_action, infer_element, report_action
from saehelpers.training import train_saes

__all__ = [
    "OBJECTIVES",
    "SAE",
    "ArchetypalSAE",
    "BlockDiagonalSAE",
    "EquivariantSAE",
    "Group",
    "GroupCrosscoder",
    "LinearAction",
    "SAEConfig",
    "SAERun",
    "fit_action",
    "infer_element",
    "report_action",
    "train_saes",
]
