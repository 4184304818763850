"""What can be measured of each latent of an SAE of anybody's network, without knowing the truth.

Sources: Paulo and Belrose, arXiv 2501.16615, and Song et al., arXiv 2505.20254 (found again by
other seeds); Chanin et al., arXiv 2409.14507 (absorption); Bricken et al., "Towards
Monosemanticity" (feature splitting).
"""

from collections.abc import Sequence
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor
from torch.nn.functional import normalize

from saehelpers.evaluation.consistency import random_rows
from saehelpers.evaluation.matching import Pairs, cosine_matrix, match
from saehelpers.evaluation.metrics import symmetry_spectrum
from saehelpers.networks.modules import evaluation_mode
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive, Wanted
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder
from saehelpers.symmetry import LinearAction

COPY_COSINE = 0.8  # from which a latent is another one in another orientation
SPLIT_COSINE, SPLIT_LIFT = 0.4, 0.5  # alike, and together at most half as often as by chance
SHARP = 0.5  # sharpness from which a latent is tied to one orientation
FIXED = 0.8  # mean cosine from which its direction stays as it is
WEAK = 0.5  # of the median activation
NULL_DRAWS = 3
NOT_A_GROUP = {"sharpness": 0.0, "fixed_direction": 1.0, "copies": 0, "copy_cosine": 0.0}

Labels = Annotated[
    pd.DataFrame,
    Wanted(
        "a table of True and False", lambda labels: all(kind.kind == "b" for kind in labels.dtypes)
    ),
]


@checked
@torch.no_grad()
def card_numbers(
    sae: SAE | EquivariantSAE,
    activations: Real[Tensor, "n *order d"],
    action: LinearAction | None = None,
    others: Sequence[SAE | EquivariantSAE] = (),
    labels: Labels | None = None,
    batch_size: Positive = 4096,
) -> pd.DataFrame:
    """A row of numbers for each latent of an SAE.

    - firing_rate: share of the samples, under all elements, in which it fires; firings: their
      number.
    - consistency: cosine with its partner in another SAE, one to one modulo the group, mean over
      `others`; consistency_null: what a random direction in its place would have.
    - agreement: F1 of its firings and its partner's, of the partner turned as fits best, mean over
      others.
    - sharpness: (|G| s - 1) / (|G| - 1), s the share of the strongest element in the activation
      over an orbit: 0 for an invariant latent, 1 for one that fires in one orientation alone.
    - fixed_direction: mean over the elements but the identity of cos(D_i, rho(g) D_i).
    - symmetry: "one orientation" where it is sharp; else "invariant" where its direction stays as
      it is, "turning" where it turns with the input.
    - copies: other latents that are this one turned, max over g but the identity of
      cos(D_i, rho(g) D_j) >= 0.8; copy_cosine: the largest of these cosines.
    - neighbour, neighbour_cosine: the latent nearest in the dictionary.
    - nested_in, nested: the latent j with the largest P(j fires | i fires) - P(j fires), and that.
    - silent_share: of samples whose projection on D_i is at least the median one of those in which
      i fires, the share in which it is silent: large where it is absorbed.
    - weak_share: of its firings, the share below half the median one.
    - split_cosine: the largest cosine with a latent that fires together with it at most half as
      often as by chance: large where a feature is split.
    - label, label_f1: the label that its firings follow best, and their F1 as its detector.

    Samples are read in the frame that an `EquivariantSAE` infers. Without a group a latent counts
    as invariant and has no copies; columns of `others` and `labels` are there if those are given.
    All latents of all samples are held in memory.

    Args:
        activations: (n, d), or with an action orbits (n, |G|, d).
        labels: True and False, a row for each of the n inputs, whatever element it is under.

    Raises:
        ValueError: a group crosscoder, orbits that are not the action's, SAEs of other widths, or
            labels of another number of inputs.
    """
    for name, one in [("sae", sae), *(("others", other) for other in others)]:
        if isinstance(getattr(one, "sae", one), GroupCrosscoder):
            raise ValueError(f"{name} must have one decoder, got a GroupCrosscoder")
        if one.dictionary.shape[1] != activations.shape[-1]:
            raise ValueError(
                f"{name} reads activations of width {one.dictionary.shape[1]}, got activations "
                f"{tuple(activations.shape)}"
            )
    orbits = _as_orbits(activations, action)
    with evaluation_mode(sae, *others):
        latents = _encoded(sae, orbits, batch_size)
        fires = latents != 0
        rows = sae.dictionary
        table = {"latent": range(len(rows))}
        table |= _firing(latents, _projections(sae, orbits, batch_size))
        table |= _symmetry(latents, rows, action)
        table |= _neighbours(rows, fires.flatten(0, 1))
        if others:
            found = [(other.dictionary, _encoded(other, orbits, batch_size)) for other in others]
            table |= _found_again(rows, fires, found, action)
        if labels is not None:
            table |= _followed(fires, labels)
    return pd.DataFrame({k: v.tolist() if isinstance(v, Tensor) else v for k, v in table.items()})


