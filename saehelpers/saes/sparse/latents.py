"""Latents as the few that are active: who has which, and how much of it.

All that is computed from them, forward and backward, are sums and inner products of rows that
an index picks (see `rows.py`): nothing is of size batch x n_latents or batch x k x d.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class ActivePairs:
    """Which samples have which latents.

    samples, latents: of each pair, sample by sample. Several instances are laid one after
    another: sample b of instance i is i * batch + b, and its latents count from i * n_latents.
    """

    samples: Int[Tensor, " pairs"]
    latents: Int[Tensor, " pairs"]
    n_samples: int
    n_latents: int

    @cached_property
    def sample_starts(self) -> Int[Tensor, " n_samples"]:
        return _starts(self.samples, self.n_samples)

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs latent by latent: their order, their samples, where each latent's start."""
        order = self.latents.int().argsort(stable=True)  # half the bytes to sort
        return order, self.samples.index_select(0, order), _starts(self.latents, self.n_latents)

    def sum_over_latents(self, rows: Float[Tensor, "n_latents d"], weights: Tensor) -> Tensor:
        """Of every sample, the weighted sum of its latents' rows: (n_samples, d)."""
        from saehelpers.saes.sparse.rows import sum_rows  # and torch's compiler: takes a second

        return sum_rows(rows, self.latents, self.sample_starts, weights)

    def sum_over_samples(self, rows: Float[Tensor, "n_samples d"], weights: Tensor) -> Tensor:
        """Of every latent, the weighted sum of its samples' rows: (n_latents, d)."""
        from saehelpers.saes.sparse.rows import sum_rows

        order, samples, starts = self.by_latent
        return sum_rows(rows, samples, starts, weights.index_select(0, order))

    def products(
        self, sample_rows: Float[Tensor, "n_samples d"], latent_rows: Float[Tensor, "n_latents d"]
    ) -> Float[Tensor, " pairs"]:
        """Of every pair, the inner product of its sample's row and its latent's."""
        from saehelpers.saes.sparse.rows import multiply_rows

        return multiply_rows(sample_rows, latent_rows, self.samples, self.latents)


def _starts(sorted_ids: Tensor, n: int) -> Int[Tensor, " n"]:
    """Where the entries of each of n ids begin; the order within `ids` does not matter."""
    counts = _counts(sorted_ids, torch.ones_like(sorted_ids), n)
    return counts.cumsum(0) - counts


def _counts(ids: Tensor, each: Int[Tensor, " ids"], n: int) -> Int[Tensor, " n"]:
    """The sum of `each`, 0 or 1 of every entry, for each of n ids.

    Not by `bincount`, for which the CPU waits for a GPU's largest id.
    """
    return torch.zeros(n, dtype=torch.long, device=ids.device).scatter_add_(0, ids, each)


