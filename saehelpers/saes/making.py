"""Making SAEs of every kind."""

import torch

from saehelpers.saes.archetypal import ArchetypalSAE
from saehelpers.saes.base import SAE, SAEConfig
from saehelpers.saes.block_diagonal import BlockDiagonalSAE
from saehelpers.saes.symmetric import GroupCrosscoder


def make_sae(config: SAEConfig, seed: int = 0) -> SAE:
    """A fresh SAE of the class that `config.dictionary` asks for."""
    kinds = {
        "free": SAE,
        "archetypal": ArchetypalSAE,
        "blocks": GroupCrosscoder,
        "block_diagonal": BlockDiagonalSAE,
    }
    # not the stream of a data set of the same seed: a toy dictionary must not be its own start
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 0x5AE) % 2**32)
    return kinds[config.dictionary](config, generator)
