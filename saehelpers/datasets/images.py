"""Images with labels: what every source of images gives, and a folder of one's own."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from saehelpers.datasets.image_files import FORMATS, Picture, is_image, read_picture, scaled
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import FROM_ZERO, Positive, Seed

# of systems, beside those that begin with a dot
HIDDEN = {"@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found",
          "system volume information", "thumbs.db", "desktop.ini"}  # fmt: skip
SHOWN = 5  # names of files in a line that says something of several


@checked
@dataclass(frozen=True)
class ImageSet:
    """Images of one size, of which each may have a label.

    images: red, green, blue, 0 to 255. labels: indices into `classes`, or None where nobody
    has labelled them. source: where they come from. properties: what else is known of each
    image, one row for each; it may have no columns.
    """

    images: UInt8[Tensor, "n 3 size size"]
    labels: Annotated[Int[Tensor, " n"], FROM_ZERO] | None
    classes: tuple[str, ...]
    source: str
    properties: pd.DataFrame = field(default_factory=pd.DataFrame)


@checked
def split(images: ImageSet, n_test: Positive, seed: Seed = 0) -> tuple[ImageSet, ImageSet]:
    """(training, held-out) images, drawn at random; `n_test` are held out.

    Says which images are in both, being identical, and which classes are missing in one.

    Raises:
        ValueError: nothing would be left to train on, or nothing to test.
    """
    n_images = len(images.images)
    if not 0 < n_test < n_images:
        raise ValueError(
            f"of {n_images} images between 1 and {n_images - 1} can be held out, got n_test "
            f"{n_test}"
        )
    order = torch.randperm(n_images, generator=torch.Generator().manual_seed(seed))

    def take(index: Tensor) -> ImageSet:
        pixels = images.images[index]
        if hasattr(images.images, "cause"):
            pixels = identified(pixels, {"part of": images.images, "rows": index})
        labels = None if images.labels is None else images.labels[index]
        properties = images.properties.reindex(index.tolist()).reset_index(drop=True)
        return replace(images, images=pixels, labels=labels, properties=properties)

    train, test = take(order[n_test:]), take(order[:n_test])
    _say_in_both(train, test)
    for part, name in ((train, "to train on"), (test, "held out")):
        _say_missing(part, name)
    return train, test


def _say_in_both(train: ImageSet, test: ImageSet) -> None:
    def names(part: ImageSet) -> dict[bytes, str]:
        given = part.properties.get("file", range(len(part.images)))
        digests = (hashlib.blake2b(image.contiguous().numpy()).digest() for image in part.images)
        return dict(zip(digests, map(str, given), strict=True))

    seen, unseen = names(train), names(test)
    pairs = [f"{name} is {seen[digest]}" for digest, name in unseen.items() if digest in seen]
    if pairs:
        print(f"{len(pairs)} held-out images are among those to train on: {_some(pairs)}")


def _say_missing(part: ImageSet, name: str) -> None:
    if part.labels is not None:
        present = set(part.labels.tolist())
        missing = [kind for label, kind in enumerate(part.classes) if label not in present]
        if missing:
            print(f"no images {name} of the classes {', '.join(missing)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


@checked
def load_image_folder(
    folder: Path | str, size: Positive = 64, skip_unreadable: bool = False
) -> ImageSet:
    """The images of a folder in the order of their names, cropped to squares of one size.

    Images in folders of its own are labelled by their names; images that lie in the folder
    itself have no labels. Folders may be links. What is hidden, or a system keeps for itself,
    is left alone; says what was found, class by class, and what was left out.

    Images stand upright by their EXIF tag; transparency is left out. Pixels of 8 bits are kept.
    Of deeper images, whole numbers up to 65,535 are scaled alike in the whole folder: white is
    2^b - 1, b the bits, 8 to 16, that the highest of them needs. Other numbers, as in most FITS
    and float TIFF files, are scaled file by file, the lowest to 0 and the highest to 255.

    Args:
        skip_unreadable: leave out images that cannot be read, and say which.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: an image cannot be read; names it. Or some are in folders and others not.
    """
    folder = Path(folder)
    files = sorted(_files(folder)) if folder.is_dir() else []
    paths = [path for path in files if is_image(path)]
    if not paths:
        raise FileNotFoundError(
            f"no images in {folder}: it should hold files ending in {', '.join(FORMATS)}"
        )
    names = {path: path.relative_to(folder).parts[0] if path.parent != folder else ""
             for path in paths}  # fmt: skip
    classes = sorted(set(names.values()))
    if "" in classes and len(classes) > 1:
        raise ValueError(f"{folder} has images beside its folders {', '.join(classes[1:])}")
    pictures = {}
    for path in paths:
        try:
            pictures[path] = read_picture(path, size)
        except ValueError as error:
            if not skip_unreadable:
                raise ValueError(
                    f"{path} cannot be read as an image ({error}): remove it, or pass "
                    "skip_unreadable=True"
                ) from error
            print(f"left out, not readable: {path}")
    if not pictures:
        raise FileNotFoundError(f"none of the {len(paths)} images in {folder} can be read")
    _say_found(folder, pictures, files)
    classes = sorted({names[path] for path in pictures})
    labels = torch.tensor([classes.index(names[path]) for path in pictures])
    return ImageSet(
        torch.from_numpy(np.stack(scaled([*pictures.values()]))).permute(0, 3, 1, 2).contiguous(),
        None if classes == [""] else labels,
        () if classes == [""] else tuple(classes),
        str(folder),
        pd.DataFrame({"file": [str(path) for path in pictures]}),
    )


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder that are not hidden; links are followed, but not in circles."""
    here = folder.resolve()
    for path in _visible(folder) if here not in above else ():
        if path.is_dir() and not is_image(path):
            yield from _files(path, (*above, here))
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in HIDDEN
    ]


def _say_found(folder: Path, pictures: dict[Path, Picture], files: list[Path]) -> None:
    places = [path.relative_to(folder).parts[:-1] for path in pictures]
    counts = Counter(place[0] for place in places if place)
    found = ", ".join(f"{kind} {n:,}" for kind, n in sorted(counts.items()))
    found = f"classes: {found}" if counts else "no folders, and so no labels"
    print(f"{folder}: {len(pictures):,} images; {found}")
    deeper = sorted({place[1] for place in places if len(place) > 1})
    if deeper and all(len(place) > 1 for place in places):
        print(
            f"no image lies in the folder of a class itself: if the classes are {_some(deeper)}, "
            f"pass the path of {' or '.join(sorted(counts)[:SHOWN])}"
        )
    notes = defaultdict(list)
    others = Counter(path.suffix or path.name for path in files if not is_image(path))
    notes["files of other kinds, left out"] = [f"{n} {kind}" for kind, n in others.items()]
    empty = {path.name for path in _visible(folder) if path.is_dir()} - set(counts)
    notes["folders without images"] = sorted(empty)
    for path, picture in pictures.items():
        for note in picture.notes:
            notes[note].append(str(path))
    for note, about in notes.items():
        if about:
            print(f"{note}: {_some(about)}")
