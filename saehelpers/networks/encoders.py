"""Encoders of images: a ConvNeXt that is trained here, and pretrained vision models."""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from saehelpers.networks.modules import edit_input
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Positive, Rate, Seed, Share

Channels = tuple[float, float, float]
OF_TIMM = ("hf_hub:", "local-dir:")  # begin the source of a model for timm
TIMM_FILES = ("config.json",), ("model.safetensors", "pytorch_model.bin")  # one of each


class PretrainedViT(nn.Module):
    """A frozen vision transformer; psi is its class token after the last layer, (n, d).

    Images (n, 1 or 3, h, w), uint8 or in [0, 1], are brought to the size and the channel
    statistics that it was trained with.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        size: Positive,
        mean: Channels = (0.5, 0.5, 0.5),
        std: Channels = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        model = _reading_images(model, size, mean, std)
        self.encoder = _ClassToken(model.eval().requires_grad_(False))

    def forward(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.encoder(images)


class _ClassToken(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.expand(-1, 3, -1, -1)).last_hidden_state[:, 0]


VIT_B_16 = "google/vit-base-patch16-224"  # trained on ImageNet-21k, then on ImageNet-1k


@checked
def load_pretrained_vit(source: str | Path = VIT_B_16) -> PretrainedViT:
    """The ViT-B/16 with ImageNet weights, from the Hugging Face hub or a local folder.

    Raises:
        FileNotFoundError: it is neither on disk nor to be reached.
    """
    with extra("text"):
        from transformers import ViTModel

    try:
        model = ViTModel.from_pretrained(source, dtype=torch.float32, add_pooling_layer=False)
    except OSError as error:
        raise FileNotFoundError(
            f"no ViT weights at {str(source)!r}: neither a local folder (config.json and "
            "model.safetensors) nor to be reached on the Hugging Face hub. Put a copy of "
            f"https://huggingface.co/{VIT_B_16} into a folder and pass its path, or choose "
            'the small transformer trained here, BASE_MODELS = ["vit"].'
        ) from error
    known = _preprocessing(str(source))
    statistics = () if known is None else _statistics(known, str(source))
    return PretrainedViT(model, model.config.image_size, *statistics)


@checked
def make_convnext(
    widths: Annotated[tuple[Positive, ...], NOT_EMPTY] = (48, 96, 192),
    depths: Annotated[tuple[Positive, ...], NOT_EMPTY] = (1, 2, 1),
    patch: Positive = 4,
    n_classes: Positive = 4,
    seed: Seed = 0,
    mean: Share = 0.0,
    std: Rate = 1.0,
) -> nn.Module:
    """A fresh ConvNeXt classifier (Liu et al., arXiv 2201.03545) of images (n, 3, size, size).

    Hugging Face's `ConvNextForImageClassification`. Stage i, "convnext.encoder.stages.i", has
    `depths[i]` blocks of `widths[i]` channels, on maps of size / (patch 2^i) pixels a side:
    no kernel straddles the grid, so that a turned image has exactly turned maps of pixels. Images
    in [0, 1] are read as (image - mean) / std: its norms see nothing of how bright a patch is, but
    on which side of the mean.
    """
    with extra("text"):
        from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_channels=3, patch_size=patch, num_stages=len(widths), hidden_sizes=list(widths),
        depths=list(depths), num_labels=n_classes, layer_scale_init_value=1.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConvNextForImageClassification(config)
    return _reading_images(model, mean=(mean,) * 3, std=(std,) * 3)


@checked
def load_encoder(source: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A frozen vision model that reads images (n, 3, h, w), uint8 or in [0, 1].

    Images are brought to the size and the channel statistics that it was trained with, where it
    knows them: the whole image, also where its own preprocessor would cut off the border, so that
    maps lie over images; and to whole patches, so that maps turn with images. Of a model of images
    and texts (CLIP) this is the part that sees. MAE sees the whole image: nothing is masked.

    Args:
        source: a vision model's name on the Hugging Face hub or a folder with it; or
            "hf_hub:owner/name" or "local-dir:path/to/folder", one for timm (config.json and
            model.safetensors), such as the encoders of Zoobot (Walmsley et al., JOSS 8 (2023),
            5312), trained on galaxies; or "package.module:function", which is called and returns
            the torch module, whose own type it keeps.
        dtype: of the weights: torch.bfloat16 for models that would not fit in float32.

    Raises:
        FileNotFoundError: it is neither on disk nor to be reached.
        ModuleNotFoundError: timm, or the package, is not installed.
        ValueError: its preprocessor does not say what images it reads.
    """
    source = str(source)
    if source.startswith(OF_TIMM):
        model = _load_timm(source, dtype)
    elif ":" in source:
        package, function = source.rsplit(":", 1)
        model = _reading_images(getattr(importlib.import_module(package), function)())
    else:
        model = _load_transformers(source, dtype)
    return model.eval().requires_grad_(False)


