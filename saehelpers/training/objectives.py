"""Training objectives: functions of an SAE and a batch, and what they are about.

Each returns its terms by name, unweighted, and the latents; `loss.total_loss` weighs them. A
term is averaged over the batch and has one value per instance, () for a single SAE.
Squared norms are summed over d. E and D are `sae.encode` and `sae.decode`, g is drawn
uniformly for each sample. Equations: Erdogan and Lucic, arXiv 2511.09432.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.nn.functional import mse_loss

from saehelpers.runs import Registry
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import FROM_ZERO, NOT_EMPTY, Positive, one_of
from saehelpers.saes import SAE, GroupCrosscoder, SAEConfig
from saehelpers.saes.sparse import Latents, SparseLatents

Terms = dict[str, Tensor]
Dense = Float[Tensor, "*inst batch n_latents"]
PARTS = ("canonical", "transformed", "orbit")  # of a batch
Part = Annotated[str, one_of(PARTS)]
# other columns of a history
TAKEN = ("loss", "mse", "sparsity", "lambda_sparsity", "multi_topk", "auxk", "epoch", "step",
         "instance", "fvu", "explained_variance", "l0", "dead_latents")  # fmt: skip


@checked
@dataclass(frozen=True)
class OrbitBatch:
    """Rows of orbit activations, gathered and standardised when an objective asks for them.

    rows: all activations, flattened (N, d), of any type; starts: the row of each sample's canonical
    activation (*inst, batch), those of its orbit follow; elements: the one drawn for each
    sample (*inst, batch); order: |G|, None where instances have groups of different orders;
    mean, scale: of each instance, or one for all.
    """

    rows: Real[Tensor, "N d"]
    starts: Annotated[Int[Tensor, "*inst batch"], FROM_ZERO]
    elements: Annotated[Int[Tensor, "*inst batch"], FROM_ZERO]
    order: Positive | None
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
        """psi(g x) for every g.

        Raises:
            ValueError: instances have groups of different orders.
        """
        if self.order is None:
            raise ValueError("an objective that reads whole orbits needs orbits of one size")
        offsets = torch.arange(self.order, device=self.rows.device)
        return self._gather(self.starts[..., None] + offsets)


@checked
def squared_error(
    target: Float[Tensor, "*inst batch d"], recons: Float[Tensor, "*inst batch d"]
) -> Tensor:
    """|| target - recons ||^2, summed over d and averaged over the batch: (*inst)."""
    return mse_loss(recons, target, reduction="none").sum(-1).mean(-1)


@checked
def squared_distance(
    latents: Dense | SparseLatents, others: Dense | SparseLatents
) -> Float[Tensor, "*inst"]:
    """|| latents - others ||^2, averaged over the batch."""
    if isinstance(latents, SparseLatents):
        return latents.squared_distance(others)
    return squared_error(latents, others)


@checked
def reconstruction(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(gx) - D(E(psi(gx))) ||^2: a vanilla SAE, trained on transformed inputs."""
    latents = sae.latents(batch.transformed)
    return {"reconstruction": squared_error(batch.transformed, sae.decode(latents))}, latents


@checked
def canonical(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(gx))) ||^2 (eq. 5)."""
    latents = sae.latents(batch.transformed)
    return {"reconstruction": squared_error(batch.canonical, sae.decode(latents))}, latents


@checked
def latent_inv(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(x))) ||^2 + lambda || E(psi(x)) - E(psi(gx)) ||^2 (eq. 6)."""
    latents, transformed_latents = _encode_both(sae, batch)
    terms = {
        "reconstruction": squared_error(batch.canonical, sae.decode(latents)),
        "symmetry": squared_distance(latents, transformed_latents),
    }
    return terms, latents