@dataclass(frozen=True)
class SparseLatents:
    """Latents (*inst, batch, n_latents), zero but for `values` at `pairs`."""

    values: Float[Tensor, " pairs"]
    pairs: ActivePairs
    shape: tuple[int, ...]

    def dense(self) -> Float[Tensor, "*inst batch n_latents"]:
        *_, batch, n_latents = self.shape
        instance = self.pairs.samples.div(batch, rounding_mode="floor")
        within = self.pairs.latents - instance * n_latents
        positions = self.pairs.samples * n_latents + within
        flat = self.values.new_zeros(math.prod(self.shape))
        return flat.scatter(0, positions, self.values).view(self.shape)

    def decode(self, dictionary: Float[Tensor, "*inst n_latents d"]) -> Tensor:
        """latents dictionary: (*inst, batch, d)."""
        recons = _Decode.apply(self.values, dictionary.flatten(0, -2), self.pairs)
        return recons.view(*self.shape[:-1], -1)

    def firing_counts(self) -> Int[Tensor, "*inst n_latents"]:
        active = (self.values != 0).long()
        counts = _counts(self.pairs.latents, active, self.pairs.n_latents)
        return counts.view(*self.shape[:-2], self.shape[-1])

    def between(self, start: int, stop: int) -> "SparseLatents":
        """Those whose number is from start to below stop; all others are 0."""
        which = self.pairs.latents % self.shape[-1]
        own = ((which >= start) & (which < stop)).nonzero()[:, 0]
        samples, latents = self.pairs.samples[own], self.pairs.latents[own]
        pairs = replace(self.pairs, samples=samples, latents=latents)
        return replace(self, values=self.values[own], pairs=pairs)

    def halves(self) -> tuple["SparseLatents", "SparseLatents"]:
        """Those of the first half of every batch, and of the second."""
        *instances, batch, n_latents = self.shape
        half = batch // 2
        instance = self.pairs.samples.div(batch, rounding_mode="floor")
        parts = []
        for second in (False, True):
            own = (self.pairs.samples % batch >= half) == second
            samples = self.pairs.samples[own] - (instance[own] + second) * half
            pairs = ActivePairs(
                samples, self.pairs.latents[own], self.pairs.n_samples // 2, self.pairs.n_latents
            )
            shape = (*instances, half, n_latents)
            parts.append(replace(self, values=self.values[own], pairs=pairs, shape=shape))
        return parts[0], parts[1]

    def squared_distance(self, other: "SparseLatents") -> Float[Tensor, "*inst"]:
        """|| self - other ||^2, summed over latents and averaged over the batch."""
        *instances, batch, _ = self.shape
        keys = [z.pairs.samples * self.pairs.n_latents + z.pairs.latents for z in (self, other)]
        cells, cell = torch.cat(keys).unique(return_inverse=True)
        signed = torch.cat([self.values, -other.values])
        differences = signed.new_zeros(len(cells)).index_add(0, cell, signed)
        instance = cells.div(self.pairs.n_latents * batch, rounding_mode="floor")
        sums = signed.new_zeros(math.prod(instances)).index_add(0, instance, differences.square())
        return sums.view(instances) / batch


class HeadLatents(SparseLatents):
    """Latents of attention heads: `shape` is (*inst, heads, batch, latents of a head).

    Outside, they are (*inst, batch, n_latents), head by head.
    """

    def dense(self) -> Float[Tensor, "*inst batch n_latents"]:
        return super().dense().transpose(-3, -2).flatten(-2)

    def firing_counts(self) -> Int[Tensor, "*inst n_latents"]:
        return super().firing_counts().flatten(-2)

    def squared_distance(self, other: "SparseLatents") -> Float[Tensor, "*inst"]:
        return super().squared_distance(other).sum(-1)


Latents = Tensor | SparseLatents


def densified(latents: Latents) -> Tensor:
    return latents.dense() if isinstance(latents, SparseLatents) else latents


def firing_counts(latents: Latents) -> Int[Tensor, "*inst n_latents"]:
    """In how many samples of the batch each latent is active."""
    if isinstance(latents, SparseLatents):
        return latents.firing_counts()
    return (latents != 0).sum(-2)


class _Decode(torch.autograd.Function):
    """Sums of dictionary rows; the gradient of the dictionary is made of active rows alone."""

    @staticmethod
    def forward(ctx, values, dictionary, pairs):
        ctx.pairs = pairs
        ctx.save_for_backward(values, dictionary)
        return pairs.sum_over_latents(dictionary, values)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        values, dictionary = ctx.saved_tensors
        pairs, upstream = ctx.pairs, upstream.contiguous()
        by_values = pairs.products(upstream, dictionary) if ctx.needs_input_grad[0] else None
        by_rows = pairs.sum_over_samples(upstream, values) if ctx.needs_input_grad[1] else None
        return by_values, by_rows, None


class Kept(torch.autograd.Function):
    """<x_s, w_l> + b_l at the pairs (s, l), whose `values` have been computed already.

    Rectified, unless they are signed.
    """

    @staticmethod
    def forward(ctx, x, weight_rows, bias, values, pairs, is_signed):
        ctx.pairs = pairs
        active = values != 0 if is_signed else values > 0
        ctx.save_for_backward(x, weight_rows, active)
        return values * active

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, weight_rows, active = ctx.saved_tensors
        upstream = upstream * active
        by_x = (
            ctx.pairs.sum_over_latents(weight_rows, upstream) if ctx.needs_input_grad[0] else None
        )
        by_rows = ctx.pairs.sum_over_samples(x, upstream)
        by_bias = upstream.new_zeros(ctx.pairs.n_latents)
        by_bias.scatter_add_(0, ctx.pairs.latents, upstream)
        return by_x, by_rows, by_bias, None, None, None
