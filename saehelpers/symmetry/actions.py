"""Linear actions: how activations transform when the input does.

Hypothesis (Erdogan and Lucic, arXiv 2511.09432): psi(g^p h^q x) = M^p R^q psi(x).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from saehelpers.runs.progress import tqdm
from saehelpers.symmetry.groups import Group

if TYPE_CHECKING:
    import pandas

CHECKED_SAMPLES = 2**18  # that are looked at in one go
FIT_METHODS = ("adam", "refined", "orthogonal", "least_squares", "per_element")


class LinearAction(nn.Module):
    """A group acting on vectors: rho(g) psi = origin + matrices[g] (psi - origin).

    Args:
        group: the group.
        matrices: one matrix per element, (|G|, d, d); element 0 must be the identity.
        origin: the point the action turns about, (d,); the origin of R^d by default. An
            action fitted to activations turns about their mean over the orbits.
    """

    matrices: Tensor
    origin: Tensor

    def __init__(
        self,
        group: Group,
        matrices: Float[Tensor, "order d d"],
        origin: Float[Tensor, " d"] | None = None,
    ):
        super().__init__()
        if len(matrices) != group.order:
            raise ValueError(
                f"{group.name} has {group.order} elements, got {len(matrices)} matrices"
            )
        self.group = group
        self.register_buffer("matrices", matrices)
        self.register_buffer(
            "origin", matrices.new_zeros(matrices.shape[-1]) if origin is None else origin
        )

    def extra_repr(self) -> str:
        return f"{self.group.name}, order={self.group.order}, d={self.origin.shape[-1]}"

    @classmethod
    def from_generators(
        cls,
        group: Group,
        rotation: Float[Tensor, "d d"],
        flip: Float[Tensor, "d d"] | None = None,
        origin: Float[Tensor, " d"] | None = None,
    ) -> "LinearAction":
        """The action with matrices[p + n q] = M^p R^q, M = `rotation` and R = `flip`."""
        if (group.n_flips == 2) != (flip is not None):
            raise ValueError(f"{group.name} has {group.n_flips - 1} flip generators")
        powers = [torch.eye(len(rotation)).to(rotation)]
        for _ in range(group.n_rotations - 1):
            powers.append(rotation @ powers[-1])
        rotations = torch.stack(powers)
        matrices = rotations if flip is None else torch.cat([rotations, rotations @ flip])
        return cls(group, matrices, origin)

    @classmethod
    def identity(cls, group: Group, d: int) -> "LinearAction":
        """The action that leaves every vector where it is: the baseline M = I."""
        return cls(group, torch.eye(d).expand(group.order, d, d).clone())

    def act(
        self, vectors: Real[Tensor, "*batch d"], element: int | Int[Tensor, " *batch"]
    ) -> Tensor:
        """rho(g) applied to vectors (..., d); one element for all, or one for each vector."""
        vectors = vectors.to(self.matrices.dtype)
        if isinstance(element, int):
            return self.origin + (vectors - self.origin) @ self.matrices[element].T
        result = torch.empty_like(vectors)
        for index in range(self.group.order):
            chosen = element == index
            result[chosen] = self.act(vectors[chosen], index)
        return result

    def orbit(self, vectors: Real[Tensor, "*batch d"]) -> Tensor:
        """Every element applied to every vector: (..., d) -> (..., |G|, d)."""
        return self.origin + self.orbit_of_directions(vectors - self.origin)

    def orbit_of_directions(self, directions: Float[Tensor, "*batch d"]) -> Tensor:
        """As `orbit`, of dictionary rows and features: differences of vectors have no origin."""
        directions = directions.to(self.matrices.dtype)
        return torch.einsum("...d, ged -> ...ge", directions, self.matrices)

    def decoder_blocks(
        self, dictionary: Float[Tensor, "n_latents d"], bias: Float[Tensor, " d"]
    ) -> tuple[Tensor, Tensor]:
        """A decoder per element, with rho(g)(z D + b) = z blocks[g] + biases[g].

        Returns blocks (|G|, n_latents, d) and biases (|G|, d).
        """
        return torch.einsum("nd, ged -> gne", dictionary, self.matrices), self.orbit(bias)


def check_orbits(activations: Tensor, group: Group | None = None) -> None:
    """Raise a ValueError unless `activations` is a finite, non-empty (n, |G|, d) tensor."""
    shape = tuple(activations.shape)
    if activations.ndim != 3 or 0 in shape:
        raise ValueError(f"orbit activations must have shape (n, |G|, d), got {shape}")
    if group is not None and shape[1] != group.order:
        raise ValueError(f"{group.name} has orbits of {group.order} elements, got shape {shape}")
    if not all(torch.isfinite(part).all() for part in activations.split(CHECKED_SAMPLES)):
        raise ValueError(f"orbit activations of shape {shape} contain NaN or infinite values")


def usual_fit(group: Group) -> str:
    """The method of `fit_action` for a group: from the identity, Adam hardly reaches a flip."""
    return "refined" if group.n_flips == 2 else "adam"


def fit_action(
    activations: Real[Tensor, "n order d"],
    group: Group,
    method: str = "adam",
    train_on_all_k: bool = True,
    epochs: int = 60,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> LinearAction:
    """Fit the matrices by which activations transform (Erdogan and Lucic, eq. 8).

    Minimises over M, and R for a dihedral group, the sum over p = 1..n and q = 1..2 of
    || psi(g^p h^q x) - M^p R^q psi(x) ||^2, about the mean activation as the origin.

    Args:
        activations: orbit activations (n, |G|, d), `[:, 0]` canonical; fitted to in float32.
        method: "adam" (M and R start at the identity), "refined" (the same from the
            least-squares fit: a flip is far from the identity), "orthogonal" (Adam over orthogonal
            matrices, from the closest one for each generator: from the identity they reach
            no reflection, and half turns hardly), "least_squares" (each generator in closed
            form, from its own images alone), or "per_element" (one least-squares matrix for
            each element: the upper bound for linear maps, not a group action).
        train_on_all_k: sum over all p and q; otherwise over the generators only. The two
            closed forms always use one element at a time.
        epochs, learning_rate, batch_size, seed: of Adam; the closed forms need none.
    """
    activations = activations.float()
    check_orbits(activations, group)
    if method not in FIT_METHODS:
        raise ValueError(f"unknown fit method {method!r}; known are {', '.join(FIT_METHODS)}")
    origin = activations.mean((0, 1))
    centred = activations - origin
    if method == "per_element":
        return LinearAction(
            group, torch.stack([_least_squares(centred, e) for e in range(group.order)]), origin
        )
    if method == "least_squares":
        rotation = _least_squares(centred, group.element(1))
        flip = _least_squares(centred, group.element(0, 1)) if group.n_flips == 2 else None
    else:
        rotation, flip = _fit_by_adam(
            centred / centred.pow(2).mean().sqrt(),
            group,
            method,
            train_on_all_k,
            epochs,
            learning_rate,
            batch_size,
            seed,
            progress,
        )
    return LinearAction.from_generators(group, rotation, flip, origin)


def _least_squares(centred: Tensor, element: int) -> Tensor:
    if element == 0:
        return torch.eye(centred.shape[-1]).to(centred)
    # gelsd copes with directions that the activations never take (it takes their least norm)
    solution = torch.linalg.lstsq(centred[:, 0].cpu(), centred[:, element].cpu(), driver="gelsd")
    return solution.solution.T.contiguous().to(centred.device)


def _procrustes(centred: Tensor, element: int) -> Tensor:
    """The orthogonal matrix that takes canonical activations closest to an element's."""
    left, _, right = torch.linalg.svd(centred[:, element].T @ centred[:, 0])
    return left @ right


