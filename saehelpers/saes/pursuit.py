"""An SAE without an encoder: latents are found one after another in what is left to explain."""

from typing import Annotated

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn.functional import normalize

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import EMPTY
from saehelpers.saes.base import SAE, SAEConfig


class MatchingPursuitSAE(SAE):
    """Latents by matching pursuit, `topk` steps of it (Costa et al., arXiv 2506.03093).

        r = x - decoder_bias
        topk times:  i = argmax_i <D_i, r>,  v = max(0, <D_i, r>),  latents_i += v,  r -= v D_i

    A sample is done when a latent was chosen again. Rows of the dictionary have norm 1, and
    `constrain` brings them back to it. Which latents are chosen has no gradient; their values and
    what is left have one.
    """

    @checked
    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None):
        super().__init__(config, generator)
        self.encoder_weights, self.encoder_biases = nn.ParameterList(), nn.ParameterList()

    @checked
    def encode(
        self, x: Annotated[Real[Tensor, "*inst batch d"], EMPTY]
    ) -> Float[Tensor, "*inst batch n_latents"]:
        """Latents of activations (batch, d), which are in their original units."""
        rows, rest = self.dictionary, self.last_input(x)
        if not self.config.pre_encoder_bias:
            rest = rest - self.canonical_bias.unsqueeze(-2)
        latents = rest.new_zeros(*rest.shape[:-1], self.config.n_latents)
        with torch.no_grad():
            between = rows @ rows.mT  # by which what is left is brought up to date
            fits = rest @ rows.mT
        done = torch.zeros_like(rest[..., :1], dtype=torch.bool)
        for _ in range(self.config.topk):
            best = fits.argmax(-1, keepdim=True)
            chosen = rows.take_along_dim(best, -2)  # (*inst, batch, d)
            value = (rest * chosen).sum(-1, keepdim=True).relu().masked_fill(done, 0.0)
            done = done | (latents.gather(-1, best) != 0)
            latents = latents.scatter_add(-1, best, value)
            rest = rest - value * chosen
            with torch.no_grad():
                fits.addcmul_(value, between.take_along_dim(best, -2), value=-1)
        return latents

    @torch.no_grad()
    def constrain(self) -> None:
        self.decoder_weight.copy_(normalize(self.decoder_weight, dim=-1))
