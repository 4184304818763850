"""Feature dictionaries: unit vectors that interfere as little as they can."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.wanted import Count, Positive
from saehelpers.symmetry import LinearAction


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
