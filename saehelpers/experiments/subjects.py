"""What is there before any SAE: base models, their activations over orbits, fitted actions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.experiments.base_models import BaseModelRun, load_or_train_base_model
from saehelpers.experiments.once import load_or_train
from saehelpers.networks.activations import orbit_activations
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.identities import check_identity, identified, identity, part
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import AnyExecutor, Device, Name, Positive, Rate, Seed, one_of
from saehelpers.symmetry import (
    FIT_METHODS,
    Group,
    InputAction,
    LinearAction,
    fit_action,
    given_or_named,
    report_action,
    usual_fit,
)


@checked_config
@dataclass(frozen=True)
class ActionRun:
    """Everything that decides a fitted action; see `saehelpers.symmetry.fit_action`.

    `group`: a `Group.identifier`. `shuffled`: fit to orbits whose elements are permuted, sample
    by sample: a wrong group.
    """

    name: Name
    activations: str
    group: Name
    method: Annotated[str, one_of(FIT_METHODS)] = "adam"
    train_on_all_k: bool = True
    epochs: Positive = 60
    learning_rate: Rate = 1e-3
    shuffled: bool = False
    seed: Seed = 0

    __str__ = runs.described


@checked
def load_or_fit_action(
    config: ActionRun,
    activations: Float[Tensor, "n order d"],
    models: Path | str,
    device: Device = "cpu",
    force: bool = False,
    group: Group | None = None,
) -> LinearAction:
    """The action of this config, fitted to orbit activations or read from disk.

    Raises:
        ValueError: `group` is not that of the config, or a group that is neither C_n nor D_n
            is not given, but needed for the fit.
    """
    check_identity(f"activations of {config.name!r}", config.activations, identity(activations))
    if group is not None:
        given_or_named(config.group, group)

    def train() -> tuple[nn.Module, pd.DataFrame]:
        own_group = given_or_named(config.group, group)
        orbits = activations.to(device)
        if config.shuffled:
            generator = torch.Generator().manual_seed(config.seed)
            order = torch.rand(orbits.shape[:2], generator=generator).argsort(1).to(device)
            orbits = orbits.gather(1, order[..., None].expand_as(orbits))
        action = fit_action(
            orbits,
            own_group,
            config.method,
            config.train_on_all_k,
            config.epochs,
            config.learning_rate,
            seed=config.seed,
        )
        return action, report_action(action, orbits)

    tensors, _ = load_or_train(config, train, models, force)
    try:
        action = LinearAction.from_state(config.group, tensors)
        if len(action.origin) != activations.shape[-1]:
            raise ValueError(
                f"it acts on R^{len(action.origin)}, the activations have shape "
                f"{tuple(activations.shape)}"
            )
    except ValueError as error:
        raise runs.damaged(Path(models) / runs.run_id(config), str(error)) from error
    return identified(action.to(activations.device), config)


@checked
@dataclass(frozen=True)
class Subject:
    """What there is to explain of a base model.

    train, test: orbit activations (n, |G|, d); action, and the run that it comes from: fitted
    to `train`. All are on the CPU. Activations of pixels are mapped from files: `train.path`.
    """

    base_model: nn.Module
    history: pd.DataFrame
    train: Float[Tensor, "n order d"]
    test: Float[Tensor, "m order d"]
    action: LinearAction
    action_run: ActionRun


@checked
def other_fits(
    subject: Subject,
    methods: Sequence[Annotated[str, one_of(FIT_METHODS)]],
    models: Path | str,
    n_samples: Positive | None = None,
    device: Device = "cpu",
    **settings,
) -> dict[ActionRun, LinearAction]:
    """The action of a subject fitted in other ways: by the run of each fit, in their order.

    Args:
        n_samples: the first so many orbits are fitted to, all if None.
        settings: further fields of `ActionRun` that differ from those of the subject's.
    """
    group = subject.action.group
    orbits = subject.train if n_samples is None else part(subject.train, 0, n_samples)
    own = replace(subject.action_run, activations=identity(orbits), **settings)
    configs = [replace(own, name=f"action_{method}", method=method) for method in methods]
    return {
        config: load_or_fit_action(config, orbits, models, device, group=group)
        for config in configs
    }


@checked
def prepare_subjects(
    base_runs: dict[Any, BaseModelRun],
    group: Group,
    train_images: Float[Tensor, "n c h w"],
    test_images: Float[Tensor, "m c h w"],
    models: Path | str,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
    force: bool = False,
    act: InputAction | None = None,
    **action_settings,
) -> dict[Any, Subject]:
    """Base models, orbit activations and fitted actions: what is there before any SAE.

    The base models are trained, read and fitted to in parallel processes (see
    `saehelpers.runs.sweeps.sweep`). `act` is how the group acts on images, `act(images, element)`,
    by default the `image_action`. `action_settings` are fields of `ActionRun`; the method is by
    default that of `usual_fit`.
    """
    shared = (group, train_images, test_images, models, device, force, act, action_settings)
    jobs = [(name, base_run, *shared) for name, base_run in base_runs.items()]
    prepared = dict(sweep(_prepare, jobs, "base models", executor, True, device))
    return {name: prepared[name] for name in base_runs}


def _prepare(
    key, base_run, group, train_images, test_images, models, device, force, act, action_settings
) -> tuple[str, Subject]:
    # a base model may have been trained under another group than the one it is explained by
    own = (group, act) if base_run.group == group.identifier else ()
    base_model, history = load_or_train_base_model(
        base_run, train_images, models, test_images, device, force, *own
    )
    train, test = (
        orbit_activations(base_model.to(device), images, group, act=act)
        for images in (train_images, test_images)
    )
    settings = {"method": usual_fit(group)} | action_settings
    action_run = ActionRun("action", identity(train), group.identifier, **settings)
    action = load_or_fit_action(action_run, train, models, device, force, group)
    return key, Subject(base_model.cpu(), history, train, test, action, action_run)
