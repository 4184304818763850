"""What a probe is given: features made of a few latents, and what is known of the element.

A probe keeps the m latents that differ most between the classes, decodes those alone
(truncated recons), and classifies what comes out (see `probing`). Which decoder a sample is
given, and what else the probe is told, makes the difference between a fair comparison and a
gift: each is a `ProbeInput` of its own.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saehelpers.evaluation.logistic import Factors
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import FROM_ZERO, Name, Positive, one_of
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder
from saehelpers.symmetry import Group, LinearAction

FEATURES = ("recons", "latents", "activations")


@checked
@dataclass(frozen=True)
class ProbeInput:
    """Latents, and how features for a probe are made of those that are kept.

    Args:
        features: "recons", sum of kept latents through decoder `blocks[blocks_used]`; "latents",
            the kept latents themselves; "activations", the base model's, of which all are kept.
        element: what is known of the group element: "none", "true", "inferred", or the name of
            a control.
        latents: (n, copies * n_latents); copies > 1 hold the latents of the sample's orbit.
        blocks, biases: decoders (B, copies * n_latents, d) and (B, d).
        blocks_used: (n,).
        extra: further columns for every sample, (n, k).
        causes: what all this was made from, as results have it (`saehelpers.runs.causes`):
            weights, action and data; told by the contents if there are none.
    """

    features: Annotated[str, one_of(FEATURES)]
    element: Name
    latents: Float[Tensor, "n n_latents"]
    blocks: Float[Tensor, "n_blocks n_latents d"] | None = None
    biases: Float[Tensor, "n_blocks d"] | None = None
    blocks_used: Int[Tensor, " n"] | None = None
    extra: Float[Tensor, "n k"] | None = None
    copies: Positive = 1
    causes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.blocks is not None:
            _check_elements(self.blocks_used, len(self.blocks))

    @property
    def n_latents(self) -> int:
        return self.latents.shape[1] // self.copies

    @checked
    def matrix(self, keep: Annotated[Int[Tensor, " m"], FROM_ZERO]) -> np.ndarray:
        """Features (n, d) made of the latents `keep` alone."""
        keep = self._with_copies(keep)
        features = self.latents[:, keep]
        if self.blocks is not None:
            kept_latents, features = features, torch.empty(len(features), self.width)
            for block in range(len(self.blocks)):
                rows = self.blocks_used == block
                kept_rows = self.blocks[block, keep]
                features[rows] = kept_latents[rows] @ kept_rows + self.biases[block]
        if self.extra is not None:
            features = torch.cat([features, self.extra], dim=1)
        return full_precision(features).numpy()

    @checked
    def reduced(self, keep: Annotated[Int[Tensor, "tasks m"], FROM_ZERO]) -> Factors:
        """Features made of the latents `keep` of each task, in an orthonormal basis, shifted.

        The basis is of the space that the kept decoder rows span, by their inner products.
        Distances are the same and the columns far fewer, which is all that a linear probe with
        an L2 penalty depends on.
        """
        keep = self._with_copies(keep)
        values = self.latents.double()[:, keep].movedim(1, 0)
        extra = torch.empty(len(values[0]), 0) if self.extra is None else self.extra
        extra = extra.to(values).expand(len(values), -1, -1)
        if self.blocks is None:
            return Factors.of(torch.cat([values, extra], dim=2))
        n_blocks, n_columns, d = self.blocks.shape
        rows = torch.cat([self.blocks, (self.biases - self.biases[0])[:, None]], dim=1).double()
        kept_rows = torch.cat([keep, torch.full_like(keep[:, :1], n_columns)], dim=1)
        first = (n_columns + 1) * torch.arange(n_blocks)
        own = (first[:, None] + kept_rows[:, None]).flatten(1)  # (tasks, blocks (m + 1))
        products = (rows.flatten(0, 1) @ rows.flatten(0, 1).T)[own[:, :, None], own[:, None]]
        squares, axes = torch.linalg.eigh(products)
        coordinates = (axes * squares.clamp(min=0).sqrt()[:, None])[..., -d:]
        coordinates = coordinates.unflatten(1, (n_blocks, -1))  # (tasks, blocks, m + 1, columns)
        k, ones = extra.shape[2], values.new_ones(*values.shape[:2], 1)
        rows = torch.nn.functional.pad(coordinates, (k, 0, k, 0))
        rows[:, :, :k, :k] = torch.eye(k).to(rows)
        return Factors(torch.cat([extra, values, ones], dim=2), rows, self.blocks_used)

    def _with_copies(self, keep: Tensor) -> Tensor:
        """Columns of all copies of latents."""
        offsets = self.n_latents * torch.arange(self.copies)
        return (offsets[:, None] + keep[..., None, :]).flatten(-2)

    @property
    def width(self) -> int | None:
        """Number of dimensions that the features live in; None: as many as are kept."""
        return None if self.blocks is None else self.blocks.shape[-1]


@checked
@torch.no_grad()
def probe_inputs(
    sae: SAE,
    activations: Float[Tensor, "n order d"],
    elements: Annotated[Int[Tensor, " n"], FROM_ZERO],
    action: LinearAction | None = None,
    search: bool = False,
) -> dict[str, ProbeInput]:
    """What probes are given of an SAE, by name, for images under the given elements.

    Without an `action`: "none", the SAE's recons. With one, or for a crosscoder: "true",
    mapped by the true element, and "inferred", by the one that the SAE infers. Always
    "latents". With `search`, the SAE reads what the action has turned back (see
    `EquivariantSAE`): by the true element for "true", by the inferred one for the others. A
    crosscoder's "true" and "latents" come from the canonical activation, which no one has who
    is given only the image: only its "inferred" is a fair method.

    Raises:
        ValueError: elements that the orbits do not have.
    """
    _check_elements(elements, activations.shape[1])
    if action is not None:
        elements = action.group.checked(elements)
    causes = _causes(sae, activations, elements, action)
    x = activations[torch.arange(len(activations)), elements]
    if isinstance(sae, GroupCrosscoder):
        if action is None:
            raise ValueError("a crosscoder infers elements by an action: pass one")
        latents = true_latents = sae.encode(activations[:, 0])
        inferred_latents, inferred = sae.encode_inferred(x, action)
    elif action is not None:
        sae = EquivariantSAE(sae, action, search)
        latents, inferred = sae.encode_inferred(x)
        true_latents, inferred_latents = sae.encode_given(x, elements), latents
    else:
        latents = sae.encode(x)
    blocks, biases = sae.decoder_blocks()
    decoder = {"blocks": blocks, "biases": biases, "causes": causes}
    inputs = {"latents": ProbeInput("latents", "none", latents, causes=causes)}
    if len(blocks) == 1:
        first = torch.zeros(len(x), dtype=torch.long)
        inputs["none"] = ProbeInput("recons", "none", latents, **decoder, blocks_used=first)
    else:
        inputs["true"] = ProbeInput("recons", "true", true_latents, **decoder, blocks_used=elements)
        inputs["inferred"] = ProbeInput(
            "recons", "inferred", inferred_latents, **decoder, blocks_used=inferred
        )
    return inputs


def _check_elements(elements: Tensor, order: int) -> None:
    """Raise a ValueError unless these are numbers of an orbit's members, or of a decoder's blocks.

    Those below 0 would be counted from the end, and samples of no block would have no features.
    """
    outside = elements[(elements < 0) | (elements >= order) | (elements != elements.long())]
    if len(outside):
        raise ValueError(f"there are elements 0 to {order - 1}, got {outside[0].item()}")


def _causes(sae: SAE, activations: Tensor, elements: Tensor, action) -> dict[str, str]:
    return {
        "weights": identity(sae),
        "action": "" if action is None else identity(action),
        "data": identity((activations, elements)),
    }


@checked
def all_features(given: ProbeInput) -> Float[Tensor, "n d"]:
    """What a probe is given that may use every latent, told by what it was made from."""
    features = torch.from_numpy(given.matrix(torch.arange(given.n_latents)))
    told = {"of": given.causes or given, "features": given.features, "element": given.element}
    return identified(features, told)


@checked
def with_element(
    probe_input: ProbeInput, elements: Annotated[Int[Tensor, " n"], FROM_ZERO], order: Positive
) -> ProbeInput:
    """Control: the probe is told the true element, one-hot. Used by notebook 04."""
    one_hot = torch.nn.functional.one_hot(elements, order).float()
    return replace(probe_input, element="one_hot", extra=one_hot)


@checked
@torch.no_grad()
def orbit_averaged(
    sae: SAE,
    activations: Float[Tensor, "n order d"],
    elements: Annotated[Int[Tensor, " n"], FROM_ZERO],
    action: LinearAction,
) -> ProbeInput:
    """Control: recons of a vanilla SAE averaged over the orbit at test time.

    mean over h of rho(h)^-1 D(E(psi(h g x))): every image is turned by every h, encoded, and
    the recons are turned back. No label is used, only |G| times the computation. Used by
    notebook 04.
    """
    group = action.group
    elements = group.checked(elements)
    rows = torch.arange(len(activations))
    composed = group.multiplication
    latents = [sae.encode(activations[rows, composed[h][elements]]) for h in range(group.order)]
    blocks, biases = action.decoder_blocks(sae.decoder_blocks()[0][0], sae.decoder_blocks()[1][0])
    inverses = [group.inverse(h) for h in range(group.order)]
    return ProbeInput(
        "recons",
        "orbit_average",
        torch.cat(latents, dim=1),
        torch.cat([blocks[h] for h in inverses])[None] / group.order,
        biases[inverses].mean(0, keepdim=True),
        torch.zeros(len(rows), dtype=torch.long),
        copies=group.order,
        causes=_causes(sae, activations, elements, action),
    )


@checked
def element_accuracy(
    inferred: Annotated[Int[Tensor, " n"], FROM_ZERO],
    elements: Annotated[Int[Tensor, " n"], FROM_ZERO],
    group: Group,
) -> float:
    """Share of samples whose inferred element is the true one, but for a turn common to all.

    max over h of mean(inferred == g h), g the true element: an SAE that was not told which way is
    up may call another side so, and is not wrong. Used by notebook 04.

    Raises:
        ValueError: an element that the group does not have.
    """
    inferred, elements = group.checked(inferred), group.checked(elements)
    common = group.multiplication[elements]  # (n, |G|): g h, for every h
    return float((inferred[:, None] == common).float().mean(0).max())
