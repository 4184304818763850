"""Steering: a network runs on with latents of an SAE held at values."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

from saehelpers.networks.activations import splice
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Name
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder


@checked
def clamped(
    model: nn.Module, module: Name, sae: nn.Module, values: Mapping[int, float]
) -> AbstractContextManager[None]:
    """Within the context, latents of an SAE are held at values, wherever a module is read.

        x  becomes  x + sum over i of (v_i - z_i(x)) D_i,    z = E(x)

    What the SAE does not explain of x stays: latents held at what they are change nothing, and
    at 0 they are taken out (ablated). Latents are those of `sae.encode`, in its units; D are the
    rows of the decoder in units of x, of an `EquivariantSAE` those of the element that it infers.

    Args:
        module: its output (or "name.input") is changed: vectors (..., d), tokens (n, context, d)
            say, or the maps of convolutions (n, d, height, width).
        values: of latents, by their numbers.

    Raises:
        ValueError: the SAE has no latent of that number, or more than one decoder (a group
            crosscoder); the model has no such module. When the module runs: it returns neither
            vectors nor maps of the SAE's width.
    """
    if isinstance(sae, GroupCrosscoder) or not isinstance(sae, SAE | EquivariantSAE):
        raise ValueError(
            f"sae must be an SAE with one decoder, or an EquivariantSAE, got {type(sae).__name__}"
        )
    n_latents = len(sae.dictionary)
    for latent in values:
        if latent not in range(n_latents):
            raise ValueError(f"values: the SAE has latents 0 to {n_latents - 1}, got {latent!r}")
    latents = torch.tensor([int(latent) for latent in values], dtype=torch.long)
    held = torch.tensor([float(value) for value in values.values()])
    edit = partial(_held, sae, latents, held)
    return splice(model, {module: partial(on_vectors, edit, sae.dictionary.shape[1])})


def on_vectors(edit: Callable[[Tensor], Tensor], d: int, x: Tensor) -> Tensor:
    """Edit activations (..., d), or maps (n, d, height, width), as vectors (samples, d).

    Raises:
        ValueError: they are neither.
    """
    channels_first = x.ndim == 4 and x.shape[1] == d and x.shape[-1] != d
    rows = x.movedim(1, -1) if channels_first else x
    if rows.shape[-1] != d:
        raise ValueError(
            f"the SAE reads vectors of width {d}, the module returns {tuple(x.shape)}: neither its "
            "last axis nor, of maps, its second one is of that width"
        )
    edited = edit(rows.reshape(-1, d)).reshape(rows.shape).to(x.dtype)
    return edited.movedim(-1, 1) if channels_first else edited


@torch.no_grad()
def _held(sae: SAE | EquivariantSAE, latents: Tensor, held: Tensor, x: Tensor) -> Tensor:
    blocks = sae.decoder_blocks()[0]  # (|G| or 1, n_latents, d)
    if isinstance(sae, EquivariantSAE):
        encoded, elements = sae.encode_inferred(x)
    else:
        encoded, elements = sae.encode(x), None
    change = held.to(encoded) - encoded[:, latents.to(x.device)]  # (samples, latents)
    if elements is None:
        return x + change @ blocks[0, latents]
    result = x.clone()
    for element in range(len(blocks)):
        own = elements == element
        result[own] += change[own] @ blocks[element, latents]
    return result
