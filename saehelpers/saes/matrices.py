"""Matrices of SAEs, alone or with an axis of instances."""

import torch
from torch import Tensor, nn

from saehelpers.runs.checking import checked


@checked
def align_rows(weight: nn.Parameter) -> None:
    """Let the columns of a matrix be contiguous."""
    weight.data = weight.data.mT.contiguous().mT


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight + bias, instance by instance where the weight has an axis of instances.

    The result has the precision of the parameters, also where autocast lowers the product's.
    """
    if weight.ndim == 2:
        return nn.functional.linear(x, weight.mT, bias).to(bias.dtype)
    instances = weight.shape[:-2]  # of SAEs, of heads within them
    x, weight, offset = (part.flatten(0, len(instances) - 1) for part in (x, weight, bias))
    product = torch.baddbmm(offset.unsqueeze(-2), x, weight)
    return product.unflatten(0, instances).to(bias.dtype)
