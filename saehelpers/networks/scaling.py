"""Mean and scale of activations, which SAEs are trained in units of."""

import warnings

import torch
from jaxtyping import Float, Real
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.precision import check_scale, full_precision
from saehelpers.runs.wanted import Positive

STANDARDISATION_ROWS = 2**20  # that are looked at in one go


@checked
def standardisation(
    activations: Real[Tensor, "n *more d"], n_heads: Positive = 1
) -> tuple[Float[Tensor, " d"], Tensor]:
    """(mean, scale) such that (x - mean) / scale has mean zero and mean squared norm d.

    Of the concatenated outputs of several attention heads, each has a scale of its own: the
    scale is (d), the same within a head, instead of (). Computed in float32, or in float64 for
    activations in float64. Warns where a few rows carry most of the variance, and says how to
    leave them out.

    Raises:
        ValueError: the activations (of a head) are all the same, but for rounding; or they, or
            their squares, are no finite numbers.
    """
    rows, shape = activations.flatten(0, -2), tuple(activations.shape)
    parts = rows.split(STANDARDISATION_ROWS)  # larger than memory, they pass through it
    mean = sum(len(part) / len(rows) * full_precision(part).mean(0) for part in parts)
    variances, distances = [], []
    for part in parts:
        squares = [head.pow(2) for head in (full_precision(part) - mean).chunk(n_heads, -1)]
        variances.append(len(part) / len(rows) * torch.stack([head.mean() for head in squares]))
        distances.append(sum(head.sum(-1) for head in squares))  # of each row from the mean
    scale = sum(variances).sqrt()  # (n_heads)
    largest = torch.stack([head.abs().max() for head in mean.chunk(n_heads)])
    check_scale("activations", activations, scale, largest)
    _warn_of_heavy_rows(torch.cat(distances), shape)
    return mean, scale[0] if n_heads == 1 else scale.repeat_interleave(len(mean) // n_heads)


def _warn_of_heavy_rows(squared: Float[Tensor, " rows"], shape: tuple[int, ...]) -> None:
    """`squared`: distances of rows from their mean. Those above the widest gap are heavy."""
    n_few = len(squared) // 8
    if not n_few or squared.topk(n_few).values.sum() < 0.75 * squared.sum():
        return
    largest = squared.topk(n_few + 1).values.clamp(min=torch.finfo(squared.dtype).tiny)
    n_heavy = int((largest[:-1] / largest[1:]).argmax()) + 1
    share = largest[:n_heavy].sum() / squared.sum()
    cut = largest[n_heavy - 1 : n_heavy + 1].double().log().mean().exp().sqrt()
    of_a_sample = ".flatten(1).amax(1)" if len(shape) > 2 else ""
    warnings.warn(
        f"{n_heavy} of {len(squared)} rows carry {share:.1%} of the variance of activations of "
        f"shape {shape}: they decide the scale, beside which the others hardly count. In language "
        "models such rows are often the first token's: leave it out, x[:, 1:], or `positions` of "
        "an end-to-end run. To leave out what is heavy: "
        f"x = x[(x - x.flatten(0, -2).mean(0)).norm(dim=-1){of_a_sample} < {cut:.3g}]",
        stacklevel=3,
    )
