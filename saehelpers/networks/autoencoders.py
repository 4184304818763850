"""Image autoencoders, those of Erdogan and Lucic, arXiv 2511.09432, section 5.2.

An SAE sits on the encoder's output before its activation: `encoder(images)` is psi, (n, d),
and `decoder` rectifies before it decodes.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Name, Positive, Seed

ARCHITECTURES = ("mlp", "cnn", "vit")
UNTRAINED = ("mlp_untrained", "cnn_untrained", "vit_untrained")  # the same with random weights


class Autoencoder(nn.Module):
    """recons = decoder(encoder(images)), images (n, 1, size, size)."""

    @checked
    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.decoder(self.encoder(images))


@checked
def make_autoencoder(
    architecture: Name,
    latent_dim: Positive = 256,
    hidden_dim: Positive = 256,
    size: Positive = 64,
    seed: Seed = 0,
) -> Autoencoder:
    """A fresh autoencoder for images (1, size, size).

    Args:
        architecture: "mlp": size^2 - hidden_dim - latent_dim | latent_dim - hidden_dim -
            size^2. "cnn": two strided convolutions (16 and 32 channels) and one over all
            that is left, mirrored; it has no `hidden_dim`. "vit": a small vision transformer
            on 16x16 patches of width hidden_dim / 2, read at a class token, with a
            transformer decoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "mlp":
            return _mlp(latent_dim, hidden_dim, size)
        if architecture == "cnn":
            return _cnn(latent_dim, size)
        if architecture == "vit":
            return _vit(latent_dim, hidden_dim // 2, size)
    raise ValueError(
        f"unknown architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}, and "
        "'vit_b_16' with ImageNet weights (load_pretrained_vit)"
    )


def image_size(architecture: str, tensors: Mapping[str, Tensor]) -> int:
    """The side, in pixels, of the images that an autoencoder's weights are made for."""
    match architecture:
        case "mlp":
            return math.isqrt(tensors["encoder.1.weight"].shape[1])
        case "cnn":
            return 4 * math.isqrt(tensors["encoder.5.weight"].shape[1] // 32)
        case _:
            return 16 * math.isqrt(tensors["encoder.3.positions"].shape[0])


def _mlp(latent_dim: int, hidden_dim: int, size: int) -> Autoencoder:
    encoder = nn.Sequential(
        nn.Flatten(),
        nn.Linear(size**2, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, latent_dim),
    )
    decoder = nn.Sequential(
        nn.ReLU(),
        nn.Linear(latent_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, size**2),
        nn.Unflatten(1, (1, size, size)),
    )
    return Autoencoder(encoder, decoder)


def _cnn(latent_dim: int, size: int) -> Autoencoder:
    # the paper's convolution with a kernel over all that is left is this linear layer
    strided = {"kernel_size": 3, "stride": 2, "padding": 1}
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, **strided),
        nn.ReLU(),
        nn.Conv2d(16, 32, **strided),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (size // 4) ** 2, latent_dim),
    )
    decoder = nn.Sequential(
        nn.ReLU(),
        nn.Linear(latent_dim, 32 * (size // 4) ** 2),
        nn.Unflatten(1, (32, size // 4, size // 4)),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, **strided, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, **strided, output_padding=1),
    )
    return Autoencoder(encoder, decoder)


def _vit(latent_dim: int, width: int, size: int, patch: int = 16) -> Autoencoder:
    n_tokens = (size // patch) ** 2
    encoder = nn.Sequential(
        nn.Conv2d(1, width, patch, stride=patch),  # (n, width, rows, columns)
        nn.Flatten(2),
        _Transpose(),  # (n, tokens, width)
        _Tokens(n_tokens, width, class_token=True),
        _transformer(width, depth=3),
        _FirstToken(),
        nn.Linear(width, latent_dim),
    )
    decoder = nn.Sequential(
        nn.ReLU(),
        nn.Linear(latent_dim, n_tokens * width),
        nn.Unflatten(1, (n_tokens, width)),
        _Tokens(n_tokens, width, class_token=False),
        _transformer(width, depth=2),
        nn.Linear(width, patch**2),  # (n, tokens, pixels of a patch)
        _Transpose(),
        nn.Fold(size, patch, stride=patch),  # (n, 1, size, size)
    )
    return Autoencoder(encoder, decoder)


def _transformer(width: int, depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, nhead=4, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)


class _Tokens(nn.Module):
    """Add positions to tokens (n, tokens, width), and a class token in front if asked."""

    def __init__(self, n_tokens: int, width: int, class_token: bool):
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, width)) if class_token else None

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.positions
        if self.class_token is None:
            return tokens
        return torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _FirstToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]
