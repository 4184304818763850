"""SAEs of concatenated attention heads: one small SAE for each head, side by side."""

import copy
import dataclasses

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.saes.activations import make_activation
from saehelpers.saes.base import SAE, SAEConfig
from saehelpers.saes.instances import stack
from saehelpers.saes.matrices import align_rows
from saehelpers.saes.sparse import HeadLatents, Latents, SparseLatents, sparse_encode


class BlockDiagonalSAE(SAE):
    """An SAE whose every latent reads and writes one attention head.

        latents = activation([encoder_h(z_h) for every head h])
        recons  = [latents_h dictionary_h + decoder_bias_h for every head h]

    The activations z (batch, d) are the heads' outputs one after another, d / n_heads each
    (Kissane et al., arXiv 2406.17759). `heads` are the heads' SAEs, with an axis of heads in
    front of every parameter; what they compute is one batched product over heads, so that
    12 heads cost a twelfth of a dense SAE with as many latents. Each head has a scale of its
    own. TopK counts over all heads, or within each (`topk_per_head`).

    `dictionary` builds the dense block matrix, for analysis; training never does.
    """

    @checked
    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None):
        nn.Module.__init__(self)
        self.config = config
        over_all = "topk" in config.activation and not config.topk_per_head
        head = dataclasses.replace(
            config,
            d=config.d // config.n_heads,
            n_latents=config.n_latents // config.n_heads,
            activation="relu" if over_all else config.activation,
            dictionary="free",
            n_heads=1,
            topk_per_head=False,
        )
        self.heads = stack([SAE(head, generator) for _ in range(config.n_heads)])
        self.activation = make_activation(config) if over_all else nn.Identity()
        if over_all:
            self.heads.activation = nn.Identity()

    @checked
    def encode(self, x: Real[Tensor, "*inst batch d"]) -> Float[Tensor, "*inst batch n_latents"]:
        if x.shape[-1] != self.config.d:
            raise ValueError(f"the SAE reads activations of width {self.config.d}, got {x.shape}")
        return self.activation(_joined(self.heads.encode(self._split(x))))

    @property
    def is_sparse(self) -> bool:
        """As that of `SAE`, of heads that share TopK; others are SAEs that are asked themselves."""
        return not self.separable and super().is_sparse

    def align(self) -> None:
        if self.is_sparse or self.heads.is_sparse:
            align_rows(self.heads.encoder_weights[-1])

    def latents(self, x: Real[Tensor, "*inst batch d"]) -> Latents:
        if not self.is_sparse:
            return self.encode(x)
        heads = self.heads
        weight, bias = heads.encoder_weights[-1], heads.encoder_biases[-1]
        read = heads.last_input(self._split(x))
        found = sparse_encode(read, weight, bias, self.activation, together=self.config.n_heads)
        return HeadLatents(found.values, found.pairs, found.shape)

    @checked
    def decode(self, latents: Latents) -> Float[Tensor, "*inst batch d"]:
        if not isinstance(latents, SparseLatents):
            latents = self._split(latents)
        return _joined(self.heads.decode(latents))

    def _split(self, x: Tensor) -> Tensor:
        """(*inst, batch, heads * width) -> (*inst, heads, batch, width)"""
        return x.unflatten(-1, (self.config.n_heads, -1)).transpose(-3, -2)

    @property
    def separable(self) -> bool:
        """Whether no head's latents depend on another's."""
        return isinstance(self.activation, nn.Identity)

    def head(self, index: int) -> tuple[SAE, list[Tensor]]:
        """One head's SAE, whose parameters share memory with this one's; and these."""
        axis = self.heads.scale.ndim - 1
        parts = {id(t): t.detach().select(axis, index) for t in self.heads.buffers()}
        parts |= {
            id(p): p.detach().select(axis, index).requires_grad_() for p in self.heads.parameters()
        }
        return copy.deepcopy(self.heads, parts), [parts[id(p)] for p in self.heads.parameters()]

    @property
    def dictionary(self) -> Float[Tensor, "*inst n_latents d"]:
        rows = self.heads.dictionary  # (*inst, heads, latents of a head, d_head)
        own = torch.eye(self.config.n_heads, device=rows.device)
        blocks = torch.einsum("...hne, hg -> ...hnge", rows, own)
        return blocks.flatten(-4, -3).flatten(-2)

    @property
    def dictionary_norms(self) -> Float[Tensor, "*inst n_latents"]:
        return self.heads.dictionary.norm(dim=-1).flatten(-2)

    @property
    def canonical_bias(self) -> Float[Tensor, "*inst d"]:
        return self.heads.decoder_bias.flatten(-2)

    @property
    def mean(self) -> Float[Tensor, "*inst d"]:
        return self.heads.mean.flatten(-2)

    @property
    def scale(self) -> Float[Tensor, "*inst d"]:
        """Of every dimension, the scale of its head."""
        return self.heads.scale.repeat_interleave(self.config.d // self.config.n_heads, dim=-1)

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        blocks = self.scale.unsqueeze(-2) * self.dictionary
        return blocks[None], (self.scale * self.canonical_bias + self.mean)[None]

    @checked
    def set_standardisation(self, mean: Float[Tensor, " d"], scale: Float[Tensor, " d"]) -> None:
        """As `SAE.set_standardisation`; `scale` is that of each dimension's head."""
        self.heads.mean.copy_(mean.unflatten(-1, (self.config.n_heads, -1)))
        self.heads.scale.copy_(scale.unflatten(-1, (self.config.n_heads, -1))[..., 0])
        self.heads.standardises = True

    def project_gradient(self) -> None:
        self.heads.project_gradient()

    def normalise_dictionary(self) -> None:
        self.heads.normalise_dictionary()

    def constrain(self) -> None:
        self.heads.constrain()


def _joined(x: Float[Tensor, "*inst heads batch width"]) -> Tensor:
    """(*inst, batch, heads * width)"""
    return x.transpose(-3, -2).flatten(-2)
