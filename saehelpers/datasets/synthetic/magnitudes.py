"""Values for each feature, of the means and deviations of their magnitudes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saehelpers.runs.checking import checked_config
from saehelpers.runs.wanted import Rate, Weight


@checked_config
@dataclass(frozen=True)
class Linear:
    """start + (end - start) i / (n - 1): from the first feature to the last."""

    start: Rate
    end: Rate

    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, " n_features"]:
        return torch.linspace(self.start, self.end, n_features)


@checked_config
@dataclass(frozen=True)
class Exponential:
    """start (end / start)^(i / (n - 1)): from the first feature to the last."""

    start: Rate
    end: Rate

    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, " n_features"]:
        return self.start * (self.end / self.start) ** torch.linspace(0, 1, n_features)


@checked_config
@dataclass(frozen=True)
class FoldedNormal:
    """|e|, e normal with this mean and deviation; drawn for each feature, then cut to bounds.

    Raises:
        ValueError: `smallest` is above `largest`.
    """

    mean: float
    std: Rate
    smallest: Weight | None = None
    largest: Rate | None = None

    def __post_init__(self):
        if None not in (self.smallest, self.largest) and self.smallest > self.largest:
            raise ValueError(
                f"smallest must be at most largest, got {self.smallest:g} and {self.largest:g}"
            )

    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, " n_features"]:
        found = (self.mean + self.std * torch.randn(n_features, generator=generator)).abs()
        return found if self.smallest is self.largest else found.clamp(self.smallest, self.largest)


PerFeature = Linear | Exponential | FoldedNormal


def values(
    given: float | PerFeature, n_features: int, generator: torch.Generator
) -> Float[Tensor, " n_features"]:
    """Of a number, or of what says one for each feature."""
    if isinstance(given, int | float):
        return torch.full((n_features,), float(given))
    return given.values(n_features, generator)
