"""The family of sparse autoencoders (SAEs).

    latents = activation(encoder((x - mean) / scale))
    recons  = scale (latents dictionary + decoder_bias) + mean

Every SAE can carry a leading axis of instances: `stack` makes one SAE out of several, whose
parameters are (inst, ...) and which maps activations (inst, batch, d) instance by instance.
Small SAEs are nearly all overhead, so that training several side by side is several times
faster than one after another.
"""

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.sparse import BatchTopK, JumpReLU, TopK
from saehelpers.symmetry import LinearAction, infer_element

ENCODERS = ("linear", "two_layer")
ENCODER_ACTIVATIONS = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
SAE_ACTIVATIONS = ("topk", "batch_topk", "relu", "jumprelu")
DICTIONARIES = ("free", "archetypal", "blocks")


@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is made of.

    Args:
        d: width of the activations.
        n_latents: number of latents, the rows of the dictionary.
        activation: "topk", "batch_topk", "relu" or "jumprelu".
        topk: active latents per sample, for the two TopK activations.
        encoder: "linear", or "two_layer" with `encoder_hidden` units between.
        encoder_activation: between the layers: "relu", "gelu" or "silu".
        pre_encoder_bias: subtract the decoder bias before encoding.
        unit_decoder: keep dictionary rows at unit norm.
        dictionary: "free"; "archetypal" (convex combinations of `n_archetypes` k-means
            centres, relaxed by `delta`); or "blocks" (a group crosscoder: one decoder for
            each of the `group_order` elements).
        prefixes: the sizes of the nested dictionaries of a Matryoshka SAE, rising, the last of
            them n_latents; none for any other SAE.
        delta: largest norm of an archetypal row's relaxation, in units of the activations'
            standard deviation.
    """

    d: int
    n_latents: int
    activation: str = "topk"
    topk: int = 8
    encoder: str = "two_layer"
    encoder_hidden: int = 128
    encoder_activation: str = "relu"
    pre_encoder_bias: bool = False
    unit_decoder: bool = False
    dictionary: str = "free"
    n_archetypes: int = 2048
    delta: float = 1.0
    group_order: int = 1
    prefixes: tuple[int, ...] = runs.later(())

    def __post_init__(self):
        for name, value, known in (
            ("activation", self.activation, SAE_ACTIVATIONS),
            ("encoder", self.encoder, ENCODERS),
            ("encoder_activation", self.encoder_activation, tuple(ENCODER_ACTIVATIONS)),
            ("dictionary", self.dictionary, DICTIONARIES),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known are {', '.join(known)}")
        if "topk" in self.activation and not 1 <= self.topk <= self.n_latents:
            raise ValueError(
                f"topk must be between 1 and n_latents = {self.n_latents}, got {self.topk}"
            )
        if self.dictionary == "archetypal" and self.unit_decoder:
            raise ValueError("unit_decoder has no effect on an archetypal dictionary: leave it off")
        rising = [0, *self.prefixes]
        if self.prefixes and not (
            all(a < b for a, b in itertools.pairwise(rising)) and rising[-1] == self.n_latents
        ):
            raise ValueError(
                f"prefixes must rise to n_latents = {self.n_latents}, got {self.prefixes}"
            )


class SAE(nn.Module):
    """An SAE with a free dictionary; see the module's equations.

    `mean` (d) and `scale` () standardise what goes in and undo it for what comes out. They
    are 0 and 1 until `set_standardisation` is called, which training does at its end.

    Args:
        config: the architecture.
        generator: source of the initial weights.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        widths = [config.d, config.n_latents]
        if config.encoder == "two_layer":
            widths.insert(1, config.encoder_hidden)
        self._make_dictionary(generator)
        layers = list(itertools.pairwise(widths))
        self.encoder_weights, self.encoder_biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in layers:
            bound = 1 / math.sqrt(n_in)
            weight = torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator)
            self.encoder_weights.append(nn.Parameter(weight))
            self.encoder_biases.append(nn.Parameter(torch.zeros(n_out)))
        if config.encoder == "linear":
            self.encoder_weights[0].data.copy_(self.dictionary.detach().T)
        self.activation = _make_activation(config)
        self.register_buffer("mean", torch.zeros(config.d))
        self.register_buffer("scale", torch.ones(()))

    def _make_dictionary(self, generator: torch.Generator | None) -> None:
        rows = torch.randn(self.config.n_latents, self.config.d, generator=generator)
        self.decoder_weight = nn.Parameter(rows / rows.norm(dim=-1, keepdim=True))
        self.decoder_bias = nn.Parameter(torch.zeros(self.config.d))

    @property
    def dictionary(self) -> Float[Tensor, "*inst n_latents d"]:
        """The decoder's rows, in standardised units."""
        return self.decoder_weight

    @property
    def canonical_bias(self) -> Float[Tensor, "*inst d"]:
        """The decoder's bias in the canonical frame, in standardised units."""
        return self.decoder_bias

    def encode(self, x: Float[Tensor, "*inst batch d"]) -> Float[Tensor, "*inst batch n_latents"]:
        """Latents of activations (batch, d), which are in their original units."""
        if x.shape[-1] != self.config.d:
            raise ValueError(f"the SAE reads activations of width {self.config.d}, got {x.shape}")
        inverse = 1 / self.scale[..., None, None]
        x = torch.addcmul(-self.mean.unsqueeze(-2) * inverse, x, inverse)
        if self.config.pre_encoder_bias:
            x = x - self.canonical_bias.unsqueeze(-2)
        between = ENCODER_ACTIVATIONS[self.config.encoder_activation]
        for depth, (weight, bias) in enumerate(
            zip(self.encoder_weights, self.encoder_biases, strict=True)
        ):
            x = _affine(between(x) if depth else x, weight, bias)
        return self.activation(x)

    def decode(self, latents: Float[Tensor, "*inst batch n_latents"]) -> Tensor:
        """Reconstructions (recons), in the activations' original units."""
        recons = _affine(latents, self.dictionary, self.canonical_bias)
        return torch.addcmul(self.mean.unsqueeze(-2), self.scale[..., None, None], recons)

    def forward(self, x: Float[Tensor, "*inst batch d"]) -> Tensor:
        return self.decode(self.encode(x))

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """The decoder in original units: blocks (1, n_latents, d), biases (1, d)."""
        blocks = self.scale[..., None, None] * self.dictionary
        return blocks[None], (self.scale * self.canonical_bias + self.mean)[None]

    def set_standardisation(self, mean: Float[Tensor, " d"], scale: Float[Tensor, ""]) -> None:
        """Let an SAE that was trained on (x - mean) / scale read and return x."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove from the dictionary's gradient what would only change its rows' norms."""
        weight, gradient = self.decoder_weight, self.decoder_weight.grad
        unit = weight / weight.norm(dim=-1, keepdim=True)
        gradient.sub_((gradient * unit).sum(-1, keepdim=True) * unit)

    @torch.no_grad()
    def normalise_dictionary(self) -> None:
        self.decoder_weight.div_(self.decoder_weight.norm(dim=-1, keepdim=True))


