"""The base models: shapes, seeds, and the pretrained transformer's class token."""

import copy
import json
import sys
import types

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from saehelpers.experiments import BaseModelRun, load_or_train_base_model
from saehelpers.networks import (
    load_encoder,
    load_pretrained_vit,
    make_autoencoder,
    make_convnext,
)
from saehelpers.networks.activations import read_activations
from saehelpers.networks.feature_maps import orbit_pixels
from saehelpers.symmetry import Group, LinearAction, report_action

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
    with pytest.raises(ValueError, match=r"unknown architecture 'resnet'; known are mlp, cnn, vit"):
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


def test_pretrained_vit_knows_the_statistics_of_its_preprocessor(vit_folder, tmp_path):
    theirs = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path)
    write_processor(tmp_path, "ViTImageProcessor", size=16)
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    expected = theirs(pixel_values=(images / 255 - 0.2) / 0.5).last_hidden_state[:, 0].detach()
    assert_close(load_pretrained_vit(tmp_path)(images), expected)
    assert_close(load_pretrained_vit(tmp_path)(images / 255), expected)


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


# --- encoders of images ---


def convnext(seed: int = 0) -> nn.Module:
    return make_convnext((4, 8), (1, 2), patch=2, n_classes=3, seed=seed)


@pytest.fixture
def bytes_images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_convnext_reads_bytes_and_floats_alike(bytes_images):
    logits = convnext()(bytes_images).logits
    assert logits.shape == (3, 3)
    assert torch.equal(convnext()(bytes_images / 255).logits, logits)
    assert not torch.equal(convnext()(bytes_images.float()).logits, logits)


def test_stages_of_a_convnext_are_maps(bytes_images):
    turned = torch.rot90(bytes_images, 1, (-2, -1))
    for stage, shape in ((0, (3, 4, 8, 8)), (1, (3, 8, 4, 4))):
        maps = read_activations(convnext(), turned, f"convnext.encoder.stages.{stage}")
        assert maps.shape == shape


def test_the_seed_decides_a_convnext(bytes_images):
    first, same, other = (convnext(seed)(bytes_images).logits for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("processor", [None, {"height": 16, "width": 16}, {"shortest_edge": 16}])
def test_encoder_of_transformers(vit_folder, tmp_path, processor, bytes_images):
    """Images are brought to the size, and to the statistics where they are known."""
    ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).save_pretrained(tmp_path)
    mean, std = 0.0, 1.0
    if processor is not None:
        mean, std = 0.2, 0.5
        known = {"image_processor_type": "ViTImageProcessor", "size": processor}
        known |= {"image_mean": [mean] * 3, "image_std": [std] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(known))
    model, theirs = load_encoder(tmp_path), ViTModel.from_pretrained(tmp_path).eval()
    expected = theirs(pixel_values=(bytes_images / 255 - mean) / std).last_hidden_state.detach()
    assert_close(model(bytes_images).last_hidden_state, expected)
    small, large = (bytes_images[..., :1, :1].expand(-1, -1, side, side) for side in (16, 24))
    assert_close(model(large).last_hidden_state, model(small).last_hidden_state)
    assert read_activations(model, bytes_images, "layers.0").shape == (3, 5, 8)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def write_processor(folder, kind, **settings) -> None:
    known = {"image_processor_type": kind, "image_mean": [0.2] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(known | settings))


DINO_SIZE = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}


@pytest.mark.parametrize(
    "settings, side",
    [
        (DINO_SIZE | {"do_center_crop": True}, 224),  # as DINOv2's own preprocessor
        (DINO_SIZE | {"do_center_crop": False}, 252),  # 18 patches of 14
        ({"size": {"height": 100, "width": 100}, "do_center_crop": False}, 98),
    ],
)
def test_maps_of_an_encoder_turn_with_images(settings, side, tmp_path):
    """A DINOv2 that sees patch means alone: M = I leaves nothing unexplained."""
    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=518,
        patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Dinov2Model(config)
    weight = model.embeddings.patch_embeddings.projection.weight
    weight.data = weight.data.mean((2, 3), keepdim=True).expand_as(weight).clone()
    model.save_pretrained(tmp_path)
    write_processor(tmp_path, "BitImageProcessor", **settings)
    encoder, group = load_encoder(tmp_path), Group.named("D4")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = orbit_pixels(
        encoder, images, group, "embeddings.patch_embeddings", tmp_path / "pixels.npy"
    )
    assert len(found) == 2 * (side // 14) ** 2
    assert_close(found, found[:, :1].expand_as(found), atol=1e-5, rtol=0)
    r2 = report_action(LinearAction.identity(group, 8), found).set_index(["metric", "element"])
    assert r2.value["r2", "all"] > 1 - 1e-8


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("CLIPImageProcessor", {"size": 20, "crop_size": 16, "do_center_crop": True}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 16}, "crop_pct": 0.875}),
        ("SamImageProcessor", {"size": {"longest_edge": 16}}),
        ("DINOv3ViTImageProcessorFast", {"size": {"height": 16, "width": 16}}),  # of torchvision
        ("ViTFeatureExtractor", {"size": 16}),  # as it was called once
    ],
)
def test_sizes_as_preprocessors_write_them(kind, settings, vit_folder, tmp_path, bytes_images):
    theirs = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path)
    write_processor(tmp_path, kind, **settings)
    expected = theirs(pixel_values=(bytes_images / 255 - 0.2) / 0.5).last_hidden_state.detach()
    model = load_encoder(tmp_path)
    assert_close(model(bytes_images).last_hidden_state, expected)
    assert_close(model(pixel_values=bytes_images / 255).last_hidden_state, expected)
    large = bytes_images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert model(large).last_hidden_state.shape == expected.shape


