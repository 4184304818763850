"""Galaxies of four classes, drawn with galsim as a survey might have seen them."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saehelpers.datasets.galaxies.base import CLASSES, read_hdf5, read_properties, write_hdf5
from saehelpers.datasets.images import ImageSet
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.identities import identified
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import AnyExecutor, Positive, Seed

with extra("galaxies"):
    import galsim
    from astropy.visualization import make_lupton_rgb

PROPERTIES = {"angle", "axis_ratio", "radius"}
AGAIN = "delete it and the .hdf5 file beside it, and they are drawn again"
CHUNK = 250  # images that a process draws at a time
SEEING = (0.016, 0.018, 0.022, 0.026)  # full width at half maximum, in units of the image's side
SERSIC_STEP = 0.25  # of the index: galsim makes a table for every other one
SKY = 0.32  # noise of the sky, in units of flux per pixel of a 64-pixel image
# flux in the bands that become red, green and blue
BULGE = np.array([1.25, 1.0, 0.62])
DISC = np.array([1.05, 1.0, 0.82])
ARMS = np.array([0.85, 1.0, 1.25])
KNOTS = np.array([0.95, 0.9, 1.35])
SPEED = galsim.GSParams(folding_threshold=0.02, kvalue_accuracy=1e-3, maxk_threshold=5e-3)


@checked
def simulate_galaxies(
    n_images: Positive,
    folder: Path | str,
    size: Positive = 64,
    seed: Seed = 0,
    executor: AnyExecutor | None = None,
) -> ImageSet:
    """Images of the four classes in turn; drawn once, then read from `folder`.

    smooth_round: a Sersic profile of index 2 to 5, nearly round. smooth_cigar: one of index 1
    to 2.5, two to five times as long as wide. edge_on_disk: an exponential disc seen from the
    side, with a bulge and sometimes a lane of dust. unbarred_spiral: an inclined disc with a
    bulge and two to four logarithmic arms set with star-forming knots. Size, angle, colour,
    seeing and place vary; there are stars, neighbours and the noise of the sky. Three bands
    are brought to colours as surveys do (Lupton et al., PASP 116 (2004), 133).

    properties: angle (of the long axis, radians in [0, pi), from the x axis towards the y axis),
    axis_ratio and radius (half of the light, in pixels) of the galaxy.

    Args:
        executor: see `saehelpers.runs.sweeps.sweep`.
    """
    path = Path(folder) / f"galaxies-simulated-{n_images}-{size}-{seed}.hdf5"
    if not path.exists():
        jobs = [
            (seed, start, min(start + CHUNK, n_images), size) for start in range(0, n_images, CHUNK)
        ]
        parts = sorted(sweep(_draw_chunk, jobs, "galaxies", executor), key=lambda part: part[0])
        pixels = np.concatenate([images for _, images, _ in parts])
        labels = torch.arange(n_images) % len(CLASSES)
        properties = pd.DataFrame([row for _, _, rows in parts for row in rows])
        write_hdf5(path, torch.from_numpy(pixels).permute(0, 3, 1, 2), labels, properties)
    images, labels = read_hdf5(path)
    if len(images) != n_images or images.shape[-1] != size:
        raise ValueError(f"{path} holds other galaxies, {tuple(images.shape)}: delete it")
    properties = read_properties(path)
    if properties.empty:  # earlier releases wrote a table of them beside it
        properties = _read_table(path.with_suffix(".csv"), n_images)
    # galsim's pixels differ by a grey level between versions and processors
    images = identified(
        images, {"galaxies": "simulated", "n": n_images, "size": size, "seed": seed}
    )
    return ImageSet(images, labels, CLASSES, "simulated", properties)


def _read_table(path: Path, n_images: int) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path} is no table of galaxies ({error}): {AGAIN}") from error
    if len(table) != n_images or set(table) != PROPERTIES or table.isna().any(axis=None):
        raise ValueError(f"{path} is no table of {n_images} galaxies: {AGAIN}")
    return table


def _draw_chunk(seed: int, start: int, stop: int, size: int):
    drawn = [draw_galaxy(CLASSES[i % len(CLASSES)], size, (seed, i)) for i in range(start, stop)]
    return start, np.stack([image for image, _ in drawn]), [row for _, row in drawn]


@checked
def draw_galaxy(kind: str, size: Positive, seed) -> tuple[np.ndarray, dict[str, float]]:
    """One galaxy of a class, (size, size, 3) uint8, and its properties."""
    rng = np.random.default_rng(seed)
    psf = galsim.Moffat(beta=3.5, fwhm=size * rng.choice(SEEING), gsparams=SPEED)
    angle = rng.uniform(0, np.pi)
    bands, row = {
        "smooth_round": _smooth_round,
        "smooth_cigar": _smooth_cigar,
        "edge_on_disk": _edge_on_disk,
        "unbarred_spiral": _unbarred_spiral,
    }[kind](rng, size, angle, psf)
    bands = np.roll(bands, rng.integers(-1, 2, 2), (0, 1)) + _company(rng, size, psf)
    noise = SKY * 64 / size
    bands = bands + rng.normal(0, noise, bands.shape)
    image = make_lupton_rgb(*np.moveaxis(bands, -1, 0), minimum=-noise, stretch=4 * 64 / size, Q=6)
    return image, {"angle": angle, **row}


def _smooth_round(rng, size, angle, psf):
    return _smooth(rng, size, angle, psf, index=(2, 5), axis_ratio=rng.uniform(0.82, 1))


def _smooth_cigar(rng, size, angle, psf):
    return _smooth(rng, size, angle, psf, index=(1, 2.5), axis_ratio=rng.uniform(0.22, 0.5))


def _smooth(rng, size, angle, psf, index, axis_ratio):
    radius = size * rng.uniform(0.07, 0.13) * (1.15 if axis_ratio < 0.6 else 1)
    light = _turned(_sersic(rng, index, radius), axis_ratio, angle)
    image = _image(light, psf, size)
    bands = _brightness(rng, image, size)[..., None] * image[..., None] * _tinted(rng, BULGE)
    return bands, {"axis_ratio": axis_ratio, "radius": radius}


def _edge_on_disk(rng, size, angle, psf):
    radius = size * rng.uniform(0.12, 0.18)
    disc = galsim.InclinedExponential(
        rng.uniform(82, 90) * galsim.degrees,
        scale_radius=radius / 1.678,
        scale_h_over_r=rng.uniform(0.06, 0.14),
        gsparams=SPEED,
    )
    disc = _image(disc.rotate(angle * galsim.radians), psf, size)
    bulge_size = radius * rng.uniform(0.16, 0.28)
    bulge = _turned(_sersic(rng, (1.5, 3), bulge_size), rng.uniform(0.6, 0.9), angle)
    bulge = _image(bulge, psf, size)
    share = rng.uniform(0.1, 0.35)
    bands = (1 - share) * disc[..., None] * _tinted(rng, DISC) + share * bulge[..., None] * _tinted(
        rng, BULGE
    )
    if rng.random() < 0.45:
        bands *= _dust(rng, size, angle, radius)
    bands *= 1.3 * _brightness(rng, bands.mean(-1), size)[..., None]
    return bands, {"axis_ratio": 0.15, "radius": radius}


def _unbarred_spiral(rng, size, angle, psf):
    radius = size * rng.uniform(0.14, 0.2)
    axis_ratio = np.cos(np.deg2rad(rng.uniform(0, 55)))
    disc = galsim.Exponential(half_light_radius=radius, gsparams=SPEED)
    disc = _image(_turned(disc, axis_ratio, angle), psf, size)
    bulge = _image(_sersic(rng, (1.5, 3.5), radius * rng.uniform(0.15, 0.3)), psf, size)
    arms, knots = _arms(rng, size, radius, axis_ratio, angle)
    share = rng.uniform(0.08, 0.25)
    in_arms = rng.uniform(0.45, 0.7)
    bands = (
        (1 - share) * (1 - in_arms) * disc[..., None] * _tinted(rng, DISC)
        + (1 - share) * in_arms * (0.75 * arms[..., None] * _tinted(rng, ARMS)
                                   + 0.25 * knots[..., None] * _tinted(rng, KNOTS))
        + share * bulge[..., None] * _tinted(rng, BULGE)
    )  # fmt: skip
    bands *= 1.4 * _brightness(rng, bands.mean(-1), size)[..., None]
    return bands, {"axis_ratio": axis_ratio, "radius": radius}


def _arms(rng, size, radius, axis_ratio, angle):
    """Logarithmic arms r = r_0 exp(theta tan(pitch)) of soft light, and knots along them."""
    n_arms, pitch = rng.choice([2, 2, 2, 3, 4]), np.deg2rad(rng.uniform(14, 30))
    handed = rng.choice([-1, 1])
    turns = np.linspace(0, np.log(9) / np.tan(pitch), 90)
    starts = 2 * np.pi * np.arange(n_arms) / n_arms + rng.normal(0, 0.08, n_arms)
    starts += rng.uniform(0, 2 * np.pi)
    r = 0.28 * radius * np.exp(turns * np.tan(pitch))
    theta = (starts[:, None] + handed * turns).ravel()
    r = np.tile(r, n_arms)
    flux = r * np.exp(-1.4 * r / radius) * rng.uniform(0.7, 1.3, r.shape)
    soft = _blobs(r, theta, flux, 0.035 * size * np.sqrt(0.4 + r / radius), size, axis_ratio, angle)
    chosen = rng.random(r.shape) < 0.3
    scatter = rng.normal(0, 0.02 * size, (2, chosen.sum()))
    bright = flux[chosen] * rng.lognormal(0, 0.7, chosen.sum())
    r, theta = r[chosen] + scatter[0], theta[chosen] + scatter[1] / np.maximum(r[chosen], 1)
    return soft, _blobs(r, theta, bright, np.full(r.shape, 0.014 * size), size, axis_ratio, angle)


def _blobs(r, theta, flux, width, size, axis_ratio, angle):
    """Round Gaussians of light at places in the plane of a disc, seen inclined; total 1."""
    x, y = r * np.cos(theta), r * np.sin(theta) * axis_ratio
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    pixels = np.arange(size) - (size - 1) / 2
    across = np.exp(-0.5 * ((pixels - x[:, None]) / width[:, None]) ** 2)
    along = np.exp(-0.5 * ((pixels - y[:, None]) / width[:, None]) ** 2)
    image = (along * (flux / width**2)[:, None]).T @ across
    return image / image.sum()


def _dust(rng, size, angle, radius):
    """What a lane of dust along the disc lets through, (size, size, 3): blue least."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    off = -x * np.sin(angle) + y * np.cos(angle) - rng.normal(0, 0.008 * size)
    along = x * np.cos(angle) + y * np.sin(angle)
    depth = np.exp(-0.5 * (off / (0.016 * size)) ** 2 - 0.5 * (along / (1.3 * radius)) ** 2)
    return np.exp(-rng.uniform(0.5, 1.2) * depth[..., None] * np.array([0.7, 1.0, 1.35]))


