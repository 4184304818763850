"""When features fire: probabilities, and correlations between them."""

import copy
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.datasets.synthetic.correlation import Correlation
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive, Weight

PROBABILITY_KINDS = ("constant", "linear", "zipfian", "random")
SKIPPED_BELOW = 0.15  # probabilities for which jumping from firing to firing is faster
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


def positions(mask: Bool[Tensor, " n"]) -> Int[Tensor, " found"]:
    """Where a mask is True: `mask.nonzero()[:, 0]`, in a fifth of torch's time on a CPU."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


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
        return positions(independent_firing(self.top, n_samples, generator).view(-1))

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
        return positions((normals < self.thresholds[self.top]).view(-1))

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
            # numpy compares in a fraction of torch's time
            tossed = coins.view(torch.uint8)[: len(u)].numpy() < self.coin
            open_ = positions(torch.from_numpy(tossed | (u.numpy() > cut)))
            u = u[open_]
            share = torch.special.ndtr(u).div_(torch.where(u > cut, 1.0, chance))
            kept = positions(torch.rand(len(u), generator=generator) < share)
            found.append(open_[kept] + start * n)
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
            kept = positions(draws * largest < own[feature])
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
        cells = gaps.cumsum_(0).add_(last)
        parts.append(cells)
        last = float(cells[-1])
    cells = torch.cat(parts)
    return cells[: int(torch.searchsorted(cells, float(n_cells)))].long()
