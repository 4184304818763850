"""What makes latents sparse, beside TopK: terms of the loss.

Each takes the latents, the SAE, the p of "lp", and what the SAE has read, which "l0" and "gate_l1"
need alone.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Rate
from saehelpers.saes import SAE
from saehelpers.saes.sparse import Latents, firing_counts

Dense = Float[Tensor, "*inst batch n_latents"]


@checked
def l1(latents: Dense, sae: SAE, p: Rate, x: Tensor | None = None) -> Tensor:
    """||z||_1, averaged over the batch; latents are never negative."""
    return latents.sum(-1).mean(-1)


@checked
def lp(latents: Dense, sae: SAE, p: Rate, x: Tensor | None = None) -> Tensor:
    """sum_i |z_i|^p, averaged over the batch."""
    # the gradient of |z|^p is infinite at 0 for p < 1; inactive latents must get none
    active = latents != 0
    powers = torch.where(active, latents, 1.0).abs().pow(p) * active
    return powers.sum(-1).mean(-1)


@checked
def decoder_l1(latents: Dense, sae: SAE, p: Rate, x: Tensor | None = None) -> Tensor:
    """sum_i |z_i| ||D_i||, averaged over the batch."""
    return (latents.abs() * sae.dictionary_norms.unsqueeze(-2)).sum(-1).mean(-1)


@checked
def l0(latents: Dense, sae: SAE, p: Rate, x: Float[Tensor, "*inst batch d"]) -> Tensor:
    """sum_i H(pi_i - theta_i): active latents of JumpReLU, averaged over the batch.

    pi: the pre-activations of x; theta: the thresholds, which alone get a gradient, the
    straight-through estimate of `JumpReLU.active` (Rajamanoharan et al., arXiv 2407.14435, eq. 9
    and 12). Its kernel is as wide as that of the activation function, 0.1 by default.
    """
    with torch.no_grad():
        before = sae.pre_activations(x)
    return sae.activation.active(before).sum(-1).mean(-1)


@checked
def gate_l1(latents: Dense, sae: SAE, p: Rate, x: Float[Tensor, "*inst batch d"]) -> Tensor:
    """sum_i max(0, pi_i), averaged over the batch: pi, what the gates of a gated SAE read of x.

    Rajamanoharan et al., arXiv 2404.16014, eq. 8.
    """
    return sae.pre_activations(x).relu().sum(-1).mean(-1)


SPARSITY_TERMS: Mapping[str, Callable] = {
    "l1": l1, "lp": lp, "decoder_l1": decoder_l1, "l0": l0, "gate_l1": gate_l1,
}  # fmt: skip


class SparsityController(nn.Module):
    """Moves the weight of a sparsity term until `target_l0` latents are active.

        weight = lambda_sparsity exp(s + 0.5 r),    s <- s + 0.003 r,    r = log(L0 / target_l0)

    L0: active latents per sample of the batch; r is kept within -1 .. 1. The integral part s finds
    the weight, the proportional part 0.5 r keeps it from swinging. It needs a thousand steps or
    two.

    integral: s of each instance, a buffer, so that a checkpoint has it.
    """

    PROPORTIONAL, INTEGRAL = 0.5, 0.003

    integral: Float[Tensor, "*inst"]

    @checked
    def __init__(self, sae: SAE, target_l0: Rate):
        super().__init__()
        self.target_l0 = target_l0
        self.register_buffer("integral", torch.zeros_like(sae.scale))

    @torch.no_grad()
    def forward(self, latents: Latents) -> Float[Tensor, "*inst"]:
        """The factor of lambda_sparsity for these latents; then takes note of how many there are.

        Without any latent left, r is -1.
        """
        active = firing_counts(latents).sum(-1) / latents.shape[-2]
        excess = (active / self.target_l0).log().clamp(-1, 1)
        factor = (self.integral + self.PROPORTIONAL * excess).exp()
        self.integral.add_(self.INTEGRAL * excess)
        return factor
