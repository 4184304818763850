"""The networks to be explained."""

from saehelpers.base_models.autoencoders import ARCHITECTURES, Autoencoder, make_autoencoder
from saehelpers.base_models.encoders import (
    VIT_B_16,
    PretrainedViT,
    load_encoder,
    load_pretrained_vit,
    make_convnext,
)
from saehelpers.base_models.language import load_pretrained_language_model, make_gpt2

__all__ = [
    "ARCHITECTURES",
    "VIT_B_16",
    "Autoencoder",
    "PretrainedViT",
    "load_encoder",
    "load_pretrained_language_model",
    "load_pretrained_vit",
    "make_autoencoder",
    "make_convnext",
    "make_gpt2",
]
