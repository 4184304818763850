"""When features fire: probabilities, and correlations between them."""

import copy
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Count, Positive, Share, Weight

PROBABILITY_KINDS = ("constant", "linear", "zipfian", "random")
SKIPPED_BELOW = 0.15  # probabilities for which jumping from firing to firing is faster
LOW_RANK = 4  # times the rank: so many features a low one has at least
FIRING_BLOCK = 2**17  # features in samples that are looked at at a time, which stay in the cache
PAIRS = 2**14  # of a feature and a sample, likewise


@checked
def firing_probabilities(
    kind: str,
    n_features: Positive,
    largest: Weight,
    smallest: Weight = 0.0,
    exponent: Weight = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n_features"]:
    """A firing probability for each feature.

    Args:
        kind: "constant": `largest` for all. "linear": in equal steps from `largest` down to
            `smallest`. "zipfian": rank^-exponent, moved and scaled to the same two ends.
            "random": uniform between them.
    """
    if not 0 <= smallest <= largest <= 1:
        raise ValueError(
            f"probabilities need 0 <= smallest <= largest <= 1, got {smallest} and {largest}"
        )
    if kind == "constant":
        return torch.full((n_features,), largest)
    if kind == "linear":
        return torch.linspace(largest, smallest, n_features)
    if kind == "zipfian":
        if exponent <= 0:
            raise ValueError(f"a Zipfian exponent is positive, got {exponent}")
        ranks = torch.arange(1, n_features + 1).double().pow(-exponent)
        span = ranks[0] - ranks[-1]
        share = (ranks - ranks[-1]) / span if span > 0 else torch.ones_like(ranks)
        return (smallest + (largest - smallest) * share).float().clamp(smallest, largest)
    if kind == "random":
        return smallest + (largest - smallest) * torch.rand(n_features, generator=generator)
    raise ValueError(f"unknown kind {kind!r}; known are {', '.join(PROBABILITY_KINDS)}")


class Correlation:
    """Correlated firing through a Gaussian copula.

        feature i fires where g_i < Phi^-1(p_i),    g = factor z + sqrt(diagonal) e

    z and e are standard normal, so that g has the covariance factor factor^T + diag(diagonal)
    of unit diagonal, and every feature fires with exactly its own probability. (The
    correlation of the firings themselves is weaker than that of g.)

    Args:
        factor: (n_features, rank); of a low rank it costs rank products a feature, and
            nothing of size n_features^2 is made.

    Raises:
        ValueError: a row of the factor has a norm above 1.
    """

    @checked
    def __init__(self, factor: Float[Tensor, "n_features rank"]):
        squared = factor.double().square().sum(1)
        if squared.max() > 1 + 1e-4:
            raise ValueError(
                "rows of a correlation factor have norms up to 1, row "
                f"{int(squared.argmax())} has {squared.max().sqrt():.4f}"
            )
        whole = squared > 1 - 1e-5  # up to rounding: no noise of their own
        self.factor = torch.where(whole, squared.rsqrt(), 1.0)[:, None].mul(factor).float()
        self.own_noise = torch.where(whole, 0.0, 1 - squared).sqrt().float()

    @classmethod
    @checked
    def dense(cls, matrix: Real[Tensor, "n_features n_features"]) -> "Correlation":
        """The copula of a correlation matrix, whose Cholesky factor is computed once.

        Raises:
            ValueError: the matrix is not square, symmetric, of unit diagonal and positive
                semi-definite. `nearest_correlation` mends the last.
        """
        matrix = matrix.double()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"a correlation matrix is square, got {tuple(matrix.shape)}")
        if not torch.allclose(matrix, matrix.T, atol=1e-6):
            raise ValueError("a correlation matrix is symmetric, this one is not")
        if not torch.allclose(matrix.diagonal(), torch.ones_like(matrix.diagonal()), atol=1e-5):
            raise ValueError("a correlation matrix has a diagonal of ones, this one has not")
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            values, vectors = torch.linalg.eigh(matrix)
            if values[0] < -1e-6:
                raise ValueError(
                    f"the correlation matrix has an eigenvalue of {values[0]:.3g}: no features "
                    "can be correlated so. nearest_correlation gives the closest that can"
                )
            factor = vectors * values.clamp(min=0).sqrt()
        return cls(factor.float())

    @property
    def n_features(self) -> int:
        return len(self.factor)

    @property
    def matrix(self) -> Float[Tensor, "n_features n_features"]:
        """The correlations of g."""
        return self.factor @ self.factor.T + torch.diag(self.own_noise.square())

    @checked
    def normals(
        self, n_samples: Positive, generator: torch.Generator
    ) -> Float[Tensor, "n n_features"]:
        """Samples of g."""
        shared = torch.randn(n_samples, self.factor.shape[1], generator=generator)
        g = shared @ self.factor.T
        if self._has_own_noise:
            own = torch.randn(n_samples, self.n_features, generator=generator)
            g.addcmul_(own, self.own_noise)
        return g

    @cached_property
    def _has_own_noise(self) -> bool:
        return bool(self.own_noise.any())

    @property
    def is_low(self) -> bool:
        """Whether the rank is so low that firings are cheaper drawn one by one."""
        return LOW_RANK * self.factor.shape[1] <= self.n_features


