"""What latents follow: an angle, or another property of the samples. Used by notebook 05."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.precision import full_precision


@checked
def angle_dependence(
    latents: Float[Tensor, "n n_latents"], angles: Float[Tensor, " n"]
) -> Float[Tensor, " n_latents"]:
    """R^2 of each latent's regression on cos 2a, sin 2a: how far it follows an axis at angle a.

    An axis is the same after half a turn, hence the doubled angle. Latents that never vary
    have none, 0. Chance level is 2 / n.
    """
    latents, angles = full_precision(latents), full_precision(angles)
    waves = torch.stack([torch.cos(2 * angles), torch.sin(2 * angles)], dim=1)  # (n, 2)
    waves = waves - waves.mean(0)
    centred = latents - latents.mean(0)
    explained = waves @ torch.linalg.lstsq(waves, centred).solution  # (n, n_latents)
    shares = explained.pow(2).sum(0) / centred.pow(2).sum(0).clamp(min=1e-30)
    return torch.where(_varies(latents), shares, 0.0)


@checked
def correlations(
    latents: Float[Tensor, "n n_latents"], values: Float[Tensor, " n"]
) -> Float[Tensor, " n_latents"]:
    """Pearson correlation of each latent with a property; 0 for latents that never vary."""
    latents, values = full_precision(latents), full_precision(values)
    centred, values = latents - latents.mean(0), values - values.mean()
    norms = centred.norm(dim=0) * values.norm()
    return torch.where(_varies(latents), values @ centred / norms.clamp(min=1e-30), 0.0)


def _varies(latents: Tensor) -> Bool[Tensor, " n_latents"]:
    return (latents != latents[:1]).any(0)
