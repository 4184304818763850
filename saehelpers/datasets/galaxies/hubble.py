"""Real galaxies, cut out of the Hubble deep-field image that comes with scikit-image."""

import numpy as np
import pandas as pd
import torch

from saehelpers.datasets.galaxies.base import CLASSES
from saehelpers.datasets.images import ImageSet
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Positive

with extra("galaxies"):
    from photutils.background import Background2D, MedianBackground
    from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
    from scipy.ndimage import gaussian_filter
    from skimage import data
    from skimage.transform import resize

SMALLEST_AREA = 60  # pixels of a source; smaller ones show no shape
SATURATED = (248, 5, 0.3)  # a star: pixels from this value up, how many, ellipticity up to
SIDE = 7.0  # of a cutout, in units of the galaxy's semi-major axis (one standard deviation)


@checked
def load_hubble(size: Positive = 64) -> ImageSet:
    """Cutouts of all galaxies large enough to have a shape, brought to one size.

    Sources are told from the sky at two standard deviations and from each other by deblending
    (photutils); what belongs to another source is covered with sky. Bright stars are left out:
    round sources whose middle is saturated in all bands. A few faint ones remain.

    properties: x, y (pixels in the field), semimajor (pixels there), ellipticity, angle
    (radians in [0, pi), from the x axis towards the y axis), area.
    """
    field = data.hubble_deep_field().astype(np.float32)
    light = field.mean(-1)
    sky = Background2D(light, (64, 64), filter_size=3, bkg_estimator=MedianBackground())
    smooth = gaussian_filter(light - sky.background, 1.0)
    found = detect_sources(smooth, 2 * sky.background_rms, SMALLEST_AREA)
    segments = deblend_sources(
        smooth, found, SMALLEST_AREA, n_levels=16, contrast=0.02, progress_bar=False
    )
    catalogue = SourceCatalog(light - sky.background, segments)
    generator = np.random.default_rng(0)
    images, rows = [], []
    for source in catalogue:
        half = SIDE * float(source.semimajor_axis.value) / 2
        x, y = float(source.x_centroid), float(source.y_centroid)
        core = field[max(0, round(y) - 8) : round(y) + 9, max(0, round(x) - 8) : round(x) + 9]
        value, number, roundest = SATURATED
        if (core.min(-1) >= value).sum() >= number and float(source.ellipticity) < roundest:
            continue
        inside = min(x, y, field.shape[1] - 1 - x, field.shape[0] - 1 - y) > half
        if not inside or half < 8:
            continue
        window = np.s_[round(y - half) : round(y + half), round(x - half) : round(x + half)]
        others = (segments.data[window] != 0) & (segments.data[window] != source.label)
        cutout = field[window].copy()
        empty = cutout[segments.data[window] == 0]
        if len(empty) < 20:
            continue
        cutout[others] = empty[generator.integers(len(empty), size=int(others.sum()))]
        images.append(resize(cutout / 255, (size, size), anti_aliasing=True))
        rows.append(
            {
                "x": x,
                "y": y,
                "semimajor": float(source.semimajor_axis.value),
                "ellipticity": float(source.ellipticity),
                "angle": float(np.deg2rad(source.orientation.value)) % np.pi,
                "area": float(source.area.value),
            }
        )
    pixels = np.clip(np.round(np.stack(images) * 255), 0, 255).astype(np.uint8)
    return ImageSet(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), None, CLASSES, "hubble", pd.DataFrame(rows)
    )
