"""Galaxies, from three sources behind one interface, and what can be measured on them."""

from pathlib import Path

from saehelpers.datasets.galaxies.base import CLASSES
from saehelpers.datasets.galaxies.galaxy_mnist import load_galaxy_mnist
from saehelpers.datasets.galaxies.hubble import load_hubble
from saehelpers.datasets.galaxies.measured import measure_galaxies
from saehelpers.datasets.galaxies.simulated import draw_galaxy, simulate_galaxies
from saehelpers.datasets.galaxies.sky import match_sky
from saehelpers.datasets.galaxies.statistics import survey_statistics
from saehelpers.datasets.galaxies.survey import Survey
from saehelpers.datasets.images import ImageSet, load_image_folder
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive, Seed

__all__ = [
    "CLASSES",
    "SOURCES",
    "Survey",
    "draw_galaxy",
    "load_galaxies",
    "load_galaxy_mnist",
    "load_hubble",
    "match_sky",
    "measure_galaxies",
    "simulate_galaxies",
    "survey_statistics",
]

SOURCES = ("simulated", "hubble", "galaxy_mnist")


@checked
def load_galaxies(
    source: str,
    folder: Path | str,
    n_images: Positive = 10_000,
    size: Positive = 64,
    seed: Seed = 0,
    skip_unreadable: bool = False,
) -> ImageSet:
    """Galaxies of a source: "simulated", "hubble" or "galaxy_mnist"; or images of one's own.

    Args:
        source: or the path of a folder of images, see `load_image_folder`.
        folder: where files are kept, and local copies looked for.
        n_images, seed: of simulated galaxies; the other sources give all that they have.
        skip_unreadable: see `load_image_folder`.

    Raises:
        ValueError: there is no such source.
    """
    if source == "simulated":
        return simulate_galaxies(n_images, folder, size, seed)
    if source == "hubble":
        return load_hubble(size)
    if source == "galaxy_mnist":
        return load_galaxy_mnist(folder, size)
    if Path(source).is_dir():
        return load_image_folder(source, size, skip_unreadable)
    raise ValueError(
        f"unknown source of images {source!r}: neither a folder nor one of {', '.join(SOURCES)}"
    )
