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

    C: `n_archetypes` k-means centres of the standardised training activations. W: weights >= 0,
    the sum of each row 1. Lambda: rows of norm <= delta. mu: a trained scalar, 0 at first. Every
    row starts at one centre, two rows at the same only where there are more rows than centres.

    W and Lambda are parameters like others, and `constrain` projects them after every step:
    negative weights become 0, rows of W are divided by their sums, longer rows of Lambda are
    shortened. No gradient passes through the projection, so that weights of 0 can grow again. So
    does the authors' code (overcomplete 0.3.0, `RelaxedArchetypalDictionary`).
    """

    centres: Tensor

    def make_dictionary(self, generator: torch.Generator | None) -> None:
        config = self.config
        weights = torch.zeros(config.n_latents, config.n_archetypes)
        own = torch.randperm(config.n_archetypes, generator=generator)
        own = own.repeat(math.ceil(config.n_latents / config.n_archetypes))[: config.n_latents]
        weights[torch.arange(config.n_latents), own] = 1.0
        self.convex_weights = nn.Parameter(weights)
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

    @torch.no_grad()
    def constrain(self) -> None:
        self.convex_weights.copy_(_row_stochastic(self.convex_weights))
        self.relaxation.copy_(_bounded(self.relaxation, self.config.delta))

    @property
    def dictionary(self) -> Float[Tensor, "*inst n_latents d"]:
        rows = self.convex_weights @ self.centres + self.relaxation
        return rows * self.log_scale.exp()[..., None, None]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others) -> None:
        """Earlier releases saved W and Lambda as they were before the projection."""
        before, relaxation = state_dict.pop(f"{prefix}mixing", None), f"{prefix}relaxation"
        if before is not None:
            state_dict[f"{prefix}convex_weights"] = _row_stochastic(before)
            state_dict[relaxation] = _bounded(state_dict[relaxation], self.config.delta)
        super()._load_from_state_dict(state_dict, prefix, *others)


def _row_stochastic(weights: Tensor) -> Tensor:
    """A row of which nothing is above 0 becomes 0, until a step brings something back."""
    weights = weights.clamp(min=0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)


def _bounded(rows: Tensor, norm: float) -> Tensor:
    return rows * (norm / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
