"""Are two dictionaries the same? Always beside a null.

Sources: Paulo and Belrose, arXiv 2501.16615 (shared latents); Kornblith et al., arXiv
1905.00414 (CKA); Raghu et al., arXiv 1706.05806 (SVCCA). Used by notebooks 08 to 10.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from saehelpers.evaluation.matching import match, pw_mcc
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import (
    NOT_EMPTY,
    Allowed,
    Cosine,
    Open,
    Positive,
    Wanted,
    with_columns,
)
from saehelpers.symmetry import LinearAction


def _are_all_pairs(pairs: dict[tuple[int, int], float]) -> bool:
    return {*pairs} == {*combinations(sorted({seed for pair in pairs for seed in pair}), 2)}


def _rise(edges: Sequence[float]) -> bool:
    return len(edges) > 1 and all(low < high for low, high in pairwise(edges))


@checked
def shared_strength(
    encoders: tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]],
    dictionaries: tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]],
) -> Float[Tensor, " n"]:
    """How surely each latent of the first SAE is found in the second [P].

    Encoder rows and dictionary rows are matched separately. A latent for which both pick the
    same partner gets the smaller of its two cosines, any other 0.
    """
    by_encoder, by_dictionary = match(*encoders, False), match(*dictionaries, False)
    partner = torch.full((len(dictionaries[0]),), -1)
    partner[by_encoder.a] = by_encoder.b
    cosine = torch.zeros(len(partner))
    cosine[by_encoder.a] = by_encoder.cosines
    same = partner[by_dictionary.a] == by_dictionary.b
    strength = torch.zeros(len(partner))
    rows = by_dictionary.a[same]
    strength[rows] = torch.minimum(by_dictionary.cosines[same], cosine[rows])
    return strength


@checked
def shared_fraction(strength: Float[Tensor, " n"], threshold: Cosine = 0.7) -> float:
    """Share of the latents whose `shared_strength` reaches a threshold."""
    return float((strength >= threshold).float().mean())


@checked
def svcca(
    x: Float[Tensor, "samples n"], y: Float[Tensor, "samples m"], share: Open = 0.99
) -> float:
    """Mean canonical correlation of the directions that hold `share` of each variance.

    Raises:
        ValueError: as many columns as samples, or more: any two sets would agree; or samples
            that are all the same.
    """
    _check_samples(x, y)
    if len(x) <= max(x.shape[1], y.shape[1]):
        raise ValueError(
            f"SVCCA of {x.shape[1]} and {y.shape[1]} columns needs more samples than {len(x)}"
        )

    def leading(z: Tensor) -> Tensor:
        z = full_precision(z)
        u, s, _ = torch.linalg.svd((z - z.mean(0)).double(), full_matrices=False)
        explained = s.square().cumsum(0) / s.square().sum()
        return u[:, : int((explained < share).sum()) + 1]

    return float(torch.linalg.svdvals(leading(x).T @ leading(y)).clamp(max=1).mean())


@checked
def rsa(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Representational similarity: Spearman's rho of all pairwise cosine distances."""
    with extra("probes"):
        from scipy.spatial.distance import pdist
        from scipy.stats import spearmanr

    distances = [pdist(z.double().numpy(), "cosine") for z in (x, y)]
    return float(spearmanr(*distances).statistic)


@checked
def linear_cka(x: Float[Tensor, "samples n"], y: Float[Tensor, "samples m"]) -> float:
    """||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred activations, in Frobenius norms.

    Raises:
        ValueError: not equally many samples, or all of them the same.
    """
    _check_samples(x, y)
    x, y = ((z - z.mean(0)).double() for z in (full_precision(x), full_precision(y)))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


