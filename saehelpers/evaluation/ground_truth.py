"""What an SAE has learnt, where the true features are known. Used by notebook 07."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saehelpers.datasets.synthetic import SyntheticFeatures
from saehelpers.evaluation.matching import cosine_matrix, match, pw_mcc
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import RAW, Positive, Weight
from saehelpers.saes import SAE
from saehelpers.saes.sparse import Latents, SparseLatents

NULL_DRAWS, NULL_ROWS = 5, 2**13  # draws, and as many rows in all at most, but for one draw
SPLIT_COSINE = 0.7
BEST_ROWS = 512  # of a cosine matrix that are held at a time
SCORES = ("accuracy", "precision", "recall", "f1")


@checked
def null_mcc(
    n_latents: Positive,
    features: Float[Tensor, "n_features d"],
    generator: torch.Generator,
    absolute: bool = True,
) -> float:
    """The MCC that random directions reach, absolute or signed: the mean over a few draws."""
    n_draws = max(1, min(NULL_DRAWS, NULL_ROWS // n_latents))
    draws = torch.randn((n_draws, n_latents, features.shape[1]), generator=generator)
    return float(np.mean([pw_mcc(draw, features, absolute) for draw in draws]))


@checked
@dataclass(frozen=True)
class Evaluation:
    """An SAE beside the truth: `summary`, numbers by name, and one row a feature and a latent.

    Args:
        summary: see below.
        features: feature, parent, latent (-1 if unmatched), cosine, firing_rate, accuracy,
            precision, recall, f1, magnitude_ratio (norm of the matched latent's contribution over
            that of the feature's, averaged where both are active: 1 without shrinkage),
            absorption.
        latents: latent, feature (of the largest absolute cosine), cosine, firing_rate, accuracy,
            precision, recall, f1.

    The numbers of `summary`:

    - mcc, mcc_signed, mcc_null: see `matching.pw_mcc` and `null_mcc`.
    - recovery: the matched cosines' sum over n_features: unmatched features count as 0.
    - unmatched_features: features that no latent is left for.
    - uniqueness: number of different features that are the best match of some living
      latent, over the number of living latents.
    - accuracy, precision, recall, f1: of the matched latent as a detector of its feature,
      averaged over all features that fire; an unmatched feature counts as 0 (its accuracy is
      that of a detector that never fires).
    - uniqueness_by_latent, accuracy_by_latent, precision_by_latent, recall_by_latent,
      f1_by_latent: the convention of SAELens. Every latent is held against the feature of
      the largest absolute cosine, several against the same one, features without a latent
      do not count; averaged over all latents, of which dead ones count as 0.
    - shrinkage: mean of ||recons|| / ||x|| over samples with x != 0.
    - l0_true, l0: features and latents active per sample.
    - dead_latents: latents that never fire.
    - explained_variance: 1 - FVU.
    - absorption: over features with a parent, the share of the samples with both in which
      the latent of the parent is silent while the child's fires. NaN without a hierarchy.
    - split_features: features that are the best match, with an absolute cosine of at least
      0.7, of two living latents or more.
    """

    summary: Annotated[dict[str, float], RAW]
    features: pd.DataFrame
    latents: pd.DataFrame


@checked
@torch.no_grad()
def evaluate(
    sae: SAE,
    data: SyntheticFeatures,
    generator: torch.Generator,
    n_samples: Positive = 100_000,
    batch_size: Positive = 4096,
) -> Evaluation:
    """Measure an SAE on fresh samples of features that are known.

    Works batch by batch, and with the features and latents that are active alone: memory is that
    of a batch and of the cosines of all pairs, in double precision.
    """
    if data.dictionary.shape[1] != sae.config.d:
        raise ValueError(
            f"data has features of width {data.dictionary.shape[1]}, the SAE reads {sae.config.d}"
        )
    was_training = sae.training
    sae.eval()
    counts = _Counts(sae, data)
    for start in range(0, n_samples, batch_size):
        counts.add(min(batch_size, n_samples - start), generator)
    sae.train(was_training)
    features, latents = counts.feature_table(), counts.latent_table()
    alive = counts.active > 0
    best, n_alive = counts.best[alive], max(int(alive.sum()), 1)
    close = best[counts.best_cosines[alive].abs() >= SPLIT_COSINE]
    fires, cosines = features[features.firing_rate > 0], features.cosine.dropna()
    summary = {
        "mcc": float(cosines.abs().mean()),
        "mcc_signed": pw_mcc(sae.dictionary, data.dictionary, absolute=False),
        "mcc_null": null_mcc(len(latents), data.dictionary, generator),
        "recovery": float(cosines.abs().sum()) / data.n_features,
        "unmatched_features": data.n_features - len(cosines),
        "uniqueness": len(best.unique()) / n_alive,
        **{name: float(fires[name].mean()) for name in SCORES},
        "uniqueness_by_latent": len(counts.best.unique()) / len(latents),
        **{f"{name}_by_latent": float(latents[name].mean()) for name in SCORES},
        "shrinkage": counts.ratios / max(counts.n_nonzero, 1),
        "l0_true": float(counts.present.sum()) / n_samples,
        "l0": float(counts.active.sum()) / n_samples,
        "dead_latents": int((~alive).sum()),
        "explained_variance": counts.explained_variance(),
        "absorption": float(features.absorption.mean()),
        "split_features": int((close.bincount(minlength=data.n_features) >= 2).sum()),
    }
    return Evaluation(summary, features, latents)


class _Counts:
    """What is added up over batches; counts are in whole numbers, by feature and by latent."""

    def __init__(self, sae: SAE, data: SyntheticFeatures):
        self.sae, self.data = sae, data
        n_features, n_latents = data.n_features, len(sae.dictionary)
        pairs = match(sae.dictionary, data.dictionary)
        self.latent_of = torch.full((n_features,), -1)
        self.latent_of[pairs.b] = pairs.a
        self.cosine = torch.full((n_features,), float("nan"))
        self.cosine[pairs.b] = cosine_similarity(data.dictionary[pairs.b], sae.dictionary[pairs.a])
        self.best_cosines, self.best = _best_matches(sae.dictionary, data.dictionary)
        self.parent = torch.full((n_features,), -1)
        for child, parent in (data.hierarchy.parents() if data.hierarchy else {}).items():
            self.parent[child] = parent
        self.norms = sae.decoder_blocks()[0][0].norm(dim=1), data.dictionary.norm(dim=1)
        of_features = ("present", "both", "with_parent", "absorbed")
        for name in of_features:
            setattr(self, name, torch.zeros(n_features, dtype=torch.long))
        self.active, self.best_both = torch.zeros(2, n_latents, dtype=torch.long)
        self.magnitude_ratio = torch.zeros(n_features, dtype=torch.float64)
        self.n_samples = self.n_nonzero = 0
        self.ratios = self.squared_error = self.total_squared = 0.0
        self.total = torch.zeros(data.dictionary.shape[1], dtype=torch.float64)

    def add(self, n_samples: int, generator: torch.Generator) -> None:
        x, coefficients = self.data.sample_sparse(n_samples, generator)
        latents = self.sae.latents(x)
        self._add_recons(x, self.sae.decode(latents))
        active = _Active.of(latents)
        samples, features = coefficients.samples, coefficients.features
        fires = coefficients.magnitudes > 0
        samples, features = samples[fires], features[fires]
        n_features, n_latents = len(self.present), len(self.active)
        self.n_samples += n_samples
        self.present += features.bincount(minlength=n_features)
        self.active += active.latents.bincount(minlength=n_latents)

        detected = active.at(samples, self.latent_of[features])  # 0 where silent or unmatched
        both = detected != 0
        found = features[both]
        self.both += found.bincount(minlength=n_features)
        written = detected[both] * self.norms[0][self.latent_of[found]]
        magnitudes = coefficients.magnitudes[fires][both] * self.norms[1][found]
        ratio = (written / magnitudes.clamp(min=1e-12)).double()
        self.magnitude_ratio.index_add_(0, found, ratio)

        present = _Active(samples, features, torch.ones(len(samples)), n_features)
        hits = present.at(active.samples, self.best[active.latents]) > 0
        self.best_both += active.latents[hits].bincount(minlength=n_latents)

        above = self.parent[features]
        known = (above >= 0) & (self.latent_of[features] >= 0) & (self.latent_of[above] >= 0)
        family = known & (present.at(samples, above) > 0)
        child = features[family]
        silent = active.at(samples[family], self.latent_of[above[family]]) == 0
        self.with_parent += child.bincount(minlength=n_features)
        self.absorbed += child[silent & both[family]].bincount(minlength=n_features)

    def _add_recons(self, x: Tensor, recons: Tensor) -> None:
        norm = x.norm(dim=1)
        nonzero = norm > 0
        self.ratios += float((recons.norm(dim=1)[nonzero] / norm[nonzero]).double().sum())
        self.n_nonzero += int(nonzero.sum())
        self.squared_error += float((x - recons).double().square().sum())
        x = x.double()
        self.total += x.sum(0)
        self.total_squared += float(x.square().sum())

    def explained_variance(self) -> float:
        variance = self.total_squared - float(self.total.square().sum()) / self.n_samples
        return 1 - self.squared_error / variance if variance else float("nan")

    def feature_table(self) -> pd.DataFrame:
        matched = self.latent_of >= 0
        detected = torch.where(matched, self.active[self.latent_of], 0)
        children = (self.parent >= 0) & matched & (self.latent_of[self.parent] >= 0)
        absorption = (self.absorbed / self.with_parent).masked_fill(~children, float("nan"))
        return pd.DataFrame(
            {
                "feature": range(len(self.present)),
                "parent": self.parent,
                "latent": self.latent_of,
                "cosine": self.cosine,
                "firing_rate": self.present / self.n_samples,
                **_scores(self.both, detected, self.present, self.n_samples),
                "magnitude_ratio": self.magnitude_ratio / self.both,
                "absorption": absorption,
            }
        )

    def latent_table(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "latent": range(len(self.active)),
                "feature": self.best,
                "cosine": self.best_cosines,
                "firing_rate": self.active / self.n_samples,
                **_scores(self.best_both, self.active, self.present[self.best], self.n_samples),
            }
        )


class _Active:
    """Values at pairs of a sample and a number below n, and 0 elsewhere."""

    def __init__(self, samples: Tensor, latents: Tensor, values: Tensor, n: int):
        self.samples, self.latents, self.n = samples, latents, n
        self.keys, order = (samples * n + latents).sort()
        self.values = values[order]

    @classmethod
    def of(cls, latents: Latents) -> "_Active":
        n = latents.shape[-1]
        if isinstance(latents, SparseLatents):
            parts = latents.pairs.samples, latents.pairs.latents, latents.values
            fires = latents.values != 0
            return cls(*(part[fires] for part in parts), n)
        samples, which = latents.nonzero(as_tuple=True)
        return cls(samples, which, latents[samples, which], n)

    def at(self, samples: Tensor, latents: Tensor) -> Tensor:
        """The values at pairs; 0 where a latent is -1."""
        if not len(self.keys):
            return torch.zeros(len(samples))
        keys = torch.where(latents >= 0, samples * self.n + latents, -1)
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], 0.0)


def _best_matches(rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Of every row, the cosine with the feature of the largest absolute one, and which it is."""
    parts = []
    for some in rows.split(BEST_ROWS):
        cosines = cosine_matrix(some, features)
        which = cosines.abs().argmax(1, keepdim=True)
        parts.append((cosines.gather(1, which)[:, 0], which[:, 0]))
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def _scores(both: Tensor, detected: Tensor, present: Tensor, n_samples: int) -> dict[str, Tensor]:
    """Of detectors, from counts of samples: detected, with the feature, and with both."""
    return {
        "accuracy": 1 - (detected + present - 2 * both) / n_samples,
        "precision": both / detected.clamp(min=1),
        "recall": both / present.clamp(min=1),
        "f1": 2 * both / (detected + present).clamp(min=1),
    }


@checked
@torch.no_grad()
def initialise_at(
    sae: SAE,
    features: Float[Tensor, "n_features d"],
    generator: torch.Generator,
    noise: Weight = 0.0,
) -> None:
    """Put the true features into the first rows of an SAE's dictionary, in place.

    The encoder becomes the transpose of the dictionary, with biases of zero. Further rows keep
    their directions.

    Args:
        noise: standard deviation of what is added to a row, as a share of its norm.

    Raises:
        ValueError: more features than latents, another width, an encoder of two layers, or
            a dictionary that is not free.
    """
    n, d = features.shape
    if n > sae.config.n_latents or d != sae.config.d:
        raise ValueError(
            f"{n} features of width {d} do not fit {sae.config.n_latents} latents of width "
            f"{sae.config.d}"
        )
    if (sae.config.encoder, sae.config.dictionary) != ("linear", "free"):
        raise ValueError("only an SAE with a linear encoder and a free dictionary can start there")
    spread = noise * features.norm(dim=1, keepdim=True) / d**0.5
    sae.decoder_weight[:n] = features + spread * torch.randn(n, d, generator=generator)
    sae.encoder_weights[0].copy_(sae.decoder_weight.T)
    sae.encoder_biases[0].zero_()
    sae.decoder_bias.zero_()
