"""What all sparse autoencoders (SAEs) share, and the one with a free dictionary.

    latents = activation(encoder((x - mean) / scale))
    recons  = scale (latents dictionary + decoder_bias) + mean

Every SAE can carry a leading axis of instances: `stack` makes one SAE out of several, whose
parameters are (inst, ...) and which maps activations (inst, batch, d) instance by instance.
Small SAEs are nearly all overhead, so that training several side by side is several times
faster than one after another.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.wanted import EMPTY, Positive, Rate, Weight, one_of
from saehelpers.saes.activations import ACTIVATIONS, make_activation
from saehelpers.saes.matrices import affine, align_rows
from saehelpers.saes.sparse import (
    BatchTopK,
    Latents,
    SparseLatents,
    TopK,
    is_faster,
    sparse_encode,
)

ENCODERS = ("linear", "two_layer")
ENCODER_ACTIVATIONS = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
# dictionaries with a norm of their own
BOUND = ("archetypal", "frozen", "soft_frozen", "pca", "matching_pursuit")
# dictionaries that know of no group
WITHOUT_GROUP = ("free", *BOUND, "frozen_encoder", "block_diagonal")
LARGE = 2**17  # entries of the dictionary from which products take most of the time
PROJECTED = 1024  # rows at a time, which stay in the cache


@checked_config
@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is made of.

    Args:
        d: width of the activations.
        n_latents: number of latents, the rows of the dictionary.
        activation: "topk", "batch_topk", "abs_topk" (latents have signs), "relu", "jumprelu",
            "gated"; "block_topk" (blocks of `group_order` latents are chosen together, by their
            norms); or one that was added (`activation`).
        topk: active latents per sample, for the two TopK activations; active blocks of the third.
        encoder: "linear", or "two_layer" with `encoder_hidden` units between.
        encoder_activation: between the layers: "relu", "gelu" or "silu".
        pre_encoder_bias: subtract the decoder bias before encoding.
        unit_decoder: keep dictionary rows at unit norm.
        dictionary: "free"; "archetypal" (convex combinations of `n_archetypes` k-means
            centres, relaxed by `delta`); "blocks" (a group crosscoder: one decoder for
            each of the `group_order` elements); or "block_diagonal" (one block for each of
            `n_heads` attention heads, which share d and n_latents in equal parts); "frozen",
            "soft_frozen", "frozen_encoder" or "pca" (see `saehelpers.saes.baselines`);
            "matching_pursuit", which has no encoder; or one that was added
            (`saehelpers.saes.dictionary`).
        prefixes: the sizes of the nested dictionaries of a Matryoshka SAE, rising, the last of
            them n_latents; none for any other SAE.
        delta: largest norm of an archetypal row's relaxation, in units of the activations'
            standard deviation.
        topk_per_head: `topk` counts the active latents of each head, not of all together.
        initial_norm: of the rows of a free dictionary, and of a linear encoder's columns,
            which are the same at first.
        initial_threshold: of "jumprelu", whose kernel is twice as wide (see
            `saehelpers.saes.sparse.JumpReLU`). The pre-activations of a linear encoder have at
            first a standard deviation of about `initial_norm`.
    """

    d: Positive
    n_latents: Positive
    activation: str = "topk"
    topk: Positive = 8
    encoder: Annotated[str, one_of(ENCODERS)] = "two_layer"
    encoder_hidden: Positive = 128
    encoder_activation: Annotated[str, one_of(ENCODER_ACTIVATIONS)] = "relu"
    pre_encoder_bias: bool = False
    unit_decoder: bool = False
    dictionary: str = "free"
    n_archetypes: Positive = 2048
    delta: Weight = 1.0
    group_order: Positive = 1
    prefixes: tuple[Positive, ...] = runs.added_later(())
    n_heads: Positive = runs.added_later(1)
    topk_per_head: bool = runs.added_later(False)
    initial_norm: Rate = runs.added_later(1.0)
    initial_threshold: Rate = runs.added_later(0.05)

    def __post_init__(self):
        from saehelpers.saes.making import DICTIONARIES  # which needs this module

        ACTIVATIONS.check(self.activation)
        DICTIONARIES.check(self.dictionary)
        if self.d % self.n_heads or self.n_latents % self.n_heads:
            raise ValueError(
                f"n_heads = {self.n_heads} must divide the width d = {self.d} and n_latents = "
                f"{self.n_latents}"
            )
        if self.n_heads > 1 and self.dictionary in {*WITHOUT_GROUP, "blocks"} - {"block_diagonal"}:
            raise ValueError(f"a dictionary of kind {self.dictionary!r} has no n_heads")
        largest = self.n_latents // (self.n_heads if self.topk_per_head else 1)
        in_blocks = self.activation == "block_topk"
        if in_blocks and self.n_latents % self.group_order:
            raise ValueError(
                f"group_order = {self.group_order}, the size of a block, must divide n_latents = "
                f"{self.n_latents}"
            )
        largest //= self.group_order if in_blocks else 1
        if "topk" in self.activation and self.topk > largest:
            what = "the number of blocks" if in_blocks else "n_latents"
            raise ValueError(f"topk must be between 1 and {what} = {largest}, got {self.topk}")
        if self.dictionary in BOUND and self.unit_decoder:
            raise ValueError(
                f"unit_decoder has no effect on a {self.dictionary!r} dictionary: leave it off"
            )
        if self.dictionary == "matching_pursuit" and (self.activation, self.encoder) != (
            "topk", "linear",
        ):  # fmt: skip
            raise ValueError(
                "a dictionary of kind 'matching_pursuit' goes with the activation 'topk', which "
                f"counts its steps, and with the encoder 'linear', got {self.activation!r} and "
                f"{self.encoder!r}"
            )
        if self.initial_norm != 1 and (self.unit_decoder or self.dictionary in BOUND):
            raise ValueError("initial_norm is of rows that are free to have another norm than 1")
        has_none = self.activation in ACTIVATIONS.built_in and self.activation != "jumprelu"
        if has_none and self.initial_threshold != 0.05:
            raise ValueError(
                f"initial_threshold is of the activation 'jumprelu', got {self.activation!r}"
            )
        if self.prefixes and self.dictionary == "block_diagonal":
            raise ValueError("a block-diagonal dictionary has no prefixes")
        rising = [0, *self.prefixes]
        if self.prefixes and not (
            all(a < b for a, b in itertools.pairwise(rising)) and rising[-1] == self.n_latents
        ):
            raise ValueError(
                f"prefixes must rise to n_latents = {self.n_latents}, got {self.prefixes}"
            )

    def __str__(self) -> str:
        """The settings that have an effect."""
        unused = {
            "topk": "topk" not in self.activation,
            "encoder_hidden": self.encoder == "linear",
            "encoder_activation": self.encoder == "linear",
            "n_archetypes": self.dictionary != "archetypal",
            "delta": self.dictionary != "archetypal",
            "group_order": self.dictionary in WITHOUT_GROUP and self.activation != "block_topk",
        }
        values = {k: v for k, v in runs.settings(self).items() if not unused.get(k)}
        return f"SAEConfig({runs.listed(values)})"

    @property
    def dictionary_entries(self) -> int:
        """Those of all heads that may be other than 0."""
        return self.d // self.n_heads * self.n_latents

    @property
    def is_large(self) -> bool:
        """Whether products take most of the time of a training step on a CPU."""
        return self.dictionary_entries >= LARGE


