"""Images with labels: what every source of images gives, and a folder of one's own."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from saehelpers.runs.extras import extra

with extra("galaxies"):
    from PIL import Image, ImageOps

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises
FORMATS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, of which each may have a label.

    images: red, green, blue, 0 to 255. labels: indices into `classes`, or None where nobody
    has labelled them. source: where they come from. properties: what else is known of each
    image, one row for each; it may have no columns.
    """

    images: UInt8[Tensor, "n 3 size size"]
    labels: Int[Tensor, " n"] | None
    classes: tuple[str, ...]
    source: str
    properties: pd.DataFrame = field(default_factory=pd.DataFrame)


def split(images: ImageSet, n_test: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """(training, held-out) images, drawn at random; `n_test` are held out.

    Raises:
        ValueError: nothing would be left to train on, or nothing to test.
    """
    n_images = len(images.images)
    if not 0 < n_test < n_images:
        raise ValueError(f"of {n_images} images between 1 and {n_images - 1} can be held out")
    order = torch.randperm(n_images, generator=torch.Generator().manual_seed(seed))

    def take(index: Tensor) -> ImageSet:
        labels = None if images.labels is None else images.labels[index]
        properties = images.properties.reindex(index.tolist()).reset_index(drop=True)
        return replace(images, images=images.images[index], labels=labels, properties=properties)

    return take(order[n_test:]), take(order[:n_test])


def load_image_folder(
    folder: Path | str, size: int = 64, skip_unreadable: bool = False
) -> ImageSet:
    """The images of a folder in the order of their names, cropped to squares of one size.

    Images in folders of its own are labelled by their names; images that lie in the folder
    itself have no labels.

    Args:
        skip_unreadable: leave out images that cannot be read, and say which.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: an image cannot be read; names it. Or some are in folders and others not.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FORMATS)
    if not paths:
        raise FileNotFoundError(
            f"no images in {folder}: it should hold files ending in {', '.join(sorted(FORMATS))}"
        )
    images, kept = [], []
    for path in paths:
        try:
            with Image.open(path) as image:
                square = ImageOps.fit(_eight_bits(image).convert("RGB"), (size, size))
        except UNREADABLE as error:
            if not skip_unreadable:
                raise ValueError(
                    f"{path} cannot be read as an image ({error}): remove it, or pass "
                    "skip_unreadable=True"
                ) from error
            print(f"left out, not readable: {path}")
            continue
        images.append(np.asarray(square))
        kept.append(path)
    if not images:
        raise FileNotFoundError(f"none of the {len(paths)} images in {folder} can be read")
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in kept]
    classes = sorted(set(names))
    if "" in classes and len(classes) > 1:
        raise ValueError(f"{folder} has images beside its folders {', '.join(classes[1:])}")
    labels = None if classes == [""] else torch.tensor([classes.index(name) for name in names])
    return ImageSet(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        labels,
        () if labels is None else tuple(classes),
        str(folder),
        pd.DataFrame({"file": [str(path) for path in kept]}),
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 16 bits are scaled, where Pillow would cut them off at 255."""
    if not image.mode.startswith("I;16"):
        return image
    return image.point(lambda level: level * (1 / 257)).convert("L")
