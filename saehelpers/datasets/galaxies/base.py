"""The classes of galaxies, and the file that labelled ones are kept in."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from saehelpers import runs
from saehelpers.runs.extras import extra

with extra("galaxies"):
    import h5py

PROPERTY = "property_"  # begins the key of a column of properties
CLASSES = ("smooth_round", "smooth_cigar", "edge_on_disk", "unbarred_spiral")


def read_hdf5(path: Path | str) -> tuple[UInt8[Tensor, "n 3 size size"], Int[Tensor, " n"]]:
    """Images and labels of a file with the keys `images` (n, s, s, 3) uint8 and `labels` (n,).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short or damaged, lacks a key, or holds something else.
    """
    path = Path(path)
    arrays = _read_arrays(path, lambda name: not name.startswith(PROPERTY))
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"{path} has no key {name!r}; it has {list(arrays)}")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"images of {path} must be (n, s, s, 3), they are {images.shape}")
    if images.dtype != "uint8":
        raise ValueError(f"images of {path} must be uint8, they are {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path} has {len(images)} images and labels of shape {labels.shape}, {labels.dtype}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise ValueError(
            f"labels of {path} must be 0 to {len(CLASSES) - 1}, they are {labels.min()} to "
            f"{labels.max()}"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()


def read_properties(path: Path) -> pd.DataFrame:
    """What `write_hdf5` was given of properties: one row for each image, or nothing.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    arrays = _read_arrays(path, lambda name: name.startswith(PROPERTY))
    return pd.DataFrame({name.removeprefix(PROPERTY): array for name, array in arrays.items()})


def _read_arrays(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"no file of galaxies at {path}")
    try:
        with h5py.File(path) as file:
            return {name: file[name][:] for name in file if is_wanted(name)}
    except Exception as error:  # the library raises anything where files are damaged
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def write_hdf5(
    path: Path, images: UInt8[Tensor, "n 3 size size"], labels: Tensor, properties: pd.DataFrame
) -> None:
    """The same keys as GalaxyMNIST's files, and properties; whole or not at all.

    Checksums are HDF5's own: of metadata in its latest format, of data Fletcher's.

    Raises:
        OSError: the file cannot be written; names it.
    """
    arrays = {"images": images.permute(0, 2, 3, 1).numpy(), "labels": labels.numpy()}
    arrays |= {PROPERTY + str(name): column.to_numpy() for name, column in properties.items()}
    whole = BytesIO()  # HDF5 itself may end in other errors where the disk is full
    with h5py.File(whole, "w", libver="latest") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=True, fletcher32=True)
    runs.write_atomically(path, whole.getvalue())
