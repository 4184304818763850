"""Training objectives: functions of an SAE and a batch.

Each returns its terms by name, unweighted, and the latents; `loss.total_loss` weighs them. A
term is averaged over the batch and has one value per instance, () for a single SAE.
Squared norms are summed over d. E and D are `sae.encode` and `sae.decode`, g is drawn
uniformly for each sample. Equations: Erdogan and Lucic, arXiv 2511.09432.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.nn.functional import mse_loss

from saehelpers.saes import SAE, GroupCrosscoder
from saehelpers.saes.sparse import Latents, SparseLatents

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class OrbitBatch:
    """Rows of orbit activations, gathered and standardised when an objective asks for them.

    rows: all activations, flattened (N, d), of any type; starts: the row of each sample's canonical
    activation (*inst, batch), those of its orbit follow; elements: the one drawn for each
    sample (*inst, batch); order: |G|; mean, scale: of each instance, or one for all.
    """

    rows: Real[Tensor, "N d"]
    starts: Int[Tensor, "*inst batch"]
    elements: Int[Tensor, "*inst batch"]
    order: int
    mean: Float[Tensor, "statistics d"]
    scale: Float[Tensor, "statistics d_or_1"]

    def _gather(self, indices: Tensor) -> Tensor:
        rows = self.rows.index_select(0, indices.flatten()).unflatten(0, indices.shape)
        rows = rows.float()  # here, since all of them may be larger than memory
        ones = (1,) * (indices.ndim - 1)
        rows -= self.mean.view(len(self.mean), *ones, -1)
        rows /= self.scale.view(len(self.scale), *ones, -1)
        return rows

    @functools.cached_property
    def canonical(self) -> Float[Tensor, "*inst batch d"]:
        """psi(x)"""
        return self._gather(self.starts)

    @functools.cached_property
    def transformed(self) -> Float[Tensor, "*inst batch d"]:
        """psi(g x)"""
        return self._gather(self.starts + self.elements)

    @functools.cached_property
    def orbit(self) -> Float[Tensor, "*inst batch order d"]:
        """psi(g x) for every g."""
        offsets = torch.arange(self.order, device=self.rows.device)
        return self._gather(self.starts[..., None] + offsets)


def squared_error(target: Float[Tensor, "*inst batch d"], recons: Tensor) -> Tensor:
    """|| target - recons ||^2, summed over d and averaged over the batch: (*inst)."""
    return mse_loss(recons, target, reduction="none").sum(-1).mean(-1)


def squared_distance(latents: Latents, others: Latents) -> Float[Tensor, "*inst"]:
    """|| latents - others ||^2, averaged over the batch."""
    if isinstance(latents, SparseLatents):
        return latents.squared_distance(others)
    return squared_error(latents, others)


def reconstruction(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(gx) - D(E(psi(gx))) ||^2: a vanilla SAE, trained on transformed inputs."""
    latents = sae.latents(batch.transformed)
    return {"reconstruction": squared_error(batch.transformed, sae.decode(latents))}, latents


def canonical(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(gx))) ||^2 (eq. 5)."""
    latents = sae.latents(batch.transformed)
    return {"reconstruction": squared_error(batch.canonical, sae.decode(latents))}, latents


def latent_inv(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(x))) ||^2 + lambda || E(psi(x)) - E(psi(gx)) ||^2 (eq. 6)."""
    latents, transformed_latents = _encode_both(sae, batch)
    terms = {
        "reconstruction": squared_error(batch.canonical, sae.decode(latents)),
        "symmetry": squared_distance(latents, transformed_latents),
    }
    return terms, latents


def output_inv(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(x))) ||^2 + lambda || D(E(psi(x))) - D(E(psi(gx))) ||^2 (eq. 7)."""
    latents, transformed_latents = _encode_both(sae, batch)
    recons, transformed_recons = sae.decode(latents), sae.decode(transformed_latents)
    terms = {
        "reconstruction": squared_error(batch.canonical, recons),
        "symmetry": squared_error(recons, transformed_recons),
    }
    return terms, latents


def oriented(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(x))) ||^2: an SAE of canonical activations alone.

    It is told nothing of g in use, either: `EquivariantSAE(sae, action, search=True)` gives it
    rho(g)^-1 psi(gx), for the g under which it reconstructs best.
    """
    latents = sae.latents(batch.canonical)
    return {"reconstruction": squared_error(batch.canonical, sae.decode(latents))}, latents