def _as_orbits(activations: Tensor, action: LinearAction | None) -> Float[Tensor, "n order d"]:
    order = 1 if action is None else action.group.order
    orbits = activations[:, None] if activations.ndim == 2 else activations
    if orbits.ndim != 3 or orbits.shape[1] != order:
        wanted = "(n, d)" if action is None else f"(n, {order}, d), orbits of {action.group.name}"
        raise ValueError(f"activations must be {wanted}, got {tuple(activations.shape)}")
    return orbits


def _encoded(sae: SAE | EquivariantSAE, orbits: Tensor, batch_size: int) -> Tensor:
    """Latents over orbits, (n, order, n_latents)."""
    parts = [sae.encode(batch) for batch in orbits.flatten(0, 1).split(batch_size)]
    return torch.cat(parts).unflatten(0, orbits.shape[:2])


def _projections(sae: SAE | EquivariantSAE, orbits: Tensor, batch_size: int) -> Tensor:
    """Of what is left without the SAE's offset, in the frame that it reads: (samples, n_latents)"""
    nothing = torch.zeros(1, len(sae.dictionary)).to(sae.dictionary)
    unit, offset = normalize(sae.dictionary, dim=1), sae.decode(nothing)
    parts = []
    for batch in orbits.flatten(0, 1).split(batch_size):
        if isinstance(sae, EquivariantSAE):
            elements = sae.encode_inferred(batch)[1]
            batch = sae.action.act(batch, sae.action.group.inverse(elements))
        parts.append((batch - offset) @ unit.T)
    return torch.cat(parts)


def _firing(latents: Tensor, projections: Tensor) -> dict[str, Tensor]:
    """NaN where a latent never fires."""
    values = latents.abs().flatten(0, 1)
    fires, firings = values != 0, (values != 0).sum(0)
    weak = (fires & (values < WEAK * _middle(values, fires))).sum(0)
    points_to = projections >= _middle(projections, fires)
    return {
        "firing_rate": firings / len(values),
        "firings": firings,
        "weak_share": weak / firings,
        "silent_share": (points_to & ~fires).sum(0) / points_to.sum(0),
    }


def _middle(values: Tensor, fires: Bool[Tensor, "samples n_latents"]) -> Tensor:
    """The (lower) median of each latent's values where it fires, (n_latents); infinite for none."""
    ordered = values.masked_fill(~fires, torch.inf).sort(0).values
    return ordered.gather(0, (fires.sum(0) - 1).clamp(min=0).div(2, rounding_mode="floor")[None])[0]


def _symmetry(latents: Tensor, rows: Tensor, action: LinearAction | None) -> dict[str, Tensor]:
    n_latents, order = len(rows), latents.shape[1]
    if action is None or order == 1:
        constant = {k: torch.full((n_latents,), v) for k, v in NOT_A_GROUP.items()}
        return constant | {"symmetry": ["invariant"] * n_latents}
    strength = latents.abs()
    share = strength.amax(1).sum(0) / strength.sum((0, 1))
    sharpness = (order * share - 1) / (order - 1)
    fixed = symmetry_spectrum(rows, action)[:, 1:].mean(1)
    turned = action.orbit_of_directions(rows)[:, 1:]  # without the identity
    cosines = torch.stack([cosine_matrix(rows, some) for some in turned.unbind(1)]).amax(0)
    cosines = cosines.fill_diagonal_(-1)  # no copy of itself
    kinds = [
        "one orientation" if sharp >= SHARP else "invariant" if stays >= FIXED else "turning"
        for sharp, stays in zip(sharpness.tolist(), fixed.tolist(), strict=True)
    ]
    return {
        "sharpness": sharpness,
        "fixed_direction": fixed,
        "copies": (cosines >= COPY_COSINE).sum(1),
        "copy_cosine": cosines.amax(1),
        "symmetry": kinds,
    }


