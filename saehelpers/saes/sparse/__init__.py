"""Latents of which few are active, and arithmetic that touches only these."""

from saehelpers.saes.sparse.activation_functions import (
    AbsTopK,
    BatchTopK,
    BlockTopK,
    Gated,
    JumpReLU,
    TopK,
)
from saehelpers.saes.sparse.choice import is_faster
from saehelpers.saes.sparse.largest import top_k
from saehelpers.saes.sparse.latents import (
    HeadLatents,
    Latents,
    SparseLatents,
    densified,
    firing_counts,
)
from saehelpers.saes.sparse.products import fast_products
from saehelpers.saes.sparse.selection import sparse_encode

__all__ = [
    "AbsTopK",
    "BatchTopK",
    "BlockTopK",
    "Gated",
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