@checked
def low_rank_correlation(
    n_features: Positive, rank: Positive, scale: Weight, generator: torch.Generator
) -> Correlation:
    """The copula of a random factor, whose entries are normal with a deviation of `scale`.

    Two features' correlation then has mean 0 and a deviation of scale^2 sqrt(rank).

    Raises:
        ValueError: rank and scale give a row a norm above 1: no feature can be correlated so.
    """
    factor = scale * torch.randn(n_features, rank, generator=generator)
    largest = float(factor.norm(dim=1).max())
    if largest > 1:
        raise ValueError(
            f"a correlation of rank {rank} and scale {scale:g} is none: a feature would share "
            f"{largest**2:.3g} of its variance with others, which can be 1 at most. On average it "
            f"is rank scale^2, here {rank * scale**2:.3g}; keep that well below 1"
        )
    return Correlation(factor)


@dataclass(frozen=True)
class CorrelationReport:
    """What was asked of a correlation matrix, and what could be made.

    asked_strength, made_strength: mean |r| over the pairs that were to be correlated.
    asked_density, made_density: share of the pairs with |r| > 0.01.
    largest_change, mean_change: of the absolute differences between the two matrices.
    smallest_eigenvalue: of the matrix that was asked for; below 0 it is not a correlation.
    """

    asked_strength: float
    made_strength: float
    asked_density: float
    made_density: float
    largest_change: float
    mean_change: float
    smallest_eigenvalue: float


@checked
def nearest_correlation(
    matrix: Float[Tensor, "n n"], smallest_eigenvalue: float = 1e-4, max_iterations: Count = 50
) -> tuple[Float[Tensor, "n n"], CorrelationReport]:
    """The closest positive definite correlation matrix, and how much had to be changed.

    Alternating projections with Dykstra's correction (Higham, IMA J. Numer. Anal. 22, 2002,
    329-343), ended by a rescaling, so that what is returned is a valid correlation matrix
    also where the iterations have not converged.
    """
    asked = matrix.double()
    eigenvalue = float(torch.linalg.eigvalsh(asked)[0])
    made = asked
    if eigenvalue < smallest_eigenvalue or (asked.diagonal() != 1).any():
        correction = torch.zeros_like(asked)
        for _ in range(max_iterations):
            corrected = made - correction
            positive = _clip_eigenvalues(corrected, smallest_eigenvalue)
            correction = positive - corrected
            made = positive.clone().fill_diagonal_(1.0)
            if (made - positive).abs().max() < 1e-4:
                break
        scale = _clip_eigenvalues(made, smallest_eigenvalue)
        root = scale.diagonal().rsqrt()
        made = (root[:, None] * scale * root).fill_diagonal_(1.0)
    return made.float(), _report(asked, made, eigenvalue)


@checked
def random_correlation(
    n_features: Positive,
    density: Share,
    strength: tuple[float, float],
    generator: torch.Generator,
    negative: Share = 0.0,
) -> tuple[Float[Tensor, "n_features n_features"], CorrelationReport]:
    """A random valid correlation matrix, and what had to be given up to make it valid.

    Args:
        density: share of the pairs that are correlated.
        strength: the absolute correlations are uniform between these two.
        negative: share of the correlated pairs that get a negative sign.
    """
    shape = (n_features, n_features)
    chosen = torch.rand(shape, generator=generator) < density
    size = strength[0] + (strength[1] - strength[0]) * torch.rand(shape, generator=generator)
    sign = 1 - 2 * (torch.rand(shape, generator=generator) < negative).float()
    upper = (chosen * size * sign).triu(1)
    return nearest_correlation(upper + upper.T + torch.eye(n_features))


def _clip_eigenvalues(matrix: Tensor, smallest: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=smallest)) @ vectors.T


