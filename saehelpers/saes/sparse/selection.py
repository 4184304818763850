"""Which latents are kept, without a tensor of all pre-activations.

Pre-activations are computed for some samples at a time, into one buffer, on a CPU one that stays
in its cache, and the largest are picked from it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.saes.sparse.activation_functions import BatchTopK, TopK
from saehelpers.saes.sparse.largest import GROUP
from saehelpers.saes.sparse.latents import ActivePairs, Kept, SparseLatents
from saehelpers.saes.sparse.products import fast_products

BUFFER = {"cpu": 2**22, "cuda": 2**26}  # pre-activations held at a time


class Found(NamedTuple):
    """Pre-activations that were picked, sample by sample."""

    values: Float[Tensor, " found"]
    samples: Int[Tensor, " found"]
    latents: Int[Tensor, " found"]

    def smallest(self, expected: int) -> Tensor:
        """The smallest value, or 0 if fewer than expected are positive."""
        values = self.values.float()
        return values.min() if len(values) == expected else values.new_zeros(())


def sparse_encode(
    x: Float[Tensor, "*inst batch d"],
    weight: Float[Tensor, "*inst d n_latents"],
    bias: Float[Tensor, "*inst n_latents"],
    activation: TopK | BatchTopK,
    allowed: Bool[Tensor, "*inst n_latents"] | None = None,
    together: int = 1,
) -> SparseLatents:
    """activation(x weight + bias), of which the active latents alone are stored.

    Under autocast the latents are chosen by pre-activations in its precision; the values of
    those chosen, and all gradients, are computed in float32.

    Args:
        allowed: the latents that may be chosen; all if it is not given.
        together: so many instances (the heads of an SAE) share their activation's k.
    """
    batch, n_latents = x.shape[-2], weight.shape[-1]
    x_rows, weight_rows = x.flatten(0, -2).to(weight.dtype), weight.mT.flatten(0, -2)
    biases = bias.flatten()
    parts = [part.unflatten(0, (-1, size)) for part, size in
             ((x_rows, batch), (weight_rows, n_latents), (biases, n_latents))]  # fmt: skip
    found = []
    with torch.no_grad(), fast_products(x.device.type):
        for i, group in enumerate(zip(*(part.split(together) for part in parts), strict=True)):
            names = None if allowed is None else allowed.view(-1, n_latents)[i].nonzero()[:, 0]
            chosen = _choose(pre_activations(*group, names), batch, activation, i)
            latents = chosen.latents if names is None else names[chosen.latents]
            within = latents.div(n_latents, rounding_mode="floor") if together > 1 else 0
            instance = i * together + within
            samples = chosen.samples + instance * batch
            found.append(Found(chosen.values, samples, latents + i * together * n_latents))
        if isinstance(activation, BatchTopK) and activation.training:
            smallest = torch.stack([z.smallest(activation.k * batch) for z in found])
            activation.update(smallest.view_as(activation.threshold))
        values, samples, latents = _joined(found)
        if together > 1:  # sample by sample again
            samples, order = samples.sort(stable=True)
            values, latents = values[order], latents[order]
        pairs = ActivePairs(samples, latents, len(x_rows), len(weight_rows))
        if values.dtype != weight.dtype:
            values = pairs.products(x_rows, weight_rows) + biases[latents]
    values = Kept.apply(x_rows, weight_rows, biases, values, pairs, activation.is_signed)
    return SparseLatents(values, pairs, (*x.shape[:-1], n_latents))


def pre_activations(
    x: Tensor, rows: Tensor, bias: Tensor, names: Tensor | None = None
) -> Iterator[Tensor]:
    """x rows^T + bias of instances side by side, some samples at a time; each overwrites the last.

    x (inst, batch, d), rows (inst, n_latents, d), of which `names` alone if they are given.
    """
    if names is not None:
        rows, bias = rows[:, names], bias[:, names]
    if torch.is_autocast_enabled(x.device.type):
        lower = torch.get_autocast_dtype(x.device.type)
        x, rows, bias = x.to(lower), rows.to(lower), bias.to(lower)
    n, batch = rows.shape[1], x.shape[1]
    n_samples = max(1, BUFFER[x.device.type] // max(1, len(rows) * n))
    buffer = x.new_empty(min(n_samples, batch), len(rows) * n)
    for start in range(0, batch, n_samples):
        block = buffer[: min(n_samples, batch - start)]
        parts = zip(block.split(n, 1), x, rows, bias, strict=True)
        for own, part, weight, offset in parts:
            some = part[start : start + n_samples]
            if own.is_cuda:
                torch.addmm(offset, some, weight.T, out=own)
            else:  # where the offset would be copied to every row before the product
                torch.mm(some, weight.T, out=own).add_(offset)
        yield block


def _choose(
    blocks: Iterator[Tensor], batch: int, activation: TopK | BatchTopK, instance: int
) -> Found:
    if isinstance(activation, TopK):
        found = [activation.largest(block) for block in blocks]
        values, latents = _joined(found)
        samples = torch.arange(batch, device=values.device)[:, None].expand_as(latents)
        return Found(values.flatten(), samples.flatten(), latents.flatten())
    if activation.training:
        return largest_positive(blocks, activation.k * batch)
    return largest_positive(blocks, None, activation.threshold.view(-1)[instance].item())


def largest_positive(
    blocks: Iterator[Float[Tensor, "some n"]], kept: int | None, least: float = 0.0
) -> Found:
    """Of all samples together the `kept` largest values, as far as they are positive.

    Those of at least `least` come into question, which rises to the smallest of the `kept`
    largest so far: of most groups, the maximum alone is looked at.
    """
    parts, n_samples = [], 0
    for block in blocks:
        n = block.shape[-1]
        grouped = block.unflatten(-1, (GROUP if n % GROUP == 0 else 1, -1))
        maxima = grouped.amax(-2)
        if kept and not parts and maxima.numel() > kept:
            least = max(least, maxima.flatten().topk(kept, sorted=False).values.min().item())
        samples, groups = ((maxima >= least) & (maxima > 0)).nonzero(as_tuple=True)
        values = grouped[samples, :, groups]  # (found, members of a group)
        latents = groups[:, None] + torch.arange(0, n, maxima.shape[-1], device=block.device)
        samples = (samples + n_samples)[:, None].expand_as(latents)
        within = (values >= least) & (values > 0)
        parts.append(Found(values[within], samples[within], latents[within]))
        n_samples += len(block)
        if kept and sum(len(part.values) for part in parts) > kept:
            together = Found(*_joined(parts))
            values, chosen = together.values.topk(kept, sorted=False)
            chosen = chosen.sort().values
            parts, least = [Found(*(part[chosen] for part in together))], values.min().item()
    return Found(*_joined(parts))


def _joined(found: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Each part of what was found, of all together; of one alone, nothing is copied."""
    return found[0] if len(found) == 1 else tuple(map(torch.cat, zip(*found, strict=True)))
