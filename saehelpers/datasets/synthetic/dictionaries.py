"""Feature dictionaries: unit vectors that interfere as little as they can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.wanted import Count, Positive, Rate
from saehelpers.symmetry import LinearAction

COSINE_ROWS = 512  # of a cosine matrix that are held at a time


@checked
def make_features(
    n_features: Positive, d: Positive, generator: torch.Generator, steps: Count = 500
) -> Float[Tensor, "n_features d"]:
    """Unit vectors: orthonormal where there is room, else nearly so.

    More than d of them are spread by gradient descent on the sum of the fourth powers of
    their cosines, which is ruled by the largest.
    """
    cause = {"features": n_features, "d": d, "generator": identity(generator), "steps": steps}
    rows = torch.randn(n_features, d, generator=generator)
    if n_features <= d:
        return identified(torch.linalg.qr(rows.T).Q.T.contiguous(), cause)

    def interference(unit: Tensor) -> Tensor:
        return (unit @ unit.T).pow(4).sum()  # the diagonal is 1 and has no gradient

    return identified(_spread(rows, interference, steps), cause)


@checked
@torch.no_grad()
def near_orthogonal(
    rows: Float[Tensor, "n_features d"],
    steps: Count,
    learning_rate: Rate = 0.01,
    action: LinearAction | None = None,
) -> Float[Tensor, "n_features d"]:
    """Unit rows, brought apart by steps of Adam on the sum of their squared cosines.

        sum over g and i != j of <v_i, rho(g) v_j>^2 + n sum_i (||v_i||^2 - 1)^2

    Without an action, whose matrices are orthogonal, this is the objective of SAELens. Its chunks
    of n x n cosines are not needed: with S = sum over g of rho(g) V^T V rho(g)^T the gradient of
    the first sum is 4 (S v_i - sum over g of <v_i, rho(g) v_i> rho(g) v_i), which costs |G| n d^2
    products and a matrix of d x d.
    """
    turns = [torch.eye(rows.shape[1])] if action is None else list(action.matrices)
    rows = torch.nn.functional.normalize(rows, dim=1, eps=1e-8)
    parameter = torch.nn.Parameter(rows.clone())
    optimiser = torch.optim.Adam([parameter], learning_rate, fused=True)
    for _ in range(steps):
        squared = parameter.square().sum(1, keepdim=True)
        together = parameter.T @ parameter
        gradient = parameter @ sum(turn @ together @ turn.T for turn in turns)
        for turn in turns:
            turned = parameter if action is None else parameter @ turn.T
            gradient -= (parameter * turned).sum(1, keepdim=True) * turned
        gradient.addcmul_(parameter, len(rows) * (squared - 1))
        parameter.grad = gradient.mul_(4)
        optimiser.step()
    return torch.nn.functional.normalize(parameter.detach(), dim=1, eps=1e-8)


@checked
def make_orbit_features(
    n_features: Positive,
    action: LinearAction,
    generator: torch.Generator,
    stabilisers: list[int] | None = None,
    steps: Count = 500,
) -> Float[Tensor, "n_features d"]:
    """Unit vectors whose orbits under an action interfere as little as they can.

    Spread by gradient descent on the fourth powers of the cosines between v_i and rho(g) v_j,
    over all pairs i != j and all g. The cosines within an orbit are left as they fall.

    Args:
        action: a linear action about the origin of R^d, its matrices orthogonal.
        stabilisers: for each feature, a group element g that leaves it as it is:
            rho(g) v = v. 0, the identity, for a free orbit, which is the default for all;
            element p of C_n gives an orbit of gcd(n, p) points.

    Raises:
        ValueError: a stabiliser leaves no direction as it is, or there is not one for each
            feature.
    """
    stabilisers = [0] * n_features if stabilisers is None else stabilisers
    if len(stabilisers) != n_features:
        raise ValueError(f"{n_features} features need as many stabilisers, got {len(stabilisers)}")
    projections = {g: _onto_fixed(action, g) for g in set(stabilisers)}
    for g, projection in projections.items():
        if projection.norm() < 1e-3:
            raise ValueError(f"element {g} leaves no direction of R^{len(projection)} as it is")
    cause = {"orbit features": stabilisers, "action": action, "generator": identity(generator),
             "steps": steps}  # fmt: skip
    project = torch.stack([projections[g] for g in stabilisers])
    rows = torch.randn(n_features, action.matrices.shape[-1], generator=generator)
    rows = torch.einsum("ndk, nk -> nd", project, rows)
    others = 1 - torch.eye(n_features)

    def interference(unit: Tensor) -> Tensor:
        orbits = torch.einsum("nd, ged -> gne", unit, action.matrices)
        return ((orbits @ unit.T) * others).pow(4).sum()

    return identified(_spread(rows, interference, steps, project), cause)


@dataclass(frozen=True)
class Superposition:
    """How much features interfere: their absolute cosines with each other.

    largest: of each feature, (n_features,). percentiles: of each feature, by the percentile.
    mean_largest, mean, mean_percentiles: over all features, and over all pairs.
    """

    largest: Float[Tensor, " n_features"]
    percentiles: dict[int, Tensor]
    mean_largest: float
    mean: float
    mean_percentiles: dict[int, float]


@checked
@torch.no_grad()
def superposition(
    features: Float[Tensor, "n_features d"], percentiles: Sequence[int] = (95, 99)
) -> Superposition:
    """Statistics of the cosines of features, some rows of them at a time.

    Raises:
        ValueError: fewer than two features, or a percentile outside 0 to 100.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"superposition is of two features or more, got {n}")
    if not all(0 <= percentile <= 100 for percentile in percentiles):
        raise ValueError(f"percentiles must lie between 0 and 100, got {[*percentiles]}")
    unit = torch.nn.functional.normalize(features, dim=1)
    shares = torch.tensor([percentile / 100 for percentile in percentiles])
    largest, quantiles, total = [], [], 0.0
    for start in range(0, n, COSINE_ROWS):
        cosines = (unit[start : start + COSINE_ROWS] @ unit.T).abs_()
        own = torch.arange(len(cosines))
        cosines[own, own + start] = -1  # below all others
        total += float(cosines.double().sum()) + len(cosines)
        largest.append(cosines.amax(1))
        if not percentiles:
            continue
        cosines = cosines.sort(dim=1).values[:, 1:]
        place = shares * (n - 2)
        below = cosines[:, place.floor().long()]
        quantiles.append(below + place.frac() * (cosines[:, place.ceil().long()] - below))
    each = dict(zip(percentiles, torch.cat(quantiles).T, strict=True)) if percentiles else {}
    return Superposition(
        torch.cat(largest), each, float(torch.cat(largest).mean()), total / (n * (n - 1)),
        {percentile: float(values.mean()) for percentile, values in each.items()},
    )  # fmt: skip


def _onto_fixed(action: LinearAction, element: int) -> Float[Tensor, "d d"]:
    """Projection onto what the subgroup of the powers of an element leaves as it is."""
    return action.matrices[action.group.powers(element)].mean(0)


@torch.enable_grad()
def _spread(
    rows: Tensor,
    interference: Callable[[Tensor], Tensor],
    steps: int,
    project: Tensor | None = None,
) -> Tensor:
    """Unit rows after gradient descent on their interference, within projections if given."""
    rows = rows.clone().requires_grad_()
    optimiser = torch.optim.Adam([rows], 1e-2)

    def unit() -> Tensor:
        inside = rows if project is None else torch.einsum("ndk, nk -> nd", project, rows)
        return inside / inside.norm(dim=1, keepdim=True)

    for _ in range(steps):
        optimiser.zero_grad()
        interference(unit()).backward()
        optimiser.step()
    return unit().detach()