def _report(asked: Tensor, made: Tensor, eigenvalue: float) -> CorrelationReport:
    pairs = ~torch.eye(len(asked), dtype=torch.bool)
    wanted = pairs & (asked != 0)
    change = (made - asked).abs()[pairs]

    def mean(values: Tensor) -> float:
        return float(values.double().mean()) if len(values) else 0.0

    return CorrelationReport(
        asked_strength=mean(asked[wanted].abs()),
        made_strength=mean(made[wanted].abs()),
        asked_density=mean(asked[pairs].abs() > 0.01),
        made_density=mean(made[pairs].abs() > 0.01),
        largest_change=float(change.max()) if len(change) else 0.0,
        mean_change=mean(change),
        smallest_eigenvalue=eigenvalue,
    )


class IndependentFiring:
    """Features fire independently of each other, with `probabilities` of their own.

    top: the features that fire whatever others do.
    """

    def __init__(self, probabilities: Float[Tensor, " n_features"], top: Int[Tensor, " top"]):
        self.probabilities, self.top = probabilities, probabilities[top]

    def begin(self, n_samples: int, generator: torch.Generator) -> "IndependentFiring":
        return self

    def on_top(self, n_samples: int, generator: torch.Generator) -> Int[Tensor, " firings"]:
        """Where those at the top fire, as sorted positions `sample * len(top) + number`."""
        if float(self.top.mean()) < SKIPPED_BELOW:
            return sparse_firing(self.top, n_samples, generator)
        return independent_firing(self.top, n_samples, generator).view(-1).nonzero()[:, 0]

    def at(
        self,
        samples: Int[Tensor, " pairs"],
        features: Int[Tensor, " pairs"],
        generator: torch.Generator,
    ) -> Bool[Tensor, " pairs"]:
        """Whether features fire in samples, each of which is asked for once."""
        return torch.rand(len(samples), generator=generator) < self.probabilities[features]


