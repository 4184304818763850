"""Dead latents, and the loss that revives them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Count, Positive, Weight
from saehelpers.saes import SAE
from saehelpers.saes.sparse import Latents, firing_counts
from saehelpers.training.objectives import squared_error


class Revival(nn.Module):
    """AuxK: dead latents learn to reconstruct what the others leave over.

        || e - scale z dictionary ||^2,    e = target - D(E(x))

    z: of x, the `auxk` largest pre-activations of dead latents, rectified. e and what the last
    layer of the encoder reads are taken as given: the gradient reaches dead latents alone. A
    latent is dead when it was active for none of the last `dead_after` samples (Gao et al.,
    arXiv 2406.04093, appendix A.2).

    weight: of this term in the loss. `idle`: for how many samples each latent of `sae` has not
    been active, a buffer, so that a checkpoint has it.
    """

    idle: Int[Tensor, "*inst n_latents"]

    @checked
    def __init__(self, sae: SAE, auxk: Count, dead_after: Positive, weight: Weight):
        super().__init__()
        self.auxk, self.dead_after, self.weight = auxk, dead_after, weight
        biases = sae.encoder_biases[-1].detach()
        self.register_buffer("idle", torch.zeros_like(biases, dtype=torch.long))

    @property
    def dead(self) -> Bool[Tensor, "*inst n_latents"]:
        return self.idle >= self.dead_after

    def forward(
        self,
        sae: SAE,
        x: Float[Tensor, "*inst batch d"],
        target: Float[Tensor, "*inst batch d"],
        latents: Latents,
    ) -> Float[Tensor, "*inst"]:
        """The term, 0 for an instance without dead latents; then takes note of who is active.

        Args:
            target: what the recons of x are for.
            latents: those that the objective found for x.
        """
        dead = self.dead
        self.idle.add_(x.shape[-2]).masked_fill_(firing_counts(latents) > 0, 0)
        if not dead.any():
            return target.new_zeros(dead.shape[:-1])
        with torch.no_grad():
            error = target - sae.decode(latents)
        recons = sae.contribution(sae.top_latents(x, self.auxk, dead))
        return squared_error(error, recons) * dead.any(-1)
