"""How well a linear action explains activations, and how far it is from an action."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Real
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.threads import one_thread
from saehelpers.symmetry.actions import LinearAction, check_orbits
from saehelpers.symmetry.groups import Group, rotations_and_flips

if TYPE_CHECKING:
    import pandas


@checked
@one_thread()
def report_action(
    action: LinearAction, activations: Real[Tensor, "n order d"]
) -> "pandas.DataFrame":
    """How well an action explains orbit activations it was not fitted to.

    Columns metric, element ("all", or an index), value. The metrics:

    - r2, and r2_identity for M = I: 1 - SSE / SST for each element but the identity and
      over all of those; SST is taken around the per-dimension mean of the same transformed
      activations. (Erdogan and Lucic report an R^2 that they do not define.)
    - order_error: ||M^n - I|| / ||I|| of each generator, M its matrix and n its order;
      order_error_on_activations: the same on what M is applied to, ||(M^n - I) psi|| / ||psi||.
      M is free where activations never go, so the first can be large and the second small.
    - eigenvalue_distance: mean distance of M's eigenvalues to the nearest n-th root of unity.
    - homomorphism_error: ||rho(s) rho(g) - rho(s g)|| / ||rho(s g)||, over all generators s and
      elements g.
    - relation_error: ||R M R - M^-1|| / ||M||, dihedral groups only.

    "all" of what each generator has is the largest over the `turning_generators`.
    """
    import pandas as pd

    group, activations = action.group, activations.float()
    check_orbits(activations, group)
    canonical = activations[:, 0]
    rows = []
    for metric, predict in (
        ("r2", action.act),
        ("r2_identity", lambda vectors, element: vectors),
    ):
        rows += _r2_rows(metric, predict, canonical, activations)
    errors = {g: _generator_errors(action, canonical - action.origin, g) for g in group.generators}
    for metric in next(iter(errors.values())):
        rows += [(metric, str(g), errors[g][metric]) for g in errors]
        rows.append((metric, "all", max(errors[g][metric] for g in turning_generators(group))))
    rows.append(("homomorphism_error", "all", _homomorphism_error(action)))
    if group.has_name and rotations_and_flips(group)[1] == 2:
        rotation, flip = (action.matrices[g] for g in group.generators)
        difference = flip @ rotation @ flip - torch.linalg.inv(rotation)
        rows.append(("relation_error", "all", (difference.norm() / rotation.norm()).item()))
    return pd.DataFrame(rows, columns=["metric", "element", "value"])


@checked
def turning_generators(group: Group) -> tuple[int, ...]:
    """The generators that a single number is about: of C_n and D_n the rotation, else all."""
    return group.generators[:1] if group.has_name else group.generators


def _generator_errors(action: LinearAction, centred: Tensor, generator: int) -> dict[str, float]:
    matrix, order = action.matrices[generator], action.group.element_order(generator)
    identity = torch.eye(len(matrix)).to(centred)
    full_turn = torch.linalg.matrix_power(matrix, order) - identity
    turns = torch.arange(order) * (2 * torch.pi / order)
    roots = torch.polar(torch.ones_like(turns), turns)
    eigenvalues = torch.linalg.eigvals(matrix.cpu())
    errors = {
        "order_error": full_turn.norm() / identity.norm(),
        "order_error_on_activations": (centred @ full_turn.T).norm() / centred.norm(),
        "eigenvalue_distance": (eigenvalues[:, None] - roots).abs().amin(dim=1).mean(),
    }
    return {metric: value.item() for metric, value in errors.items()}


def _homomorphism_error(action: LinearAction) -> float:
    matrices, group = action.matrices, action.group
    error = sum(
        (matrices[s] @ matrices[g] - matrices[group.compose(s, g)]).square().sum()
        for s in group.generators
        for g in range(group.order)
    )
    total = len(group.generators) * matrices.square().sum()
    return (error / total).sqrt().item()


def _r2_rows(metric: str, predict: Callable, canonical: Tensor, activations: Tensor) -> list:
    error, total, rows = 0.0, 0.0, []
    pooled_mean = activations[:, 1:].mean((0, 1))
    for element in range(1, activations.shape[1]):
        target = activations[:, element]
        sse = (target - predict(canonical, element)).pow(2).sum().item()
        sst = (target - target.mean(0)).pow(2).sum().item()
        rows.append((metric, str(element), 1 - sse / sst))
        error, total = error + sse, total + (target - pooled_mean).pow(2).sum().item()
    return [*rows, (metric, "all", 1 - error / total)] if rows else []
