"""One image file as a square of red, green and blue, whatever its depth and its colours."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from saehelpers.runs.extras import extra

with extra("galaxies"):
    from PIL import Image, ImageOps

FITS = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")
FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", *FITS)
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # of Pillow
TURNS = {  # what brings an array upright, by its orientation in TIFF and EXIF
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@dataclass(frozen=True)
class Picture:
    """The square in the middle of an image.

    pixels: 0 to 255; or, of an image that has levels of up to 16 bits, these, of which
    `highest` is the largest in the whole image. notes: what is not in the pixels.
    """

    pixels: UInt8[np.ndarray, "size size 3"] | Float[np.ndarray, "size size 3"]
    highest: int = 255
    notes: tuple[str, ...] = ()


def is_image(path: Path) -> bool:
    return path.name.lower().endswith(FORMATS)


def read_picture(path: Path, size: int) -> Picture:
    """The picture of a file, upright by its EXIF tag.

    Grey levels and colours of 8 bits are kept, those of palettes and CMYK converted by Pillow.
    Whole numbers from 0 to 65,535 are given as they are, for `scaled` to scale those of a
    folder alike; all others, those with a fraction above all, from the lowest of the file, 0,
    to its highest, 255. Of a FITS file, the first image, its rows in the order of the file.

    Raises:
        ValueError: it cannot be read; says why.
        ModuleNotFoundError: the package that reads such files is not installed.
    """
    try:
        found, notes = _read(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # libraries raise anything where files are damaged
        raise ValueError(str(error) or repr(error)) from error
    if isinstance(found, Image.Image):
        return Picture(np.asarray(ImageOps.fit(found, (size, size))), notes=notes)
    levels, highest = _levels(found)
    squares = [
        np.asarray(ImageOps.fit(Image.fromarray(band), (size, size)))
        for band in np.moveaxis(levels, -1, 0)
    ]
    pixels = np.stack(squares * (3 // len(squares)), axis=-1)
    return Picture(pixels if highest else _to_bytes(255 * pixels), highest, notes)


def scaled(pictures: list[Picture]) -> list[UInt8[np.ndarray, "size size 3"]]:
    """Pixels from 0 to 255, levels of up to 16 bits on one scale.

    White is the largest number of so many bits, 8 at least, as the highest level needs.
    """
    white = 2 ** max(8, max(picture.highest for picture in pictures).bit_length()) - 1
    return [
        p.pixels if p.pixels.dtype == np.uint8 else _to_bytes(255 / white * p.pixels)
        for p in pictures
    ]


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    return pixels.round().clip(0, 255).astype(np.uint8)  # resampling overshoots at edges


def _levels(found: np.ndarray) -> tuple[Float[np.ndarray, "h w bands"], int]:
    """An image's numbers and the highest, where they are whole and of 16 bits; or 0 to 1, and 0."""
    bands = found if found.ndim == 3 else found[..., None]
    if not np.isfinite(bands).all():
        raise ValueError("there are pixels that are no numbers")
    low, high = bands.min(), bands.max()
    if bands.dtype.kind in "iu" and low >= 0 and high < 2**16:
        return bands.astype(np.float32), int(high)
    bands = bands.astype(np.float64)
    return ((bands - low) / max(float(high) - float(low), 1e-300)).astype(np.float32), 0


def _read(path: Path) -> tuple[Image.Image | Shaped[np.ndarray, "..."], tuple[str, ...]]:
    """An image of 8 bits in red, green, blue; or a deeper one, (h, w) or (h, w, 3); and notes."""
    name = path.name.lower()
    if name.endswith(FITS):
        return _read_fits(path), ()
    if name.endswith((".tif", ".tiff")) and (found := _read_deep_tiff(path)) is not None:
        return found
    with Image.open(path) as image:
        several = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"  # a telephone's
        notes = ["the first of several images in the file"] * several
        image = ImageOps.exif_transpose(image)
        if image.mode in DEEP_MODES:
            return np.asarray(image), tuple(notes)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            notes += ["without its transparency"] * (image.getextrema()[3][0] < 255)
        return image.convert("RGB"), tuple(notes)


def _read_deep_tiff(path: Path) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """The array of a TIFF file of more than 8 bits; None for Pillow to read it."""
    with extra("galaxies"):
        import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page, several = file.pages[0], len(file.pages) > 1
            kind = page.dtype and page.dtype.type
            if kind in (None, np.uint8, np.bool_) or page.photometric == 3:  # a palette
                return None
            found, white_is_zero = page.asarray(), page.photometric == 0
            separated, planar = page.photometric == 5, page.axes.startswith("S")
            turn = page.tags.get("Orientation")
    except Exception:  # compressed in a way that Pillow may know, or damaged, which it says
        return None
    found = np.moveaxis(found, 0, -1) if planar else found
    bands = found.shape[2] if found.ndim == 3 else 1
    if found.ndim > 3 or bands > 4 or separated or white_is_zero:
        raise ValueError(
            f"{found.dtype} in {bands} bands, {page.photometric.name}: more than 8 bits are read "
            "in grey or in red, green, blue"
        )
    notes = ["the first of several images in the file"] * several
    notes += ["without its transparency"] * (bands in (2, 4))
    found = TURNS.get(turn and turn.value, TURNS[1])(found)
    return (found if found.ndim == 2 else found[..., : 3 if bands > 2 else 1]), tuple(notes)


def _read_fits(path: Path) -> np.ndarray:
    with extra("galaxies"):
        from astropy.io import fits

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*truncated")
        with path.open("rb") as file, fits.open(file, memmap=False) as units:
            images = (unit.data for unit in units if unit.is_image)
            found = next((data for data in images if data is not None), None)
    if found is None:
        raise ValueError("there is no image in it")
    shape, found = found.shape, found.squeeze()
    if found.ndim == 3 and len(found) == 3:
        return np.moveaxis(found, 0, -1)
    if found.ndim != 2:
        raise ValueError(f"its first image is {shape}: one is (h, w), or (3, h, w)")
    return found