@checked
def subspace_overlap(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], action: LinearAction | None = None
) -> float:
    """How much of the smaller of two spans lies in the other: 1 if all of it does.

    ||Q_a Q_b^T||^2 / min(r_a, r_b) in the Frobenius norm, Q orthonormal bases of the spans of the
    rows, of r_a and r_b dimensions: the mean of the squared cosines of the principal angles. Random
    spans have max(r_a, r_b) / d. With an `action`, spans of the rows' orbits: modulo the group.
    Latents that no other seed finds can still span what all find (cf. arXiv 2606.12138).

    Raises:
        ValueError: rows that are all 0 span nothing.
    """

    def basis(rows: Tensor) -> Tensor:
        rows = full_precision(rows)
        if action is not None:
            rows = action.orbit_of_directions(rows).flatten(0, 1)
        _, s, v = torch.linalg.svd(normalize(rows.double(), dim=-1), full_matrices=False)
        return v[s > 1e-6 * s.max()]

    bases = basis(a), basis(b)
    smaller = min(map(len, bases))
    if not smaller:
        raise ValueError("a and b must have rows other than 0, which span nothing")
    return float((bases[0] @ bases[1].T).square().sum() / smaller)


@checked
def latent_consistency(
    dictionary: Float[Tensor, "n d"], others: Annotated[list[Float[Tensor, "m d"]], NOT_EMPTY]
) -> Float[Tensor, " n"]:
    """How well other dictionaries have each row: its matched |cosine|, mean over them.

    A row that finds no partner in one of them counts 0 there.
    """
    cosines = torch.zeros(len(others), len(dictionary))
    for own, other in zip(cosines, others, strict=True):
        pairs = match(dictionary, other)
        own[pairs.a] = pairs.cosines
    return cosines.mean(0)


@checked
def pw_mcc_matrix(
    dictionaries: Annotated[list[Float[Tensor, "m d"]], NOT_EMPTY],
) -> Float[Tensor, "n n"]:
    """The absolute PW-MCC of every two dictionaries; 1 on the diagonal."""
    cosines = torch.eye(len(dictionaries))
    for i, j in combinations(range(len(dictionaries)), 2):
        cosines[i, j] = cosines[j, i] = pw_mcc(dictionaries[i], dictionaries[j], True)
    return cosines


# --- nulls, filters, intervals ---


