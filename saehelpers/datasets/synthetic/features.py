"""Activations made of features that are known: what an SAE should find, and when it fires."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from saehelpers import runs
from saehelpers.datasets.shards import read_shards, write_shards
from saehelpers.datasets.synthetic.firing import (
    CorrelatedFiring,
    Correlation,
    IndependentFiring,
    LowRankFiring,
    firing_of,
    positions,
)
from saehelpers.datasets.synthetic.hierarchy import Hierarchy
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Device, Positive, Seed
from saehelpers.symmetry import LinearAction

CHUNK = 16_384  # samples that are drawn at a time where only counts are kept


@dataclass(frozen=True)
class SparseCoefficients:
    """Coefficients (n, n_features) as those that are not 0, sample by sample.

    samples, features, magnitudes: (firings,).
    """

    samples: Int[Tensor, " firings"]
    features: Int[Tensor, " firings"]
    magnitudes: Float[Tensor, " firings"]
    n_samples: int
    n_features: int

    @classmethod
    def of(cls, coefficients: Float[Tensor, "n n_features"]) -> "SparseCoefficients":
        samples, features = coefficients.nonzero(as_tuple=True)
        return cls(samples, features, coefficients[samples, features], *coefficients.shape)

    def dense(self) -> Float[Tensor, "n n_features"]:
        result = torch.zeros(self.n_samples * self.n_features)
        result[self.samples * self.n_features + self.features] = self.magnitudes
        return result.view(self.n_samples, self.n_features)

    def times(self, dictionary: Float[Tensor, "n_features d"]) -> Float[Tensor, "n d"]:
        """coefficients dictionary, from rows that fire alone."""
        counts = torch.bincount(self.samples, minlength=self.n_samples)
        return embedding_bag(
            self.features, dictionary, counts.cumsum(0) - counts, mode="sum",
            per_sample_weights=self.magnitudes,
        )  # fmt: skip


@checked
@dataclass(frozen=True)
class SyntheticFeatures:
    """A dictionary of features, and the rules by which they fire.

        x = bias + sum_i c_i D_i,    c_i = fires_i max(0, mean_i + std_i e_i)

    fires: drawn by the probabilities, independently or through a `correlation`, then
    restricted by a `hierarchy`. e: standard normal. Every draw takes a generator. A feature whose
    magnitude is 0 does not fire, nor does anything that hangs below it in the hierarchy; below one
    that scales its children, c is multiplied by the parent's c over its mean.

    Samples are drawn as the features that fire in them, (index, magnitude); nothing of size
    (n, n_features) is made but by `coefficients` and `sample`, for modifiers, and where many
    features fire or are correlated without a low rank.

    Args:
        dictionary: D (n_features, d), one row a feature.
        probabilities: of firing, before the hierarchy, (n_features,) or one for all.
        magnitude_mean, magnitude_std: of a feature that fires, (n_features,) or one for all.
        bias: (d,), added to every sample.
        modifiers: functions of the coefficients (n, n_features), applied in their order; of
            further arguments they get these features and the generator, if they take them.

    Raises:
        ValueError: a probability is outside [0, 1], a standard deviation negative, the mean of a
            feature that scales others not positive, or sizes do not agree.
    """

    dictionary: Float[Tensor, "n_features d"]
    probabilities: Float[Tensor, " n_features"] | float
    magnitude_mean: Float[Tensor, " n_features"] | float = 1.0
    magnitude_std: Float[Tensor, " n_features"] | float = 0.0
    bias: Float[Tensor, " d"] | None = None
    correlation: Correlation | None = None
    hierarchy: Hierarchy | None = None
    modifiers: tuple[Callable[..., Tensor], ...] = ()
    # the version of how samples are drawn: 2 where firings are asked for one by one
    drawing: int = field(default=1, init=False, metadata={"added_later": True})

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
        for feature in self.hierarchy.scaling() if self.hierarchy is not None else ():
            if self.magnitude_mean[feature] <= 0:
                raise ValueError(
                    f"feature {feature} scales its children by its magnitude over its mean, so "
                    f"that magnitude_mean must be above 0, got {self.magnitude_mean[feature]:g}"
                )
        one_by_one = self.correlation is not None and self.correlation.is_low
        object.__setattr__(self, "drawing", 2 if one_by_one or self.hierarchy is not None else 1)

    @property
    def n_features(self) -> int:
        return len(self.dictionary)

    @checked
    def sparse_coefficients(
        self, n_samples: Positive, generator: torch.Generator
    ) -> SparseCoefficients:
        """How strongly features fire in each of n samples, of those that do."""
        firing = self._firing.begin(n_samples, generator)
        top, cells = self._top, firing.on_top(n_samples, generator)
        samples = cells.div(len(top), rounding_mode="floor") if len(top) else cells
        features = top[cells - samples * len(top)]
        magnitudes = self._magnitudes(features, generator)
        if self.hierarchy is not None:
            top = samples, features, magnitudes
            parts = self._with_those_below(firing, n_samples, top, generator)
            samples, features, magnitudes = parts
        if self._may_be_zero:
            fires = positions(magnitudes > 0)
            samples, features, magnitudes = samples[fires], features[fires], magnitudes[fires]
        found = SparseCoefficients(samples, features, magnitudes, n_samples, self.n_features)
        if not self.modifiers:
            return found
        dense = found.dense()
        for modifier in self.modifiers:
            dense = _modified(dense, modifier, self, generator)
        return SparseCoefficients.of(dense)

    @checked
    def coefficients(
        self, n_samples: Positive, generator: torch.Generator
    ) -> Float[Tensor, "n n_features"]:
        """How strongly each feature fires in each of n samples; 0 where it does not."""
        return self.sparse_coefficients(n_samples, generator).dense()

    @checked
    def activations(
        self, coefficients: Float[Tensor, "n n_features"] | SparseCoefficients
    ) -> Float[Tensor, "n d"]:
        """x of given coefficients."""
        if isinstance(coefficients, SparseCoefficients):
            x = coefficients.times(self.dictionary)
        else:
            x = coefficients @ self.dictionary
        return x if self.bias is None else x + self.bias

    @checked
    def sample(
        self, n_samples: Positive, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n n_features"]]:
        """Activations and the coefficients that they are made of."""
        x, coefficients = self.sample_sparse(n_samples, generator)
        return x, coefficients.dense()

    @checked
    def sample_sparse(
        self, n_samples: Positive, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], SparseCoefficients]:
        """`sample`, of whose coefficients those that are 0 are never made."""
        coefficients = self.sparse_coefficients(n_samples, generator)
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

    @cached_property
    def _firing(self) -> IndependentFiring | CorrelatedFiring | LowRankFiring:
        return firing_of(self.probabilities, self._top, self.correlation)

    @cached_property
    def _top(self) -> Int[Tensor, " top"]:
        """Features that hang below no other."""
        return torch.arange(self.n_features) if self.hierarchy is None else self.hierarchy.top

    @cached_property
    def _may_be_zero(self) -> bool:
        return bool((self.magnitude_mean <= 0).any() or self.magnitude_std.any())

    @cached_property
    def _equal(self) -> bool:
        mean, std = self.magnitude_mean, self.magnitude_std
        return bool((mean == mean[0]).all()) and bool((std == std[0]).all())

    def _with_those_below(
        self, firing, n_samples: int, top: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What fires at the top and below it: samples, features, magnitudes; in order."""

        def draw(samples: Tensor, features: Tensor) -> Tensor:
            found = torch.zeros(len(samples))
            fires = positions(firing.at(samples, features, generator))
            found[fires] = self._magnitudes(features[fires], generator)
            return found

        fires = positions(top[2] > 0)
        top = tuple(part[fires] for part in top)
        parts = self.hierarchy.descend(n_samples, top, draw, self.magnitude_mean, generator)
        order = (parts[0] * self.n_features + parts[1]).argsort()
        return tuple(part[order] for part in parts)

    def _magnitudes(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Of features that fire."""
        mean, std = self.magnitude_mean, self.magnitude_std
        if self._equal:
            mean, std = mean[0], std[0]
        else:
            mean, std = mean[features], std[features]
        if not self.magnitude_std.any():
            return mean.clamp(min=0).expand(len(features))
        noise = torch.randn(len(features), generator=generator)
        return noise.mul_(std).add_(mean).clamp_(min=0)


@checked
@dataclass(frozen=True)
class Stream:
    """Training samples straight from the features: `stream(epoch)` draws n new ones.

    Activations (n, 1, d), or with an `action` their orbits (n, |G|, d), in which features
    turn and coefficients stay. Every epoch's draws come from (seed, epoch), so that no data
    set is held and training can be resumed.

    kept: a folder for the epochs that were drawn, 4 n |G| d bytes each: what else is trained on the
    same stream reads them there. One that is not as it was written is drawn again. The package
    never removes them.
    """

    features: SyntheticFeatures
    n_samples: Positive
    seed: Seed
    action: LinearAction | None = None
    device: Device = field(default="cpu", compare=False)
    kept: Path | str | None = field(default=None, compare=False)

    @checked
    def to(self, device: Device) -> "Stream":
        return replace(self, device=device)

    def __call__(self, epoch: int) -> Float[Tensor, "n order d"]:
        if self.kept is None:
            return self._drawn(epoch).to(self.device)
        folder = Path(self.kept) / f"{self._identity}-{epoch:05d}"
        try:
            return read_shards(folder).to(self.device)
        except (FileNotFoundError, ValueError):
            samples = self._drawn(epoch)
            write_shards(folder, samples, overwrite=True)
            return samples.to(self.device)

    @cached_property
    def _identity(self) -> str:
        return runs.identity(self)

    def _drawn(self, epoch: int) -> Float[Tensor, "n order d"]:
        # a stream of its own: weights and sample orders of the same seed must not repeat it
        seed = (self.seed * 1_000_003 + 7_919 * epoch + 0x57AEA3) % 2**32
        generator = torch.Generator().manual_seed(seed)
        x = torch.empty(self.n_samples, self.features.dictionary.shape[1])
        for part in x.split(CHUNK):
            part.copy_(self.features.sample_sparse(len(part), generator)[0])
        return x[:, None] if self.action is None else self.action.orbit(x)


def _modified(
    coefficients: Tensor,
    modifier: Callable[..., Tensor],
    features: SyntheticFeatures,
    generator: torch.Generator,
) -> Tensor:
    further = features, generator
    result = modifier(coefficients, *further[: _n_arguments(modifier) - 1])
    name = getattr(modifier, "__name__", repr(modifier))
    if result.shape != coefficients.shape:
        raise ValueError(
            f"the modifier {name} made {tuple(result.shape)} of {tuple(coefficients.shape)}"
        )
    if not torch.isfinite(result).all():
        raise ValueError(f"the modifier {name} returned NaN or infinite coefficients")
    return result


def _n_arguments(function: Callable) -> int:
    """That have to be given; 1 of what does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of torch's own
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _span(values: Tensor) -> str:
    return f"values from {values.min():.4g} to {values.max():.4g}"