class CorrelatedFiring:
    """Features fire where a copula's normals are below their thresholds.

    All normals are drawn, whoever is asked for.
    """

    def __init__(self, probabilities: Tensor, top: Tensor, correlation: Correlation):
        self.correlation, self.thresholds, self.top = correlation, _quantiles(probabilities), top

    def begin(self, n_samples: int, generator: torch.Generator) -> "CorrelatedFiring":
        """The firing of some samples, with what they share."""
        begun = copy.copy(self)
        begun.normals = self.correlation.normals(n_samples, generator)
        return begun

    def on_top(self, n_samples: int, generator: torch.Generator) -> Tensor:
        everything = len(self.top) == len(self.thresholds)
        normals = self.normals if everything else self.normals[:, self.top]
        return (normals < self.thresholds[self.top]).view(-1).nonzero()[:, 0]

    def at(self, samples: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
        return self.normals[samples, features] < self.thresholds[features]


class LowRankFiring:
    """The same for a low rank, where a feature has noise of its own that few need to be asked for.

    Given what a sample shares, z, features fire independently,

        P(i fires | z) = Phi(u_i),    u_i = (t_i - <factor_i, z>) / sqrt(diagonal_i)

    t_i: the feature's threshold. Where u is at most c, a firing has a probability of Phi(c) at
    most: coins of that probability are drawn for all, by comparing bytes, and those that come up
    are kept with the share Phi(u) / Phi(c). The few features with a larger u are looked at one by
    one. Every firing has its own probability exactly.
    """

    def __init__(self, probabilities: Tensor, top: Tensor, correlation: Correlation):
        own_noise = correlation.own_noise.clamp(min=1e-6)[:, None]
        self.offset = _quantiles(probabilities) / own_noise[:, 0]
        self.slope = -correlation.factor / own_noise
        self.top_offset, self.top_slope = self.offset[top], self.slope[top].T.contiguous()
        self.coin = _best_coin(self.top_offset, self.slope[top])

    def begin(self, n_samples: int, generator: torch.Generator) -> "LowRankFiring":
        begun = copy.copy(self)
        begun.shared = torch.randn(n_samples, self.slope.shape[1], generator=generator)
        return begun

    def on_top(self, n_samples: int, generator: torch.Generator) -> Tensor:
        n, chance, found = len(self.top_offset), self.coin / 256, []
        cut = float(torch.special.ndtri(torch.tensor(chance)))
        size = max(1, FIRING_BLOCK // max(1, n))
        for start in range(0, n_samples, size):
            u = torch.addmm(
                self.top_offset, self.shared[start : start + size], self.top_slope
            ).view(-1)
            coins = torch.empty((len(u) + 7) // 8, dtype=torch.int64)
            coins.random_(-(2**63), None, generator=generator)
            open_ = (coins.view(torch.uint8)[: len(u)] < self.coin).logical_or_(u > cut)
            positions = open_.nonzero()[:, 0]
            u = u[positions]
            share = torch.special.ndtr(u).div_(torch.where(u > cut, 1.0, chance))
            kept = torch.rand(len(u), generator=generator) < share
            found.append(positions[kept] + start * n)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)

    def at(self, samples: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
        u = self.offset[features]
        parts = zip(samples.split(PAIRS), features.split(PAIRS), u.split(PAIRS), strict=True)
        for some, their_features, own in parts:
            own += (self.shared[some] * self.slope[their_features]).sum(1)
        return torch.randn(len(u), generator=generator) < u


def firing_of(
    probabilities: Float[Tensor, " n_features"],
    top: Int[Tensor, " top"],
    correlation: Correlation | None,
) -> IndependentFiring | CorrelatedFiring | LowRankFiring:
    if correlation is None:
        return IndependentFiring(probabilities, top)
    kind = LowRankFiring if correlation.is_low else CorrelatedFiring
    return kind(probabilities, top, correlation)


def _quantiles(probabilities: Tensor) -> Tensor:
    return torch.special.ndtri(probabilities.double()).float()


def _best_coin(offset: Tensor, slope: Tensor) -> int:
    """The chance, in 256ths, under which fewest features are looked at: of all u, and of coins."""
    spread = slope.double().norm(dim=1).clamp(min=1e-6)
    looked_at = {}
    for coin in (2**power for power in range(8)):
        cut = float(torch.special.ndtri(torch.tensor(coin / 256.0)))
        above = torch.special.ndtr((offset.double() - cut) / spread)
        looked_at[coin] = float((above + (1 - above) * coin / 256).mean())
    return min(looked_at, key=looked_at.get)


def independent_firing(
    probabilities: Float[Tensor, " n_features"], n_samples: int, generator: torch.Generator
) -> Bool[Tensor, "n n_features"]:
    """Which features fire in each sample, independently of each other.

    Sixteen random bits decide a draw, and the few draws that they leave open (one in 65,536)
    take further bits: the probabilities are exact, at a quarter of the random numbers.
    """
    n_features = len(probabilities)
    n_draws = n_samples * n_features
    words = torch.empty((n_draws + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[:n_draws].view(n_samples, n_features)
    scaled = probabilities.double() * 2**16
    whole = scaled.floor()
    # a probability of 1 would need the threshold 2^15, which int16 does not have
    threshold = (whole - 2**15).clamp(max=2**15 - 1).to(torch.int16)
    fires = bits < threshold
    open_rows, open_features = (bits == threshold).nonzero(as_tuple=True)
    rest = (scaled - (threshold.double() + 2**15))[open_features]
    draws = torch.rand(len(rest), generator=generator, dtype=torch.float64)
    fires[open_rows, open_features] = draws < rest
    return fires


def sparse_firing(
    probabilities: Float[Tensor, " n_features"], n_samples: int, generator: torch.Generator
) -> Tensor:
    """Where features fire, as sorted positions `sample * n_features + feature`.

    Jumps from one firing to the next: the gaps between the successes of equal coins are
    geometric. Features are taken in classes of like probability; a class jumps with its
    largest and keeps a firing with the share of its own, which leaves every probability
    exact.
    """
    n_features = len(probabilities)
    found = []
    for members in _classes(probabilities):
        own = probabilities[members]
        largest = float(own.max())
        cells = _successes(largest, n_samples * len(members), generator)
        sample, feature = cells // len(members), cells % len(members)
        if float(own.min()) < largest:
            draws = torch.rand(len(cells), generator=generator)
            kept = draws * largest < own[feature]
            sample, feature = sample[kept], feature[kept]
        if len(members) == n_features:
            return cells if float(own.min()) == largest else sample * n_features + feature
        found.append(sample * n_features + members[feature])
    return torch.cat(found).sort().values if found else torch.zeros(0, dtype=torch.int64)


def _classes(probabilities: Tensor) -> list[Tensor]:
    """Features whose probabilities lie within a factor of 2 of each other, those of 0 left out."""
    exponents = probabilities.double().log2().floor()
    return [
        (exponents == exponent).nonzero()[:, 0]
        for exponent in exponents[probabilities > 0].unique()
    ]


def _successes(probability: float, n_cells: int, generator: torch.Generator) -> Tensor:
    """Sorted positions of the successes of n_cells coins of the same probability."""
    expected = probability * n_cells
    n_jumps = int(expected + 6 * math.sqrt(expected) + 16)
    parts, last = [], -1
    while last < n_cells:
        draws = torch.rand(n_jumps, generator=generator, dtype=torch.float64)
        gaps = (torch.log1p(-draws) / math.log1p(-min(probability, 1 - 1e-16))).floor_() + 1
        positions = gaps.cumsum_(0).add_(last)
        parts.append(positions)
        last = float(positions[-1])
    positions = torch.cat(parts)
    return positions[: int(torch.searchsorted(positions, float(n_cells)))].long()
