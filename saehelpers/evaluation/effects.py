"""What a network's output loses without a latent."""

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.evaluation.language_metrics import output_tensor
from saehelpers.evaluation.metrics import fvu
from saehelpers.networks import clamped, recording_prefix, replaying, splice
from saehelpers.networks.clamping import on_vectors
from saehelpers.networks.modules import in_evaluation_mode
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY, Count, Name
from saehelpers.saes import SAE, EquivariantSAE


@checked
@torch.no_grad()
@in_evaluation_mode
def ablation_effects(
    model: nn.Module,
    module: Name,
    sae: SAE | EquivariantSAE,
    inputs: Tensor,
    latents: Annotated[list[Count], NOT_EMPTY],
) -> Float[Tensor, " latents"]:
    """What a network's output loses without each of some latents.

        sum over inputs of || y - y_i ||^2  /  sum over inputs of || y - mean of y ||^2

    y: the output (logits, where a network returns several things); y_i: with the latent held at
    0 (`clamped`). Of logits of tokens, every position counts as an input. What runs before the
    module is run once.

    Raises:
        ValueError: the network gives no output to be faithful to: no tensor and no logits; or it
            is the same for all inputs.
    """

    with recording_prefix(model, [module]) as prefix:
        original = _output(model, inputs)
    effects = []
    for latent in latents:
        with replaying(model, prefix), clamped(model, module, sae, {latent: 0.0}):
            effects.append(fvu(original, _output(model, inputs, original)))
    return torch.tensor(effects)


@checked
@torch.no_grad()
@in_evaluation_mode
def spliced_fvu(model: nn.Module, module: Name, sae: SAE | EquivariantSAE, inputs: Tensor) -> float:
    """What a network's output loses with recons in the place of a module's activations.

    The same share as in `ablation_effects`: 0 where nothing is lost, 1 where the output is no
    better than its mean.

    Raises: as `ablation_effects`.
    """
    original = _output(model, inputs)
    edit = partial(on_vectors, sae, sae.dictionary.shape[1])
    with splice(model, {module: edit}):
        return fvu(original, _output(model, inputs, original))


def _output(model: nn.Module, inputs: Tensor, original: Tensor | None = None) -> Tensor:
    """The output as rows, one for each input, or for each of its tokens."""
    found = output_tensor(model, model(inputs))
    rows = found.flatten(0, 1) if found.ndim == 3 else found.flatten(1)
    if original is None and not (rows != rows[:1]).any():
        raise ValueError("inputs: the network's output is the same for all of them")
    return rows
