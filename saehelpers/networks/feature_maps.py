"""Feature maps of images: every pixel a sample, kept on disk where they outgrow memory."""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.datasets.shards import map_activations
from saehelpers.networks.activations import read_activations
from saehelpers.runs.checking import checked
from saehelpers.runs.fingerprints import check_file, keep_fingerprint
from saehelpers.runs.wanted import FROM_ZERO, Positive, Seed
from saehelpers.saes import SAE, EquivariantSAE
from saehelpers.symmetry import Group, InputAction, input_action

LEADING = (
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token",
    "register_tokens", "reg_token",
)  # fmt: skip


@checked
def leading_tokens(model: nn.Module) -> int:
    """How many tokens a vision transformer puts in front of those of the patches.

    Class, distillation and register tokens, by the parameters that they start as; or the
    model's own `num_prefix_tokens` (timm).
    """
    own = getattr(model, "num_prefix_tokens", None)
    if own is not None:
        return own
    tokens = [p for name, p in model.named_parameters() if name.rpartition(".")[2] in LEADING]
    return sum(1 if token.ndim == 1 else token.shape[-2] for token in tokens)


@checked
def to_feature_maps(
    activations: Tensor, model: nn.Module | None = None
) -> Float[Tensor, "n d h w"]:
    """Activations of images as maps of pixels.

    Maps (n, d, h, w) stay as they are, but for square ones whose channels come last, (n, h, w,
    d). Tokens (n, tokens, d) of a transformer are laid out in rows, without those that the model
    puts in front (`leading_tokens`; none without a model). One vector for an image, (n, d), is a
    map of one pixel.

    Raises:
        ValueError: another shape, or the tokens left are no square number.
    """
    if activations.ndim == 2:
        return activations[..., None, None]
    if activations.ndim == 3:
        return _laid_out(activations, 0 if model is None else leading_tokens(model))
    if activations.ndim == 4:
        _, first, second, third = activations.shape
        channels_last = first == second != third
        return activations.permute(0, 3, 1, 2) if channels_last else activations
    raise ValueError(
        "activations for maps are (n, d, h, w), (n, tokens, d) or (n, d), these are "
        f"{tuple(activations.shape)}"
    )


def _laid_out(activations: Tensor, n_leading: int) -> Tensor:
    n_tokens = activations.shape[1]
    for n_front in (n_leading, 0):  # some come in later layers
        side = math.isqrt(max(0, n_tokens - n_front))
        if side and side**2 == n_tokens - n_front:
            return activations[:, n_front:].mT.unflatten(-1, (side, side))
    raise ValueError(
        f"activations of {n_tokens} tokens, {n_leading} of them in front of those of the patches, "
        "are no square map: pass the model, and if it does not say how many stand in front, give "
        "it an attribute num_prefix_tokens"
    )


@checked
def drawn_pixels(
    n_images: Positive, n_pixels: Positive, pixels_per_image: Positive | None = None, seed: Seed = 0
) -> Int[Tensor, "n_images k"]:
    """Which pixels (row * width + column) of each image `orbit_pixels` takes, in their order."""
    k = min(pixels_per_image or n_pixels, n_pixels)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n_images, n_pixels, generator=generator).argsort(1)
    return order[:, :k].sort(1).values


@checked
def neighbourhoods(
    maps: Float[Tensor, "n d height width"],
    pixels: Annotated[Int[Tensor, "n k"], FROM_ZERO],
    width: Positive = 1,
) -> Float[Tensor, "samples features"]:
    """What maps hold in squares around pixels (row * width + column), zeros from outside.

    (n * k, d * width * width), channel by channel; width is odd.
    """
    if width % 2 == 0:
        raise ValueError(f"width must be odd, the pixel is in the middle, got {width}")
    patches = nn.functional.unfold(maps, width, padding=width // 2)  # (n, features, pixels)
    chosen = pixels[:, None].expand(-1, patches.shape[1], -1)
    return patches.gather(2, chosen).mT.flatten(0, 1)


@checked
def orbit_pixels(
    model: nn.Module,
    images: Shaped[Tensor, "images c h w"],
    group: Group,
    module: str,
    path: Path | str,
    pixels_per_image: Positive | None = None,
    seed: Seed = 0,
    batch_size: Positive = 256,
    act: InputAction | None = None,
) -> Float[Tensor, "n order d"]:
    """Activations of pixels of a feature map over the orbit, written to disk and mapped.

    A sample is one pixel u of one image x. What element g makes of it is read where g takes it:
    psi(gx)[gu], which is the map of gx turned back, at u. Memory holds one batch of images.

    Args:
        images: (n, channels, size, size).
        path: of the file; what is there already is taken as it is.
        pixels_per_image: that many, drawn anew for every image by `seed`; all if None.
        act: what an element makes of images, and of feature maps, `act(images, element)`; by
            default the `image_action`.

    Raises:
        ValueError: there are no images, or no pixels asked for; `act` is no action of the
            group on the images or on their maps (see `check_input_action`); or what is there is
            not as it was written.
        OSError: the disk is full; names the file.
    """
    path = Path(path)
    if path.exists():
        try:
            check_file(path)
            return map_activations(path)
        except ValueError as error:
            raise ValueError(f"{error}. It is made again when it is not there") from error
    if not len(images) or pixels_per_image == 0:
        raise ValueError(f"nothing to read: {pixels_per_image} pixels of {len(images)} images")
    turn = input_action(group, act, images)
    chosen = None
    # not through a memory map: a full disk would end the process
    with runs.temporary_path(path) as temporary, temporary.open("wb") as file:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            turned = [
                to_feature_maps(read_activations(model, turn(batch, g), module, batch_size), model)
                for g in range(group.order)
            ]
            if start == 0:
                input_action(group, act, turned[0])
            maps = [turn(turned[g], group.inverse(g)).flatten(2) for g in range(group.order)]
            orbits = torch.stack(maps, dim=-1).permute(0, 2, 3, 1)  # (batch, pixels, |G|, d)
            if start == 0:
                chosen = drawn_pixels(len(images), orbits.shape[1], pixels_per_image, seed)
            own = chosen[start : start + batch_size]
            orbits = orbits[torch.arange(len(batch))[:, None], own].flatten(0, 1)
            if start == 0:
                shape = (chosen.numel(), *orbits.shape[1:])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(orbits.float().contiguous().numpy().astype("<f4", copy=False).data)
        file.flush()
        keep_fingerprint(temporary, path)
    return map_activations(path)


@checked
@torch.no_grad()
def latent_maps(
    sae: SAE | EquivariantSAE, maps: Float[Tensor, "n d h w"]
) -> Float[Tensor, "n n_latents h w"]:
    """Latents of every pixel of feature maps."""
    latents = sae.encode(maps.flatten(2).mT.flatten(0, 1))
    return latents.unflatten(0, (len(maps), -1)).mT.unflatten(-1, maps.shape[-2:])


@checked
def mean_latents(
    sae: SAE, maps: Float[Tensor, "n d h w"], batch_size: Positive = 256
) -> Float[Tensor, "n n_latents"]:
    """Latents of images: those of their pixels, averaged."""
    return torch.cat([latent_maps(sae, part).mean((-2, -1)) for part in maps.split(batch_size)])