@checked
def output_inv(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(x))) ||^2 + lambda || D(E(psi(x))) - D(E(psi(gx))) ||^2 (eq. 7)."""
    latents, transformed_latents = _encode_both(sae, batch)
    recons, transformed_recons = sae.decode(latents), sae.decode(transformed_latents)
    terms = {
        "reconstruction": squared_error(batch.canonical, recons),
        "symmetry": squared_error(recons, transformed_recons),
    }
    return terms, latents


@checked
def oriented(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """|| psi(x) - D(E(psi(x))) ||^2: an SAE of canonical activations alone.

    It is told nothing of g in use, either: `EquivariantSAE(sae, action, search=True)` gives it
    rho(g)^-1 psi(gx), for the g under which it reconstructs best.
    """
    latents = sae.latents(batch.canonical)
    return {"reconstruction": squared_error(batch.canonical, sae.decode(latents))}, latents


@checked
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


@checked
def crosscoder(sae: GroupCrosscoder, batch: OrbitBatch) -> tuple[Terms, Tensor]:
    """sum over g of || psi(gx) - W_g E(psi(x)) - b_g ||^2 (Gorton, arXiv 2410.24184)."""
    latents = sae.encode(batch.canonical)
    errors = mse_loss(sae.decode_orbit(latents), batch.orbit, reduction="none")
    return {"reconstruction": errors.sum((-2, -1)).mean(-1)}, latents


@checked
def matryoshka(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
    """sum over prefixes m of || psi(gx) - D(E(psi(gx))[:m]) ||^2 (Bussmann et al., 2503.17547).

    "reconstruction" is the error of all latents, "prefixes" the sum of those of the shorter
    prefixes: the first latents have to explain as much as they can alone.
    """
    x = batch.transformed
    latents = sae.latents(x)
    recons, errors, start = sae.offset(), [], 0
    for stop in sae.config.prefixes or (sae.config.n_latents,):
        if isinstance(latents, SparseLatents):
            own = latents.between(start, stop).decode(sae.dictionary)
        else:
            own = latents[..., start:stop] @ sae.dictionary[..., start:stop, :]
        recons, start = recons + sae.scale[..., None, None] * own, stop
        errors.append(squared_error(x, recons))
    return {"reconstruction": errors[-1], "prefixes": sum(errors) - errors[-1]}, latents


@checked
def gated(sae: SAE, batch: OrbitBatch) -> tuple[Terms, Tensor]:
    """|| psi(gx) - D(E(psi(gx))) ||^2 + || psi(gx) - D'(relu(pi)) ||^2 (arXiv 2404.16014, eq. 8).

    pi: what the gates read; D': the decoder, taken as given. With the sparsity term "gate_l1",
    the L1 norm of relu(pi), this is the loss of a gated SAE: of the activation "gated".
    """
    x = batch.transformed
    before = sae.pre_activations(x)
    latents = sae.activation(before)
    through_gates = before.relu() @ sae.dictionary.detach()
    gate = squared_error(x, sae.offset().detach() + sae.scale[..., None, None] * through_gates)
    terms = {"reconstruction": squared_error(x, sae.decode(latents)), "gate": gate}
    return terms, latents


@checked
@dataclass(frozen=True)
class Objective:
    """What an SAE is trained for.

    Args:
        function: takes an SAE and an OrbitBatch, and returns the terms and the latents. The term
            "reconstruction" is the error of what the latents say, "symmetry" is weighted by
            lambda_sym, any other counts as it is.
        reads: what the SAE encodes of a batch: "canonical", "transformed" or "orbit", every
            member of it; first that which the latents are of (of an orbit, of one member).
        target: what the recons of these latents are for.
        dictionary: the kind that the SAE must have, if there is one.
        prefixes: whether it is for the nested dictionaries of a Matryoshka SAE.
    """

    name: str
    function: Callable
    reads: Annotated[tuple[Part, ...], NOT_EMPTY] = ("transformed",)
    target: Part = "transformed"
    dictionary: str | None = None
    prefixes: bool = False

    def __post_init__(self):
        try:
            inspect.signature(self.function).bind("sae", "batch")
        except TypeError as error:
            raise ValueError(
                f"the objective {self.name!r} must be a function (sae, batch): {error}"
            ) from error

    @property
    def is_canonical(self) -> bool:
        """Whether canonical activations are all that it knows."""
        return {*self.reads, self.target} == {"canonical"}

    @property
    def is_of_orbits(self) -> bool:
        """Whether the latents of one activation have to explain the whole orbit."""
        return self.target == "orbit" != self.reads[0]

    def check_fits(self, sae: SAEConfig, lambda_mse: float, auxk: int) -> None:
        """Raise a ValueError unless an SAE can be trained for it, with these further terms."""
        needed = self.dictionary or sae.dictionary
        if needed != sae.dictionary or needed == "blocks" != self.dictionary:
            names = [repr(each.name) for each in OBJECTIVES.values() if each.dictionary == needed]
            raise ValueError(
                f"the objective {' or '.join(names)} and a dictionary of {needed!r} go together, "
                f"got {self.name!r} and {sae.dictionary!r}"
            )
        if self.prefixes != (len(sae.prefixes) > 1):
            names = [repr(each.name) for each in OBJECTIVES.values() if each.prefixes]
            raise ValueError(
                f"the objective {' or '.join(names)} and two or more prefixes go together, got "
                f"{self.name!r} and {sae.prefixes}"
            )
        if lambda_mse and self.is_of_orbits:
            raise ValueError(f"lambda_mse has no meaning for {self.name!r}, of whole orbits")
        if auxk and "orbit" in (self.reads[0], self.target):
            raise ValueError(f"auxk needs to know what is read: not with {self.name!r}")

    def gather(self, batch: OrbitBatch) -> None:
        """Gather what is read, which the batch then keeps."""
        for part in (*self.reads, self.target):
            getattr(batch, part)

    def __call__(self, sae: SAE, batch: OrbitBatch) -> tuple[Terms, Latents]:
        """Terms and latents.

        Raises:
            ValueError: the function returns something else.
        """
        found = self.function(sae, batch)
        wrong = _wrong_with(found, batch.starts.shape, sae.config.n_latents)
        if wrong:
            raise ValueError(f"the objective {self.name!r} must return (terms, latents): {wrong}")
        return found


def _wrong_with(found, samples: torch.Size, n_latents: int) -> str | None:
    """What an objective returned wrongly for so many samples (*inst, batch)."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], dict)):
        return f"terms by name and a tensor, got {type(found).__name__}"
    terms, latents = found
    if "reconstruction" not in terms:
        return f"there is no term 'reconstruction' among {', '.join(terms) or 'none'}"
    for name, value in terms.items():
        if name in TAKEN:
            return f"the name {name!r} is taken: call this term otherwise"
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != samples[:-1]:
            return f"the term {name!r} must have shape {tuple(samples[:-1])}, got {shape}"
    if not isinstance(latents, SparseLatents):  # which `sae.latents` makes
        shape = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        if shape != (*samples, n_latents):
            return f"the latents must have shape {(*samples, n_latents)}, got {shape}"
    return None