class ArchetypalSAE(SAE):
    """Dictionary rows near convex combinations of data (Fel et al., arXiv 2502.12892).

        dictionary = (W C + Lambda) exp(mu)

    C: `n_archetypes` k-means centres of the standardised training activations. W: weights,
    rectified, each row divided by its sum. Lambda: rows clipped to norm <= delta. mu: a
    trained scalar, 0 at first. Every row starts close to one centre of its own.
    """

    centres: Tensor

    def _make_dictionary(self, generator: torch.Generator | None) -> None:
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

    def set_centres(self, activations: Float[Tensor, "n d"], seed: int) -> None:
        """Put k-means centres of the (standardised) training activations into C."""
        n_clusters = self.config.n_archetypes
        if len(activations) < n_clusters:
            raise ValueError(f"n_archetypes = {n_clusters} is more than {len(activations)} samples")
        kmeans = KMeans(n_clusters, init="random", n_init=1, max_iter=10, random_state=seed)
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


class GroupCrosscoder(SAE):
    """One latent vector from the canonical input, one decoder block per group element.

        psi(g x) ~ W_g E(psi(x)) + b_g          (Gorton, arXiv 2410.24184)

    `dictionary` and `decode` are those of the canonical frame, block 0.
    """

    def _make_dictionary(self, generator: torch.Generator | None) -> None:
        order, n_latents, d = self.config.group_order, self.config.n_latents, self.config.d
        rows = torch.randn(order, n_latents, d, generator=generator)
        self.decoder_weight = nn.Parameter(rows / rows.norm(dim=-1, keepdim=True))
        self.decoder_bias = nn.Parameter(torch.zeros(order, d))

    @property
    def dictionary(self) -> Float[Tensor, "*inst n_latents d"]:
        return self.decoder_weight[..., 0, :, :]

    @property
    def canonical_bias(self) -> Float[Tensor, "*inst d"]:
        return self.decoder_bias[..., 0, :]

    def decode_orbit(self, latents: Float[Tensor, "*inst batch n_latents"]) -> Tensor:
        """Recons of the whole orbit, (batch, |G|, d)."""
        recons = torch.einsum("...bn, ...gnd -> ...bgd", latents, self.decoder_weight)
        recons = recons + self.decoder_bias.unsqueeze(-3)
        return self.scale[..., None, None, None] * recons + self.mean[..., None, None, :]

    @torch.no_grad()
    def encode_inferred(
        self, x: Float[Tensor, "batch d"], action: LinearAction
    ) -> tuple[Float[Tensor, "batch n_latents"], Int[Tensor, " batch"]]:
        """Latents and elements of activations psi(gx) of which neither x nor g is known.

        For every element g, rho(g)^-1 takes the activation back to where its canonical form
        would be and the SAE reads that; the g whose block reconstructs best is chosen.
        """
        blocks, biases = self.decoder_blocks()
        candidates = [
            self.encode(action.act(x, action.group.inverse(g))) for g in range(len(blocks))
        ]
        errors = [
            (x - z @ block - bias).pow(2).sum(-1)
            for z, block, bias in zip(candidates, blocks, biases, strict=True)
        ]
        elements = torch.stack(errors, dim=-1).argmin(dim=-1)
        return torch.stack(candidates)[elements, torch.arange(len(x))], elements

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """The decoder in original units: blocks (|G|, n_latents, d), biases (|G|, d)."""
        return self.scale * self.decoder_weight, self.scale * self.decoder_bias + self.mean


