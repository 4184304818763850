"""Which features fire together: Gaussian copulas, given or drawn, of a low rank or any."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Real
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Count, Positive, Share, Weight

LOW_RANK = 4  # times the rank: so many features a low one has at least


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
    def off_diagonal(self) -> tuple[float, float]:
        """(mean, root mean square) of the correlations of two different features.

        From F^T F, (rank, rank): sum_ij r_ij^2 = ||F^T F||^2 and sum_ij r_ij = ||F^T 1||^2, both
        less what stands on the diagonal.
        """
        factor, n_pairs = self.factor.double(), self.n_features * (self.n_features - 1)
        own = factor.square().sum(1)
        total = factor.sum(0).square().sum() - own.sum()
        squares = (factor.T @ factor).square().sum() - own.square().sum()
        return float(total / n_pairs), float((squares / n_pairs).clamp(min=0).sqrt())

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

    - asked_strength, made_strength: mean |r| over the pairs that were to be correlated.
    - asked_density, made_density: share of the pairs with |r| > 0.01.
    - largest_change, mean_change: of the absolute differences between the two matrices.
    - smallest_eigenvalue: of the matrix that was asked for; below 0 it is not a correlation.
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
