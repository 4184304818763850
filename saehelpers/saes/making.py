"""Making SAEs of every kind."""

from collections.abc import Callable
from typing import Any

import torch

from saehelpers.runs import Registry
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Seed
from saehelpers.saes.archetypal import ArchetypalSAE
from saehelpers.saes.base import SAE, SAEConfig
from saehelpers.saes.baselines import (
    FrozenDecoderSAE,
    FrozenEncoderSAE,
    PrincipalComponents,
    SoftFrozenDecoderSAE,
)
from saehelpers.saes.block_diagonal import BlockDiagonalSAE
from saehelpers.saes.pursuit import MatchingPursuitSAE
from saehelpers.saes.symmetric import GroupCrosscoder

DICTIONARIES = Registry(
    "dictionary",
    f"{__name__}:DICTIONARIES",
    {
        "free": SAE,
        "archetypal": ArchetypalSAE,
        "blocks": GroupCrosscoder,
        "block_diagonal": BlockDiagonalSAE,
        "frozen": FrozenDecoderSAE,
        "soft_frozen": SoftFrozenDecoderSAE,
        "frozen_encoder": FrozenEncoderSAE,
        "pca": PrincipalComponents,
        "matching_pursuit": MatchingPursuitSAE,
    },
    field="dictionary",
    versions={"archetypal": "2"},  # weights are projected after each step, no longer in between
)


@checked
def dictionary(name: Any) -> Callable[[type[SAE]], type[SAE]]:
    """Add a kind of SAE: `@dictionary("mine")` above `class Mine(SAE)`.

    Its `dictionary`, (*inst, n_latents, d), is what it is made for; where this needs parameters of
    its own, `make_dictionary` makes them. Parameters and buffers have a leading axis of
    instances while SAEs are trained side by side.

    Raises:
        ValueError: it is no SAE, or another dictionary has the name.
    """

    def checked(kind: Any) -> type[SAE]:
        if not (isinstance(kind, type) and issubclass(kind, SAE)):
            raise ValueError(f"the dictionary {name!r} must be a subclass of SAE, got {kind!r}")
        return kind

    return DICTIONARIES.adding(name, checked)


@checked
def make_sae(config: SAEConfig, seed: Seed = 0) -> SAE:
    """A fresh SAE of the class that `config.dictionary` asks for."""
    # not the stream of a data set of the same seed: a toy dictionary must not be its own start
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 0x5AE) % 2**32)
    return DICTIONARIES[config.dictionary](config, generator)
