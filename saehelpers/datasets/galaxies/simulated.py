"""Galaxies of four classes, drawn with galsim as a survey might have seen them."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from saehelpers.datasets.galaxies.base import CLASSES, read_hdf5, read_properties, write_hdf5
from saehelpers.datasets.galaxies.survey import SEEING, Survey
from saehelpers.datasets.images import ImageSet
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import AnyExecutor, Positive, Seed

with extra("galaxies"):
    import galsim
    from scipy.ndimage import gaussian_filter

SURVEY = Survey()
PROPERTIES = {"angle", "axis_ratio", "radius"}
CHUNK = 250  # images that a process draws at a time
SERSIC_STEP = 0.25  # of the index: galsim makes a table for every other one
SPEED = galsim.GSParams(folding_threshold=0.02, kvalue_accuracy=1e-3, maxk_threshold=5e-3)
# flux in the bands z, r and g, in the survey's units; the colours g - r and r - z, in magnitudes,
# are those of nearby galaxies (Blanton and Moustakas, ARA&A 47 (2009), 159)
BULGE = np.array([1.30, 1.07, 0.84])  # 0.87, 0.54
DISC = np.array([1.12, 1.02, 0.91])  # 0.73, 0.43
ARMS = np.array([0.92, 0.97, 1.12])  # 0.45, 0.27
KNOTS = np.array([0.85, 0.95, 1.25])  # 0.31, 0.21


@checked
def simulate_galaxies(
    n_images: Positive,
    folder: Path | str,
    size: Positive = 64,
    seed: Seed = 0,
    executor: AnyExecutor | None = None,
    survey: Survey = SURVEY,
) -> ImageSet:
    """Images of the four classes in turn; drawn once, then read from `folder`.

    smooth_round: a Sersic profile of index 1 to 5, as long as wide or half as long again.
    smooth_cigar: one of index 1 to 3, 1.6 to five times as long as wide. edge_on_disk: an
    exponential disc seen from the side or nearly so, mostly with a bulge and sometimes with a
    lane of dust. unbarred_spiral: an inclined disc with a bulge and one to four logarithmic arms,
    strong or weak, set with star-forming knots. The classes touch: a picture of the one may look
    like one of another, as it does to volunteers. The survey decides on size, brightness, colour,
    seeing, neighbours, noise and picture.

    properties: angle (of the long axis, radians in [0, pi), from the x axis towards the y axis),
    axis_ratio and radius (half of the light along the long axis, in pixels) of the galaxy.

    Args:
        executor: see `saehelpers.runs.sweeps.sweep`.
    """
    told = {"n": n_images, "size": size, "seed": seed, "survey": identity(survey)}
    name = f"galaxies-simulated-{n_images}-{size}-{seed}-{told['survey'][:8]}.hdf5"
    path = Path(folder) / name
    if not path.exists():
        starts = range(0, n_images, CHUNK)
        jobs = [(seed, start, min(start + CHUNK, n_images), size, survey) for start in starts]
        parts = sorted(sweep(_draw_chunk, jobs, "galaxies", executor), key=lambda part: part[0])
        pixels = np.concatenate([images for _, images, _ in parts])
        labels = torch.arange(n_images) % len(CLASSES)
        properties = pd.DataFrame([row for _, _, rows in parts for row in rows])
        write_hdf5(path, torch.from_numpy(pixels).permute(0, 3, 1, 2), labels, properties)
    images, labels = read_hdf5(path)
    properties = read_properties(path)
    if images.shape != (n_images, 3, size, size) or set(properties) != PROPERTIES:
        raise ValueError(f"{path} holds other galaxies, {tuple(images.shape)}: delete it")
    # galsim's pixels differ by a grey level between versions and processors
    images = identified(images, {"galaxies": "simulated"} | told)
    return ImageSet(images, labels, CLASSES, "simulated", properties)


def _draw_chunk(seed: int, start: int, stop: int, size: int, survey: Survey):
    drawn = [
        draw_galaxy(CLASSES[i % len(CLASSES)], size, (seed, i), survey) for i in range(start, stop)
    ]
    return start, np.stack([image for image, _ in drawn]), [row for _, row in drawn]


class _Seen(NamedTuple):
    """What the light of one picture goes through."""

    size: int
    angle: float
    psfs: list[galsim.GSObject]  # of the bands z, r and g
    widths: np.ndarray  # standard deviations of the seeing in pixels

    def image(self, light: galsim.GSObject) -> np.ndarray:
        """(size, size, 3): light of total flux 1 in each band."""
        images = [
            galsim.Convolve(light, psf, gsparams=SPEED).drawImage(
                nx=self.size, ny=self.size, scale=1.0, dtype=float
            )
            for psf in self.psfs
        ]
        return np.stack([image.array for image in images], axis=-1)

    def blurred(self, image: np.ndarray) -> np.ndarray:
        """(size, size, 3) of an image (size, size)."""
        return np.stack([gaussian_filter(image, width) for width in self.widths], axis=-1)


@checked
def draw_galaxy(
    kind: str, size: Positive, seed, survey: Survey = SURVEY
) -> tuple[np.ndarray, dict[str, float]]:
    """One galaxy of a class, (size, size, 3) uint8, and its properties.

    The galaxy depends on the seed alone, and on the survey how it is seen.
    """
    of_galaxy, of_field, of_survey = np.random.default_rng(seed).spawn(3)
    fwhm = size * survey.draw(of_survey, "seeing") * SEEING
    fwhm = fwhm * survey.draw(of_survey, "seeing_bands", 3)
    psfs = [galsim.Moffat(beta=3.5, fwhm=width, gsparams=SPEED) for width in fwhm]
    seen = _Seen(size, of_galaxy.uniform(0, np.pi), psfs, fwhm / 2.355)
    half_light = size * survey.draw_ratio(of_survey, "radius")
    bands, row = {
        "smooth_round": _smooth_round,
        "smooth_cigar": _smooth_cigar,
        "edge_on_disk": _edge_on_disk,
        "unbarred_spiral": _unbarred_spiral,
    }[kind](of_galaxy, seen, half_light)
    # `bands` have a total of 1; half of it lies within an ellipse
    area = np.pi * row["radius"] ** 2 * row["axis_ratio"]
    bands = bands * 2 * area * survey.draw_ratio(of_survey, "brightness")
    bands = np.roll(bands, of_galaxy.integers(-1, 2, 2), (0, 1))
    bands = bands + _company(of_field, of_survey, seen, survey)
    bands = bands * survey.draw_ratio(of_survey, "colour") ** np.array([0.5, 0, -0.5])
    return survey.photograph(bands, of_survey), {"angle": seen.angle, **row}


def _major(half_light: float, axis_ratio: float) -> float:
    """Half of the light along the long axis, of which half is in a circle of `half_light`."""
    return half_light * axis_ratio**-0.25


def _smooth_round(rng, seen, half_light):
    axis_ratio = 1 - 0.4 * rng.beta(1.3, 1.7)
    return _smooth(rng, seen, half_light, (0.5, 4), axis_ratio)


def _smooth_cigar(rng, seen, half_light):
    axis_ratio = 0.2 + 0.4 * rng.beta(1.6, 1.8)
    return _smooth(rng, seen, half_light, (0.5, 3), axis_ratio)


def _smooth(rng, seen, half_light, index, axis_ratio):
    radius = _major(half_light, axis_ratio)
    light = _turned(_sersic(rng, index, radius), axis_ratio, seen.angle)
    bands = seen.image(light) * _tinted(rng, BULGE)
    return bands, {"axis_ratio": axis_ratio, "radius": radius}


def _edge_on_disk(rng, seen, half_light):
    thickness, inclination = rng.uniform(0.05, 0.2), rng.uniform(73, 90)
    axis_ratio = float(np.hypot(thickness, np.cos(np.deg2rad(inclination))))
    radius = _major(half_light, axis_ratio)
    disc = galsim.InclinedExponential(
        inclination * galsim.degrees,
        scale_radius=radius / 1.678,
        scale_h_over_r=thickness,
        gsparams=SPEED,
    )
    disc = seen.image(disc.rotate(seen.angle * galsim.radians))
    bulge = _sersic(rng, (1, 3), radius * rng.uniform(0.12, 0.35))
    bulge = seen.image(_turned(bulge, rng.uniform(0.55, 0.95), seen.angle))
    share = rng.beta(1.2, 3) * 0.7
    bands = (1 - share) * disc * _tinted(rng, DISC) + share * bulge * _tinted(rng, BULGE)
    if rng.random() < 0.4:
        bands *= _dust(rng, seen, radius)
    return bands, {"axis_ratio": axis_ratio, "radius": radius}


def _unbarred_spiral(rng, seen, half_light):
    axis_ratio = rng.uniform(0.45, 1)
    radius = _major(half_light, axis_ratio) * rng.uniform(1.1, 1.6)
    disc = seen.image(_turned(_sersic(rng, (0.5, 1), radius), axis_ratio, seen.angle))
    bulge = _sersic(rng, (1, 3.5), radius * rng.uniform(0.1, 0.35))
    bulge = seen.image(_turned(bulge, max(axis_ratio, rng.uniform(0.6, 1)), seen.angle))
    arms, knots = (seen.blurred(part) for part in _arms(rng, seen, radius, axis_ratio))
    share, in_arms, clumpy = rng.beta(1, 4) * 0.4, rng.uniform(0.25, 0.75), rng.uniform(0.05, 0.35)
    bands = (
        (1 - share) * (1 - in_arms) * disc * _tinted(rng, DISC)
        + (1 - share) * in_arms * (1 - clumpy) * arms * _tinted(rng, ARMS)
        + (1 - share) * in_arms * clumpy * knots * _tinted(rng, KNOTS)
        + share * bulge * _tinted(rng, BULGE)
    )
    return bands, {"axis_ratio": axis_ratio, "radius": radius}


def _arms(rng, seen, radius, axis_ratio):
    """Logarithmic arms r = r_0 exp(theta tan(pitch)) of soft light, and knots along them."""
    n_arms, pitch = rng.choice([1, 2, 2, 2, 3, 4]), np.deg2rad(rng.uniform(9, 32))
    handed = rng.choice([-1, 1])
    turns = np.linspace(0, np.log(rng.uniform(4, 9)) / np.tan(pitch), 90)
    starts = 2 * np.pi * np.arange(n_arms) / n_arms + rng.normal(0, 0.12, n_arms)
    starts += rng.uniform(0, 2 * np.pi)
    r = rng.uniform(0.25, 0.5) * radius * np.exp(turns * np.tan(pitch))
    theta = (starts[:, None] + handed * turns).ravel()
    flux = r * np.exp(-1.4 * r / radius) * rng.lognormal(0, 0.3, (n_arms, 1))
    flux = (flux * rng.uniform(0.7, 1.3, flux.shape)).ravel()
    r = np.tile(r, n_arms)
    width = rng.uniform(0.12, 0.25) * radius * np.sqrt(0.4 + r / radius)
    soft = _blobs(r, theta, flux, width, seen, axis_ratio)
    chosen = rng.random(r.shape) < 0.3
    scatter = rng.normal(0, 0.12 * radius, (2, chosen.sum()))
    bright = flux[chosen] * rng.lognormal(0, 0.7, chosen.sum())
    r, theta = r[chosen] + scatter[0], theta[chosen] + scatter[1] / np.maximum(r[chosen], 1)
    return soft, _blobs(r, theta, bright, np.full(r.shape, 0.08 * radius), seen, axis_ratio)


def _blobs(r, theta, flux, width, seen, axis_ratio):
    """Round Gaussians of light at places in the plane of a disc, seen inclined; total 1."""
    width = np.maximum(width, 0.4)  # of a pixel
    x, y = r * np.cos(theta), r * np.sin(theta) * axis_ratio
    cos, sin = np.cos(seen.angle), np.sin(seen.angle)
    x, y = x * cos - y * sin, x * sin + y * cos
    pixels = np.arange(seen.size) - (seen.size - 1) / 2
    across = np.exp(-0.5 * ((pixels - x[:, None]) / width[:, None]) ** 2)
    along = np.exp(-0.5 * ((pixels - y[:, None]) / width[:, None]) ** 2)
    image = (along * (flux / width**2)[:, None]).T @ across
    return image / image.sum()


def _dust(rng, seen, radius):
    """What a lane of dust along the disc lets through, (size, size, 3): blue least."""
    y, x = np.mgrid[: seen.size, : seen.size] - (seen.size - 1) / 2
    cos, sin = np.cos(seen.angle), np.sin(seen.angle)
    off, along = y * cos - x * sin - rng.normal(0, 0.05 * radius), x * cos + y * sin
    width = np.hypot(0.1 * radius, seen.widths[1])
    depth = np.exp(-0.5 * (off / width) ** 2 - 0.5 * (along / (1.3 * radius)) ** 2)
    return np.exp(-rng.uniform(0.3, 1.2) * depth[..., None] * np.array([0.7, 1.0, 1.35]))


def _company(of_field, of_survey, seen, survey):
    """Stars and small galaxies of the field."""
    bands = np.zeros((seen.size, seen.size, 3))
    for kind in ("stars", "companions"):
        for _ in range(of_field.poisson(survey.draw(of_survey, kind))):
            place = galsim.PositionD(*of_field.uniform(-0.5, 0.5, 2) * seen.size)
            flux = of_field.lognormal(2.8, 1.4) * (seen.size / 64) ** 2
            if kind == "stars":
                light = galsim.Gaussian(sigma=0.3, gsparams=SPEED)
                tint = np.exp(of_field.normal(0, 0.4) * np.array([1.0, 0.0, -1.0]))
            else:
                radius = seen.size * of_field.uniform(0.01, 0.035)
                light = galsim.Exponential(half_light_radius=radius, gsparams=SPEED)
                light = _turned(light, of_field.uniform(0.4, 1), of_field.uniform(0, np.pi))
                tint = _tinted(of_field, DISC)
            bands += flux * seen.image(light.shift(place)) * tint
    return bands


def _sersic(rng, index, radius):
    steps = np.arange(index[0], index[1] + SERSIC_STEP / 2, SERSIC_STEP)
    return _unit_sersic(float(rng.choice(steps))).dilate(radius)


@functools.cache
def _unit_sersic(index: float) -> galsim.GSObject:
    return galsim.Sersic(index, half_light_radius=1.0, trunc=6.0, gsparams=SPEED)


def _turned(light, axis_ratio, angle):
    """Squeezed across the angle to `axis_ratio`; as long as it was along it."""
    return light.shear(q=axis_ratio, beta=angle * galsim.radians).dilate(axis_ratio**0.5)


def _tinted(rng, colour) -> np.ndarray:
    return colour * np.exp(rng.normal(0, 0.14) * np.array([1.0, 0.0, -1.0]))