def _company(rng, size, psf):
    """Stars and small galaxies of the field."""
    bands = np.zeros((size, size, 3))
    for _ in range(rng.poisson(1.3)):
        place = galsim.PositionD(*rng.uniform(-0.48, 0.48, 2) * size)
        if rng.random() < 0.45:
            light, tint = galsim.Gaussian(sigma=0.003 * size, gsparams=SPEED), rng.normal(1, 0.2, 3)
        else:
            light = galsim.Exponential(
                half_light_radius=size * rng.uniform(0.012, 0.035), gsparams=SPEED
            )
            light, tint = (
                _turned(light, rng.uniform(0.4, 1), rng.uniform(0, np.pi)),
                _tinted(rng, DISC),
            )
        flux = 64 * rng.lognormal(0, 0.9)
        bands += flux * _image(light.shift(place), psf, size)[..., None] * np.abs(tint)
    return bands


def _sersic(rng, index, radius):
    steps = np.arange(index[0], index[1] + SERSIC_STEP / 2, SERSIC_STEP)
    return _unit_sersic(float(rng.choice(steps))).dilate(radius)


@functools.cache
def _unit_sersic(index: float) -> galsim.GSObject:
    return galsim.Sersic(index, half_light_radius=1.0, trunc=6.0, gsparams=SPEED)


def _turned(light, axis_ratio, angle):
    return light.shear(q=axis_ratio, beta=angle * galsim.radians)


def _image(light, psf, size) -> np.ndarray:
    """What the telescope sees of light of total flux 1."""
    seen = galsim.Convolve(light, psf, gsparams=SPEED)
    return seen.drawImage(nx=size, ny=size, scale=1.0, dtype=float).array


def _brightness(rng, image, size) -> np.ndarray:
    """A factor that brings the mean surface brightness near the middle to what surveys show."""
    middle = slice(size // 2 - size // 8, size // 2 + size // 8)
    wanted = rng.lognormal(2.0, 0.35) * 64 / size
    return np.asarray(wanted / image[middle, middle].mean())


def _tinted(rng, colour) -> np.ndarray:
    return colour * np.exp(rng.normal(0, 0.1) * np.array([1.0, 0.0, -1.0]))
