"""Encoders of images, trained once, then loaded, and what there is to explain of their maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.datasets import ImageSet, augment
from saehelpers.experiments.base_models import acted_on
from saehelpers.experiments.once import fit_run, load_or_train, load_weights
from saehelpers.experiments.subjects import (
    ActionRun,
    Subject,
    load_or_fit_action,
)
from saehelpers.networks import load_encoder, make_convnext
from saehelpers.networks.feature_maps import orbit_pixels
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.identities import check_identity, identified, identity, part
from saehelpers.runs.wanted import NOT_EMPTY, Count, Device, Name, Positive, Rate, Seed, Share
from saehelpers.symmetry import Group, InputAction, act_each, given_or_named, input_action
from saehelpers.training.fitting import Schedule

ACTION_SAMPLES = 20_000  # orbits that an action is fitted to, at most
# of survey images: dark sky, and few pixels of galaxies
SURVEY_PIXELS = {"pixel_mean": 0.1, "pixel_std": 0.12}


@checked_config
@dataclass(frozen=True)
class EncoderRun:
    """Everything that decides what a ConvNeXt classifier learns.

    data: the identity of (images, labels), followed by `acted_on` where the action on images is
    one's own. They are shown under random elements of `group`, a `Group.identifier`, and with
    another flux, colour, noise, size and place each time where `augmented` (see
    `saehelpers.datasets.augment`). The architecture, and how it reads pixels, is that of
    `saehelpers.networks.make_convnext`.
    """

    name: Name
    data: str
    widths: Annotated[tuple[Positive, ...], NOT_EMPTY] = (48, 96, 192)
    depths: Annotated[tuple[Positive, ...], NOT_EMPTY] = (1, 2, 1)
    patch: Positive = 4
    n_classes: Positive = 4
    group: Name = "D4"
    epochs: Positive = 6
    batch_size: Positive = 64
    learning_rate: Rate = 1e-3
    schedule: Schedule = "cosine"
    warmup_steps: Count = 100
    seed: Seed = 0
    augmented: bool = runs.added_later(False)
    pixel_mean: Share = runs.added_later(0.0)
    pixel_std: Rate = runs.added_later(1.0)

    __str__ = runs.described


@checked
def load_or_train_encoder(
    config: EncoderRun,
    images: UInt8[Tensor, "n 3 size size"],
    labels: Int[Tensor, " n"] | None,
    validation: tuple[UInt8[Tensor, "m 3 size size"], Int[Tensor, " m"] | None],
    models: Path | str,
    device: Device = "cpu",
    force: bool = False,
    group: Group | None = None,
    act: InputAction | None = None,
) -> tuple[nn.Module, pd.DataFrame]:
    """The classifier of this config, and its history.

    Its losses are mean cross-entropies in nats; `validation_accuracy` is the share of held-out
    images, each under one element, whose class is the one predicted. Weights are kept in half
    precision and always come from disk.

    Args:
        group: that of the config, needed to train where it is neither C_n nor D_n.
        act: how it acts on images, `act(images, element)`; by default the `image_action`.

    Raises:
        ValueError: the images have no labels, or one that is no number of the config's classes.
    """
    if labels is None:
        raise ValueError(
            "a classifier needs labels, these images have none: put those of each class into a "
            "folder of its own, or choose a pretrained encoder (see load_encoder)"
        )
    for numbers in (labels, validation[1]):
        if not 0 <= int(numbers.min()) <= int(numbers.max()) < config.n_classes:
            raise ValueError(
                f"labels of {config.n_classes} classes are numbers from 0 to "
                f"{config.n_classes - 1}, got "
                f"{numbers.unique().tolist()}: set n_classes, or number "
                "the classes anew (labels.unique(return_inverse=True)[1])"
            )
    told = identity((images, labels))
    if act is not None:
        told += acted_on(images, given_or_named(config.group, group), act)
    check_identity(f"data of {config.name!r}", config.data, told)
    model = make_convnext(
        config.widths, config.depths, config.patch, config.n_classes, config.seed,
        config.pixel_mean, config.pixel_std,
    )  # fmt: skip

    def train() -> tuple[nn.Module, pd.DataFrame]:
        model.to(device, memory_format=torch.channels_last)
        tensors = [tensor.to(device) for tensor in (images, labels, *validation)]
        own_group = given_or_named(config.group, group)
        return model, _train_encoder(model, config, *tensors, models, own_group, act)

    tensors, history = load_or_train(config, train, models, force, half=True)
    return load_weights(model.cpu(), tensors, config, models).eval().requires_grad_(False), history


@checked
def galaxy_encoder(
    source: Path | str,
    train: ImageSet,
    test: ImageSet,
    models: Path | str,
    device: Device = "cpu",
    **settings,
) -> tuple[nn.Module, float]:
    """The encoder of notebooks 03 and 05, and its accuracy on held-out images.

    Args:
        source: "convnext", which is trained on labelled images; or a pretrained encoder, see
            `load_encoder`, whose accuracy is NaN.
        settings: of what is trained here, further fields of `EncoderRun`.
    """
    if source != "convnext":
        return load_encoder(source), float("nan")
    config = EncoderRun(
        "base_galaxies", identity((train.images, train.labels)), n_classes=len(train.classes),
        batch_size=32, **SURVEY_PIXELS, **settings,
    )  # fmt: skip
    encoder, history = load_or_train_encoder(
        config, train.images, train.labels, (test.images, test.labels), models, device
    )
    return encoder, float(history["validation_accuracy"].iloc[-1])


def _train_encoder(model, config, images, labels, test_images, test_labels, models, group, act):
    act = input_action(group, act, images)
    turns = torch.arange(len(test_images), device=images.device) % group.order
    test_images = act_each(test_images, turns, group, act)

    def step(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        batch = act_each(images[index[0]], (uniform[0] * group.order).long(), group, act)
        if config.augmented:
            generator = torch.Generator().manual_seed(int(uniform.double().sum().item() * 2**32))
            batch = augment(batch, generator)
        with torch.autocast(images.device.type, torch.bfloat16):  # a quarter faster on a CPU
            logits = model(batch).logits
        return {"loss": nn.functional.cross_entropy(logits.float(), labels[index[0]])}

    @torch.no_grad()
    def evaluate(epoch: int) -> dict[str, Tensor]:
        logits = torch.cat([model(batch).logits for batch in test_images.split(256)])
        return {
            "validation_loss": nn.functional.cross_entropy(logits, test_labels),
            "validation_accuracy": (logits.argmax(-1) == test_labels).float().mean(),
        }

    return fit_run(model, step, len(images), config, models, evaluate)


@checked_config
@dataclass(frozen=True)
class PixelsRun:
    """Everything that decides a file of pixel activations; see `feature_maps.orbit_pixels`.

    encoder, images: their identities. group: its `identifier`; act: see
    `acted_on`.
    """

    name: Name
    encoder: str
    images: str
    layer: Name
    group: Name
    pixels_per_image: Positive | None
    seed: Seed = 0
    act: str = runs.added_later("")

    __str__ = runs.described


@checked
def prepare_pixel_subject(
    encoder: nn.Module,
    layer: Name,
    group: Group,
    train_images: Shaped[Tensor, "n c h w"],
    test_images: Shaped[Tensor, "m c h w"],
    models: Path | str,
    folder: Path | str,
    pixels_per_image: Positive | None = None,
    device: Device = "cpu",
    act: InputAction | None = None,
    **action_settings,
) -> Subject:
    """What there is to explain of a layer whose output is a map of pixels.

    Activations (n_images * pixels_per_image, |G|, d) are written to `folder` once and read
    from there; `act` is how the group acts on images and their maps (see `orbit_pixels`);
    `action_settings` are fields of `ActionRun`.
    """
    told = identity(encoder)
    encoder.to(device)

    def read(name: str, images: Tensor) -> Tensor:
        shown, acted = identity(images), "" if act is None else acted_on(images, group, act)
        config = PixelsRun(name, told, shown, layer, group.identifier, pixels_per_image, act=acted)
        path = Path(folder) / f"{runs.run_id(config)}.npy"
        orbits = orbit_pixels(
            encoder, images, group, layer, path, pixels_per_image, config.seed, act=act
        )
        orbits = identified(orbits, config)
        orbits.path = path
        return orbits

    train, test = read("pixels_train", train_images), read("pixels_test", test_images)
    step = max(1, len(train) // ACTION_SAMPLES)
    some = part(train, 0, step * ACTION_SAMPLES, step)
    action_run = ActionRun("action", identity(some), group.identifier, **action_settings)
    action = load_or_fit_action(action_run, some, models, device, group=group)
    return Subject(encoder.cpu(), pd.DataFrame(), train, test, action, action_run)
