"""What a survey makes of light: seeing, noise, and the picture that people look at."""

from dataclasses import dataclass, fields
from io import BytesIO

import numpy as np

from saehelpers.runs.checking import checked_config
from saehelpers.runs.extras import extra

with extra("galaxies"):
    from PIL import Image
    from scipy.ndimage import gaussian_filter

Range = tuple[float, float]
SEEING = np.array([0.94, 1.0, 1.09])  # in the bands z, r and g, in units of that in r
SHARES = {"desaturation", "noise_colours"}  # fields whose values are from 0 to 1


@checked_config
@dataclass(frozen=True)
class Survey:
    """How galaxies come to be pictures; every galaxy is seen with values drawn from the ranges.

    Bands z, r and g become red, green and blue as in the pictures of DECaLS that the volunteers
    of Galaxy Zoo were shown (Walmsley et al., MNRAS 509 (2022), 3966, sections 2.1 to 2.3, and the
    code published with it, image_utils.dr2_style_rgb). Fluxes f are in units of 0.019, 0.014 and
    0.008 nanomaggies per pixel of the camera:

        v = (asinh f + asinh black) / (asinh white + asinh black)
        w = sin(pi / 2 (1 - max(v) / 2.5 mean(v))), 0 where negative
        picture = w v + (1 - w) mean(v)  +  (1 - w)^2 mean(v) v

    The ranges are wider than that survey's values, given below, so that nothing that is learnt
    depends on one of them. Images of `size` pixels a side show the same piece of sky.

    Args:
        radius: of half of the light, as a share of the side; drawn by its logarithm. There:
            pictures of 424 pixels, of 1/25 of the Petrosian half-light radius each, 0.059; smaller
            for galaxies below 2.5 arcseconds.
        brightness: mean flux within that radius; drawn by its logarithm. There: 10 for 21.7
            magnitudes per square arcsecond; galaxies brighter than magnitude 17.77.
        colour: factor on the ratio of red to blue, drawn by its logarithm. There: 1, for nearby
            galaxies.
        seeing: full width at half maximum in r, as a share of the side. There: 1.18 arcseconds of
            42 to 100. In z and g it is 6 % less and 9 % more (1.11 and 1.29).
        seeing_bands: a further factor on the seeing of each band.
        stars, companions: expected number in a picture.
        black, white: -flux that is shown black, flux that is shown white. There: 0.5, 300.
        desaturation: how far towards the formula above. There: 1.
        sky: left in each band, in units of flux. Measured there: 0.05 in red, none in the others.
        noise: standard deviation in each band. Measured there: 0.16 (5.9 grey levels of 255).
        noise_width: standard deviation of the Gaussian that it was smoothed with, in pixels, as
            where exposures are resampled. Measured there: neighbours correlate by 0.30.
        noise_colours: share of the noise's variance that the bands have in common. Measured
            there, in the pictures: 0.80.
        jpeg_quality: of the picture.
    """

    radius: Range = (0.043, 0.12)
    brightness: Range = (4.0, 100.0)
    colour: Range = (0.8, 1.35)
    seeing: Range = (0.011, 0.034)
    seeing_bands: Range = (0.88, 1.14)
    stars: Range = (0.2, 2.0)
    companions: Range = (0.5, 4.0)
    black: Range = (0.3, 0.75)
    white: Range = (150.0, 600.0)
    desaturation: Range = (0.6, 1.0)
    sky: Range = (-0.08, 0.1)
    noise: Range = (0.07, 0.31)
    noise_width: Range = (0.2, 0.57)
    noise_colours: Range = (0.0, 0.7)
    jpeg_quality: Range = (75.0, 100.0)

    def __post_init__(self):
        for field in fields(self):
            low, high = getattr(self, field.name)
            if not low <= high:
                raise ValueError(f"{field.name} must be from low to high, got ({low}, {high})")
            if field.name != "sky" and low < 0:
                raise ValueError(f"{field.name} must be 0 or more, got {low}")
            if field.name in SHARES and high > 1:
                raise ValueError(f"{field.name} must be 1 or less, got {high}")

    def draw(self, rng: np.random.Generator, name: str, *shape: int):
        return rng.uniform(*getattr(self, name), shape or None)

    def draw_ratio(self, rng: np.random.Generator, name: str) -> float:
        """Drawn by its logarithm."""
        return float(np.exp(rng.uniform(*np.log(getattr(self, name)))))

    def photograph(self, bands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The picture (size, size, 3) uint8 of fluxes (size, size, 3)."""
        bands = bands + self.draw(rng, "sky", 3) + self._noise(bands.shape, rng)
        black, white = self.draw(rng, "black"), self.draw_ratio(rng, "white")
        levels = np.arcsinh([black, white]).sum()
        values = (np.arcsinh(bands) + np.arcsinh(black)) / levels
        mean = values.mean(-1, keepdims=True)
        largest = values.max(-1, keepdims=True) / np.maximum(mean, 1e-3)
        weight = np.sin(np.pi / 2 * np.clip(1 - largest / 2.5, 0, 1))
        grey = weight * values + (1 - weight) * mean + (1 - weight) ** 2 * mean * values
        values += self.draw(rng, "desaturation") * (grey - values)
        picture = Image.fromarray(np.uint8(255 * np.clip(values, 0, 1)))
        file = BytesIO()
        quality = round(self.draw(rng, "jpeg_quality"))
        picture.save(file, "jpeg", quality=quality, subsampling=0)
        return np.asarray(Image.open(file))

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        shared = self.draw(rng, "noise_colours")
        drawn = rng.normal(size=(*shape[:2], 4))
        drawn = np.sqrt(shared) * drawn[..., 3:] + np.sqrt(1 - shared) * drawn[..., :3]
        width = self.draw(rng, "noise_width")
        smooth = gaussian_filter(drawn, (width, width, 0), mode="wrap")
        return self.draw(rng, "noise") * smooth / smooth.std((0, 1))
