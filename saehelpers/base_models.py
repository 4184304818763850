"""The networks to be explained: autoencoders and encoders of images, a GPT-2.

In an autoencoder, an SAE sits on the encoder's output before its activation:
`encoder(images)` is psi, (n, d), and `decoder` rectifies before it decodes. The architectures
are those of Erdogan and Lucic, arXiv 2511.09432, section 5.2.
"""

import importlib
from pathlib import Path

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn

ARCHITECTURES = ("mlp", "cnn", "vit")


class Autoencoder(nn.Module):
    """recons = decoder(encoder(images)), images (n, 1, size, size)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.decoder(self.encoder(images))


def make_autoencoder(
    architecture: str, latent_dim: int = 256, hidden_dim: int = 256, size: int = 64, seed: int = 0
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
        f"unknown base model {architecture!r}; known are {', '.join(ARCHITECTURES)}, and "
        "'vit_b_16' with ImageNet weights (load_pretrained_vit)"
    )


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


def make_gpt2(
    vocab_size: int,
    context: int,
    width: int = 128,
    n_layers: int = 4,
    n_heads: int = 4,
    seed: int = 0,
    attention_only: bool = False,
) -> nn.Module:
    """A fresh GPT-2 (Hugging Face `GPT2LMHeadModel`) without dropout, embeddings untied.

    `attention_only`: no MLPs, and positions that start as sinusoids, of which an earlier
    position is a rotation: induction is learnt in minutes.

    Raises:
        ValueError: the heads do not divide the width.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    if width % n_heads:
        raise ValueError(f"{n_heads} heads do not divide the width {width}")
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=context, n_embd=width, n_layer=n_layers,
        n_head=n_heads, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    if attention_only:
        for block in model.transformer.h:
            block.mlp, block.ln_2 = _Nothing(), nn.Identity()
        model.transformer.wte.weight.data *= 5  # as large as the positions
        model.transformer.wpe.weight.data = 0.14 * _sinusoids(context, width)
    return model


class _Nothing(nn.Module):
    """What an MLP that is not there adds to the residual stream."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _sinusoids(context: int, width: int) -> Float[Tensor, "context width"]:
    half = width // 2
    angles = torch.arange(context)[:, None] / 10_000 ** (torch.arange(half) / half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def load_pretrained_language_model(source: str | Path) -> tuple[nn.Module, Tokenizer]:
    """Any causal language model and its tokeniser, from the Hugging Face hub or a local folder.

    Raises:
        FileNotFoundError: it is neither on disk nor to be reached.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(source)
        tokeniser = AutoTokenizer.from_pretrained(source).backend_tokenizer
    except OSError as error:
        raise FileNotFoundError(
            f"no language model at {str(source)!r}: neither a local folder (config.json, "
            "model.safetensors and tokenizer.json) nor to be reached on the Hugging Face hub. "
            'Pass the path of such a folder, or choose the one trained here, MODEL = "gpt2_docs".'
        ) from error
    return model.eval().requires_grad_(False), tokeniser


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _FirstToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class PretrainedViT(nn.Module):
    """A frozen vision transformer; psi is its class token after the last layer, (n, d).

    Images (n, 1 or 3, h, w) in [0, 1] are brought to the size and the channel statistics
    that it was trained with.
    """

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.encoder = _ClassToken(model.eval().requires_grad_(False), size)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.encoder(images)


class _ClassToken(nn.Module):
    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, images: Tensor) -> Tensor:
        images = nn.functional.interpolate(
            images.expand(-1, 3, -1, -1), (self.size, self.size), mode="bilinear", antialias=True
        )
        return self.model(pixel_values=2 * images - 1).last_hidden_state[:, 0]


VIT_B_16 = "google/vit-base-patch16-224"  # trained on ImageNet-21k, then on ImageNet-1k


def load_pretrained_vit(source: str | Path = VIT_B_16) -> PretrainedViT:
    """The ViT-B/16 with ImageNet weights, from the Hugging Face hub or a local folder.

    Raises:
        FileNotFoundError: it is neither on disk nor to be reached.
    """
    from transformers import ViTModel

    try:
        model = ViTModel.from_pretrained(source, add_pooling_layer=False)
    except OSError as error:
        raise FileNotFoundError(
            f"no ViT weights at {str(source)!r}: neither a local folder (config.json and "
            "model.safetensors) nor to be reached on the Hugging Face hub. Put a copy of "
            f"https://huggingface.co/{VIT_B_16} into a folder and pass its path, or choose "
            'the small transformer trained here, BASE_MODELS = ["vit"].'
        ) from error
    return PretrainedViT(model, model.config.image_size)


