"""Activations made of features that are known: what an SAE should find, and when it fires."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from saehelpers.datasets.synthetic.firing import (
    SKIPPED_BELOW,
    Correlation,
    correlated_firing,
    independent_firing,
    sparse_firing,
)
from saehelpers.datasets.synthetic.hierarchy import Hierarchy
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Device, Positive, Seed
from saehelpers.symmetry import LinearAction

CHUNK = 16_384  # samples that are drawn at a time where only counts are kept


@checked
@dataclass(frozen=True)
class SyntheticFeatures:
    """A dictionary of features, and the rules by which they fire.

        x = bias + sum_i c_i D_i,    c_i = fires_i max(0, mean_i + std_i e_i)

    fires: drawn by the probabilities, independently or through a `correlation`, then
    restricted by a `hierarchy`. e: standard normal. Every draw takes a generator. Where a
    feature's magnitude falls to 0, everything that hangs below it in the hierarchy is 0, too.

    Args:
        dictionary: D (n_features, d), one row a feature.
        probabilities: of firing, before the hierarchy, (n_features,) or one for all.
        magnitude_mean, magnitude_std: of a feature that fires, (n_features,) or one for all.
        bias: (d,), added to every sample.
        modifiers: functions of the coefficients (n, n_features), applied in their order.

    Raises:
        ValueError: a probability is outside [0, 1], a standard deviation negative, or sizes
            do not agree.
    """

    dictionary: Float[Tensor, "n_features d"]
    probabilities: Float[Tensor, " n_features"] | float
    magnitude_mean: Float[Tensor, " n_features"] | float = 1.0
    magnitude_std: Float[Tensor, " n_features"] | float = 0.0
    bias: Float[Tensor, " d"] | None = None
    correlation: Correlation | None = None
    hierarchy: Hierarchy | None = None
    modifiers: tuple[Callable[[Tensor], Tensor], ...] = ()
    # tells such features from those of releases in which a child fired where its parent was 0
    silences: bool = field(default=False, init=False, metadata={"added_later": True})

    def __post_init__(self):
        n_features, d = self.dictionary.shape
        for name in ("probabilities", "magnitude_mean", "magnitude_std"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float32)
            if value.ndim and value.shape != (n_features,):
                raise ValueError(
                    f"{name} must be one number or ({n_features},), got {tuple(value.shape)}"
                )
            object.__setattr__(self, name, value.expand(n_features).contiguous())
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():
            raise ValueError("probabilities must lie in [0, 1], got " + _span(self.probabilities))
        if not (self.magnitude_std >= 0).all():
            raise ValueError("magnitude_std must be >= 0, got " + _span(self.magnitude_std))
        if self.bias is not None and self.bias.shape != (d,):
            raise ValueError(f"bias must be ({d},), got {tuple(self.bias.shape)}")
        for name in ("correlation", "hierarchy"):
            part = getattr(self, name)
            if part is not None and part.n_features != n_features:
                raise ValueError(
                    f"the {name} is made for {part.n_features} features, the dictionary "
                    f"has {n_features}"
                )
        falls = bool(self.magnitude_std.any() or (self.magnitude_mean <= 0).any())
        object.__setattr__(self, "silences", falls and self.hierarchy is not None)

    @property
    def n_features(self) -> int:
        return len(self.dictionary)

    @checked
    def coefficients(
        self, n_samples: Positive, generator: torch.Generator
    ) -> Float[Tensor, "n n_features"]:
        """How strongly each feature fires in each of n samples; 0 where it does not."""
        if self.correlation is None and self.hierarchy is None and self._is_sparse:
            positions = sparse_firing(self.probabilities, n_samples, generator)
        else:
            if self.correlation is None:
                fires = independent_firing(self.probabilities, n_samples, generator)
            else:
                fires = correlated_firing(
                    self.probabilities, self.correlation, n_samples, generator
                )
            if self.hierarchy is not None:
                fires = self.hierarchy(fires, generator)
            positions = fires.view(-1).nonzero()[:, 0]
        result = torch.zeros(n_samples * self.n_features)
        result[positions] = self._magnitudes(positions, generator)
        result = result.view(n_samples, self.n_features)
        if self.silences:
            result = self.hierarchy.silenced(result)
        for modifier in self.modifiers:
            result = _modified(result, modifier)
        return result

    @checked
    def activations(self, coefficients: Float[Tensor, "n n_features"]) -> Float[Tensor, "n d"]:
        """x of given coefficients."""
        x = coefficients @ self.dictionary
        return x if self.bias is None else x + self.bias

    @checked
    def sample(
        self, n_samples: Positive, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n n_features"]]:
        """Activations and the coefficients that they are made of."""
        coefficients = self.coefficients(n_samples, generator)
        return self.activations(coefficients), coefficients

    @checked
    def firing_rates(
        self, n_samples: Positive, generator: torch.Generator
    ) -> tuple[Float[Tensor, " n_features"], Float[Tensor, "n_features n_features"]]:
        """Share of n samples in which each feature fires, and the firings' correlations."""
        together = torch.zeros(self.n_features, self.n_features, dtype=torch.float64)
        for start in range(0, n_samples, CHUNK):
            fires = self.coefficients(min(CHUNK, n_samples - start), generator) > 0
            together += (fires.float().T @ fires.float()).double()
        rates = (together / n_samples).diagonal()
        covariance = together / n_samples - rates[:, None] * rates
        deviation = (rates * (1 - rates)).sqrt().clamp(min=1e-12)
        return rates.float(), (covariance / deviation[:, None] / deviation).float()

    @property
    def _is_sparse(self) -> bool:
        return float(self.probabilities.mean()) < SKIPPED_BELOW

    def _magnitudes(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Of the features that fire, given by their positions in the flat coefficients."""
        mean, std = self.magnitude_mean, self.magnitude_std
        equal = bool((mean == mean[0]).all()) and bool((std == std[0]).all())
        if equal:
            mean, std = mean[0], std[0]
        else:
            feature = positions % self.n_features
            mean, std = mean[feature], std[feature]
        if not self.magnitude_std.any():
            return mean.clamp(min=0)
        noise = torch.randn(len(positions), generator=generator)
        return noise.mul_(std).add_(mean).clamp_(min=0)


@checked
@dataclass(frozen=True)
class Stream:
    """Training samples straight from the features: `stream(epoch)` draws n new ones.

    Activations (n, 1, d), or with an `action` their orbits (n, |G|, d), in which features
    turn and coefficients stay. Every epoch's draws come from (seed, epoch), so that no data
    set is held and training can be resumed.
    """

    features: SyntheticFeatures
    n_samples: Positive
    seed: Seed
    action: LinearAction | None = None
    device: Device = field(default="cpu", compare=False)

    @checked
    def to(self, device: Device) -> "Stream":
        return replace(self, device=device)

    def __call__(self, epoch: int) -> Float[Tensor, "n order d"]:
        # a stream of its own: weights and sample orders of the same seed must not repeat it
        seed = (self.seed * 1_000_003 + 7_919 * epoch + 0x57AEA3) % 2**32
        x, _ = self.features.sample(self.n_samples, torch.Generator().manual_seed(seed))
        orbits = x[:, None] if self.action is None else self.action.orbit(x)
        return orbits.to(self.device)


def _modified(coefficients: Tensor, modifier: Callable[[Tensor], Tensor]) -> Tensor:
    result = modifier(coefficients)
    name = getattr(modifier, "__name__", repr(modifier))
    if result.shape != coefficients.shape:
        raise ValueError(
            f"the modifier {name} made {tuple(result.shape)} of {tuple(coefficients.shape)}"
        )
    if not torch.isfinite(result).all():
        raise ValueError(f"the modifier {name} returned NaN or infinite coefficients")
    return result


def _span(values: Tensor) -> str:
    return f"values from {values.min():.4g} to {values.max():.4g}"