def _fit_by_adam(centred, group, method, all_k, epochs, learning_rate, batch_size, seed, progress):
    n, _, d = centred.shape
    maps = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(group.n_flips))
    for linear, element in zip(maps, (group.element(1), group.element(0, 1)), strict=False):
        nn.init.eye_(linear.weight)
        if method == "refined":
            linear.weight.data = _least_squares(centred, element).cpu()
        if method == "orthogonal":
            linear.weight.data = _procrustes(centred, element).cpu()
            orthogonal(linear, orthogonal_map="cayley")
    maps.to(centred.device)
    optimiser = torch.optim.Adam(maps.parameters(), learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(epochs), f"action {group.name}", disable=not progress)
    for _ in bar:
        total = torch.zeros((), device=centred.device)
        for index in torch.randperm(n, generator=generator).split(batch_size):
            with parametrize.cached():
                loss = _action_loss(maps, centred[index.to(centred.device)], group, all_k)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(index)
        bar.set_postfix(loss=f"{total.item() / n / d:.4f}")
    with torch.no_grad():
        rotation = maps[0].weight.detach().clone()
        return rotation, maps[1].weight.detach().clone() if len(maps) == 2 else None


def _action_loss(maps: nn.ModuleList, orbits: Tensor, group: Group, all_k: bool) -> Tensor:
    """Sum over p and q of the squared error of M^p R^q psi(x), averaged over the batch."""
    rotation, flip = maps[0], maps[1] if len(maps) == 2 else None
    flipped = [orbits[:, 0]]  # R^q psi, for q = 0, 1, 2
    for _ in range(0 if flip is None else 2 if all_k else 1):
        flipped.append(flip(flipped[-1]))
    if not all_k:
        predictions = [(group.element(1), rotation(flipped[0]))]
        predictions += [(group.element(0, 1), flipped[1])] if flip is not None else []
    else:
        predictions = []
        for q, start in enumerate(flipped[1:] or flipped, start=0 if flip is None else 1):
            for p in range(1, group.n_rotations + 1):
                start = rotation(start)
                predictions.append((group.element(p, q), start))
    loss = orbits.new_zeros(())
    for element, prediction in predictions:
        loss = loss + (orbits[:, element] - prediction).pow(2).sum(-1).mean()
    return loss


