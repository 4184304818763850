"""Latents of which few are active, and arithmetic that touches only these."""

from saehelpers.sparse.activation_functions import BatchTopK, JumpReLU, TopK
from saehelpers.sparse.choice import is_faster
from saehelpers.sparse.largest import top_k
from saehelpers.sparse.latents import HeadLatents, Latents, SparseLatents, densified, firing_counts
from saehelpers.sparse.products import fast_products
from saehelpers.sparse.selection import sparse_encode

__all__ = [
    "BatchTopK",
    "HeadLatents",
    "JumpReLU",
    "Latents",
    "SparseLatents",
    "TopK",
    "densified",
    "fast_products",
    "firing_counts",
    "is_faster",
    "sparse_encode",
    "top_k",
]
