"""What an SAE does: reconstruction, sparsity, detection of known features, symmetry."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Real
from torch import Tensor, nn

from saehelpers.evaluation.logistic import Factors, at_a_time, predict_logistic
from saehelpers.evaluation.matching import cosine_matrix
from saehelpers.networks.activations import splice
from saehelpers.networks.modules import in_evaluation_mode
from saehelpers.runs.checking import checked
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import FROM_ZERO, Name, Positive
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder
from saehelpers.symmetry import LinearAction, infer_element, turning_generators

# --- reconstruction and sparsity ---


@checked
def mse(target: Real[Tensor, "*n d"], recons: Real[Tensor, "..."]) -> float:
    """Mean squared error, over samples and dimensions.

    Raises:
        ValueError: recons of another shape than the target's.
    """
    target, recons = _alike(target, recons)
    return (target - recons).pow(2).mean().item()


@checked
def fvu(target: Real[Tensor, "n *more d"], recons: Real[Tensor, "..."]) -> float:
    """Fraction of variance unexplained: SSE / SST, around the per-dimension mean.

    Raises:
        ValueError: recons of another shape than the target's.
    """
    target, recons = _alike(target, recons)
    total = (target - target.flatten(0, -2).mean(0)).pow(2).sum()
    return ((target - recons).pow(2).sum() / total).item()


@checked
def explained_variance(target: Real[Tensor, "n *more d"], recons: Real[Tensor, "..."]) -> float:
    """1 - FVU."""
    return 1 - fvu(target, recons)


def _alike(target: Tensor, recons: Tensor) -> tuple[Tensor, Tensor]:
    """Both in full precision; of shapes that differ, torch would compare all with all."""
    if target.shape != recons.shape:
        raise ValueError(
            f"target and recons must have one shape, they are {tuple(target.shape)} and "
            f"{tuple(recons.shape)}"
        )
    return full_precision(target), full_precision(recons)


@checked
def l0(latents: Float[Tensor, "*n n_latents"]) -> float:
    """Mean number of active latents per sample."""
    return (latents != 0).sum(-1).float().mean().item()


@checked
def firing_frequency(latents: Float[Tensor, "n *more n_latents"]) -> Float[Tensor, " n_latents"]:
    """Share of the samples on which each latent is active."""
    return (latents != 0).flatten(0, -2).float().mean(0)


@checked
def dead_latents(latents: Float[Tensor, "n *more n_latents"]) -> int:
    """Number of latents that are never active."""
    return int((firing_frequency(latents) == 0).sum())


@checked
@torch.no_grad()
@in_evaluation_mode
def frame_recons(
    sae: SAE, action: LinearAction, activations: Real[Tensor, "n order d"], search: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """(target, recons) over every group element, in each frame an SAE can be scored in.

    canonical: D(E(psi(gx))) against psi(x); mapped: rho(g) D(E(psi(gx))) against psi(gx);
    raw: D(E(psi(gx))) against psi(gx); inferred: as mapped, with the element that the SAE
    infers. All are (n, |G|, d). A group crosscoder reads psi(x), or rho(g)^-1 psi(gx) for
    the inferred g, and maps by its own decoder blocks. With `search` (see `EquivariantSAE`), the
    SAE reads rho(g)^-1 psi(gx), for the true g or the inferred one.
    """
    flat = activations.flatten(0, 1)
    if search:
        symmetric = EquivariantSAE(sae, action, search)
        true = torch.arange(activations.shape[1], device=flat.device).repeat(len(activations))
        recons = symmetric.decode(symmetric.encode_given(flat, true))
        mapped, recons = action.act(recons, true).view_as(activations), recons.view_as(activations)
        inferred = symmetric(flat)
    elif isinstance(sae, GroupCrosscoder):
        latents = sae.encode(activations[:, 0])
        recons = sae.decode(latents)[:, None].expand_as(activations)
        mapped = sae.decode_orbit(latents)
        latents, elements = sae.encode_inferred(flat, action)
        inferred = sae.decode_orbit(latents)[torch.arange(len(flat)), elements]
    else:
        recons = sae(flat).view_as(activations)
        mapped = torch.stack([action.act(recons[:, g], g) for g in range(recons.shape[1])], 1)
        elements = infer_element(action, flat, recons.flatten(0, 1))
        inferred = action.act(recons.flatten(0, 1), elements)
    return {
        "canonical": (activations[:, :1].expand_as(activations), recons),
        "mapped": (activations, mapped),
        "raw": (activations, recons),
        "inferred": (activations, inferred.view_as(activations)),
    }


@checked
@torch.no_grad()
@in_evaluation_mode
def spliced_loss(
    model: nn.Module,
    inputs: Tensor,
    module: Name,
    replace: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> float:
    """The base model's own loss with `replace(activations)` in place of a module's output.

    `loss` takes the model's output and its inputs; for an autoencoder it is
    `torch.nn.functional.mse_loss`. Used by notebook 02.
    """
    with splice(model, {module: replace}):
        return loss(model(inputs), inputs).item()


@checked
def next_token_loss(
    logits: Float[Tensor, "n context vocabulary"],
    tokens: Annotated[Integer[Tensor, "..."], FROM_ZERO],
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of each token given those before it; the first is given.

    Raises:
        ValueError: tokens of another shape than the logits' (n, context).
    """
    check_tokens(logits, tokens)
    logits = full_precision(logits[:, :-1]).flatten(0, 1)
    return nn.functional.cross_entropy(logits, tokens[:, 1:].flatten().long())


