"""Probes of images: which class can be told from a few latents, and what do latents follow?

A latent of an image is its mean over the pixels (`saehelpers.networks.feature_maps.mean_latents`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.runs.extras import extra

if TYPE_CHECKING:
    import sklearn.base

PROBES = ("logistic", "xgboost")


def separating_latents(
    latents: Float[Tensor, "n n_latents"], labels: Int[Tensor, " n"], m: int
) -> Int[Tensor, " m"]:
    """The m latents with the largest between-class variance, the best first.

    sum over classes c of (n_c / n) (mean of the latent in c - its mean)^2
    """
    if not 1 <= m <= latents.shape[1]:
        raise ValueError(f"cannot keep {m} of {latents.shape[1]} latents")
    members = torch.nn.functional.one_hot(labels).to(latents)  # (n, classes)
    counts = members.sum(0)
    means = members.T @ latents / counts.clamp(min=1)[:, None]  # (classes, n_latents)
    variance = (counts[:, None] / len(labels) * (means - latents.mean(0)).pow(2)).sum(0)
    return variance.topk(m).indices


@dataclass(frozen=True)
class ClassProbe:
    """A fitted classifier of images, and the latents that it reads."""

    classifier: "sklearn.base.BaseEstimator"
    keep: Int[Tensor, " m"]

    def predict(self, latents: Float[Tensor, "n n_latents"]) -> np.ndarray:
        """The class of each image, (n,)."""
        return self.classifier.predict(latents[:, self.keep].numpy())

    def macro_f1(self, latents: Float[Tensor, "n n_latents"], labels: Int[Tensor, " n"]) -> float:
        """F1 of each class against the others, averaged over the classes."""
        with extra("probes"):
            from sklearn.metrics import f1_score

        return float(f1_score(labels.numpy(), self.predict(latents), average="macro"))


def fit_class_probe(
    latents: Float[Tensor, "n n_latents"],
    labels: Int[Tensor, " n"],
    probe: str,
    truncation: int | None = None,
    seed: int = 0,
) -> ClassProbe:
    """A probe of the classes from the `truncation` latents that separate them most (all if None).

    "logistic": multinomial, on standardised latents, L-BFGS of at most 3,000 steps; "xgboost":
    100 trees of depth 6, learning rate 0.3, L2 weight 1, 64 bins, on one thread.
    """
    if probe not in PROBES:
        raise ValueError(f"unknown probe {probe!r}; known are {', '.join(PROBES)}")
    m = latents.shape[1] if truncation is None else truncation
    keep = separating_latents(latents, labels, m)
    if probe == "logistic":
        with extra("probes"):
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler

        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    else:
        with extra("probes"):
            import xgboost

        classifier = xgboost.XGBClassifier(
            n_estimators=100, max_depth=6, learning_rate=0.3, reg_lambda=1.0, max_bin=64,
            n_jobs=1, random_state=seed,
        )  # fmt: skip
    return ClassProbe(classifier.fit(latents[:, keep].numpy(), labels.numpy()), keep)


def angle_dependence(
    latents: Float[Tensor, "n n_latents"], angles: Float[Tensor, " n"]
) -> Float[Tensor, " n_latents"]:
    """R^2 of each latent's regression on cos 2a, sin 2a: how far it follows an axis at angle a.

    An axis is the same after half a turn, hence the doubled angle. Latents that never vary
    have none, 0. Chance level is 2 / n.
    """
    waves = torch.stack([torch.cos(2 * angles), torch.sin(2 * angles)], dim=1)  # (n, 2)
    waves = waves - waves.mean(0)
    centred = latents - latents.mean(0)
    explained = waves @ torch.linalg.lstsq(waves, centred).solution  # (n, n_latents)
    shares = explained.pow(2).sum(0) / centred.pow(2).sum(0).clamp(min=1e-30)
    return torch.where(_varies(latents), shares, 0.0)


def correlations(
    latents: Float[Tensor, "n n_latents"], values: Float[Tensor, " n"]
) -> Float[Tensor, " n_latents"]:
    """Pearson correlation of each latent with a property; 0 for latents that never vary."""
    centred, values = latents - latents.mean(0), values - values.mean()
    norms = centred.norm(dim=0) * values.norm()
    return torch.where(_varies(latents), values @ centred / norms.clamp(min=1e-30), 0.0)


def _varies(latents: Tensor) -> Bool[Tensor, " n_latents"]:
    return (latents != latents[:1]).any(0)
