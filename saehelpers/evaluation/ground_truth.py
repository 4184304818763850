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

NULL_DRAWS = 5
SPLIT_COSINE = 0.7


@checked
def null_mcc(
    n_latents: Positive,
    features: Float[Tensor, "n_features d"],
    generator: torch.Generator,
    absolute: bool = True,
) -> float:
    """The MCC that random directions reach, absolute or signed: the mean over a few draws."""
    shape = (NULL_DRAWS, n_latents, features.shape[1])
    draws = torch.randn(shape, generator=generator)
    return float(np.mean([pw_mcc(features, draw, absolute) for draw in draws]))


@checked
@dataclass(frozen=True)
class Evaluation:
    """An SAE beside the truth: `summary`, numbers by name, and one row a feature.

    summary:
        mcc, mcc_signed, mcc_null: see `matching.pw_mcc` and `null_mcc`.
        recovery: the matched cosines' sum over n_features: unmatched features count as 0.
        unmatched_features: features that no latent is left for.
        uniqueness: number of different features that are the best match of some living
            latent, over the number of living latents.
        precision, recall, f1: of the matched latent as a detector of its feature, averaged
            over all features that fire; an unmatched feature counts as 0.
        shrinkage: mean of ||recons|| / ||x|| over samples with x != 0.
        l0_true, l0: features and latents active per sample.
        dead_latents: latents that never fire.
        explained_variance: 1 - FVU.
        absorption: over features with a parent, the share of the samples with both in which
            the latent of the parent is silent while the child's fires. NaN without a hierarchy.
        split_features: features that are the best match, with an absolute cosine of at least
            0.7, of two living latents or more.

    features: feature, parent, latent (-1 if unmatched), cosine, firing_rate, precision, recall,
        f1, magnitude_ratio (norm of the matched latent's contribution over that of the
        feature's, averaged where both are active: 1 without shrinkage), absorption.
    """

    summary: Annotated[dict[str, float], RAW]
    features: pd.DataFrame


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

    Works batch by batch: memory is that of a batch and of the cosines of all pairs.
    """
    if data.dictionary.shape[1] != sae.config.d:
        raise ValueError(
            f"data has features of width {data.dictionary.shape[1]}, the SAE reads {sae.config.d}"
        )
    was_training = sae.training
    sae.eval()
    matching = match(data.dictionary, sae.dictionary)
    matched, latents_used = matching.a, matching.b
    cosines = cosine_similarity(data.dictionary[matched], sae.dictionary[latents_used])  # signed
    latent_of = torch.full((data.n_features,), -1)
    latent_of[matched] = latents_used
    parents = data.hierarchy.parents() if data.hierarchy is not None else {}
    pairs = [(c, p) for c, p in parents.items() if min(latent_of[c], latent_of[p]) >= 0]
    children, above = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    norms, feature_norms = sae.decoder_blocks()[0][0].norm(dim=1), data.dictionary.norm(dim=1)

    n_features, n_latents = data.n_features, len(sae.dictionary)
    counts = {
        name: torch.zeros(n_features, dtype=torch.float64)
        for name in ("present", "detected", "both", "ratio", "with_parent", "absorbed")
    }
    active_latents = torch.zeros(n_latents, dtype=torch.float64)
    ratios = squared_error = n_nonzero = 0.0
    total, total_squared = torch.zeros(data.dictionary.shape[1], dtype=torch.float64), 0.0
    for start in range(0, n_samples, batch_size):
        x, coefficients = data.sample(min(batch_size, n_samples - start), generator)
        latents = sae.encode(x)
        recons = sae.decode(latents)
        norm = x.norm(dim=1)
        nonzero = norm > 0
        ratios += float((recons.norm(dim=1)[nonzero] / norm[nonzero]).double().sum())
        n_nonzero += int(nonzero.sum())
        squared_error += float((x - recons).double().pow(2).sum())
        total += x.double().sum(0)
        total_squared += float(x.double().pow(2).sum())

        present, active = coefficients > 0, latents != 0
        active_latents += active.sum(0)
        counts["present"] += present.sum(0)
        detected = active[:, latents_used]
        both = detected & present[:, matched]
        counts["detected"][matched] += detected.sum(0)
        counts["both"][matched] += both.sum(0)
        written = latents[:, latents_used] * norms[latents_used]
        ratio = written / (coefficients * feature_norms)[:, matched].clamp(min=1e-12)
        counts["ratio"][matched] += torch.where(both, ratio, 0.0).sum(0).double()
        family = present[:, children] & present[:, above]
        absorbed = family & active[:, latent_of[children]] & ~active[:, latent_of[above]]
        counts["with_parent"][children] += family.sum(0)
        counts["absorbed"][children] += absorbed.sum(0)

    sae.train(was_training)
    table = _feature_table(matched, cosines, counts, n_samples, parents, latent_of, children)
    alive = active_latents > 0
    best = cosine_matrix(sae.dictionary, data.dictionary)[alive].abs().max(dim=1)
    close = best.indices[best.values >= SPLIT_COSINE]
    fires = table[table.firing_rate > 0]
    variance = total_squared - float(total.pow(2).sum()) / n_samples
    summary = {
        "mcc": float(cosines.abs().mean()),
        "mcc_signed": pw_mcc(data.dictionary, sae.dictionary, absolute=False),
        "mcc_null": null_mcc(n_latents, data.dictionary, generator),
        "recovery": float(cosines.abs().sum()) / n_features,
        "unmatched_features": n_features - len(matched),
        "uniqueness": len(best.indices.unique()) / max(int(alive.sum()), 1),
        **{name: float(fires[name].mean()) for name in ("precision", "recall", "f1")},
        "shrinkage": ratios / max(n_nonzero, 1),
        "l0_true": float(counts["present"].sum()) / n_samples,
        "l0": float(active_latents.sum()) / n_samples,
        "dead_latents": int((~alive).sum()),
        "explained_variance": 1 - squared_error / variance if variance else float("nan"),
        "absorption": float(table.absorption.mean()),
        "split_features": int((close.bincount(minlength=n_features) >= 2).sum()),
    }
    return Evaluation(summary, table)


def _feature_table(matched, cosines, counts, n_samples, parents, latent_of, children):
    present, detected, both = counts["present"], counts["detected"], counts["both"]
    n_features = len(present)
    cosine = torch.full((n_features,), float("nan"))
    cosine[matched] = cosines
    absorption = torch.full((n_features,), float("nan"), dtype=torch.float64)
    absorption[children] = (counts["absorbed"] / counts["with_parent"])[children]
    return pd.DataFrame(
        {
            "feature": range(n_features),
            "parent": [parents.get(i, -1) for i in range(n_features)],
            "latent": latent_of,
            "cosine": cosine,
            "firing_rate": present / n_samples,
            "precision": both / detected.clamp(min=1),
            "recall": both / present.clamp(min=1),
            "f1": 2 * both / (detected + present).clamp(min=1),
            "magnitude_ratio": counts["ratio"] / both,
            "absorption": absorption,
        }
    )


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
