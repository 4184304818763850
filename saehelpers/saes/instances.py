"""Several SAEs as one: to train them side by side, or as the heads of a larger one."""

import copy
from typing import Annotated

import torch
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY
from saehelpers.saes.base import SAE


@checked
def stack(saes: Annotated[list[SAE], NOT_EMPTY]) -> SAE:
    """One SAE with a leading axis of instances, out of several of the same config."""
    if len({sae.config for sae in saes}) > 1:
        raise ValueError("saes must have one config, those of these differ")
    stacked = copy.deepcopy(saes[0])
    states = [sae.state_dict() for sae in saes]
    _replace(stacked, {name: torch.stack([s[name] for s in states]) for name in states[0]})
    return stacked


@checked
def unstack(stacked: SAE) -> list[SAE]:
    """The instances of a stacked SAE, one SAE each."""
    state = stacked.state_dict()
    saes = [copy.deepcopy(stacked) for _ in range(len(stacked.scale))]
    for instance, sae in enumerate(saes):
        _replace(sae, {name: tensor[instance].clone() for name, tensor in state.items()})
    return saes


def _replace(sae: SAE, state: dict[str, Tensor]) -> None:
    for name, tensor in [*sae.named_parameters(), *sae.named_buffers()]:
        tensor.data = state[name]
