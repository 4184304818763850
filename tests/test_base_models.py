"""The base models: shapes, seeds, and the pretrained transformer's class token."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTConfig, ViTModel

from saehelpers.base_models import load_pretrained_vit, make_autoencoder
from saehelpers.experiments import BaseModelRun, load_or_train_base_model

SIZES = {"mlp": 16, "cnn": 16, "vit": 32}


def make(architecture: str, seed: int = 0):
    return make_autoencoder(architecture, 6, 16, SIZES[architecture], seed)


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A transformer of 8 dimensions, as transformers itself writes it."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", SIZES)
def test_shapes_of_activations_and_recons(architecture):
    size = SIZES[architecture]
    model, images = make(architecture), torch.rand(3, 1, size, size)
    activations = model.encoder(images)
    assert activations.shape == (3, 6)
    assert model(images).shape == (3, 1, size, size)
    assert torch.equal(model(images), model.decoder(activations))


@pytest.mark.parametrize("architecture", SIZES)
def test_activations_come_before_the_nonlinearity(architecture):
    """The decoder rectifies: negative activations are as good as zeros to it."""
    model = make(architecture)
    activations = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.decoder(activations), model.decoder(activations.relu()))


@pytest.mark.parametrize("architecture", SIZES)
def test_the_seed_decides_the_weights(architecture):
    first, second, other = make(architecture), make(architecture), make(architecture, seed=1)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(left, right) for left, right in pairs)


def test_making_a_model_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    make("mlp")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("architecture", SIZES)
def test_every_parameter_matters(architecture):
    size = SIZES[architecture]
    model, generator = make(architecture), torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, size, size, generator=generator)
    (model(images) - images).pow(2).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert sum(p.grad.abs().sum() > 0 for p in model.parameters()) >= 8


def test_unknown_architecture():
    with pytest.raises(ValueError, match=r"unknown base model 'resnet'; known are mlp, cnn, vit"):
        make_autoencoder("resnet")


# --- the pretrained transformer ---


def test_pretrained_vit_gives_the_class_token(vit_folder):
    model = load_pretrained_vit(vit_folder)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    tokens = theirs(pixel_values=(images - 0.5) / 0.5).last_hidden_state
    assert tokens.shape == (3, 1 + 4, 8)
    assert_close(model(images), tokens[:, 0].detach())
    assert torch.equal(model.encoder(images), model(images))


def test_pretrained_vit_takes_grey_images_of_any_size(vit_folder):
    model = load_pretrained_vit(str(vit_folder))
    grey = torch.full((2, 1, 24, 24), 0.25)
    assert_close(model(grey), model(torch.full((2, 3, 16, 16), 0.25)))


def test_pretrained_vit_is_frozen(vit_folder):
    model = load_pretrained_vit(vit_folder)
    assert not model.encoder.model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_folder_as_architecture_of_a_base_model_run(vit_folder, tmp_path):
    images = torch.rand(2, 1, 20, 20)
    config = BaseModelRun("vit", "shapes", str(vit_folder))
    model, history = load_or_train_base_model(config, images, tmp_path)
    assert torch.equal(model(images), load_pretrained_vit(vit_folder)(images))
    assert history.empty
    assert list(tmp_path.iterdir()) == []


def test_missing_vit_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no ViT weights at '.*none'"):
        load_pretrained_vit(str(tmp_path / "none"))


def test_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json and model\.safetensors"):
        load_pretrained_vit(tmp_path)