def self_oriented(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Tensor]:
    """min over h of || psi(hx) - D(E(psi(hx))) ||^2: every orbit is read where it is easiest.

    As `oriented`, but nobody says which member of an orbit is canonical: the dictionary's own
    frame decides, and settles during training. The latents are those of the chosen member.
    """
    orbit = batch.orbit  # (*inst, batch, |G|, d)
    rows = orbit.flatten(-3, -2)
    latents = sae.encode(rows)
    errors = mse_loss(sae.decode(latents), rows, reduction="none").sum(-1)
    errors, latents = (
        part.unflatten(len(rows.shape) - 2, orbit.shape[-3:-1]) for part in (errors, latents)
    )
    least, chosen = errors.min(-1)  # (*inst, batch)
    latents = latents.take_along_dim(chosen[..., None, None], -2).squeeze(-2)
    return {"reconstruction": least.mean(-1)}, latents


def crosscoder(sae: GroupCrosscoder, batch: OrbitBatch) -> tuple[Terms, Tensor]:
    """sum over g of || psi(gx) - W_g E(psi(x)) - b_g ||^2 (Gorton, arXiv 2410.24184)."""
    latents = sae.encode(batch.canonical)
    errors = mse_loss(sae.decode_orbit(latents), batch.orbit, reduction="none")
    return {"reconstruction": errors.sum((-2, -1)).mean(-1)}, latents


def matryoshka(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Tensor]:
    """sum over prefixes m of || psi(gx) - D(E(psi(gx))[:m]) ||^2 (Bussmann et al., 2503.17547).

    "reconstruction" is the error of all latents, "prefixes" the sum of those of the shorter
    prefixes: the first latents have to explain as much as they can alone.
    """
    x = batch.transformed
    latents = sae.encode(x)
    offset = sae.decode(torch.zeros_like(latents[..., :1, :]))
    recons, errors, start = offset, [], 0
    for stop in sae.config.prefixes or (sae.config.n_latents,):
        own = latents[..., start:stop] @ sae.dictionary[..., start:stop, :]
        recons, start = recons + sae.scale[..., None, None] * own, stop
        errors.append(squared_error(x, recons))
    return {"reconstruction": errors[-1], "prefixes": sum(errors) - errors[-1]}, latents


def input_and_target(batch: OrbitBatch, objective: str) -> tuple[Tensor, Tensor]:
    """Of the latents that an objective returns: whose they are, and what their recons are for."""
    reads_canonical = objective in ("latent_inv", "output_inv", "oriented")
    x = batch.canonical if reads_canonical else batch.transformed
    return x, batch.canonical if objective == "canonical" else x


OBJECTIVES: Mapping[str, Callable] = {
    "reconstruction": reconstruction,
    "canonical": canonical,
    "latent_inv": latent_inv,
    "output_inv": output_inv,
    "oriented": oriented,
    "self_oriented": self_oriented,
    "crosscoder": crosscoder,
    "matryoshka": matryoshka,
}


def l1(latents: Tensor, sae: SAE, p: float) -> Tensor:
    """||z||_1, averaged over the batch; latents are never negative."""
    return latents.sum(-1).mean(-1)


def lp(latents: Tensor, sae: SAE, p: float) -> Tensor:
    """sum_i |z_i|^p, averaged over the batch."""
    # the gradient of |z|^p is infinite at 0 for p < 1; inactive latents must get none
    active = latents != 0
    powers = torch.where(active, latents, 1.0).abs().pow(p) * active
    return powers.sum(-1).mean(-1)


def decoder_l1(latents: Tensor, sae: SAE, p: float) -> Tensor:
    """sum_i |z_i| ||D_i||, averaged over the batch."""
    return (latents.abs() * sae.dictionary_norms.unsqueeze(-2)).sum(-1).mean(-1)


SPARSITY_TERMS: Mapping[str, Callable] = {"l1": l1, "lp": lp, "decoder_l1": decoder_l1}


def _encode_both(sae: SAE, batch: OrbitBatch) -> tuple[Latents, Latents]:
    """E(psi(x)) and E(psi(gx)), in one pass."""
    both = sae.latents(torch.cat([batch.canonical, batch.transformed], dim=-2))
    return both.halves() if isinstance(both, SparseLatents) else both.chunk(2, dim=-2)
