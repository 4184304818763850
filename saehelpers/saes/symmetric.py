"""SAEs of activations that a group acts on."""

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.saes.base import SAE
from saehelpers.symmetry import LinearAction, infer_element


class GroupCrosscoder(SAE):
    """One latent vector from the canonical input, one decoder block per group element.

        psi(g x) ~ W_g E(psi(x)) + b_g          (Gorton, arXiv 2410.24184)

    `dictionary` and `decode` are those of the canonical frame, block 0.
    """

    def make_dictionary(self, generator: torch.Generator | None) -> None:
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

    @checked
    def decode_orbit(self, latents: Float[Tensor, "*inst batch n_latents"]) -> Tensor:
        """Recons of the whole orbit, (batch, |G|, d)."""
        recons = torch.einsum("...bn, ...gnd -> ...bgd", latents, self.decoder_weight)
        return self._restored(recons + self.decoder_bias.unsqueeze(-3), 2)

    @checked
    @torch.no_grad()
    def encode_inferred(
        self, x: Real[Tensor, "batch d"], action: LinearAction
    ) -> tuple[Float[Tensor, "batch n_latents"], Int[Tensor, " batch"]]:
        """Latents and elements of activations psi(gx) of which neither x nor g is known.

        For every element g, rho(g)^-1 takes the activation back to where its canonical form
        would be and the SAE reads that; the g whose block reconstructs best is chosen.
        """
        return _encode_by_search(self, x, action, *self.decoder_blocks())

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """The decoder in original units: blocks (|G|, n_latents, d), biases (|G|, d)."""
        return self.scale * self.decoder_weight, self.scale * self.decoder_bias + self.mean


class EquivariantSAE(nn.Module):
    """An SAE with invariant latents, and the action that turns its dictionary.

        psi(g x) ~ rho(g) D(E(psi(g x)))                (Erdogan and Lucic, arXiv 2511.09432)
        psi(g x) ~ rho(g) D(E(rho(g)^-1 psi(g x)))      with `search`

    The SAE reconstructs in the canonical frame; the action takes that to the frame of an
    element, given or inferred. With `search` the SAE was trained to read canonical activations
    alone (by the objectives "oriented" and "self_oriented"): every element is tried, and the
    one under which the activation is reconstructed best is the inferred one. That costs |G|
    encodings.
    """

    @checked
    def __init__(self, sae: SAE, action: LinearAction, search: bool = False):
        super().__init__()
        if action.origin.shape[-1] != sae.config.d:
            raise ValueError(
                f"action must be of the width {sae.config.d} that the SAE reads, got "
                f"{action.origin.shape[-1]}"
            )
        self.sae, self.action, self.search = sae, action, search

    def extra_repr(self) -> str:
        return f"search={self.search}"

    @property
    def dictionary(self) -> Float[Tensor, "n_latents d"]:
        return self.sae.dictionary

    @checked
    def encode(self, x: Real[Tensor, "batch d"]) -> Float[Tensor, "batch n_latents"]:
        return self.encode_inferred(x)[0] if self.search else self.sae.encode(x)

    @checked
    def encode_given(self, x: Real[Tensor, "batch d"], element) -> Float[Tensor, "batch n_latents"]:
        """Latents of activations whose element, or tensor of elements (batch), is known."""
        if self.search:
            x = self.action.act(x, self.action.group.inverse(element))
        return self.sae.encode(x)

    @checked
    @torch.no_grad()
    def encode_inferred(
        self, x: Real[Tensor, "batch d"]
    ) -> tuple[Float[Tensor, "batch n_latents"], Int[Tensor, " batch"]]:
        """Latents, and the element under which each activation is reconstructed best."""
        if self.search:
            return _encode_by_search(self.sae, x, self.action, *self.decoder_blocks())
        latents = self.sae.encode(x)
        return latents, infer_element(self.action, x, self.sae.decode(latents))

    @checked
    def decode(self, latents: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d"]:
        """Recons in the canonical frame."""
        return self.sae.decode(latents)

    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """The decoder in every element's frame: blocks (|G|, n_latents, d), biases (|G|, d)."""
        blocks, biases = self.sae.decoder_blocks()
        return self.action.decoder_blocks(blocks[0], biases[0])

    @checked
    def mapped(self, x: Real[Tensor, "batch d"], element) -> Float[Tensor, "batch d"]:
        """Recons in the frame of the given element, or elements (batch): rho(g) D(E(x))."""
        return self.action.act(self.decode(self.encode_given(x, element)), element)

    @checked
    def infer_element(self, x: Real[Tensor, "batch d"]) -> Int[Tensor, " batch"]:
        """The element under which each activation is reconstructed best."""
        return self.encode_inferred(x)[1]

    def forward(self, x: Real[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Recons of x in its own frame, with the inferred element."""
        return self.mapped(x, self.infer_element(x))


def _encode_by_search(
    sae: SAE, x: Tensor, action: LinearAction, blocks: Tensor, biases: Tensor
) -> tuple[Tensor, Tensor]:
    """Latents of rho(g)^-1 x, and g, for the g whose decoder block reconstructs x best."""
    candidates = [sae.encode(action.act(x, action.group.inverse(g))) for g in range(len(blocks))]
    errors = [
        (x - z @ block - bias).pow(2).sum(-1)
        for z, block, bias in zip(candidates, blocks, biases, strict=True)
    ]
    elements = torch.stack(errors, dim=-1).argmin(dim=-1)
    return torch.stack(candidates)[elements, torch.arange(len(x))], elements