class SAE(nn.Module):
    """An SAE with a free dictionary; see the module's equations.

    `mean` (d) and `scale` () standardise what goes in and undo it for what comes out. They
    are 0 and 1 until `set_standardisation` is called, which training does at its end; while it
    lasts `standardises` is off, which saves a pass over what goes in and one over what comes out.

    Args:
        config: the architecture.
        generator: source of the initial weights.
    """

    mean: Tensor
    scale: Tensor
    standardises = True

    @checked
    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        widths = [config.d, config.n_latents]
        if config.encoder == "two_layer":
            widths.insert(1, config.encoder_hidden)
        self.make_dictionary(generator)
        layers = list(itertools.pairwise(widths))
        self.encoder_weights, self.encoder_biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in layers:
            bound = 1 / math.sqrt(n_in)
            weight = torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator)
            self.encoder_weights.append(nn.Parameter(weight))
            self.encoder_biases.append(nn.Parameter(torch.zeros(n_out)))
        if config.encoder == "linear":
            self.encoder_weights[0].data.copy_(self.dictionary.detach().T)
        self.activation = make_activation(config)
        self.register_buffer("mean", torch.zeros(config.d))
        self.register_buffer("scale", torch.ones(()))

    def __repr__(self) -> str:
        return str(self.config).replace("SAEConfig", type(self).__name__, 1)

    def make_dictionary(self, generator: torch.Generator | None) -> None:
        """The parameters that the dictionary is made of, and the decoder's bias."""
        rows = torch.randn(self.config.n_latents, self.config.d, generator=generator)
        rows = rows / rows.norm(dim=-1, keepdim=True) * self.config.initial_norm
        self.decoder_weight = nn.Parameter(rows)
        self.decoder_bias = nn.Parameter(torch.zeros(self.config.d))

    @property
    def dictionary(self) -> Float[Tensor, "*inst n_latents d"]:
        """The decoder's rows, in standardised units."""
        return self.decoder_weight

    @property
    def dictionary_norms(self) -> Float[Tensor, "*inst n_latents"]:
        return self.dictionary.norm(dim=-1)

    @property
    def canonical_bias(self) -> Float[Tensor, "*inst d"]:
        """The decoder's bias in the canonical frame, in standardised units."""
        return self.decoder_bias

    @checked
    def encode(
        self, x: Annotated[Real[Tensor, "*inst batch d"], EMPTY]
    ) -> Float[Tensor, "*inst batch n_latents"]:
        """Latents of activations (batch, d), which are in their original units.

        Whatever type they come in, the SAE computes in its own, that of its parameters.
        """
        return self.activation(self.pre_activations(x))

    def pre_activations(self, x: Real[Tensor, "*inst batch d"]) -> Tensor:
        """What the activation function makes latents of."""
        return affine(self.last_input(x), self.encoder_weights[-1], self.encoder_biases[-1])

    def latents(self, x: Real[Tensor, "*inst batch d"]) -> Latents:
        """`encode(x)`, as SparseLatents where these are faster to work with."""
        if not self.is_sparse:
            return self.encode(x)
        weight, bias = self.encoder_weights[-1], self.encoder_biases[-1]
        return sparse_encode(self.last_input(x), weight, bias, self.activation)

    @property
    def is_sparse(self) -> bool:
        """Whether training goes by SparseLatents, as it does where that is faster."""
        config = self.config
        possible = isinstance(self.activation, TopK | BatchTopK)
        possible &= config.dictionary in ("free", "block_diagonal")
        if not possible:
            return False
        of_batches = isinstance(self.activation, BatchTopK)
        device, entries = self.mean.device.type, config.dictionary_entries
        return is_faster(device, entries, config.n_latents, config.topk, of_batches)

    @torch.no_grad()
    def align(self) -> None:
        """Before sparse training, lay each latent's encoder weights side by side in memory.

        That is how their gradient comes; the optimiser wants both alike.
        """
        if self.is_sparse:
            align_rows(self.encoder_weights[-1])

    def last_input(self, x: Tensor) -> Tensor:
        """What the last layer of the encoder reads."""
        if x.shape[-1] != self.config.d:
            raise ValueError(
                f"the SAE reads activations of width {self.config.d}, got x of {x.shape}"
            )
        x = x.to(self.mean.dtype)
        if self.standardises:
            inverse = 1 / self.scale[..., None, None]
            x = torch.addcmul(-self.mean.unsqueeze(-2) * inverse, x, inverse)
        if self.config.pre_encoder_bias:
            x = x - self.canonical_bias.unsqueeze(-2)
        between = ENCODER_ACTIVATIONS[self.config.encoder_activation]
        if len(self.encoder_weights) > 1:
            x = between(affine(x, self.encoder_weights[0], self.encoder_biases[0]))
        return x

    @checked
    def top_latents(
        self, x: Real[Tensor, "*inst batch d"], k: int, among: Bool[Tensor, "*inst n_latents"]
    ) -> Latents:
        """The k largest pre-activations among some latents, rectified; gradients reach only these.

        Fewer where there are not as many.
        """
        weight, bias = self.encoder_weights[-1], self.encoder_biases[-1]
        top = TopK(min(k, self.config.n_latents))
        x = self.last_input(x).detach()
        if self.is_sparse:
            return sparse_encode(x, weight, bias, top, among)
        return top(affine(x, weight, bias).masked_fill(~among.unsqueeze(-2), -torch.inf))

    @checked
    def decode(self, latents: Latents) -> Float[Tensor, "*inst batch d"]:
        """Reconstructions (recons), in the activations' original units."""
        if isinstance(latents, Tensor) and latents.shape[-1] != self.config.n_latents:
            raise ValueError(
                f"latents must be the {self.config.n_latents} of the SAE, got shape "
                f"{tuple(latents.shape)}"
            )
        return self._restored(self._sum_of_rows(latents, self.canonical_bias), 1)

    def offset(self) -> Float[Tensor, "*inst 1 d"]:
        """Recons where no latent is active."""
        return self._restored(self.canonical_bias.unsqueeze(-2), 1)

    def contribution(self, latents: Latents) -> Float[Tensor, "*inst batch d"]:
        """What latents add to the recons: scale latents dictionary."""
        recons = self._sum_of_rows(latents, torch.zeros_like(self.canonical_bias))
        return self.scale[..., None, None] * recons

    def _restored(self, recons: Tensor, n_axes: int) -> Tensor:
        """In original units; the axes between those of the instances and d are so many."""
        if not self.standardises:
            return recons
        ones = (1,) * n_axes
        mean = self.mean.unflatten(-1, (*ones, -1))
        return torch.addcmul(mean, self.scale.view(*self.scale.shape, *ones, 1), recons)

    def _sum_of_rows(self, latents: Latents, bias: Tensor) -> Tensor:
        if isinstance(latents, SparseLatents):
            return latents.decode(self.dictionary) + bias.unsqueeze(-2)
        return affine(latents, self.dictionary, bias)

    def forward(self, x: Real[Tensor, "*inst batch d"]) -> Tensor:
        return self.decode(self.encode(x))

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """The decoder in original units: blocks (1, n_latents, d), biases (1, d)."""
        blocks = self.scale[..., None, None] * self.dictionary
        return blocks[None], (self.scale * self.canonical_bias + self.mean)[None]

    @checked
    def set_standardisation(self, mean: Float[Tensor, " d"], scale: Float[Tensor, ""]) -> None:
        """Let an SAE that was trained on (x - mean) / scale read and return x."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.standardises = True

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove from the dictionary's gradient what would only change its rows' norms."""
        weights, gradients = self.decoder_weight, self.decoder_weight.grad
        parts = weights.split(PROJECTED, -2), gradients.split(PROJECTED, -2)
        for weight, gradient in zip(*parts, strict=True):
            unit = weight / weight.norm(dim=-1, keepdim=True)
            gradient.sub_((gradient * unit).sum(-1, keepdim=True) * unit)

    @torch.no_grad()
    def normalise_dictionary(self) -> None:
        self.decoder_weight.div_(self.decoder_weight.norm(dim=-1, keepdim=True))

    def constrain(self) -> None:
        """After every step of training: bring back what has left the bounds that it has."""
        if self.config.unit_decoder:
            self.normalise_dictionary()
