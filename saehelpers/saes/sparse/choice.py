"""Where the sparse path is faster than the dense one."""

from typing import NamedTuple

import torch


class Bounds(NamedTuple):
    """What an SAE must have at least: entries of its dictionary, latents for each active one."""

    entries: int
    share: int
    share_under_autocast: int  # which makes dense products cheaper


# on a GPU from counts of bytes and operations: time has not been measured there
FASTER_FROM = {"cpu": Bounds(2**17, 8, 32), "cuda": Bounds(2**23, 64, 256)}


def is_faster(device: str, entries: int, n_latents: int, k: int) -> bool:
    """Whether work with k active latents of n_latents is, beside dense products."""
    if device not in FASTER_FROM:
        return False
    bounds = FASTER_FROM[device]
    share = bounds.share_under_autocast if torch.is_autocast_enabled(device) else bounds.share
    faster = entries >= bounds.entries and n_latents >= share * k
    if not faster or device == "cpu":
        return faster
    from saehelpers.saes.sparse.rows import gpu_kernels  # and torch's compiler: takes a second

    return gpu_kernels(device) is not None
