"""The precision that statistics, losses and metrics are computed in, whatever comes in."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """The same numbers in float32; those in float64 as they are.

    Sums of squares leave the range of float16 at 65,504, and bfloat16 has three digits.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
