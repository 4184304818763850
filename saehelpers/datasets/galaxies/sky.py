"""The sky around a galaxy: its level, its noise, and other telescopes' skies."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Seed

BORDER = 4  # pixels at the edges of an image that are taken for sky


def measure_sky(
    images: Float[np.ndarray, "*channels h w"],
) -> tuple[Float[np.ndarray, "*channels"], Float[np.ndarray, "*channels"]]:
    """(level, noise): the median of the border, and the deviation from it, robustly.

    noise = 1.4826 median |x - level|, which is the standard deviation of normal noise.
    """
    edges = (
        images[..., :BORDER, :],
        images[..., -BORDER:, :],
        images[..., :BORDER],
        images[..., -BORDER:],
    )
    border = np.concatenate([edge.reshape(*edge.shape[:-2], -1) for edge in edges], axis=-1)
    level = np.median(border, axis=-1)
    return level, 1.4826 * np.median(np.abs(border - level[..., None]), axis=-1)


@checked
def match_sky(
    images: UInt8[Tensor, "n 3 h w"], like: UInt8[Tensor, "m 3 h w"], seed: Seed = 0
) -> UInt8[Tensor, "n 3 h w"]:
    """Images under the sky of others: the same mean level, and noise added up to theirs.

    What one telescope saw, as the other would have: noise can be added, not taken away.
    """
    level, noise = measure_sky(images.numpy().astype(np.float32))
    wanted_level, wanted_noise = (s.mean(0) for s in measure_sky(like.numpy().astype(np.float32)))
    added = np.sqrt(np.clip(wanted_noise**2 - noise**2, 0, None))  # (n, 3)
    drawn = np.random.default_rng(seed).standard_normal(tuple(images.shape), dtype=np.float32)
    seen = images.numpy() + (wanted_level - level)[..., None, None] + added[..., None, None] * drawn
    return torch.from_numpy(np.clip(np.round(seen), 0, 255).astype(np.uint8))
