"""Loading what was trained or saved, from any folder or from the Hugging Face hub."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saehelpers import runs
from saehelpers.experiments.base_models import (
    BaseModelRun,
    LanguageModelRun,
    make_language_model,
    read_tokeniser,
)
from saehelpers.experiments.encoders import EncoderRun
from saehelpers.experiments.once import fill
from saehelpers.experiments.subjects import ActionRun
from saehelpers.networks import make_autoencoder, make_convnext
from saehelpers.networks.autoencoders import image_size
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.wanted import Device, Name
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder, SAEConfig, make_sae
from saehelpers.symmetry import LinearAction
from saehelpers.training.methods import METHODS, EndToEndRun, SAERun

FILES = ("config.json", "weights.safetensors", "tokenizer.json")


@checked_config
@dataclass(frozen=True)
class ActionConfig:
    """What a linear action is made of, beside its state; `group` is a `Group.identifier`."""

    group: Name


@checked_config
@dataclass(frozen=True)
class EquivariantConfig:
    """What an `EquivariantSAE` is made of."""

    sae: SAEConfig
    group: Name
    search: bool = False


@checked
def load(
    source: Path | str,
    subfolder: str = "",
    device: Device = "cpu",
    action: Path | str | LinearAction | None = None,
) -> Any:
    """What lies in a folder, ready for use: frozen, in evaluation mode, on a device.

    | the folder's config                    | what comes back                   |
    |----------------------------------------|-----------------------------------|
    | SAERun, EndToEndRun                    | the SAE                           |
    | the same, with `action`; or one that   | an EquivariantSAE                 |
    | `save_equivariant` has written         |                                   |
    | ActionRun                              | the LinearAction                  |
    | BaseModelRun, EncoderRun               | the network, a torch module       |
    | LanguageModelRun                       | the network, and its tokeniser    |

    The networks read what they were trained on: images (n, 1, size, size) or (n, 3, size, size),
    tokens (n, context). Weights kept in half precision are computed with in float32.

    Args:
        source: a folder of any name, or the name of a Hugging Face hub repository.
        subfolder: in it, where the run is.
        action: a linear action, or the folder of one, that goes with an SAE whose latents are
            invariant. SAEs trained by "oriented" or "self_oriented" are given `search`.

    Raises:
        FileNotFoundError: there is no such folder or repository, or no run in it.
        ValueError: the folder is of another kind or of a later version, or it is damaged; or
            the action does not fit.
    """
    folder = runs.local_folder(source, (*FILES, "cfg.json"), subfolder)
    config, loaded = load_folder(folder, device)
    if action is None:
        return loaded
    if isinstance(loaded, GroupCrosscoder) or not isinstance(loaded, SAE):
        raise ValueError(
            f"an action goes with an SAE that has one decoder; in {folder} is a "
            f"{type(loaded).__name__}: load it without"
        )
    own = action if isinstance(action, LinearAction) else load(action)
    if not isinstance(own, LinearAction):
        raise ValueError(f"action must be that of a group; in {action} is a {type(own).__name__}")
    if own.origin.shape[-1] != loaded.config.d:
        raise ValueError(
            f"the action is of vectors of width {own.origin.shape[-1]}, the SAE in {folder} reads "
            f"activations of width {loaded.config.d}"
        )
    searched = [method.objective for method in METHODS.values() if method.search]
    equivariant = EquivariantSAE(loaded, copy.deepcopy(own), config.objective in searched)
    return equivariant.eval().requires_grad_(False).to(device)


@checked
def load_folder(folder: Path, device: Device = "cpu") -> tuple[Any, Any]:
    """The config of a local folder, and what `load` makes of it."""
    record = runs.read_record(folder)
    config, tensors = runs.read_config(folder, record, MADE), runs.read_tensors(folder, record)
    try:
        model = MADE[type(config)](config, tensors)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise runs.unreadable(
            folder, f"its config and its tensors do not go together ({error!r})"
        ) from error
    model = fill(model, tensors, folder, runs.unreadable).eval().requires_grad_(False).to(device)
    if isinstance(config, LanguageModelRun):
        return config, (model, read_tokeniser(folder, runs.unreadable))
    return config, model


def _action(config: ActionRun | ActionConfig, tensors: dict[str, Tensor]) -> LinearAction:
    return LinearAction.from_state(config.group, tensors)


def _autoencoder(config: BaseModelRun, tensors: dict[str, Tensor]) -> nn.Module:
    size = image_size(config.architecture, tensors)
    return make_autoencoder(config.architecture, config.latent_dim, config.hidden_dim, size)


def _equivariant(config: EquivariantConfig, tensors: dict[str, Tensor]) -> EquivariantSAE:
    own = {
        name.removeprefix("action."): tensor
        for name, tensor in tensors.items()
        if name.startswith("action.")
    }
    action = LinearAction.from_state(config.group, own)
    return EquivariantSAE(make_sae(config.sae), action, config.search)


# what is made of a config, before it is given its tensors
MADE: dict[type, Callable[[Any, dict[str, Tensor]], nn.Module]] = {
    SAERun: lambda config, _: make_sae(config.sae),
    EndToEndRun: lambda config, _: make_sae(config.sae),
    ActionRun: _action,
    BaseModelRun: _autoencoder,
    EncoderRun: lambda config, _: make_convnext(
        config.widths,
        config.depths,
        config.patch,
        config.n_classes,
        mean=config.pixel_mean,
        std=config.pixel_std,
    ),
    LanguageModelRun: lambda config, _: make_language_model(config),
    SAEConfig: lambda config, _: make_sae(config),
    ActionConfig: _action,
    EquivariantConfig: _equivariant,
}