def _neighbours(rows: Tensor, fires: Bool[Tensor, "samples n_latents"]) -> dict[str, Tensor]:
    cosines = cosine_matrix(rows, rows).fill_diagonal_(-1)
    nearest = cosines.max(1)
    fired = fires.float()
    together, counts = fired.T @ fired, fired.sum(0)
    rates = counts / len(fired)
    given = together / counts[:, None].clamp(min=1)  # P(j fires | i fires)
    excess = (given - rates).fill_diagonal_(-1)
    excess[:, counts == 0] = -1  # what never fires has nothing within it
    nested = excess.max(1)
    apart = (given <= SPLIT_LIFT * rates) & (rates > 0)
    split = cosines.masked_fill(~apart, 0).amax(1).clamp(min=0)
    return {
        "neighbour": nearest.indices,
        "neighbour_cosine": nearest.values,
        "nested_in": nested.indices,
        "nested": nested.values,
        "split_cosine": split,
    }


def _found_again(
    rows: Tensor,
    fires: Bool[Tensor, "n order n_latents"],
    others: list[tuple[Tensor, Tensor]],
    action: LinearAction | None,
) -> dict[str, Tensor]:
    """consistency, its null and agreement, means over the other SAEs; 0 where there is no match."""
    generator = torch.Generator().manual_seed(0)
    turns = torch.zeros(1, 1, dtype=torch.long) if action is None else action.group.multiplication
    cosines, agreements, nulls = [], [], []
    for dictionary, latents in others:
        pairs = match(rows, dictionary, False, action)
        cosines.append(_at(pairs.a, pairs.cosines, len(rows)))
        both = _f1_of_pairs(fires, latents != 0, pairs, turns)
        agreements.append(_at(pairs.a, both, len(rows)))
        for _ in range(NULL_DRAWS):
            chance = match(random_rows(rows, generator), dictionary, False, action)
            nulls.append(_at(chance.a, chance.cosines, len(rows)).mean())
    null = torch.stack(nulls).mean().expand(len(rows))
    means = [torch.stack(values).mean(0) for values in (cosines, agreements)]
    return {"consistency": means[0], "consistency_null": null, "agreement": means[1]}


def _at(places: Int[Tensor, " pairs"], values: Tensor, n: int) -> Float[Tensor, " n"]:
    result = torch.zeros(n)
    result[places] = values.float()
    return result


def _f1_of_pairs(
    first: Tensor, second: Tensor, pairs: Pairs, turns: Int[Tensor, "order order"]
) -> Float[Tensor, " pairs"]:
    """If D_a = rho(h) D_b, latent a fires on gx where b does on h^-1 gx: the best of all h."""
    a, b = first[..., pairs.a], second[..., pairs.b]
    both = torch.stack([(a & b[:, turn]).sum((0, 1)) for turn in turns]).amax(0)
    return 2 * both / (a.sum((0, 1)) + b.sum((0, 1))).clamp(min=1)


def _followed(fires: Bool[Tensor, "n order n_latents"], labels: pd.DataFrame) -> dict:
    if len(labels) != len(fires):
        raise ValueError(f"labels must be of the {len(fires)} inputs, they are of {len(labels)}")
    present = torch.tensor(labels.to_numpy()).float().repeat_interleave(fires.shape[1], 0)
    fired = fires.flatten(0, 1).float()
    f1 = 2 * fired.T @ present / (fired.sum(0)[:, None] + present.sum(0)).clamp(min=1)
    best = f1.max(1)
    names = [str(labels.columns[i]) for i in best.indices.tolist()]
    return {"label": names, "label_f1": best.values}
