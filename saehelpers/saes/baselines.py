"""SAEs of which a part is not learnt, and PCA: what a trained dictionary has to be better than.

Korznikov et al., arXiv 2602.14111, have the three that are frozen.
"""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn.functional import normalize

from saehelpers.runs.checking import checked
from saehelpers.saes.base import SAE, SAEConfig

LEAST_COSINE = 0.8  # of a soft-frozen dictionary row with its start, as in the paper


class FrozenDecoderSAE(SAE):
    """The dictionary stays as it starts, random rows of norm 1; encoder and biases learn."""

    decoder_weight: Tensor

    def make_dictionary(self, generator: torch.Generator | None) -> None:
        super().make_dictionary(generator)
        rows = self.decoder_weight.detach()
        del self.decoder_weight
        self.register_buffer("decoder_weight", rows)


class SoftFrozenDecoderSAE(SAE):
    """Dictionary rows stay near their random start: cos(D_i, start_i) >= 0.8, and norm 1.

    A row that has left is turned back after the step, in the plane of row and start, to the
    nearest one that is allowed.
    """

    start: Tensor

    def make_dictionary(self, generator: torch.Generator | None) -> None:
        super().make_dictionary(generator)
        self.register_buffer("start", self.decoder_weight.detach().clone())

    @torch.no_grad()
    def constrain(self) -> None:
        rows = normalize(self.decoder_weight, dim=-1)
        cosines = (rows * self.start).sum(-1, keepdim=True)
        aside = normalize(rows - cosines * self.start, dim=-1)
        nearest = LEAST_COSINE * self.start + math.sqrt(1 - LEAST_COSINE**2) * aside
        allowed = torch.where(cosines < LEAST_COSINE, normalize(nearest, dim=-1), rows)
        self.decoder_weight.copy_(allowed)


class FrozenEncoderSAE(SAE):
    """The encoder stays as it starts, its biases too; the decoder and its bias learn."""

    @checked
    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None):
        super().__init__(config, generator)
        self.encoder_weights = _Fixed(self.encoder_weights)
        self.encoder_biases = _Fixed(self.encoder_biases)


class _Fixed(nn.Module):
    """A list of tensors that are not trained, named as those of an `nn.ParameterList`."""

    def __init__(self, tensors: nn.ParameterList):
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(str(i), tensor.detach())

    def __len__(self) -> int:
        return len(self._buffers)

    def __getitem__(self, index: int) -> Tensor:
        return list(self._buffers.values())[index]


class PrincipalComponents(SAE):
    """PCA in an SAE's place: a latent is a coordinate along a principal component.

        latents = dictionary (x - mean) / scale
        recons  = scale latents dictionary + mean

    Rows of the dictionary are orthonormal and stand in order of falling variance; the largest
    entry of each is positive. Latents have signs, and all are active, whatever the config's
    activation. Where there are more latents than d, rows and latents from the d-th on are 0.
    Nothing is trained: see `set_components`.
    """

    decoder_weight: Tensor
    decoder_bias: Tensor

    @checked
    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None):
        nn.Module.__init__(self)
        self.config, self.activation = config, nn.Identity()
        self.register_buffer("decoder_weight", torch.zeros(config.n_latents, config.d))
        self.register_buffer("decoder_bias", torch.zeros(config.d))
        self.encoder_weights, self.encoder_biases = nn.ParameterList(), nn.ParameterList()
        self.register_buffer("mean", torch.zeros(config.d))
        self.register_buffer("scale", torch.ones(()))

    @checked
    @torch.no_grad()
    def set_components(self, covariance: Float[Tensor, "d d"]) -> None:
        """Take the components from the covariance of the (standardised) training activations."""
        if len(covariance) != self.config.d:
            raise ValueError(
                f"covariance must be of activations of width {self.config.d}, got "
                f"{tuple(covariance.shape)}"
            )
        vectors = torch.linalg.eigh(covariance.double().cpu()).eigenvectors
        rows = vectors.mT.flip(0)[: self.config.n_latents]
        signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
        self.decoder_weight[: len(rows)] = (signs * rows).to(self.decoder_weight)

    def pre_activations(self, x: Real[Tensor, "*inst batch d"]) -> Tensor:
        return self.last_input(x) @ self.dictionary.mT
