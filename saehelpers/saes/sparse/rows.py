"""Sums and inner products of rows that an index picks: what sparse latents are computed by."""

import functools
import warnings
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

ERROR = 1e-5  # of the largest entry


@torch.compiler.disable
def sum_rows(
    rows: Float[Tensor, "n d"],
    index: Int[Tensor, " pairs"],
    starts: Int[Tensor, " sums"],
    weights: Float[Tensor, " pairs"],
) -> Float[Tensor, "sums d"]:
    """sum over pairs p of weights[p] rows[index[p]]: of each sum, the pairs from its start on."""
    kernels = gpu_kernels(rows.device.type)
    if kernels is not None:
        return kernels.sum_rows(rows, index, starts, weights)
    return embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weights)


@torch.compiler.disable
def multiply_rows(
    left_rows: Float[Tensor, "n d"],
    right_rows: Float[Tensor, "m d"],
    left: Int[Tensor, " pairs"],
    right: Int[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """<left_rows[left[p]], right_rows[right[p]]> of each pair p."""
    kernels = gpu_kernels(left_rows.device.type)
    if kernels is not None:
        return kernels.multiply_rows(left_rows, right_rows, left, right)
    # such products are the derivative of embedding_bag's sums by their weights
    by_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return by_weights(left_rows, right_rows, right, left.new_zeros(1), left, mode=0)


@torch.compiler.disable
@functools.cache
def gpu_kernels(device: str) -> ModuleType | None:
    """`saehelpers.saes.sparse.kernels` for tensors on a GPU ("cuda"), None for others.

    None, too, with a warning, where they do not give what a CPU gives: they are tried once, on
    a few rows. SAEs then take the dense path.
    """
    if device != "cuda":
        return None
    try:
        from saehelpers.saes.sparse import kernels

        _try(kernels, device)
    except Exception as error:
        warnings.warn(
            f"the GPU's kernels for sparse latents do not work here ({error!r}); SAEs are trained "
            "without them",
            stacklevel=2,
        )
        return None
    return kernels


def _try(kernels: ModuleType, device: str) -> None:
    """Raise an ArithmeticError unless kernels give on a device what torch gives on the CPU."""
    generator = torch.Generator().manual_seed(0)
    rows, others = torch.randn(2, 40, 300, generator=generator)
    index, other = torch.randint(40, (2, 100), generator=generator)
    starts, weights = torch.tensor([0, 0, 3, 60]), torch.randn(100, generator=generator)
    for function, arguments in (
        (sum_rows, (rows, index, starts, weights)),
        (multiply_rows, (rows, others, index, other)),
    ):
        name, expected = function.__name__, function(*arguments)
        found = getattr(kernels, name)(*(part.to(device) for part in arguments)).cpu()
        if not torch.allclose(found, expected, atol=ERROR * expected.abs().max()):
            raise ArithmeticError(f"{name} is wrong by {(found - expected).abs().max():g}")
