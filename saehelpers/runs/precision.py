"""The precision that statistics, losses and metrics are computed in, whatever comes in."""

import torch
from torch import Tensor

from saehelpers.runs.checking import checked

SMALLEST = 1e-18  # of a scale: its square is hardly told from 0 in float32


@checked
def full_precision(x: Tensor) -> Tensor:
    """The same numbers in float32; those in float64 as they are.

    Sums of squares leave the range of float16 at 65,504, and bfloat16 has three digits.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_scale(name: str, activations: Tensor, scale: Tensor, largest: Tensor) -> None:
    """Raise a ValueError where activations cannot be worked with in units of their scale.

    name: of the argument that they are; scale: root of their mean squared distance from their
    mean, whose largest entry is `largest`; () both, or one for each attention head.
    """
    what = f"{name} of shape {tuple(activations.shape)} and type {activations.dtype}"
    scale, largest = scale.reshape(-1), largest.reshape(-1)
    if not scale.isfinite().all():
        raise ValueError(
            f"{what} have the scale {scale[~scale.isfinite()][0].item()}: they, or their squares, "
            "are no finite numbers"
        )
    same = scale <= 4 * torch.finfo(scale.dtype).eps * largest
    if not (same | (scale < SMALLEST)).any():
        return
    heads = f" in heads {(same | (scale < SMALLEST)).nonzero().flatten().tolist()}"
    heads = heads if len(scale) > 1 else ""
    if (largest >= SMALLEST).all():
        raise ValueError(f"{what} are all the same{heads}")
    raise ValueError(
        f"{what} are all the same{heads}, or no larger than {SMALLEST:g}, whose squares are 0 in "
        "float32: multiply them by a factor"
    )