def make_convnext(
    widths: tuple[int, ...] = (48, 96, 192),
    depths: tuple[int, ...] = (1, 2, 1),
    patch: int = 4,
    n_classes: int = 4,
    seed: int = 0,
) -> nn.Module:
    """A fresh ConvNeXt classifier (Liu et al., arXiv 2201.03545) of images (n, 3, size, size).

    Hugging Face's `ConvNextForImageClassification`. Stage i, "convnext.encoder.stages.i", has
    `depths[i]` blocks of `widths[i]` channels, on maps of size / (patch 2^i) pixels a side:
    no kernel straddles the grid, so that a turned image has exactly turned maps of pixels.
    """
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_channels=3, patch_size=patch, num_stages=len(widths), hidden_sizes=list(widths),
        depths=list(depths), num_labels=n_classes, layer_scale_init_value=1.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _reading_images(ConvNextForImageClassification(config))


ZOOBOT = "hf_hub:mwalmsley/zoobot-encoder-convnext_nano"  # 224 pixels; "stages.2" is its middle


def load_encoder(source: str | Path) -> nn.Module:
    """A frozen vision model that reads images (n, 3, h, w), uint8 or in [0, 1].

    Images are brought to the size and the channel statistics that it was trained with, where
    it knows them.

    Args:
        source: a vision model's name on the Hugging Face hub or a folder with it; or
            "hf_hub:owner/name", one for timm, such as the encoders of Zoobot (Walmsley et al.,
            JOSS 8 (2023), 5312), trained on galaxies; or "package.module:function", which is
            called and returns the torch module.

    Raises:
        FileNotFoundError: it is neither on disk nor to be reached.
        ModuleNotFoundError: timm, or the package, is not installed.
    """
    source = str(source)
    if source.startswith("hf_hub:"):
        model = _load_timm(source)
    elif ":" in source:
        package, function = source.rsplit(":", 1)
        model = _reading_images(getattr(importlib.import_module(package), function)())
    else:
        model = _load_transformers(source)
    return model.eval().requires_grad_(False)


def _load_timm(source: str) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{source} needs timm, and timm needs a torchvision that matches the installed torch: "
            "pip install timm"
        ) from error
    try:
        model = timm.create_model(source, pretrained=True, num_classes=0)
    except OSError as error:
        raise _unreachable(source, source.removeprefix("hf_hub:")) from error
    known = timm.data.resolve_model_data_config(model)
    return _reading_images(model, known["input_size"][-1], known["mean"], known["std"])


def _load_transformers(source: str) -> nn.Module:
    from transformers import AutoImageProcessor, AutoModel

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a pooler that the checkpoint may lack
            model = AutoModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unreachable(source, source) from error
    try:
        known = AutoImageProcessor.from_pretrained(source)
    except OSError:  # a folder without a preprocessor's config
        return _reading_images(model, getattr(model.config, "image_size", None))
    size = known.size.get("height") or known.size["shortest_edge"]
    return _reading_images(model, size, known.image_mean, known.image_std)


def _unreachable(source: str, name: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"no encoder at {source!r}: neither a local folder (config.json and model.safetensors) nor "
        f"to be reached on the Hugging Face hub. Put a copy of https://huggingface.co/{name} into "
        'a folder and pass its path, or choose the encoder trained here, ENCODER = "convnext".'
    )


def _reading_images(
    model: nn.Module, size: int | None = None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
) -> nn.Module:
    """The same model, which takes images as they are stored; its modules keep their names."""

    def prepare(module: nn.Module, inputs: tuple) -> tuple:
        images, *others = inputs
        if images.dtype == torch.uint8:
            images = images.float() / 255
        if size is not None and images.shape[-2:] != (size, size):
            images = nn.functional.interpolate(
                images, (size, size), mode="bilinear", antialias=True
            )
        shift, spread = (torch.tensor(values).to(images)[:, None, None] for values in (mean, std))
        return ((images - shift) / spread, *others)

    model.register_forward_pre_hook(prepare)
    return model
