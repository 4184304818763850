"""Where the sparse path is faster than the dense one."""

from typing import NamedTuple

import torch


class Bounds(NamedTuple):
    """What an SAE must have at least: entries of its dictionary, latents for each active one."""

    entries: int
    share: int
    share_under_autocast: int  # which makes dense products cheaper
    entries_of_batches: int = 0  # with BatchTopK, whose steps are launched kernel by kernel


# as measured on an AMD EPYC and an Intel Xeon, and on an H200, at a width of 768
FASTER_FROM = {"cpu": Bounds(2**17, 8, 32), "cuda": Bounds(2**20, 16, 128, 2**23)}


def is_faster(device: str, entries: int, n_latents: int, k: int, of_batches: bool = False) -> bool:
    """Whether work with k active latents of n_latents is, beside dense products.

    of_batches: they are the largest of a batch, not of each sample.
    """
    if device not in FASTER_FROM:
        return False
    bounds = FASTER_FROM[device]
    share = bounds.share_under_autocast if torch.is_autocast_enabled(device) else bounds.share
    least = max(bounds.entries, bounds.entries_of_batches if of_batches else 0)
    faster = entries >= least and n_latents >= share * k
    if not faster or device == "cpu":
        return faster
    from saehelpers.saes.sparse.rows import gpu_kernels  # and torch's compiler: takes a second

    return gpu_kernels(device) is not None
