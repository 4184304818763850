"""The family of sparse autoencoders (SAEs)."""

from saehelpers.saes.archetypal import ArchetypalSAE
from saehelpers.saes.base import SAE, SAEConfig
from saehelpers.saes.block_diagonal import BlockDiagonalSAE
from saehelpers.saes.instances import stack, unstack
from saehelpers.saes.making import make_sae
from saehelpers.saes.symmetric import EquivariantSAE, GroupCrosscoder

__all__ = [
    "SAE",
    "ArchetypalSAE",
    "BlockDiagonalSAE",
    "EquivariantSAE",
    "GroupCrosscoder",
    "SAEConfig",
    "make_sae",
    "stack",
    "unstack",
]
