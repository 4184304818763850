"""GalaxyMNIST: 10,000 real galaxies that volunteers have labelled.

Walmsley et al., MNRAS 509 (2022), 3966: images of the DECaLS survey, labels of Galaxy Zoo.
"""

import gzip
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from saehelpers import runs
from saehelpers.datasets.galaxies.base import CLASSES, read_hdf5
from saehelpers.datasets.images import ImageSet
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.files import FULL
from saehelpers.runs.wanted import Positive

with extra("galaxies"):
    import pooch

ADDRESS = "https://dl.dropboxusercontent.com/s/"
FILES = {  # by image size: (path below the address, MD5 of the archive)
    64: {
        "train": ("5a14de0o7slyif9/train_dataset.hdf5.gz", "e408ae294e9b975482dc1abffeb373a6"),
        "test": ("5rza12nn24cwd2k/test_dataset.hdf5.gz", "7a940e4cea64a8b7cb60339098f74490"),
    },
    224: {
        "train": ("xenuo0ekgyi10ru/train_dataset.hdf5.gz", "3391dcddac14d5b4055db73fb600ae63"),
        "test": ("lczri4sb4bbcgyh/test_dataset.hdf5.gz", "fb272c4e94000b4d99a09d638977b0b9"),
    },
}


@checked
def load_galaxy_mnist(folder: Path | str, size: Positive = 64) -> ImageSet:
    """The 8,000 training images, followed by the 2,000 test images.

    Read from `train_dataset.hdf5` and `test_dataset.hdf5` in `folder`; downloaded to it, and
    their checksums verified, if they are not there.

    Raises:
        FileNotFoundError: they are neither there nor to be reached.
        ValueError: a file is damaged, or is another one than was published.
    """
    if size not in FILES:
        raise ValueError(f"GalaxyMNIST comes in sizes {', '.join(map(str, FILES))}, not {size}")
    parts = [_read(Path(folder), size, part) for part in ("train", "test")]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return ImageSet(images, labels, CLASSES, "galaxy_mnist")


def _read(
    folder: Path, size: int, part: str
) -> tuple[UInt8[Tensor, "n 3 size size"], Int[Tensor, " n"]]:
    path = folder / f"{part}_dataset.hdf5"
    if not path.exists():
        location, checksum = FILES[size][part]
        try:
            with runs.files.naming_full_disk(path):
                archive = pooch.retrieve(
                    ADDRESS + location,
                    f"md5:{checksum}",
                    fname=f"{path.name}.gz",
                    path=folder,
                )
        except OSError as error:
            if error.errno in FULL:
                raise
            raise FileNotFoundError(
                f"no {path.name} in {folder}, and {ADDRESS}{location} cannot be reached. Put a "
                f"copy there (unpacked, as {path.name}), or choose the source 'simulated'."
            ) from error
        runs.write_atomically(path, gzip.decompress(Path(archive).read_bytes()))
    images, labels = read_hdf5(path)
    if images.shape[-1] != size:
        raise ValueError(f"{path} has images of {images.shape[-1]} pixels, {size} were asked for")
    return images, labels