def report_action(
    action: LinearAction, activations: Real[Tensor, "n order d"]
) -> "pandas.DataFrame":
    """How well an action explains orbit activations it was not fitted to.

    Columns metric, element ("all", or an index), value. The metrics:

    - r2, and r2_identity for M = I: 1 - SSE / SST for each element but the identity and
      over all of those; SST is taken around the per-dimension mean of the same transformed
      activations. (Erdogan and Lucic report an R^2 that they do not define.)
    - order_error: ||M^n - I|| / ||I||; order_error_on_activations: the same on what M is
      applied to, ||(M^n - I) psi|| / ||psi||. M is free where activations never go, so the
      first can be large and the second small.
    - relation_error: ||R M R - M^-1|| / ||M||, dihedral groups only.
    - eigenvalue_distance: mean distance of M's eigenvalues to the nearest n-th root of unity.
    """
    import pandas as pd

    group, d = action.group, activations.shape[-1]
    activations = activations.float()
    check_orbits(activations, group)
    canonical = activations[:, 0]
    rows = []
    for metric, predict in (
        ("r2", action.act),
        ("r2_identity", lambda vectors, element: vectors),
    ):
        rows += _r2_rows(metric, predict, canonical, activations)

    rotation, identity = action.matrices[group.element(1)], torch.eye(d).to(canonical)
    full_turn = torch.linalg.matrix_power(rotation, group.n_rotations) - identity
    centred = canonical - action.origin
    scalars = {
        "order_error": full_turn.norm() / identity.norm(),
        "order_error_on_activations": (centred @ full_turn.T).norm() / centred.norm(),
    }
    if group.n_flips == 2:
        flip = action.matrices[group.element(0, 1)]
        difference = flip @ rotation @ flip - torch.linalg.inv(rotation)
        scalars["relation_error"] = difference.norm() / rotation.norm()
    eigenvalues = torch.linalg.eigvals(rotation.cpu())
    turns = torch.arange(group.n_rotations) * (2 * torch.pi / group.n_rotations)
    roots = torch.polar(torch.ones_like(turns), turns)
    scalars["eigenvalue_distance"] = (eigenvalues[:, None] - roots).abs().amin(dim=1).mean()
    rows += [(metric, "all", value.item()) for metric, value in scalars.items()]
    return pd.DataFrame(rows, columns=["metric", "element", "value"])


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


def canonical_direction(activations: Real[Tensor, "n order d"]) -> Float[Tensor, " d"]:
    """A unit vector along which the members of an orbit differ much, and all of them.

    The sum of the principal axes of the variation within orbits, each as long as its standard
    deviation: one axis alone may not tell an element from another.
    """
    activations = activations.float()
    within = (activations - activations.mean(1, keepdim=True)).flatten(0, 1)
    variances, axes = torch.linalg.eigh(within.T @ within)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    direction = (axes * largest.sign()) @ variances.clamp(min=0).sqrt()
    return direction / direction.norm()


def canonicalise(
    activations: Real[Tensor, "n order d"], group: Group, direction: Float[Tensor, " d"]
) -> Tensor:
    """Orbits that begin at the element whose activation lies farthest along a direction.

    Data without an upright position has no canonical frame; whichever member of an orbit it
    is given as, this one comes first: orbit[:, g] becomes orbit[:, g h] for the chosen h.
    """
    check_orbits(activations, group)
    elements = range(group.order)
    composed = torch.tensor([[group.compose(g, h) for g in elements] for h in elements])
    chosen = (activations.float() @ direction).argmax(1).cpu()
    return activations[torch.arange(len(activations))[:, None], composed[chosen]]


@torch.no_grad()
def infer_element(
    action: LinearAction,
    activations: Real[Tensor, "n d"],
    canonical_recons: Float[Tensor, "n d"],
) -> Int[Tensor, " n"]:
    """Which element made each activation; no label is used.

    argmin over g of || psi - rho(g) D(E(psi)) ||^2, where `canonical_recons` is D(E(psi)).
    """
    errors = [
        (activations - action.act(canonical_recons, element)).pow(2).sum(-1)
        for element in range(action.group.order)
    ]
    return torch.stack(errors, dim=-1).argmin(dim=-1)
