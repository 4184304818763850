"""The sky around a galaxy: its level, its noise, and other telescopes' skies."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive, Seed

BORDER = 4  # pixels at the edges of an image that are taken for sky
LAGS = 2  # pixels apart, up to which noise is taken to be correlated
OUTLIER = 3.0  # deviations of the noise from which a pixel belongs to a source


def measure_sky(
    images: Float[np.ndarray, "*channels h w"], border: Positive = BORDER
) -> tuple[Float[np.ndarray, "*channels"], Float[np.ndarray, "*channels"]]:
    """(level, noise): the median of the border, and the deviation from it, robustly.

    noise = 1.4826 median |x - level|, which is the standard deviation of normal noise.
    """
    edges = (
        images[..., :border, :],
        images[..., -border:, :],
        images[..., :border],
        images[..., -border:],
    )
    pixels = np.concatenate([edge.reshape(*edge.shape[:-2], -1) for edge in edges], axis=-1)
    level = np.median(pixels, axis=-1)
    return level, 1.4826 * np.median(np.abs(pixels - level[..., None]), axis=-1)


def corner_noise(images: Float[np.ndarray, "n 3 h w"]) -> Float[np.ndarray, "n 3 4 side side"]:
    """Deviations from the sky in the four corners, squares of an eighth of the side.

    Where a source outshines the noise they are 0.
    """
    side = max(LAGS + 1, images.shape[-1] // 8)
    halves = (slice(None, side), slice(-side, None))
    corners = np.stack([images[..., rows, columns] for rows in halves for columns in halves], 2)
    flat = corners.reshape(*corners.shape[:2], -1)
    away = flat - np.median(flat, -1, keepdims=True)
    noise = 1.4826 * np.median(np.abs(away), -1, keepdims=True)
    return np.where(np.abs(away) <= OUTLIER * noise, away, 0).reshape(corners.shape)


def lag_covariance(
    noise: Float[np.ndarray, "*first h w"], rows: int, columns: int
) -> Float[np.ndarray, "*first"]:
    """Mean product of pixels that are so far apart."""
    height, width = noise.shape[-2:]
    one = noise[..., : height - rows, max(0, -columns) : width - max(0, columns)]
    other = noise[..., rows:, max(0, columns) : width + min(0, columns)]
    return (one * other).mean((-2, -1))


@checked
def match_sky(
    images: UInt8[Tensor, "n 3 h w"], like: UInt8[Tensor, "m 3 h w"], seed: Seed = 0
) -> UInt8[Tensor, "n 3 h w"]:
    """Images under the sky of others: the same mean level, and noise added up to theirs.

    What one telescope saw, as the other would have: noise can be added, not taken away. Bands
    and pixels of what is added are correlated as the others' noise is. With C the covariance of
    bands, and r(u) the correlation of pixels u apart, at most two in each direction,

        noise added = filter(white noise), of covariance max(0, C_others - C_own) r(u)
    """
    own, others = (pixels.numpy().astype(np.float32) for pixels in (images, like))
    level, (wanted_level, _) = measure_sky(own)[0], (s.mean(0) for s in measure_sky(others))
    lacking = _band_covariance(others).mean(0) - _band_covariance(own)  # (n, 3, 3)
    values, vectors = np.linalg.eigh(lacking)
    mixing = vectors * np.sqrt(values.clip(0))[:, None]
    drawn = np.random.default_rng(seed).standard_normal(tuple(images.shape), dtype=np.float32)
    spectrum = np.fft.rfft2(drawn) * np.sqrt(_power(others, drawn.shape[-2:]))
    noise = np.einsum("nij,njhw->nihw", mixing, np.fft.irfft2(spectrum, drawn.shape[-2:]))
    seen = own + (wanted_level - level)[..., None, None] + noise
    return torch.from_numpy(np.clip(np.round(seen), 0, 255).astype(np.uint8))


def _band_covariance(images: np.ndarray) -> np.ndarray:
    """(n, 3, 3): that of the corners, with the noise of the border on its diagonal."""
    noise = corner_noise(images).reshape(*images.shape[:2], -1)
    covariance = noise @ noise.swapaxes(1, 2) / noise.shape[-1]
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    scale = measure_sky(images)[1] / np.maximum(spread, 1e-6)
    return covariance * scale[:, :, None] * scale[:, None]


def _power(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The spectrum of noise of variance 1, as far as `rfft2` has it, from its correlations."""
    noise = corner_noise(images)
    kernel = np.zeros(shape)
    for rows in range(LAGS + 1):
        for columns in range(-LAGS, LAGS + 1):
            value = lag_covariance(noise, rows, columns).mean()
            kernel[rows, columns] = kernel[-rows, -columns] = value
    power = np.fft.rfft2(kernel).real.clip(0)
    return power / np.fft.irfft2(power, shape)[0, 0]
