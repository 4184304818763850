"""The classes of galaxies, and the file that labelled ones are kept in."""

from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from saehelpers import runs
from saehelpers.runs.extras import extra

with extra("galaxies"):
    import h5py

CLASSES = ("smooth_round", "smooth_cigar", "edge_on_disk", "unbarred_spiral")


def read_hdf5(path: Path | str) -> tuple[UInt8[Tensor, "n 3 size size"], Int[Tensor, " n"]]:
    """Images and labels of a file with the keys `images` (n, s, s, 3) uint8 and `labels` (n,).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short or damaged, lacks a key, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of galaxies at {path}")
    try:
        with h5py.File(path) as file:
            missing = {"images", "labels"} - set(file)
            if missing:
                raise ValueError(f"{path} has no key {sorted(missing)[0]!r}; it has {list(file)}")
            images, labels = file["images"][:], file["labels"][:]
    except OSError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"images of {path} must be (n, s, s, 3), they are {images.shape}")
    if images.dtype != "uint8":
        raise ValueError(f"images of {path} must be uint8, they are {images.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{path} has {len(images)} images and labels of shape {labels.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise ValueError(
            f"labels of {path} must be 0 to {len(CLASSES) - 1}, they are {labels.min()} to "
            f"{labels.max()}"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()


def write_hdf5(path: Path, images: UInt8[Tensor, "n 3 size size"], labels: Tensor) -> None:
    """The same keys as GalaxyMNIST's files; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with runs.temporary_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["images"] = images.permute(0, 2, 3, 1).numpy()
        file["labels"] = labels.numpy()
