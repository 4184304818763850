"""Controls that ask whether the right group matters: SAEs that respect another one."""

import dataclasses
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saehelpers.activations import orbit_activations
from saehelpers.experiments.explained import Explained, load_or_fit_action
from saehelpers.methods import SAERun
from saehelpers.symmetry import Group, LinearAction, usual_fit


def other_group(group: Group) -> Group:
    """The same rotations with flips where there are none, without them where there are."""
    return Group(group.n_rotations, 3 - group.n_flips)


def explain_as(
    other: Group,
    what: Explained,
    train_images: Float[Tensor, "n c h w"],
    test_images: Float[Tensor, "m c h w"],
    models: Path | str,
    device: str = "cpu",
) -> Explained:
    """What is explained, as one sees it who takes its group for `other`, see `other_group`.

    Without flips an orbit falls into two, of the image and of the flipped one, (2 n, n_rotations,
    d), and the action is that of the rotations. With flips the base model reads flipped images,
    too, whether or not it was trained on them, and an action is fitted to the larger orbits.
    """
    name = f"{what.name}/{other.name}"
    if other.n_flips == 1:
        train, test = (_halves(orbits).flatten(0, 1) for orbits in (what.train, what.test))
        matrices = what.action.matrices[: other.order]
        action = LinearAction(other, matrices, what.action.origin)
        return dataclasses.replace(what, train=train, test=test, action=action, name=name)
    train, test = (
        orbit_activations(what.base_model.to(device), images, other)
        for images in (train_images, test_images)
    )
    action_run = dataclasses.replace(
        what.action_run, activations=name, group=other.name, method=usual_fit(other)
    )
    action = load_or_fit_action(action_run, train, models, device)
    what.base_model.cpu()
    return dataclasses.replace(
        what, train=train, test=test, action=action, action_run=action_run, name=name
    )


def samples_as(
    other: Group, orbits: Float[Tensor, "n order d"], elements: Int[Tensor, " n"]
) -> tuple[Tensor, Tensor]:
    """Orbits of `other` that hold the samples under given elements, and which member each is.

    Orbits that are those of `other` already are left as they are.
    """
    if orbits.shape[1] == other.order:
        return orbits, elements
    flipped, rotation = elements // other.order, elements % other.order
    return _halves(orbits)[torch.arange(len(orbits)), flipped], rotation


def run_as(config: SAERun, what: Explained, seen: Explained) -> SAERun:
    """The run of an SAE on what is seen as another group's orbits, in about as many steps."""
    epochs = max(1, config.epochs * len(what.train) // len(seen.train))
    return dataclasses.replace(config, activations=seen.name, epochs=epochs)


def _halves(orbits: Float[Tensor, "n order d"]) -> Tensor:
    """Dihedral orbits as (n, 2, n_rotations, d): those of images, those of flipped images."""
    return orbits.unflatten(1, (2, -1))