def _load_timm(source: str, dtype: torch.dtype) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{source} needs timm, and timm needs a torchvision that matches the installed torch: "
            "pip install timm"
        ) from error
    kind, _, name = source.partition(":")
    missing = [one for one in TIMM_FILES if not any((Path(name) / file).is_file() for file in one)]
    if kind == "local-dir" and missing:
        raise FileNotFoundError(
            f"no encoder at {source!r}: the folder has no "
            f"{' and no '.join(' or '.join(one) for one in missing)}, which "
            "timm.models.save_for_hf writes"
        )
    try:
        model = timm.create_model(source, pretrained=True, num_classes=0)
    except OSError as error:
        raise _unreachable(source, name) from error
    known = timm.data.resolve_model_data_config(model)
    return _reading_images(model.to(dtype), known["input_size"][-1], known["mean"], known["std"])


def _load_transformers(source: str, dtype: torch.dtype) -> nn.Module:
    with extra("text"):
        from transformers import AutoConfig, AutoModel, ViTModel

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a pooler that the checkpoint may lack
            if AutoConfig.from_pretrained(source).model_type == "vit_mae":
                model = ViTModel.from_pretrained(source, dtype=dtype, add_pooling_layer=False)
            else:
                model = AutoModel.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        raise _unreachable(source, source) from error
    if hasattr(model, "vision_model") and hasattr(model, "text_model"):
        model = model.vision_model
    known = _preprocessing(source)
    if known is None:
        return _reading_images(model, getattr(model.config, "image_size", None))
    size, patch = _trained_size(known, source), getattr(model.config, "patch_size", None)
    if size is not None and isinstance(patch, int):
        size -= size % patch
    return _reading_images(model, size, *_statistics(known, source))


def _preprocessing(source: str) -> dict[str, Any] | None:
    """What a folder's preprocessor does; None if it has none."""
    with extra("text"):
        from transformers import AutoImageProcessor
        from transformers.image_processing_base import ImageProcessingMixin

    try:
        return AutoImageProcessor.from_pretrained(source).to_dict()
    except OSError:
        return None
    except (ImportError, ValueError):  # of torchvision alone, or older than its kind: as it stands
        return ImageProcessingMixin.get_image_processor_dict(source)[0]


def _statistics(known: dict[str, Any], source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Means and standard deviations of the channels that a model was trained with."""
    if not known.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = known.get("image_mean"), known.get("image_std")
    if mean is None or std is None:
        raise ValueError(f"the preprocessor of {source!r} does not say image_mean and image_std")
    return mean, std


def _trained_size(known: dict[str, Any], source: str) -> int | None:
    """Pixels a side of the images that a model was trained with; None if any."""
    if not known.get("do_resize", True):
        return None
    size = (known.get("do_center_crop") and known.get("crop_size")) or known.get("size")
    sides = {"side": size} if isinstance(size, int) else size or {}
    for name in ("side", "height", "shortest_edge", "longest_edge"):
        if sides.get(name):
            return sides[name]
    raise ValueError(f"the preprocessor of {source!r} does not say what size images have: {size}")


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

    def prepare(module: nn.Module, inputs: tuple, options: dict) -> tuple[tuple, dict]:
        return edit_input("", partial(read, module), module, inputs, options)

    def read(module: nn.Module, images: Tensor) -> Tensor:
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if size is not None and images.shape[-2:] != (size, size):
            images = nn.functional.interpolate(
                images, (size, size), mode="bilinear", antialias=True
            )
        shift, spread = (torch.tensor(values).to(images)[:, None, None] for values in (mean, std))
        images = (images - shift) / spread
        weight = next((p for p in module.parameters() if p.is_floating_point()), images)
        return images.to(weight.dtype)

    model.register_forward_pre_hook(prepare, with_kwargs=True)
    return model
