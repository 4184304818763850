"""What SAEs minimise: an objective, weighted together with further terms.

Of an SAE of attention heads, head by head.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Rate, Weight, one_of
from saehelpers.saes import SAE, BlockDiagonalSAE
from saehelpers.saes.sparse import JumpReLU, TopK, densified
from saehelpers.training.objectives import (
    OBJECTIVES,
    OrbitBatch,
    Terms,
    reconstruction,
)
from saehelpers.training.sparsity import SPARSITY_TERMS

CACHED_LATENTS = 2**20  # that are worked with at a time, of heads that are trained one by one
MULTI_TOPK = 4  # times k latents are active in the further reconstruction of `lambda_multi_topk`


@checked
@dataclass(frozen=True)
class Loss:
    """What is minimised: an objective, and what is added to it.

        reconstruction + lambda_sym symmetry + any other term of the objective
        + lambda_mse || psi(gx) - D(E(psi(gx))) ||^2 + lambda_sparsity sparsity
        + lambda_multi_topk multi_topk

    multi_topk is the reconstruction term with four times as many active latents, which keeps
    latents alive that TopK alone never chooses (Gao et al., arXiv 2406.04093, appendix B).

    compiled: by `torch.compile`, the same to rounding; of SAEs of heads, the loss of each.
    """

    objective: Annotated[str, one_of(OBJECTIVES)]
    lambda_sym: Weight = 1.0
    lambda_mse: Weight = 0.0
    sparsity: Annotated[str, one_of(SPARSITY_TERMS)] | None = None
    lambda_sparsity: Weight | Tensor = 0.0
    p: Rate = 1.0
    lambda_multi_topk: Weight = 0.0
    compiled: bool = False

    @classmethod
    def of(cls, config: Any) -> "Loss":
        """That of a run's config, whose fields have the same names."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


@checked
def total_loss(
    sae: SAE,
    batch: OrbitBatch,
    loss: Loss,
    revival: nn.Module | None = None,
    controller: nn.Module | None = None,
) -> Terms:
    """The weighted sum, under "loss", and its unweighted terms under their own names.

    A `saehelpers.training.revival.Revival` adds lambda_auxk auxk. With a
    `saehelpers.training.sparsity.SparsityController` the weight of the sparsity term is that of
    this batch, and stands among the terms as "lambda_sparsity".
    """
    if loss.compiled:  # a number that rises step by step would be compiled anew each time
        loss = replace(loss, lambda_sparsity=torch.as_tensor(loss.lambda_sparsity))
    if isinstance(sae, BlockDiagonalSAE) and sae.separable:
        return _sum_over_heads(sae, batch, loss)
    objective = OBJECTIVES[loss.objective]
    if loss.compiled:
        objective.gather(batch)  # before: what reads it stays whole
        return _compiled_loss()(sae, batch, replace(loss, compiled=False), revival, controller)
    terms, latents = objective(sae, batch)
    weighted = terms["reconstruction"]
    for name in [name for name in terms if name != "reconstruction"]:
        weight = loss.lambda_sym if name == "symmetry" else 1.0
        weighted = weighted + weight * terms[name]
    terms = dict(terms)  # an objective's own, to which others come
    if loss.lambda_mse:
        terms["mse"] = reconstruction(sae, batch)[0]["reconstruction"]
        weighted = weighted + loss.lambda_mse * terms["mse"]
    if loss.sparsity is not None:
        read, term = getattr(batch, objective.reads[0]), SPARSITY_TERMS[loss.sparsity]
        terms["sparsity"] = term(densified(latents), sae, loss.p, read)
        weight = loss.lambda_sparsity
        if controller is not None:
            weight = terms["lambda_sparsity"] = weight * controller(latents)
        weighted = weighted + weight * terms["sparsity"]
    if loss.lambda_multi_topk:
        with _more_active(sae):
            terms["multi_topk"] = objective(sae, batch)[0]["reconstruction"]
        weighted = weighted + loss.lambda_multi_topk * terms["multi_topk"]
    if revival is not None:
        x, target = getattr(batch, objective.reads[0]), getattr(batch, objective.target)
        terms["auxk"] = revival(sae, x, target, latents)
        weighted = weighted + revival.weight * terms["auxk"]
    return {"loss": weighted, **terms}


@functools.cache
def _compiled_loss() -> Callable:
    return torch.compile(total_loss, dynamic=False)


@contextmanager
def _more_active(sae: SAE) -> Iterator[None]:
    k = sae.activation.k
    sae.activation.k = min(MULTI_TOPK * k, sae.config.n_latents)
    try:
        yield
    finally:
        sae.activation.k = k


def _sum_over_heads(sae: BlockDiagonalSAE, batch: OrbitBatch, loss: Loss) -> Terms:
    """`total_loss` of every head's SAE, summed.

    Gradients are taken as soon as a loss is known, head by head and, where a head's latents of
    the batch would not stay in a CPU's cache, part by part: a fraction of the memory, and faster.
    """
    width = sae.config.d // sae.config.n_heads
    parameters = list(sae.heads.parameters())
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    axis = sae.heads.scale.ndim - 1
    sums: Terms = {}
    for h in range(sae.config.n_heads):
        head, own_parameters = sae.head(h)
        own = slice(h * width, (h + 1) * width)
        columns = {name: getattr(batch, name)[:, own] for name in ("rows", "mean", "scale")}
        for part, share in _parts(replace(batch, **columns), head):
            terms = total_loss(head, part, loss)
            if torch.is_grad_enabled():
                found = torch.autograd.grad(share * terms["loss"].sum(), own_parameters)
                for gradient, own_gradient in zip(gradients, found, strict=True):
                    gradient.select(axis, h).add_(own_gradient)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + share * value.detach()
    if torch.is_grad_enabled():
        sums["loss"] = _WithGradients.apply(sums["loss"], gradients, *parameters)
    return sums


def _parts(batch: OrbitBatch, sae: SAE) -> Iterator[tuple[OrbitBatch, float]]:
    """The samples of a batch, so few that their latents stay in the cache; and their share."""
    n_samples = batch.starts.shape[-1]
    apart = isinstance(sae.activation, TopK | JumpReLU | nn.ReLU)  # of one sample at a time
    together = sae.is_sparse or batch.rows.is_cuda or not apart
    size = n_samples if together else max(1, CACHED_LATENTS // sae.config.n_latents)
    for part in torch.arange(n_samples).split(size):
        own = slice(int(part[0]), int(part[-1]) + 1)
        samples = {"starts": batch.starts[..., own], "elements": batch.elements[..., own]}
        yield replace(batch, **samples), len(part) / n_samples


@checked
def differentiated(loss: Float[Tensor, ""], model: nn.Module) -> Float[Tensor, ""]:
    """A loss whose gradients by the model's parameters are taken at once.

    What they were computed from is free again; `backward` hands them out.
    """
    parameters = list(model.parameters())
    return _WithGradients.apply(loss.detach(), torch.autograd.grad(loss, parameters), *parameters)


class _WithGradients(torch.autograd.Function):
    """A loss (*inst) whose gradients by some tensors are known already."""

    @staticmethod
    def forward(ctx, loss, gradients, *tensors):
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream):
        def weighted(gradient):
            return gradient * upstream.reshape(
                upstream.shape + (1,) * (gradient.ndim - upstream.ndim)
            )

        return None, None, *map(weighted, ctx.saved_tensors)
