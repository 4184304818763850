"""SAEs, trained once, then loaded."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxtyping import Real
from torch import Tensor

from saehelpers import runs
from saehelpers.datasets.shards import ShardStream, map_activations
from saehelpers.datasets.synthetic import Stream
from saehelpers.experiments.once import (
    begin_anew,
    checkpoint_path,
    load_existing,
    load_weights,
)
from saehelpers.experiments.subjects import Subject
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import check_identity, identity
from saehelpers.runs.progress import progress_line
from saehelpers.runs.sweeps import is_seen, sweep
from saehelpers.runs.wanted import AnyExecutor, Device
from saehelpers.saes import SAE, EquivariantSAE, SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction
from saehelpers.training.checkpoints import remove_checkpoint
from saehelpers.training.methods import METHODS, EndToEndRun, SAERun, method_runs
from saehelpers.training.side_by_side import train_saes


@checked
def load_or_train_saes(
    configs: list[SAERun],
    activations: Tensor | Path | list[Tensor] | list[Stream] | list[ShardStream],
    models: Path | str,
    validation: Real[Tensor, "m order d"] | None = None,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
    force: bool = False,
) -> list[SAE]:
    """The SAEs of these configs, in their order, loaded from disk or trained.

    Configs that differ in their seeds alone are trained side by side, the others in parallel
    processes (see `saehelpers.runs.sweeps.sweep`); in this one, with a bar of the epochs, if
    there are no others.

    Args:
        activations: orbit activations (n, |G|, d) for all configs, or the file that they are
            mapped from; or one tensor for each, or one stream for each.
        validation: held-out activations for the histories, where all share `activations`.
        device: where they are trained; what is returned is on the CPU.
    """
    sources = activations if isinstance(activations, list) else [activations] * len(configs)
    _check_sources(configs, sources)
    trained = [None if force else runs.load_run(models, config) for config in configs]
    missing = [i for i, run in enumerate(trained) if run is None]
    together: dict[SAERun, list[int]] = {}
    for i in missing:
        together.setdefault(configs[i].shared_settings, []).append(i)
    times = [run[2]["created_utc"] for run in trained if run is not None]
    print(progress_line("SAEs trained", len(times), len(configs), times))
    jobs = [
        (
            [configs[i] for i in group],
            [_sent(sources[i]) for i in (group if isinstance(activations, list) else group[:1])],
            None if validation is None else [validation],
            models,
            device,
            force,
            is_seen(len(together), executor, device),
        )
        for group in together.values()
    ]
    for _ in sweep(_train_and_save, jobs, "SAEs", executor, alone_here=True, device=device):
        pass
    return [load_sae(config, models) for config in configs]


@checked
def load_or_train_methods(
    subjects: dict[Any, Subject],
    methods: list[str],
    topks: list[int],
    seeds: list[int],
    sae: SAEConfig,
    group: Group,
    models: Path | str,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
    validate: bool = True,
    **settings,
) -> dict[Any, dict[SAERun, SAE]]:
    """The SAEs of every method, TopK and seed, for every subject: by its name, then by config.

    sae: its width `d` gives way to that of each subject's activations. settings: see
    `saehelpers.training.method_run`. Histories are of the held-out activations, where `validate`.
    """
    trained = {}
    for name, subject in subjects.items():
        own = dataclasses.replace(sae, d=subject.train.shape[-1])
        configs = method_runs(
            methods, topks, seeds, identity(subject.train), own, group, **settings
        )
        held_out = subject.test if validate else None
        saes = load_or_train_saes(configs, subject.train, models, held_out, device, executor)
        trained[name] = dict(zip(configs, saes, strict=True))
    return trained


def _sent(source):
    """What goes to a worker process: of activations mapped from a file, its path."""
    return getattr(source, "path", source) if isinstance(source, Tensor) else source


def _check_sources(configs: list[SAERun], sources: list) -> None:
    """Raise a ValueError unless every config is one of the activations that are given."""
    known: dict[int, str] = {}
    for config, source in zip(configs, sources, strict=True):
        if id(source) not in known:
            known[id(source)] = identity(source)
        check_identity(f"activations of {config.name!r}", config.activations, known[id(source)])


@checked
def load_sae(config: SAERun | EndToEndRun, models: Path | str) -> SAE:
    """The trained SAE of this config.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    tensors, _, _ = load_existing(config, models)
    return load_weights(make_sae(config.sae), tensors, config, models).eval().requires_grad_(False)


@checked
def as_read(config: SAERun, sae: SAE, action: LinearAction | None) -> SAE | EquivariantSAE:
    """An SAE with the action, where its method means its latents to be invariant; else as it is.

    config: of the SAE; a name that is no method's is that of a vanilla one. action: None where no
    group acts.
    """
    if action is None or config.name not in METHODS or not METHODS[config.name].symmetric:
        return sae
    return EquivariantSAE(sae, action, METHODS[config.name].search)


def _train_and_save(configs, activations, validation, models, device, force, progress) -> None:
    if force:
        begin_anew(models, configs)
    checkpoint = checkpoint_path(models, configs)
    sources = [map_activations(s) if isinstance(s, Path) else s for s in activations]
    saes, histories = train_saes(
        configs,
        [source.to(device) for source in sources],
        None if validation is None else [source.to(device) for source in validation],
        checkpoint,
        progress,
    )
    for config, sae, history in zip(configs, saes, histories, strict=True):
        runs.save_run(models, config, sae.state_dict(), history, overwrite=force)
    remove_checkpoint(checkpoint)
