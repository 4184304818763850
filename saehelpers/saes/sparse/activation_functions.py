"""Activation functions that leave few latents active.

All work along the last axis, latents; whatever axes come before it are left alone, but for
BatchTopK, whose batch is the one before the last.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.saes.sparse.largest import top_k


class TopK(nn.Module):
    """Keep the k largest pre-activations of each sample, rectified; zero the rest."""

    is_signed = False  # whether values below 0 are kept

    def __init__(self, k: int):
        super().__init__()
        self.k = k

    def largest(self, x: Float[Tensor, "*batch n_latents"]) -> tuple[Tensor, Tensor]:
        """What comes into question: values and places, (*batch, k)."""
        return top_k(x, min(self.k, x.shape[-1]))

    def forward(self, x: Float[Tensor, "*batch n_latents"]) -> Tensor:
        values, indices = self.largest(x)
        kept = values if self.is_signed else values.relu()
        return torch.zeros_like(x).scatter_(-1, indices, kept)


class AbsTopK(TopK):
    """Keep the k pre-activations with the largest absolute values, with their signs.

    A latent stands for a direction and its opposite (arXiv 2510.00404).
    """

    is_signed = True

    def largest(self, x: Float[Tensor, "*batch n_latents"]) -> tuple[Tensor, Tensor]:
        indices = top_k(x.detach().abs(), min(self.k, x.shape[-1]))[1]
        return x.gather(-1, indices), indices


class BatchTopK(nn.Module):
    """Keep the k * batch largest pre-activations of a batch, rectified (arXiv 2412.06410).

    Outside training, a latent is kept where it exceeds `threshold`, a running mean of the
    smallest value that was kept in training, so that a sample's latents do not depend on
    its neighbours.
    """

    threshold: Tensor
    is_signed = False

    def __init__(self, k: int, momentum: float = 0.01):
        super().__init__()
        self.k, self.momentum = k, momentum
        self.register_buffer("threshold", torch.tensor(-1.0))  # negative: not learnt yet

    def forward(self, x: Float[Tensor, "*inst batch n_latents"]) -> Tensor:
        x = x.relu()
        if self.training:
            kept = self.k * x.shape[-2]
            smallest = x.flatten(-2).topk(kept, dim=-1).values[..., -1]  # (inst)
            self.update(smallest.detach())
            cut = smallest
        else:
            cut = self.threshold
        return x * (x >= cut.clamp(min=0)[..., None, None])

    def update(self, smallest: Float[Tensor, "*inst"]) -> None:
        """Move the threshold towards the smallest value that was kept of a batch."""
        moved = self.threshold + self.momentum * (smallest - self.threshold)
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, moved))


class BlockTopK(nn.Module):
    """Keep the k blocks of `size` pre-activations with the largest norms; zero the rest.

    Those of a block are coordinates in the space that its dictionary rows span, and keep their
    signs (Dalili and Mahdavi, arXiv 2606.06333; without their nuclear norm of a block's map).
    """

    def __init__(self, k: int, size: int):
        super().__init__()
        self.k, self.size = k, size

    def forward(self, x: Float[Tensor, "*batch n_latents"]) -> Tensor:
        blocks = x.unflatten(-1, (-1, self.size))  # (*batch, n_blocks, size)
        norms = blocks.detach().norm(dim=-1)
        chosen = torch.zeros_like(norms).scatter_(-1, top_k(norms, self.k)[1], 1.0)
        return (blocks * chosen.unsqueeze(-1)).flatten(-2)


class Gated(nn.Module):
    """exp(r) x + offset where x exceeds 0, rectified, else 0 (arXiv 2404.16014, eq. 6 and 7).

    x is what the gate reads, its bias included; r and offset, one of each for a latent, turn it
    into the magnitude: in the paper's terms, b_mag = offset + exp(r) b_gate. The gate has no
    gradient by itself; see the objective "gated".
    """

    def __init__(self, n_latents: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(n_latents))
        self.offset = nn.Parameter(torch.zeros(n_latents))

    def forward(self, x: Float[Tensor, "*batch n_latents"]) -> Tensor:
        magnitude = x * self.log_scale.exp().unsqueeze(-2) + self.offset.unsqueeze(-2)
        return magnitude.relu() * (x > 0)


class JumpReLU(nn.Module):
    """x where x exceeds a learnt threshold theta per latent, else 0 (arXiv 2407.14435).

    The threshold is exp(log_threshold); its gradient is the paper's straight-through
    estimate with a rectangular kernel of width `bandwidth`.

    Both are in units of the pre-activations of standardised activations, of mean squared norm d.
    The paper has 0.001 for either, where the mean squared norm is 1: here 0.001 sqrt(d), which is
    0.016 for d = 256. Ours are wider, 0.05 and 0.1, for training that is as much shorter.

    threshold: of every latent, at first.
    """

    def __init__(self, n_latents: int, threshold: float = 0.05, bandwidth: float = 0.1):
        super().__init__()
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.full((n_latents,), math.log(threshold)))

    def forward(self, x: Float[Tensor, "*batch n_latents"]) -> Tensor:
        threshold = self.log_threshold.exp().unsqueeze(-2)
        kept = x * (x > threshold)
        # a term of value 0, whose derivative by theta is -theta / bandwidth near the threshold
        slope = -(threshold / self.bandwidth).detach() * self._near(x, threshold)
        return kept + slope * (threshold - threshold.detach())

    def active(self, x: Float[Tensor, "*batch n_latents"]) -> Tensor:
        """1 where x exceeds its threshold, else 0 (eq. 12).

        The derivative by theta is -1 / bandwidth near the threshold, that by x is 0.
        """
        threshold = self.log_threshold.exp().unsqueeze(-2)
        slope = -self._near(x, threshold) / self.bandwidth
        return (x > threshold).to(x) + slope * (threshold - threshold.detach())

    def _near(self, x: Tensor, threshold: Tensor) -> Tensor:
        return ((x - threshold).abs() < self.bandwidth / 2).to(x)