def check_tokens(logits: Tensor, tokens: Tensor) -> None:
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} are of tokens {tuple(logits.shape[:-1])}, "
            f"got {tuple(tokens.shape)}"
        )


# --- detection of known features ---


@checked
def separating_latents(
    latents: Float[Tensor, "n n_latents"],
    labels: Annotated[Int[Tensor, " n"], FROM_ZERO] | Bool[Tensor, "n tasks"],
    m: Positive,
) -> Int[Tensor, "*tasks m"]:
    """The m latents whose means over the classes differ most, the best first.

    Those of the largest between-class variance, sum over classes c of
    (n_c / n) (mean of the latent in c - its mean)^2, which for two classes are those with the
    largest absolute difference in mean.

    Args:
        labels: the class of each sample, or whether it has what each of several tasks asks for.
    """
    if m > latents.shape[-1]:
        raise ValueError(
            f"cannot keep {m} of {latents.shape[-1]} latents: m, a probe's truncation, is too large"
        )
    latents = full_precision(latents)
    several = labels.ndim == 2
    members = (labels if several else nn.functional.one_hot(labels)).to(latents)
    counts, rest = members.sum(0)[:, None], 1 - members
    means = members.T @ latents / counts.clamp(min=1)  # (tasks or classes, n_latents)
    if several:
        others = rest.T @ latents / rest.sum(0)[:, None].clamp(min=1)
        return (means - others).abs().topk(m).indices
    variance = (counts / len(labels) * (means - latents.mean(0)).pow(2)).sum(0)
    return variance.topk(m).indices


@checked
def f1(truth: Bool[np.ndarray, " n"], predicted: Bool[np.ndarray, "..."]) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of the positive class; 0 where there is nothing to find.

    Raises:
        ValueError: predictions of another shape than the truth's.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"truth and predicted must have one shape, they are {truth.shape} and {predicted.shape}"
        )
    positives = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / positives if positives else 0.0


@checked
def macro_f1(truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, "..."]) -> float:
    """F1 of each class against the others, averaged over the classes in either."""
    classes = np.union1d(truth, predicted)
    return float(np.mean([f1(truth == c, predicted == c) for c in classes]))


