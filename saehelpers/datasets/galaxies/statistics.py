"""What tells one survey's pictures of galaxies from another's, in numbers."""

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from torch import Tensor

from saehelpers.datasets.galaxies.measured import measure_galaxies
from saehelpers.datasets.galaxies.sky import corner_noise, lag_covariance, measure_sky
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import AnyExecutor

PERCENTILES = (10, 50, 90)


@checked
def survey_statistics(
    images: UInt8[Tensor, "n 3 size size"], executor: AnyExecutor | None = None
) -> pd.Series:
    """Numbers that describe images of galaxies and their sky, by the names of the quantities.

    sky_level_r, _g, _b: median of the border, an eighth of the side wide, in grey levels of 255;
    sky_noise: 1.4826 times the median deviation from it; of these the median over images.
    noise_corr_neighbour, _lag2: correlation of pixels one and two apart, along rows and columns,
    in the four corners; noise_corr_colours: of two bands there; medians over images.
    centre_r, _g, _b: mean of the middle (4 x 4 of 64 x 64 pixels) above the sky;
    centre_r_over_b: red over blue there; ellipticity, semimajor, concentration: see
    `measure_galaxies`; of each the 10th, 50th and 90th percentile over images, as _p10, _p50,
    _p90. measured_share: of images in which a galaxy stands out; n: number of images.

    Args:
        executor: see `saehelpers.runs.sweeps.sweep`.
    """
    pixels = images.numpy().astype(np.float32)
    level, noise = measure_sky(pixels, border=max(1, pixels.shape[-1] // 8))
    medians = dict(
        zip(("sky_level_r", "sky_level_g", "sky_level_b"), np.median(level, 0), strict=True)
    )
    medians["sky_noise"] = np.median(noise)
    medians |= _correlations(corner_noise(pixels))
    half, middle = max(1, pixels.shape[-1] // 32), pixels.shape[-1] // 2
    inside = np.s_[..., middle - half : middle + half, middle - half : middle + half]
    centre = pixels[inside].mean((-2, -1)) - level
    measured = measure_galaxies(images, executor)
    values = {f"centre_{band}": centre[:, i] for i, band in enumerate("rgb")}
    values["centre_r_over_b"] = centre[:, 0] / np.where(centre[:, 2] > 0, centre[:, 2], np.nan)
    values |= {name: measured[name] for name in ("ellipticity", "semimajor", "concentration")}
    spread = {
        f"{name}_p{percent}": pd.Series(own).quantile(percent / 100)
        for name, own in values.items()
        for percent in PERCENTILES
    }
    share = {"measured_share": measured["ellipticity"].notna().mean(), "n": len(images)}
    return pd.Series(medians | spread | share, dtype=float, name="value").rename_axis("quantity")


def _correlations(noise: np.ndarray) -> dict[str, float]:
    """Medians over images of the noise's correlations; of (n, 3, 4, side, side)."""
    variance = (noise**2).mean((-2, -1))
    lags = {"neighbour": 1, "lag2": 2}
    found = {}
    for name, lag in lags.items():
        both = lag_covariance(noise, lag, 0) + lag_covariance(noise, 0, lag)
        found[name] = both.sum((1, 2)) / (2 * variance.sum((1, 2))).clip(1e-6)
    bands = noise.reshape(*noise.shape[:2], -1)
    spread = np.sqrt((bands**2).mean(-1)).clip(1e-6)
    pairs = [
        (bands[:, i] * bands[:, j]).mean(-1) / (spread[:, i] * spread[:, j])
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    found["colours"] = np.mean(pairs, axis=0)
    return {f"noise_corr_{name}": float(np.median(values)) for name, values in found.items()}
