"""SAEs whose dictionary stays close to the data."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Seed
from saehelpers.saes.base import SAE


class ArchetypalSAE(SAE):
    """Dictionary rows near convex combinations of data (Fel et al., arXiv 2502.12892).

        dictionary = (W C + Lambda) exp(mu)

    C: `n_archetypes` k-means centres of the standardised training activations. W: weights,
    rectified, each row divided by its sum. Lambda: rows clipped to norm <= delta. mu: a
    trained scalar, 0 at first. Every row starts close to one centre of its own.
    """

    centres: Tensor

    def make_dictionary(self, generator: torch.Generator | None) -> None:
        config = self.config
        mixing = torch.full((config.n_latents, config.n_archetypes), 0.1 / config.n_archetypes)
        own = torch.randperm(config.n_archetypes, generator=generator)
        own = own.repeat(math.ceil(config.n_latents / config.n_archetypes))[: config.n_latents]
        mixing[torch.arange(config.n_latents), own] = 1.0
        self.mixing = nn.Parameter(mixing)
        self.relaxation = nn.Parameter(torch.zeros(config.n_latents, config.d))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.decoder_bias = nn.Parameter(torch.zeros(config.d))
        self.register_buffer("centres", torch.zeros(config.n_archetypes, config.d))

    @checked
    def set_centres(self, activations: Float[Tensor, "n d"], seed: Seed) -> None:
        """Put k-means centres of the (standardised) training activations into C."""
        with extra("probes"):
            from sklearn.cluster import KMeans
            from threadpoolctl import threadpool_limits

        n_clusters = self.config.n_archetypes
        if len(activations) < n_clusters:
            raise ValueError(f"n_archetypes = {n_clusters} is more than {len(activations)} samples")
        kmeans = KMeans(n_clusters, init="random", n_init=1, max_iter=10, random_state=seed)
        with threadpool_limits(1):  # sums over several threads differ in their last digits
            kmeans.fit(activations.cpu().numpy())
        self.centres.copy_(torch.from_numpy(kmeans.cluster_centers_))
        if self.config.encoder == "linear":
            self.encoder_weights[0].data.copy_(self.dictionary.detach().T)

    @property
    def convex_weights(self) -> Float[Tensor, "*inst n_latents n_archetypes"]:
        weights = self.mixing.relu()
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)

    @property
    def bounded_relaxation(self) -> Float[Tensor, "*inst n_latents d"]:
        norm = self.relaxation.norm(dim=-1, keepdim=True)
        return self.relaxation * (self.config.delta / norm.clamp(min=1e-12)).clamp(max=1)

    @property
    def dictionary(self) -> Float[Tensor, "*inst n_latents d"]:
        rows = self.convex_weights @ self.centres + self.bounded_relaxation
        return rows * self.log_scale.exp()[..., None, None]