@checked
def detection(
    latents: Float[Tensor, "n n_latents"],
    presence: Bool[Tensor, "n n_features"],
    m: Positive,
) -> float:
    """Top-m detection [E]: F1 of a logistic probe on m latents, averaged over features.

    For each true feature, the m latents with the largest absolute difference in mean
    activation between samples with and without it. Latents are chosen and the probe is
    fitted on the first half of the samples and scored on the rest. Features absent from
    either half are left out.
    """
    split = len(latents) // 2
    chosen = separating_latents(latents[:split], presence[:split], m).cpu()
    x, present = latents.detach().double().cpu(), presence.cpu().T
    train, test = present[:, :split], present[:, split:]
    known = (train.any(1) & ~train.all(1) & test.any(1)).nonzero()[:, 0]
    scores = []
    for some in known.split(at_a_time(m * len(x))):
        features = Factors.of(x[:, chosen[some]].movedim(1, 0))
        predicted = predict_logistic(features, train[some])
        scores += map(f1, test[some].numpy(), predicted.numpy())
    return float(np.mean(scores)) if scores else float("nan")


# --- symmetry ---


@checked
@torch.no_grad()
@in_evaluation_mode
def invariance_error(sae: nn.Module, activations: Real[Tensor, "n order d"]) -> float:
    """||E(psi(gx)) - E(psi(x))|| / ||E(psi(x))||, over samples and elements but the identity."""
    latents = sae.encode(activations.flatten(0, 1)).unflatten(0, activations.shape[:2])
    canonical = latents[:, :1].expand_as(latents[:, 1:])
    return ((latents[:, 1:] - canonical).norm() / canonical.norm()).item()


@checked
@torch.no_grad()
@in_evaluation_mode
def orbit_jaccard(sae: nn.Module, activations: Real[Tensor, "n order d"]) -> float:
    """Jaccard overlap of the active sets of E(psi(x)) and E(psi(gx)), averaged."""
    active = sae.encode(activations.flatten(0, 1)).unflatten(0, activations.shape[:2]) != 0
    both = (active[:, 1:] & active[:, :1]).sum(-1)
    either = (active[:, 1:] | active[:, :1]).sum(-1)
    return (both / either.clamp(min=1)).mean().item()


@checked
@torch.no_grad()
@in_evaluation_mode
def equivariance_error(
    sae: nn.Module, action: LinearAction, activations: Real[Tensor, "n order d"]
) -> float:
    """|| rho(g) D(E(psi(x))) - psi(gx) ||^2 / variance, over samples and elements."""
    return fvu(activations, action.orbit(sae(activations[:, 0])))


@checked
@torch.no_grad()
@in_evaluation_mode
def symmetry_report(
    sae: SAE, action: LinearAction, activations: Real[Tensor, "n order d"], search: bool = False
) -> dict[str, float]:
    """What is measured of every SAE of orbit activations: FVU in each frame, L0, symmetry.

    `search`: the SAE reads what the action has turned back (see `EquivariantSAE`).
    """
    frames = frame_recons(sae, action, activations, search)
    dictionary = sae.dictionary
    sae = EquivariantSAE(sae, action, search) if search else sae
    latents = sae.encode(activations.flatten(0, 1))
    return {
        **{f"fvu_{frame}": fvu(*pair) for frame, pair in frames.items()},
        "l0": l0(latents),
        "dead_latents": dead_latents(latents),
        "invariance_error": invariance_error(sae, activations),
        "orbit_jaccard": orbit_jaccard(sae, activations),
        "equivariance_error": equivariance_error(sae, action, activations),
        "orbit_closure": orbit_closure(dictionary, action),
    }


@checked
def orbit_closure(dictionary: Float[Tensor, "n_latents d"], action: LinearAction) -> float:
    """Mean over i of max over j of cos(M D_i, D_j): is the dictionary closed under M?

    M is the matrix of the rotation of C_n and D_n; of any other group the mean is one over the
    generators, too.
    """
    turned = [dictionary @ action.matrices[g].T for g in turning_generators(action.group)]
    best = [cosine_matrix(rows, dictionary).amax(dim=1).mean() for rows in turned]
    return torch.stack(best).mean().item()


@checked
def symmetry_spectrum(
    dictionary: Float[Tensor, "n_latents d"], action: LinearAction
) -> Float[Tensor, "n_latents order"]:
    """cos(D_i, rho(g) D_i) for every latent and element: 1 where a latent is invariant.

    Used by notebook 07.
    """
    turned = action.orbit_of_directions(dictionary)  # (n_latents, |G|, d)
    return nn.functional.cosine_similarity(dictionary[:, None], turned, dim=-1)