@checked
def random_rows(
    like: Annotated[Float[Tensor, "n d"], Allowed.NUMBERS], generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """Random unit vectors in the shape of a dictionary: the null of what directions share."""
    return normalize(torch.randn(like.shape, generator=generator), dim=-1)


@checked
def null_pw_mcc(
    a: Annotated[Float[Tensor, "n d"], Allowed.NUMBERS],
    b: Annotated[Float[Tensor, "m d"], Allowed.NUMBERS],
    generator: torch.Generator,
    absolute: bool = False,
    action: LinearAction | None = None,
    n_draws: Positive = 5,
) -> float:
    """The PW-MCC of random unit vectors in the shapes of two dictionaries: the mean over draws."""
    draws = [[random_rows(like, generator) for like in (a, b)] for _ in range(n_draws)]
    return float(np.mean([pw_mcc(*rows, absolute, action) for rows in draws]))


@checked
def null_of_activations(
    activations: Float[Tensor, "samples d"],
    n_latents: Positive,
    score: Callable[[Tensor, Tensor], float],
    generator: torch.Generator,
    n_draws: Positive = 5,
) -> float:
    """The score of "dictionaries" whose rows are randomly drawn activations: the mean over draws.

    Activations that fill few directions are alike by necessity, which random unit vectors
    (`null_pw_mcc`) do not know. Take them about their mean.
    """
    size = (2, n_latents)
    drawn = [torch.randint(len(activations), size, generator=generator) for _ in range(n_draws)]
    return float(np.mean([score(*activations[rows]) for rows in drawn]))


@checked
def above_null(
    observed: float | pd.Series,
    null: Annotated[float | pd.Series, Wanted("below 1", lambda null: np.all(null < 1))],
) -> float | pd.Series:
    """(observed - null) / (1 - null): 0 at the null, 1 where all is found again.

    Of numbers, or of a column of a table.
    """
    return (observed - null) / (1 - null)


@checked
def permutation_p_value(observed: float, draws: Annotated[Iterable[float], NOT_EMPTY]) -> float:
    """(1 + number of draws that reach the observed value) / (1 + number of draws)."""
    draws = list(draws)
    return (1 + sum(draw >= observed for draw in draws)) / (1 + len(draws))


@checked
def permuted_pairings(
    score: Callable[[Tensor, Tensor], float],
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_draws: Positive,
    generator: torch.Generator,
) -> list[float]:
    """The score of pairs whose partners are shuffled: the null of SVCCA and RSA."""
    return [score(x, y[torch.randperm(len(y), generator=generator)]) for _ in range(n_draws)]


@checked
def frequent(
    frequency: Float[Tensor, " n_latents"], smallest: float = 0.0
) -> Bool[Tensor, " n_latents"]:
    """Latents that fire more often than `smallest`; 0 leaves out the dead ones alone, -1 none.

    Raises:
        ValueError: none does.
    """
    chosen = frequency > smallest
    if not chosen.any():
        raise ValueError(f"no latent fires more often than {smallest}: nothing to compare")
    return chosen


@checked
def frequency_bins(
    values: Float[Tensor, " n"],
    frequency: Float[Tensor, " n"],
    edges: Annotated[list[float], Wanted("two or more, rising", _rise)],
) -> list[tuple[float, float, float, int]]:
    """(low, high, mean value, number) of the latents in each bin of frequencies.

    Bins are [low, high), the last one [low, high].
    """
    bins = []
    for low, high in pairwise(edges):
        below = frequency <= high if high == edges[-1] else frequency < high
        inside = (frequency >= low) & below
        mean = float(values[inside].mean()) if inside.any() else float("nan")
        bins.append((low, high, mean, int(inside.sum())))
    return bins


@checked
def interval_over_runs(
    pairs: Annotated[
        dict[tuple[int, int], float], Wanted("of every pair of seeds (i, j), i < j", _are_all_pairs)
    ],
    level: Open = 0.95,
) -> tuple[float, float]:
    r"""Interval of the mean over pairs of seeds: the ten pairs of five are not ten measurements.

        mean +- t sqrt((n - 1) / n sum_i (m_i - mean(m))^2)

    m_i is the mean over the pairs without seed i (jackknife of a mean over pairs: Arvesen, Annals
    of Mathematical Statistics 40, 1969), t the quantile of Student's distribution with n - 1
    degrees of freedom. Two seeds have one pair, and no interval: (NaN, NaN).
    """
    seeds = sorted({seed for pair in pairs for seed in pair})
    n = len(seeds)
    if n < 3:
        return float("nan"), float("nan")
    with extra("probes"):
        from scipy.stats import t

    without = [np.mean([value for pair, value in pairs.items() if i not in pair]) for i in seeds]
    half = t.ppf((1 + level) / 2, n - 1) * np.sqrt(n - 1) * np.std(without)
    mean = np.mean(list(pairs.values()))
    return float(mean - half), float(mean + half)


@checked
def over_runs(
    pairs: Annotated[pd.DataFrame, with_columns("plan", "first", "second", "value")],
) -> pd.DataFrame:
    """Of each plan, the mean over its pairs of runs, "low" and "high", and the number of pairs.

    low and high: of `interval_over_runs`.

    Args:
        pairs: one value for every two runs, first < second, of each plan.

    Raises:
        ValueError: several values of one pair.
    """
    if pairs.duplicated(["plan", "first", "second"]).any():
        raise ValueError(
            "pairs must have one value for each plan, first and second, they have more"
        )
    estimates = {}
    for plan, own in pairs.groupby("plan", sort=False):
        values = dict(zip(zip(own["first"], own["second"], strict=True), own["value"], strict=True))
        low, high = interval_over_runs(values)
        mean = own["value"].mean()
        estimates[plan] = {"mean": mean, "low": low, "high": high, "pairs": len(own)}
    return pd.DataFrame.from_dict(estimates, orient="index")


def _check_samples(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise ValueError(f"samples must be the same for both: got {len(x)} and {len(y)}")
    for name, z in (("x", x), ("y", y)):
        if not (z != z[:1]).any():
            raise ValueError(f"activations {name} of shape {tuple(z.shape)} are all the same")
