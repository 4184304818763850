"""An SAE without an encoder: latents are found one after another in what is left to explain."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import EMPTY
from saehelpers.saes.base import SAE, SAEConfig

FITS = 2**18  # of samples with latents, that are worked on at a time: they stay in a CPU's cache


class MatchingPursuitSAE(SAE):
    """Latents by matching pursuit, `topk` steps of it (Costa et al., arXiv 2506.03093).

        r = x - decoder_bias
        topk times:  i = argmax_i <D_i, r>,  v = max(0, <D_i, r>),  latents_i += v,  r -= v D_i

    A sample is done when a latent was chosen again. Rows of the dictionary have norm 1, and
    `constrain` brings them back to it. Which latents are chosen has no gradient, their values have
    one; under autocast they are chosen by products in bfloat16, and valued in float32.
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
        x = self.last_input(x)
        if not self.config.pre_encoder_bias:
            x = x - self.canonical_bias.unsqueeze(-2)
        chosen, is_open = self._pursue(x)
        with torch.autocast(x.device.type, enabled=False):
            rows = _picked(self.dictionary, chosen)  # (*inst, batch, topk, d)
            fits, between = (rows @ x.unsqueeze(-1)).squeeze(-1), rows @ rows.mT
            values = fits[..., :0]
            for step in range(self.config.topk):
                explained = (values * between[..., step, :step]).sum(-1)
                value = (fits[..., step] - explained).relu() * is_open[..., step]
                values = torch.cat([values, value.unsqueeze(-1)], dim=-1)
        latents = x.new_zeros(*x.shape[:-1], self.config.n_latents)
        return latents.scatter_add(-1, chosen, values)

    @torch.no_grad()
    def _pursue(self, x: Tensor) -> tuple[Int[Tensor, "..."], Bool[Tensor, "..."]]:
        """Which latent each step chooses, and whether the sample was not done by then.

        Both are (*inst, batch, topk).
        """
        rows = self.dictionary
        between, fits = ((y @ rows.mT).to(x.dtype) for y in (rows, x))
        chosen = torch.zeros(*x.shape[:-1], self.config.topk, dtype=torch.long, device=x.device)
        is_open = torch.ones_like(chosen, dtype=torch.bool)
        n_samples = max(1, FITS // rows[..., 0].numel()) if x.device.type == "cpu" else x.shape[-2]
        parts = (tensor.split(n_samples, dim=-2) for tensor in (fits, chosen, is_open))
        for left, own, still in zip(*parts, strict=True):
            for step in range(self.config.topk):
                value, best = left.max(-1, keepdim=True)
                again = (own[..., :step] == best).any(-1, keepdim=True) & (value > 0)
                still[..., step + 1 :] &= ~again
                own[..., step : step + 1] = best
                left.addcmul_(value.relu(), _picked(between, best.squeeze(-1)), value=-1)
        return chosen, is_open

    @torch.no_grad()
    def constrain(self) -> None:
        self.decoder_weight.copy_(normalize(self.decoder_weight, dim=-1))


def _picked(rows: Tensor, index: Tensor) -> Float[Tensor, "..."]:
    """rows[index], instance by instance."""
    n = rows.shape[-2]
    first = torch.arange(0, rows[..., 0].numel(), n, device=rows.device).view(rows.shape[:-2])
    index = index + first.reshape(first.shape + (1,) * (index.ndim - first.ndim))
    return embedding(index, rows.flatten(0, -2))
