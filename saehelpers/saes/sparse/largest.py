"""The k largest of many numbers."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 8  # numbers of which the largest stands for all
FEW = 32  # times k: among so few, the k largest are picked at once
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
THREADS = 2  # with more, torch's own way, which uses them, is faster than NumPy's


def top_k(x: Float[Tensor, "*batch n"], k: int) -> tuple[Tensor, Tensor]:
    """`x.topk(k)` along the last axis, unsorted; several times as fast where n is large.

    Where fewer than k are positive, which of the others are taken is left open. Positive numbers
    are in the order of their bits, and integers are compared faster. A NaN counts as the largest
    or, with its sign bit set, as the smallest: sure to be taken only where there is nothing else.
    """
    if x.device.type not in ("cpu", "cuda"):
        return tuple(x.topk(k, dim=-1, sorted=False))
    found = _largest(x.detach().view(INTEGERS[x.element_size()]), k)
    return x.gather(-1, found), found


def _largest(x: Int[Tensor, "*batch n"], k: int) -> Int[Tensor, "*batch k"]:
    """Where the k largest are: in the k groups of the largest maxima, which are found likewise."""
    n = x.shape[-1]
    if n <= FEW * k or n % GROUP:
        return _picked(x, k)
    groups = _largest(x.unflatten(-1, (GROUP, -1)).amax(-2), k)
    members = torch.arange(0, n, n // GROUP, device=x.device)
    candidates = (groups.unsqueeze(-2) + members[:, None]).flatten(-2)
    chosen = _picked(x.gather(-1, candidates), k)
    return candidates.gather(-1, chosen)


def _picked(x: Int[Tensor, "*batch n"], k: int) -> Int[Tensor, "*batch k"]:
    """The same, of few numbers: on a CPU by NumPy, which partitions them and sorts nothing."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    elsewhere = x.device.type != "cpu" or not 0 < k <= x.shape[-1]
    if traced or elsewhere or torch.get_num_threads() > THREADS:  # asked last: breaks a graph
        return x.topk(k, dim=-1, sorted=False).indices
    wide = x.int() if x.dtype == torch.int16 else x  # has no fast way of its own
    try:
        parted = np.argpartition(wide.numpy(), -k, axis=-1)
    except RuntimeError:  # without memory of its own, as torch.func has tensors
        return x.topk(k, dim=-1, sorted=False).indices
    return torch.from_numpy(parted[..., -k:].copy())  # a part would keep the whole