@pytest.mark.parametrize(
    "settings, error",
    [
        ({"size": {"max_pixels": 10}}, r"does not say what size images have: \{.*max_pixels"),
        ({"size": 16, "image_mean": None}, r"does not say image_mean and image_std"),
    ],
)
def test_a_preprocessor_that_does_not_say_what_it_does(settings, error, vit_folder, tmp_path):
    ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).save_pretrained(tmp_path)
    write_processor(tmp_path, "DINOv3ViTImageProcessorFast", **settings)
    with pytest.raises(ValueError, match=error):
        load_encoder(tmp_path)


def test_an_encoder_that_neither_resizes_nor_normalises(vit_folder, tmp_path, bytes_images):
    ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).save_pretrained(tmp_path)
    write_processor(
        tmp_path, "ViTImageProcessor", size={"height": 8, "width": 8}, do_resize=False,
        do_normalize=False,
    )  # fmt: skip
    model, theirs = load_encoder(tmp_path), ViTModel.from_pretrained(tmp_path).eval()
    expected = theirs(pixel_values=bytes_images / 255).last_hidden_state.detach()
    assert_close(model(bytes_images).last_hidden_state, expected)


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_weights_are_in_full_precision_unless_asked_for(kept, vit_folder, tmp_path, bytes_images):
    """Published checkpoints are in half precision, in which transformers loads them."""
    theirs = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_encoder(tmp_path, dtype=kept)
    assert {weight.dtype for weight in model.parameters()} == {kept}
    expected = theirs.float().eval()(pixel_values=bytes_images / 255).last_hidden_state.detach()
    found = read_activations(model, bytes_images, "layernorm")
    assert found.dtype == torch.float32
    assert_close(found, expected, atol=1e-6 if kept == torch.float32 else 0.1, rtol=0)
    assert load_pretrained_vit(tmp_path)(bytes_images / 255).dtype == torch.float32
    half = copy.deepcopy(model).bfloat16()  # reads images by weights of its own
    assert half(bytes_images).last_hidden_state.dtype == torch.bfloat16


def test_mae_sees_the_whole_image(tmp_path, bytes_images):
    config = ViTMAEConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    ViTMAEModel(config).save_pretrained(tmp_path)
    theirs = ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0).eval()
    in_order = torch.arange(16.0).expand(3, -1)
    expected = theirs(bytes_images / 255, noise=in_order).last_hidden_state.detach()
    assert torch.equal(
        read_activations(load_encoder(tmp_path), bytes_images, "layernorm"), expected
    )


def test_of_a_model_of_images_and_texts_the_part_that_sees(tmp_path, bytes_images):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16}
    config = CLIPConfig(
        vision_config=sizes | {"image_size": 16, "patch_size": 4},
        text_config=sizes | {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1},
    )
    theirs = CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    found = read_activations(load_encoder(tmp_path), bytes_images, "encoder.layers.0")
    expected = read_activations(theirs.vision_model, bytes_images / 255, "encoder.layers.0")
    assert torch.equal(found, expected)


def test_encoder_has_the_same_weights_whenever_it_is_loaded(vit_folder):
    first, second = (load_encoder(vit_folder).state_dict() for _ in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_encoder_of_a_function(tmp_path, monkeypatch, bytes_images):
    code = "from torch import nn\n\n\ndef make():\n    return nn.Conv2d(3, 2, 1)\n"
    (tmp_path / "own_encoders.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    model = load_encoder("own_encoders:make")
    assert_close(model(bytes_images), model(bytes_images / 255))
    assert not model.training and not model.weight.requires_grad
    with pytest.raises(ModuleNotFoundError, match="own_models"):
        load_encoder("own_models:make")


@pytest.mark.parametrize("source", ["{}/none", "{}", "nobody/no-encoder"])
def test_encoder_that_is_not_there(source, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"no encoder at '.*'.* pass its path, or choose"):
        load_encoder(source.format(tmp_path))


def test_convnext_reads_pixels_about_a_mean():
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    sizes = {"widths": (8,), "depths": (1,)}
    plain, shifted = make_convnext(**sizes), make_convnext(**sizes, mean=0.25, std=0.5)
    expected = plain((images / 255 - 0.25) / 0.5).logits
    assert_close(shifted(images).logits, expected)
    assert_close(shifted(images / 255).logits, expected)


def test_encoder_of_timm_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"hf_hub:a/b needs timm.*pip install timm"):
        load_encoder("hf_hub:a/b")


def test_encoder_of_timm(monkeypatch, tmp_path):
    local = f"local-dir:{tmp_path}"

    def create_model(name, pretrained, num_classes):
        if name not in ("hf_hub:a/b", local):
            raise OSError("not found")
        return nn.Identity() if pretrained and num_classes == 0 else None

    known = {"input_size": (3, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}
    timm = types.ModuleType("timm")
    timm.create_model = create_model
    timm.data = types.SimpleNamespace(resolve_model_data_config=lambda model: known)
    monkeypatch.setitem(sys.modules, "timm", timm)
    found = load_encoder("hf_hub:a/b")(torch.full((2, 3, 16, 16), 51, dtype=torch.uint8))
    assert_close(found, torch.tensor([0.2, 0, -0.05])[:, None, None].expand(2, 3, 8, 8))
    with pytest.raises(FileNotFoundError, match=r"'hf_hub:a/c'.*https://huggingface\.co/a/c into"):
        load_encoder("hf_hub:a/c")
    (tmp_path / "config.json").touch()
    with pytest.raises(
        FileNotFoundError, match=r"'local-dir:.*': the folder has no model\.safetensors or pyt"
    ):
        load_encoder(local)
    (tmp_path / "model.safetensors").touch()
    assert load_encoder(local)(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 8, 8)
