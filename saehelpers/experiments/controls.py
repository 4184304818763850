"""Controls: what probes are given where the group is wrong, or where none is used.

SAEs that respect another group, vanilla SAEs of equal parameters, and what needs no trained SAE.
Used by notebook 04.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saehelpers.datasets.shapes import ProbeSamples
from saehelpers.evaluation.inputs import ProbeInput, probe_inputs
from saehelpers.experiments.saes import load_or_train_saes
from saehelpers.experiments.subjects import Subject, load_or_fit_action
from saehelpers.networks.activations import orbit_activations
from saehelpers.networks.scaling import standardisation
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.wanted import FROM_ZERO, AnyExecutor, Device
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction, rotations_and_flips, usual_fit
from saehelpers.training.methods import SAERun
from saehelpers.training.sizes import matched_runs


@checked
def other_group(group: Group) -> Group:
    """The same rotations with flips where there are none, without them where there are.

    Raises:
        ValueError: the group is neither C_n nor D_n.
    """
    n_rotations, n_flips = rotations_and_flips(group)
    return Group.named(f"{'DC'[n_flips - 1]}{n_rotations}")


@checked
def subject_under(
    other: Group,
    subject: Subject,
    train_images: Float[Tensor, "n c h w"],
    test_images: Float[Tensor, "m c h w"],
    models: Path | str,
    device: Device = "cpu",
) -> Subject:
    """A subject, as one sees it who takes its group for `other`, see `other_group`.

    Without flips an orbit falls into two, of the image and of the flipped one, (2 n, n_rotations,
    d), and the action is that of the rotations. With flips the base model reads flipped images,
    too, whether or not it was trained on them, and an action is fitted to the larger orbits.

    Raises:
        ValueError: `other` is not the `other_group` of the subject's.
    """
    group = subject.action.group
    if other != other_group(group):
        raise ValueError(f"the other group of {group.name} is {other_group(group).name}, "
                         f"got {other.name}")  # fmt: skip
    if other.order < group.order:
        train, test = (
            identified(_halves(orbits).flatten(0, 1), {"halves of": orbits})
            for orbits in (subject.train, subject.test)
        )
        matrices = subject.action.matrices[: other.order]
        action = LinearAction(other, matrices, subject.action.origin)
        return dataclasses.replace(subject, train=train, test=test, action=action)
    train, test = (
        orbit_activations(subject.base_model.to(device), images, other)
        for images in (train_images, test_images)
    )
    action_run = dataclasses.replace(
        subject.action_run, activations=identity(train), group=other.name, method=usual_fit(other)
    )
    action = load_or_fit_action(action_run, train, models, device)
    subject.base_model.cpu()
    return dataclasses.replace(
        subject, train=train, test=test, action=action, action_run=action_run
    )


@checked
def samples_under(
    other: Group,
    orbits: Float[Tensor, "n order d"],
    elements: Annotated[Int[Tensor, " n"], FROM_ZERO],
) -> tuple[Tensor, Tensor]:
    """Orbits of `other` that hold the samples under given elements, and which member each is.

    Orbits that are those of `other` already are left as they are.

    Raises:
        ValueError: the orbits are neither those of `other` nor of its `other_group`.
    """
    if orbits.shape[1] == other.order:
        return orbits, elements
    if orbits.shape[1] != 2 * other.order or rotations_and_flips(other)[1] == 2:
        raise ValueError(
            f"orbits must be those of {other.name} or {other_group(other).name}, got shape "
            f"{tuple(orbits.shape)}"
        )
    flipped, rotation = elements // other.order, elements % other.order
    return _halves(orbits)[torch.arange(len(orbits)), flipped], rotation


@checked
def run_under(config: SAERun, subject: Subject, other_subject: Subject) -> SAERun:
    """The run of an SAE on a subject taken for another group's, in about as many steps."""
    epochs = max(1, config.epochs * len(subject.train) // len(other_subject.train))
    return dataclasses.replace(config, activations=identity(other_subject.train), epochs=epochs)


@checked
def shuffled_action(subject: Subject, models: Path | str, device: Device = "cpu") -> LinearAction:
    """An action that was fitted to orbits with permuted elements, sample by sample: a wrong one."""
    run = dataclasses.replace(subject.action_run, name="action_shuffled", shuffled=True)
    return load_or_fit_action(run, subject.train, models, device)


@checked
def matched_inputs(
    configs: list[SAERun],
    subject: Subject,
    samples: ProbeSamples,
    models: Path | str,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
) -> list[tuple[SAERun, ProbeInput]]:
    """What probes are given of vanilla SAEs of equal parameters, which are loaded or trained.

    configs: narrow vanilla SAEs of the subject, see `saehelpers.training.matched_runs`.
    """
    matched = [run for config in configs for run in matched_runs(config, subject.action.group)]
    saes = load_or_train_saes(matched, subject.train, models, subject.test, device, executor)
    orbits = samples.orbits(subject.train, subject.test)
    return [
        (run, probe_inputs(sae, orbits, samples.elements)["none"])
        for run, sae in zip(matched, saes, strict=True)
    ]


@checked
def other_group_inputs(
    configs: list[SAERun],
    subject: Subject,
    other_subject: Subject,
    samples: ProbeSamples,
    models: Path | str,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
) -> list[tuple[SAERun, ProbeInput]]:
    """What probes are given of SAEs that respect another group, which are loaded or trained.

    Of each two inputs, called "true_D4" and "inferred_D4" where the other group is D4.

    Args:
        configs: symmetric SAEs of the subject; they are trained anew for the other group.
        other_subject: see `subject_under`.
    """
    other = other_subject.action.group
    runs = [run_under(config, subject, other_subject) for config in configs]
    train, test = other_subject.train, other_subject.test
    saes = load_or_train_saes(runs, train, models, test, device, executor)
    seen = other_subject if other.order > subject.action.group.order else subject
    orbits = samples.orbits(seen.train, seen.test)
    own = samples_under(other, orbits, samples.elements)
    found = []
    for run, sae in zip(runs, saes, strict=True):
        inputs = probe_inputs(sae, *own, other_subject.action)
        for told in ("true", "inferred"):
            element = f"{told}_{other.name}"
            found.append((run, dataclasses.replace(inputs[told], element=element)))
    return found


@checked
def untrained_inputs(
    subject: Subject, samples: ProbeSamples, sae: SAEConfig
) -> dict[str, ProbeInput]:
    """What probes are given without a trained SAE, by the name of the method.

    "base_model": all activations. "random": recons of an SAE that was never trained.

    sae: its config; its width `d` gives way to that of the activations.
    """
    orbits, elements = samples.orbits(subject.train, subject.test), samples.elements
    x = orbits[torch.arange(len(orbits)), elements]
    causes = {"data": identity((orbits, elements))}
    random = make_sae(dataclasses.replace(sae, d=x.shape[-1]))
    random.set_standardisation(*standardisation(subject.train))
    return {
        "base_model": ProbeInput("activations", "none", x, causes=causes),
        "random": probe_inputs(random, orbits, elements)["none"],
    }


def _halves(orbits: Float[Tensor, "n order d"]) -> Tensor:
    """Dihedral orbits as (n, 2, n_rotations, d): those of images, those of flipped images."""
    return orbits.unflatten(1, (2, -1))
