"""Which rows of two dictionaries belong together, and how alike they are.

Rows are directions: where a group acts, they turn by its matrices, whatever its origin. Sources:
Song et al., arXiv 2505.20254 (PW-MCC); Erdogan and Lucic, arXiv 2511.09432 (recovery).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import EMPTY, FROM_ZERO
from saehelpers.symmetry import LinearAction

HUNGARIAN_LIMIT = 16_384  # rows: above it, mutual nearest neighbours
CHUNK = 4096  # rows of a cosine matrix that are held at a time


@checked
@dataclass(frozen=True)
class Pairs:
    """Rows of two dictionaries, matched: `a[i]` with `b[i]`, by `cosines[i]`; `a` ascends."""

    a: Annotated[Int[Tensor, " pairs"], FROM_ZERO, EMPTY]
    b: Annotated[Int[Tensor, " pairs"], FROM_ZERO, EMPTY]
    cosines: Annotated[Float[Tensor, " pairs"], EMPTY]


@checked
def cosine_matrix(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Cosine of every row of a with every row of b; 0 for rows of zeros."""
    a, b = (normalize(full_precision(rows), dim=-1) for rows in (a, b))
    return a @ b.T


@checked
def match(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    absolute: bool = True,
    action: LinearAction | None = None,
) -> Pairs:
    """Pair the rows of two dictionaries by their cosines, or by the absolute values of these.

    One to one (Hungarian) up to 16,384 rows, min(n, m) pairs with the largest sum. With more
    rows, those that are each other's nearest neighbours, which are fewer. With an `action`,
    a cosine is the largest over the group: that of a and rho(g) b.

    Raises:
        ValueError: dictionaries of different width, or one without rows.
    """
    _check_widths(a, b, action)
    if max(len(a), len(b)) > HUNGARIAN_LIMIT:
        return _mutual_neighbours(a, b, absolute, action)
    with extra("probes"):
        from scipy.optimize import linear_sum_assignment

    # as scipy works on it: any other type, and maximising, would be copied once more
    costs = np.empty((len(a), len(b)))
    for start, block in _scores(a, b, absolute, action):
        np.negative(block.numpy(), out=costs[start : start + len(block)])
    rows, columns = linear_sum_assignment(costs)
    cosines = torch.from_numpy(-costs[rows, columns]).float()
    return Pairs(torch.from_numpy(rows), torch.from_numpy(columns), cosines)


@checked
def pw_mcc(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    absolute: bool = False,
    action: LinearAction | None = None,
) -> float:
    """Pairwise mean correlation coefficient: the mean cosine of the matched rows.

    (1 / n) max over permutations of sum_i cos(a_i, b_sigma(i))

    Signed, as Song et al. compute it, or of |cos| if `absolute`, which is higher, by chance as
    well: `consistency.null_pw_mcc` gives what random rows reach, of either. Absolute and with true
    features for a it is the MCC of O'Neill et al. (arXiv 2411.13117): pairs alone count, so that
    five latents copied from ten features score 1; `recovery` counts features.
    """
    return float(match(a, b, absolute, action).cosines.mean())


@checked
def recovery(
    dictionary: Float[Tensor, "n_latents d"],
    features: Float[Tensor, "n_features d"],
    action: LinearAction | None = None,
    absolute: bool = True,
) -> float:
    """Mean cosine of true features and dictionary rows matched one to one (MMCS in [E]).

    A feature left without a row counts as 0. With an `action`, a cosine is the largest over
    the feature's orbit: recovery modulo the group.
    """
    return float(match(dictionary, features, absolute, action).cosines.sum() / len(features))


@checked
def mean_max_similarity(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    absolute: bool = True,
    action: LinearAction | None = None,
) -> tuple[float, float]:
    """MCS both ways: the mean over a's rows of the best cosine in b, and over b's rows in a.

    Used by notebook 08.
    """
    _check_widths(a, b, action)
    best_a, best_b = [], torch.full((len(b),), -torch.inf)
    for _, block in _scores(a, b, absolute, action):
        best_a.append(block.amax(1))
        best_b = torch.maximum(best_b, block.amax(0))
    return float(torch.cat(best_a).mean()), float(best_b.mean())


@checked
def latent_order(
    dictionary: Float[Tensor, "n_latents d"], features: Float[Tensor, "n_features d"]
) -> Int[Tensor, " n_latents"]:
    """An order of the latents that puts the match of feature i into place i.

    Latents without a feature follow in their own order; features without a latent are skipped.
    Used by notebook 07.
    """
    matched = match(features, dictionary).b.tolist()
    return torch.tensor([*matched, *sorted({*range(len(dictionary))} - {*matched})])


def _check_widths(a: Tensor, b: Tensor, action: LinearAction | None) -> None:
    if a.shape[1] != b.shape[1] or 0 in (len(a), len(b)):
        raise ValueError(
            f"dictionaries must have rows of one width, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if action is not None and action.matrices.shape[-1] != a.shape[1]:
        raise ValueError(
            f"the action is one of R^{action.matrices.shape[-1]}, the dictionaries have width "
            f"{a.shape[1]}"
        )


@torch.no_grad()
def _scores(
    a: Tensor, b: Tensor, absolute: bool, action: LinearAction | None
) -> Iterator[tuple[int, Tensor]]:
    """(first row, cosines of a block of a's rows with all of b's)."""
    turned = b[:, None] if action is None else action.orbit_of_directions(b)
    a, turned = (normalize(rows.detach().cpu().float(), dim=-1) for rows in (a, turned))
    for start in range(0, len(a), CHUNK):
        best = None
        for rows in turned.unbind(1):
            block = a[start : start + CHUNK] @ rows.T
            block = block.abs_() if absolute else block
            best = block if best is None else torch.maximum(best, block)
        yield start, best


def _mutual_neighbours(a: Tensor, b: Tensor, absolute: bool, action) -> Pairs:
    to_b, cosines = [], []
    best = torch.full((len(b),), -torch.inf)
    to_a = torch.zeros(len(b), dtype=torch.long)
    for start, block in _scores(a, b, absolute, action):
        values, indices = block.max(1)
        to_b.append(indices)
        cosines.append(values)
        values, indices = block.max(0)
        better = values > best
        best[better], to_a[better] = values[better], indices[better] + start
    to_b, cosines = torch.cat(to_b), torch.cat(cosines)
    rows = torch.arange(len(a))
    mutual = to_a[to_b] == rows
    return Pairs(rows[mutual], to_b[mutual], cosines[mutual])