OBJECTIVES = Registry(
    "objective",
    f"{__name__}:OBJECTIVES",
    {
        each.name: each
        for each in (
            Objective("reconstruction", reconstruction),
            Objective("canonical", canonical, target="canonical"),
            Objective("latent_inv", latent_inv, ("canonical", "transformed"), "canonical"),
            Objective("output_inv", output_inv, ("canonical", "transformed"), "canonical"),
            Objective("oriented", oriented, ("canonical",), "canonical"),
            Objective("self_oriented", self_oriented, ("orbit",), "orbit"),
            Objective("crosscoder", crosscoder, ("canonical",), "orbit", dictionary="blocks"),
            Objective("matryoshka", matryoshka, prefixes=True),
            Objective("gated", gated),
        )
    },
    field="objective",
)


@checked
def objective(
    name: Any,
    reads: Part | Annotated[tuple[Part, ...], NOT_EMPTY] = "transformed",
    target: Part | None = None,
    dictionary: str | None = None,
    prefixes: bool = False,
) -> Callable[[Callable], Callable]:
    """Add a function as an objective: `@objective("mine")` above `def mine(sae, batch)`.

    The arguments are the fields of `Objective`; the target is by default what is read first.

    Raises:
        ValueError: another objective has the name, or the function does not take (sae, batch).
    """
    reads = (reads,) if isinstance(reads, str) else reads

    def made(function: Any) -> Objective:
        return Objective(name, function, reads, target or reads[0], dictionary, prefixes)

    return OBJECTIVES.adding(name, made)


def _encode_both(sae: SAE, batch: OrbitBatch) -> tuple[Latents, Latents]:
    """E(psi(x)) and E(psi(gx)), in one pass."""
    both = sae.latents(torch.cat([batch.canonical, batch.transformed], dim=-2))
    return both.halves() if isinstance(both, SparseLatents) else both.chunk(2, dim=-2)
