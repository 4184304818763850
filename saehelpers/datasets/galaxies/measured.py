"""What can be measured on the picture of a galaxy, in the same way for every source."""

import warnings

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from torch import Tensor

from saehelpers.datasets.galaxies.sky import measure_sky
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import AnyExecutor

with extra("galaxies"):
    from photutils.segmentation import SourceCatalog, detect_sources
    from photutils.utils.exceptions import NoDetectionsWarning
    from scipy.ndimage import gaussian_filter

CHUNK = 100  # images that a process measures at a time
PROPERTIES = ("ellipticity", "semimajor", "concentration", "angle")


@checked
def measure_galaxies(
    images: UInt8[Tensor, "n 3 size size"], executor: AnyExecutor | None = None
) -> pd.DataFrame:
    """Properties of the galaxy in the middle of each image (photutils).

    ellipticity: 1 - b / a of the second moments' ellipse; semimajor: a (one standard deviation),
    as a share of the image's side; concentration: 5 log10(r_80 / r_20) of the radii that hold
    80 and 20 percent of the light; angle of the long axis: radians in [0, pi), from the x axis
    towards the y axis, which points down. Missing where nothing stands out from the sky.

    Args:
        executor: see `saehelpers.runs.sweeps.sweep`.
    """
    starts = range(0, len(images), CHUNK)
    jobs = [(start, images[start : start + CHUNK].numpy()) for start in starts]
    parts = sorted(sweep(_measure_chunk, jobs, "galaxies", executor), key=lambda part: part[0])
    rows = [row for _, chunk in parts for row in chunk]
    return pd.DataFrame(rows, columns=list(PROPERTIES))


def _measure_chunk(start: int, images: np.ndarray) -> tuple[int, list]:
    return start, [_measure(image.astype(np.float32).mean(0)) for image in images]


def _measure(light: np.ndarray) -> tuple[float, ...]:
    size, middle = len(light), len(light) // 2
    (sky,), (noise,) = measure_sky(light[None])
    noise += 0.5  # half a step of the 8-bit scale
    light = light - sky
    with warnings.catch_warnings(action="ignore", category=NoDetectionsWarning):
        segments = detect_sources(gaussian_filter(light, 1.0), 2 * noise, size // 4)
    near = np.s_[middle - size // 16 : middle + size // 16 + 1]
    found = np.bincount(segments.data[near, near].ravel())[1:] if segments else np.zeros(0)
    if not found.any():
        return (np.nan,) * len(PROPERTIES)
    label = int(found.argmax()) + 1
    mask = (segments.data != 0) & (segments.data != label)
    segments.keep_label(label)
    source = SourceCatalog(light, segments, mask=mask)[0]
    inner, outer = (float(source.flux_radius(share).value) for share in (0.2, 0.8))
    return (
        float(source.ellipticity),
        float(source.semimajor_axis.value) / size,
        5 * np.log10(outer / inner),
        float(np.deg2rad(source.orientation.value)) % np.pi,
    )
