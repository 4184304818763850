"""A toy model of equivariant features (Erdogan and Lucic, arXiv 2511.09432, section 5.1).

    x = sum_i alpha_i v_i,    M^p x = sum_i alpha_i M^p v_i

alpha_i ~ Bernoulli(1 / N) is invariant under the group; the directions v_i turn.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from saehelpers.datasets.synthetic import make_features
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.wanted import Count, Positive, Seed, one_of
from saehelpers.symmetry import Group, LinearAction

ACTION_KINDS = ("rotation", "shift")
REPRESENTATIVES = ("fixed", "random")


@checked
@dataclass(frozen=True)
class ToyData:
    """Orbit activations with known features.

    activations: (n, |G|, d), `[:, 0]` canonical; coefficients: alpha (n, N), 0 or 1;
    features: v (N, d), unit rows; action: the true one; stream: the identity of what the
    samples are the first of.
    """

    activations: Float[Tensor, "n order d"]
    coefficients: Float[Tensor, "n n_features"]
    features: Float[Tensor, "n_features d"]
    action: LinearAction
    stream: str

    @checked
    def part(self, start: Count, stop: Positive) -> "ToyData":
        """Some of the samples: those to train on, say, and those held out."""
        activations = identified(self.activations[start:stop], (self.stream, start, stop))
        return replace(self, activations=activations, coefficients=self.coefficients[start:stop])


@checked
def make_toy(
    n_samples: Positive,
    n_features: Positive,
    order: Positive,
    seed: Seed,
    d: Positive = 16,
    representatives: str = "fixed",
    action_kind: Annotated[str, one_of(ACTION_KINDS)] = "rotation",
) -> ToyData:
    """Draw features, a cyclic action of the given order, and samples.

    Args:
        representatives: which point of an orbit is canonical. "fixed": sum_i alpha_i v_i.
            "random": a uniformly drawn element of the orbit, one for each alpha, so that
            different combinations of features have canonical frames that do not agree.
        action_kind: see `make_action`.
    """
    if representatives not in REPRESENTATIVES:
        raise ValueError(
            f"representatives must be one of {REPRESENTATIVES}, got {representatives!r}"
        )
    # a stream of its own: weights and sample orders of the same seed must not repeat it
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 0x70FF1E) % 2**32)
    features = make_features(n_features, d, generator)
    action = make_action(order, d, generator, action_kind)
    coefficients = torch.rand(n_samples, n_features, generator=generator) < 1 / n_features
    orbits = action.orbit(coefficients.float() @ features)  # (n, |G|, d)
    if representatives == "random":
        patterns, pattern = coefficients.unique(dim=0, return_inverse=True)
        start = torch.randint(order, (len(patterns),), generator=generator)[pattern]
        turned = (start[:, None] + torch.arange(order)) % order
        orbits = orbits.gather(1, turned[..., None].expand_as(orbits))
    cause = {"toy": representatives, "n_features": n_features, "d": d, "seed": seed,
             "action": action_kind, "order": order}  # fmt: skip
    if representatives == "random":  # drawn after all samples: they depend on how many these are
        cause["n_samples"] = n_samples
    action, features = identified(action, cause), identified(features, cause)
    toy = ToyData(orbits, coefficients.float(), features, action, identity(cause))
    return toy.part(0, n_samples)


@checked
def make_action(
    order: Positive, d: Positive, generator: torch.Generator, kind: str = "rotation"
) -> LinearAction:
    """A random orthogonal conjugate of a representation of C_order on R^d.

    Args:
        kind: "rotation": every plane turns by 2 pi k / order, k drawn from 1..order / 2, the
            first plane with k = 1, so that M has exactly this order. "shift": coordinates
            move on by one in cycles of length `order`, which must divide d.
    """
    if kind == "rotation":
        if d % 2:
            raise ValueError(f"rotations of planes need an even d, got {d}")
        turns = torch.randint(1, max(order // 2, 1) + 1, (d // 2,), generator=generator)
        turns[0] = 1
        angles = 2 * torch.pi * turns / order
        cosine, sine = angles.cos(), angles.sin()
        planes = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
        matrix = torch.block_diag(*planes)
    elif kind == "shift":
        if d % order:
            raise ValueError(f"shifts of order {order} need it to divide d = {d}")
        matrix = torch.block_diag(*[torch.eye(order).roll(1, 0)] * (d // order))
    else:
        raise ValueError(f"unknown action kind {kind!r}; known are {', '.join(ACTION_KINDS)}")
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    return LinearAction.from_generators(Group.named(f"C{order}"), [basis @ matrix @ basis.T])
