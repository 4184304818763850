"""The family of sparse autoencoders (SAEs)."""

from saehelpers.saes.archetypal import ArchetypalSAE
from saehelpers.saes.base import SAE, SAEConfig
from saehelpers.saes.instances import make_sae, stack, unstack
from saehelpers.saes.symmetric import EquivariantSAE, GroupCrosscoder

__all__ = [
    "SAE",
    "ArchetypalSAE",
    "EquivariantSAE",
    "GroupCrosscoder",
    "SAEConfig",
    "make_sae",
    "stack",
    "unstack",
]
