"""Linear actions: how activations transform when the input does.

Hypothesis (Erdogan and Lucic, arXiv 2511.09432): psi(g^p h^q x) = M^p R^q psi(x).
"""

import functools
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import EMPTY, Positive
from saehelpers.symmetry.groups import Group
from saehelpers.symmetry.inputs import check_shape

ROUNDING = 1e-3  # of the identity's matrix
CHECKED_SAMPLES = 2**18  # that are looked at in one go


class LinearAction(nn.Module):
    """A group acting on vectors: rho(g) psi = origin + matrices[g] (psi - origin).

    Its state holds the table and the generators of a group that has no name, too, so that
    `from_state` makes the action again.

    Args:
        group: the group.
        matrices: one matrix per element, (|G|, d, d); element 0 must be the identity.
        origin: the point the action turns about, (d,); the origin of R^d by default. An
            action fitted to activations turns about their mean over the orbits.
    """

    matrices: Tensor
    origin: Tensor

    @checked
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
        identity = torch.eye(matrices.shape[-1]).to(matrices)
        if not torch.allclose(matrices[0], identity, atol=ROUNDING):
            raise ValueError("matrices[0] must be the identity, as element 0 of a group is")
        self.group = group
        self.register_buffer("matrices", matrices)
        self.register_buffer(
            "origin", matrices.new_zeros(matrices.shape[-1]) if origin is None else origin
        )
        if not group.has_name:
            self.register_buffer("table", group.multiplication.clone())
            self.register_buffer("generators", torch.tensor(group.generators))

    def extra_repr(self) -> str:
        return f"{self.group.name}, order={self.group.order}, d={self.origin.shape[-1]}"

    @classmethod
    @checked
    def from_generators(
        cls,
        group: Group,
        generators: Sequence[Float[Tensor, "d d"]],
        origin: Float[Tensor, " d"] | None = None,
    ) -> "LinearAction":
        """The action of one matrix for each of `group.generators`, multiplied out by `group.words`.

        Of C_n: matrices[p] = M^p; of D_n: matrices[p + n q] = M^p R^q.
        """
        if len(generators) != len(group.generators):
            raise ValueError(
                f"{group.name} has {len(group.generators)} generators, each of which needs a "
                f"matrix, got {len(generators)} matrices"
            )
        identity, powers = torch.eye(len(generators[0])).to(generators[0]), []
        for element, matrix in zip(group.generators, generators, strict=True):
            powers.append([identity])
            for _ in range(1, group.element_order(element)):
                powers[-1].append(matrix @ powers[-1][-1])
        matrices = []
        for word in group.words:
            runs = [powers[letter][len(list(run))] for letter, run in groupby(word)]
            matrices.append(functools.reduce(torch.matmul, runs or [identity]))
        return cls(group, torch.stack(matrices), origin)

    @classmethod
    @checked
    def from_state(cls, identifier: str, state: Mapping[str, Tensor]) -> "LinearAction":
        """The action with this state, of a group whose `identifier` it is.

        Raises:
            ValueError: the state lacks a tensor, or is one of another group.
        """
        needed = {"matrices", "origin"} | ({"generators"} if "table" in state else set())
        missing = needed - set(state)
        if missing:
            raise ValueError(f"the state of a linear action lacks {sorted(missing)}")
        if "table" in state:
            name = identifier.rpartition("-")[0]
            group = Group(name, state["table"], tuple(state["generators"].tolist()))
        else:
            group = Group.named(identifier)
        if group.identifier != identifier:
            raise ValueError(
                f"the state is one of {group.identifier}, not of {identifier}, by its identifier"
            )
        # copies: tensors of a file may lie where products round otherwise
        return cls(group, state["matrices"].clone(), state["origin"].clone())

    @classmethod
    @checked
    def identity(cls, group: Group, d: Positive) -> "LinearAction":
        """The action that leaves every vector where it is: the baseline M = I."""
        return cls(group, torch.eye(d).expand(group.order, d, d).clone())

    @checked
    def act(self, vectors: Annotated[Real[Tensor, "*batch d"], EMPTY], element) -> Tensor:
        """rho(g) applied to vectors (..., d); one element for all, or a tensor of one for each.

        Raises:
            ValueError: an element that is not the group's, or elements of another shape.
        """
        element, vectors = self.group.checked(element, "element"), vectors.to(self.matrices.dtype)
        self._check_width("vectors", vectors)
        if isinstance(element, int):
            return self.origin + (vectors - self.origin) @ self.matrices[element].T
        check_shape("element", element, vectors.shape[:-1], "vectors")
        result = torch.empty_like(vectors)
        for index in range(self.group.order):
            chosen = element == index
            result[chosen] = self.act(vectors[chosen], index)
        return result

    @checked
    def orbit(self, vectors: Annotated[Real[Tensor, "*batch d"], EMPTY]) -> Tensor:
        """Every element applied to every vector: (..., d) -> (..., |G|, d)."""
        self._check_width("vectors", vectors)
        return self.origin + self.orbit_of_directions(vectors - self.origin)

    @checked
    def orbit_of_directions(
        self, directions: Annotated[Float[Tensor, "*batch d"], EMPTY]
    ) -> Tensor:
        """As `orbit`, of dictionary rows and features: differences of vectors have no origin."""
        self._check_width("directions", directions)
        directions = directions.to(self.matrices.dtype)
        return torch.einsum("...d, ged -> ...ge", directions, self.matrices)

    def _check_width(self, name: str, vectors: Tensor) -> None:
        if vectors.shape[-1] != len(self.origin):
            raise ValueError(
                f"{name} must be of the width {len(self.origin)} of the action, got "
                f"{tuple(vectors.shape)}"
            )

    @checked
    def decoder_blocks(
        self, dictionary: Float[Tensor, "n_latents d"], bias: Float[Tensor, " d"]
    ) -> tuple[Tensor, Tensor]:
        """A decoder per element, with rho(g)(z D + b) = z blocks[g] + biases[g].

        Returns blocks (|G|, n_latents, d) and biases (|G|, d).
        """
        return torch.einsum("nd, ged -> gne", dictionary, self.matrices), self.orbit(bias)


@checked
def check_orbits(activations: Tensor, group: Group | None = None) -> None:
    """Raise a ValueError unless `activations` is a finite, non-empty (n, |G|, d) tensor."""
    shape = tuple(activations.shape)
    if activations.ndim != 3 or 0 in shape:
        raise ValueError(f"orbit activations must have shape (n, |G|, d), got {shape}")
    if group is not None and shape[1] != group.order:
        raise ValueError(
            f"{group.name} has orbits of {group.order} elements, got shape {shape} of activations"
        )
    if not all(torch.isfinite(part).all() for part in activations.split(CHECKED_SAMPLES)):
        raise ValueError(f"orbit activations of shape {shape} contain NaN or infinite values")


@checked
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
    return identified(direction / direction.norm(), {"direction of": activations})


@checked
def canonicalise(
    activations: Real[Tensor, "n order d"], group: Group, direction: Float[Tensor, " d"]
) -> Tensor:
    """Orbits that begin at the element whose activation lies farthest along a direction.

    Data without an upright position has no canonical frame; whichever member of an orbit it
    is given as, this one comes first: orbit[:, g] becomes orbit[:, g h] for the chosen h.
    """
    check_orbits(activations, group)
    chosen = (activations.float() @ direction).argmax(1).cpu()
    members = group.multiplication.T[chosen]  # (n, |G|)
    first = activations[torch.arange(len(activations))[:, None], members]
    return identified(first, {"canonicalised": activations, "along": direction})


@checked
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