class EquivariantSAE(nn.Module):
    """An SAE with invariant latents, and the action that turns its dictionary.

        psi(g x) ~ rho(g) D(E(psi(g x)))        (Erdogan and Lucic, arXiv 2511.09432)

    The SAE reconstructs in the canonical frame; the action takes that to the frame of an
    element, given or inferred.
    """

    def __init__(self, sae: SAE, action: LinearAction):
        super().__init__()
        self.sae, self.action = sae, action

    @property
    def dictionary(self) -> Float[Tensor, "n_latents d"]:
        return self.sae.dictionary

    def encode(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch n_latents"]:
        return self.sae.encode(x)

    def decode(self, latents: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d"]:
        """Recons in the canonical frame."""
        return self.sae.decode(latents)

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """The decoder in every element's frame: blocks (|G|, n_latents, d), biases (|G|, d)."""
        blocks, biases = self.sae.decoder_blocks()
        return self.action.decoder_blocks(blocks[0], biases[0])

    def mapped(self, x: Float[Tensor, "batch d"], element: int | Int[Tensor, " batch"]) -> Tensor:
        """Recons in the frame of the given elements: rho(g) D(E(x))."""
        return self.action.act(self.sae(x), element)

    def infer_element(self, x: Float[Tensor, "batch d"]) -> Int[Tensor, " batch"]:
        """The element under which each activation is reconstructed best."""
        return infer_element(self.action, x, self.sae(x))

    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Recons of x in its own frame, with the inferred element."""
        return self.mapped(x, self.infer_element(x))


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight + bias, instance by instance where the weight has an axis of instances."""
    if weight.ndim == 2:
        return nn.functional.linear(x, weight.mT, bias)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight)


def make_sae(config: SAEConfig, seed: int = 0) -> SAE:
    """A fresh SAE of the class that `config.dictionary` asks for."""
    kinds = {"free": SAE, "archetypal": ArchetypalSAE, "blocks": GroupCrosscoder}
    # not the stream of a data set of the same seed: a toy dictionary must not be its own start
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 0x5AE) % 2**32)
    return kinds[config.dictionary](config, generator)


def stack(saes: list[SAE]) -> SAE:
    """One SAE with a leading axis of instances, out of several of the same config."""
    stacked = copy.deepcopy(saes[0])
    states = [sae.state_dict() for sae in saes]
    _replace(stacked, {name: torch.stack([s[name] for s in states]) for name in states[0]})
    return stacked


def unstack(stacked: SAE) -> list[SAE]:
    """The instances of a stacked SAE, one SAE each."""
    state = stacked.state_dict()
    saes = [copy.deepcopy(stacked) for _ in range(len(stacked.scale))]
    for instance, sae in enumerate(saes):
        _replace(sae, {name: tensor[instance].clone() for name, tensor in state.items()})
    return saes


def _replace(sae: SAE, state: dict[str, Tensor]) -> None:
    for name, tensor in [*sae.named_parameters(), *sae.named_buffers()]:
        tensor.data = state[name]


def _make_activation(config: SAEConfig) -> nn.Module:
    if config.activation == "topk":
        return TopK(config.topk)
    if config.activation == "batch_topk":
        return BatchTopK(config.topk)
    return nn.ReLU() if config.activation == "relu" else JumpReLU(config.n_latents)
