"""What several notebooks do alike: base models, actions and SAEs, trained once, then loaded."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers import results, runs
from saehelpers.activations import orbit_activations
from saehelpers.base_models import VIT_B_16, load_pretrained_vit, make_autoencoder
from saehelpers.datasets.synthetic import Stream
from saehelpers.fitting import Settings, fit
from saehelpers.methods import SAERun, run_columns
from saehelpers.saes import SAE, make_sae
from saehelpers.sweeps import sweep
from saehelpers.symmetry import Group, LinearAction, fit_action, report_action
from saehelpers.training import train_saes


@dataclass(frozen=True)
class BaseModelRun:
    """Everything that decides what an image autoencoder learns.

    `augment`: train on images under a random element of `group`, else on canonical ones.
    `architecture` "vit_b_16", or a folder with its weights, is the pretrained transformer, of
    which nothing is trained.
    """

    name: str
    data: str
    architecture: str
    latent_dim: int = 256
    hidden_dim: int = 256
    augment: bool = True
    group: str = "C4"
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: str = "constant"
    seed: int = 0


@dataclass(frozen=True)
class ActionRun:
    """Everything that decides a fitted action; see `saehelpers.symmetry.fit_action`.

    `shuffled`: fit to orbits whose elements are permuted, sample by sample: a wrong group.
    """

    name: str
    activations: str
    group: str
    method: str = "adam"
    train_on_all_k: bool = True
    epochs: int = 60
    learning_rate: float = 1e-3
    shuffled: bool = False
    seed: int = 0


def load_or_train_base_model(
    config: BaseModelRun,
    images: Float[Tensor, "n 1 size size"],
    models: Path | str,
    validation: Float[Tensor, "m 1 size size"] | None = None,
    device: str = "cpu",
    force: bool = False,
) -> tuple[nn.Module, pd.DataFrame]:
    """The base model of this config and its history (loss is the mean squared error).

    Weights are kept in half precision. What is returned always comes from disk, so that
    results do not depend on whether the model was trained just now.
    """
    if config.architecture == "vit_b_16" or Path(config.architecture).is_dir():
        source = VIT_B_16 if config.architecture == "vit_b_16" else config.architecture
        return load_pretrained_vit(source), pd.DataFrame()
    model = make_autoencoder(
        config.architecture, config.latent_dim, config.hidden_dim, images.shape[-1], config.seed
    )

    def train() -> tuple[nn.Module, pd.DataFrame]:
        # channels last: convolutions on a CPU are a fifth faster
        model.to(device, memory_format=torch.channels_last)
        return model, _train_base_model(model, config, images, validation, models)

    tensors, history = _load_or_train(config, train, models, force, half=True)
    return _fill(model.cpu(), tensors, config, models).eval().requires_grad_(False), history


def _train_base_model(model, config, images, validation, models) -> pd.DataFrame:
    group = Group.named(config.group)
    device = next(model.parameters()).device
    images = images.to(device)

    def step(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        batch = images[index[0]]
        if config.augment:
            batch = group.act_each(batch, (uniform[0] * group.order).long())
        return {"loss": nn.functional.mse_loss(model(batch), batch)}

    @torch.no_grad()
    def evaluate(epoch: int) -> dict[str, Tensor]:
        held_out = (images if validation is None else validation.to(device))[:1024]
        elements = torch.arange(len(held_out), device=device) % group.order
        held_out = group.act_each(held_out, elements) if config.augment else held_out
        return {"validation_loss": nn.functional.mse_loss(model(held_out), held_out)}

    settings = Settings(config.epochs, config.batch_size, config.learning_rate, config.schedule)
    return fit(
        model.train(),
        step,
        len(images),
        [config.seed],
        settings,
        evaluate=evaluate,
        checkpoint=_checkpoint(models, [config]),
        description=config.name,
    ).drop(columns="instance")


def load_or_fit_action(
    config: ActionRun,
    activations: Float[Tensor, "n order d"],
    models: Path | str,
    device: str = "cpu",
    force: bool = False,
) -> LinearAction:
    """The action of this config, fitted to orbit activations or read from disk."""
    group = Group.named(config.group)

    def train() -> tuple[nn.Module, pd.DataFrame]:
        orbits = activations.to(device)
        if config.shuffled:
            generator = torch.Generator().manual_seed(config.seed)
            order = torch.rand(orbits.shape[:2], generator=generator).argsort(1).to(device)
            orbits = orbits.gather(1, order[..., None].expand_as(orbits))
        action = fit_action(
            orbits,
            group,
            config.method,
            config.train_on_all_k,
            config.epochs,
            config.learning_rate,
            seed=config.seed,
        )
        return action, report_action(action, orbits)

    tensors, _ = _load_or_train(config, train, models, force)
    action = LinearAction.identity(group, activations.shape[-1])
    return _fill(action, tensors, config, models).to(activations.device)


@dataclass(frozen=True)
class Explained:
    """What there is to explain of a base model.

    train, test: orbit activations (n, |G|, d); action, and the run that it comes from: fitted
    to `train`; name: says where the activations come from, in the configs of what is trained
    on them: base model, a fingerprint of its weights, group. All are on the CPU.
    """

    base_model: nn.Module
    history: pd.DataFrame
    train: Float[Tensor, "n order d"]
    test: Float[Tensor, "m order d"]
    action: LinearAction
    action_run: ActionRun
    name: str


def explain(
    base_runs: dict[str, BaseModelRun],
    group: Group,
    train_images: Float[Tensor, "n c h w"],
    test_images: Float[Tensor, "m c h w"],
    models: Path | str,
    device: str = "cpu",
    executor=None,
    force: bool = False,
    **action_settings,
) -> dict[str, Explained]:
    """Base models, orbit activations and fitted actions: what is there before any SAE.

    The base models are trained, read and fitted to in parallel processes (see
    `saehelpers.sweeps.sweep`). `action_settings` are fields of `ActionRun`.
    """
    shared = (group, train_images, test_images, models, device, force, action_settings)
    jobs = [(name, base_run, *shared) for name, base_run in base_runs.items()]
    explained = dict(sweep(_explain, jobs, "base models", executor))
    return {name: explained[name] for name in base_runs}


def _explain(
    key, base_run, group, train_images, test_images, models, device, force, action_settings
) -> tuple[str, Explained]:
    base_model, history = load_or_train_base_model(
        base_run, train_images, models, test_images, device, force
    )
    train, test = (
        orbit_activations(base_model.to(device), images, group)
        for images in (train_images, test_images)
    )
    weights = runs.fingerprint(base_model.state_dict())
    name = f"{runs.run_id(base_run)}/{weights}/{group.name}"
    action_run = ActionRun("action", name, group.name, **action_settings)
    action = load_or_fit_action(action_run, train, models, device, force)
    return key, Explained(base_model.cpu(), history, train, test, action, action_run, name)


def load_or_train_saes(
    configs: list[SAERun],
    activations: Tensor | list[Tensor] | list[Stream],
    models: Path | str,
    validation: Tensor | None = None,
    device: str = "cpu",
    executor=None,
    force: bool = False,
) -> list[SAE]:
    """The SAEs of these configs, in their order, loaded from disk or trained.

    Configs that differ in their seeds alone are trained side by side, the others in
    parallel processes (see `saehelpers.sweeps.sweep`).

    Args:
        activations: orbit activations (n, |G|, d) for all configs, or one tensor for each, or
            one stream for each.
        validation: held-out activations for the histories, where all share `activations`.
        device: where they are trained; what is returned is on the CPU.
    """
    sources = activations if isinstance(activations, list) else [activations] * len(configs)
    missing = [
        i for i, config in enumerate(configs) if force or runs.load_run(models, config) is None
    ]
    ensembles: dict[SAERun, list[int]] = {}
    for i in missing:
        alike = dataclasses.replace(configs[i], seed=0, activations="")
        ensembles.setdefault(alike, []).append(i)
    if ensembles:
        print(f"training {len(missing)} of {len(configs)} SAEs, the others are on disk")
    jobs = [
        (
            [configs[i] for i in group],
            [sources[i] for i in group] if isinstance(activations, list) else [activations],
            None if validation is None else [validation],
            models,
            device,
            force,
        )
        for group in ensembles.values()
    ]
    for _ in sweep(_train_and_save, jobs, "SAEs", executor):
        pass
    return [load_sae(config, models) for config in configs]


def load_sae(config: SAERun, models: Path | str) -> SAE:
    """The trained SAE of this config.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    tensors, _, _ = _load(config, models)
    return _fill(make_sae(config.sae), tensors, config, models).eval().requires_grad_(False)


def drop_stale_rows(path: Path | str, configs: list, models: Path | str) -> None:
    """Remove from a results file what was measured on earlier models of the same configs."""
    created = {runs.run_id(config): _load(config, models)[2]["created_utc"] for config in configs}
    dropped = results.drop_stale(path, created)
    if dropped:
        print(f"{dropped} rows of earlier models removed from {Path(path).name}")


def measure_runs(
    measure: Callable[..., dict[str, float]],
    jobs: list[tuple[SAERun, dict[str, Any], tuple]],
    path: Path | str,
    models: Path | str,
    executor=None,
) -> pd.DataFrame:
    """Measure every SAE that the results file has no rows of yet, and return the file's rows.

    Args:
        measure: gives the values of a model's metrics by name.
        jobs: (config, further columns of its rows, arguments of `measure`).
    """
    drop_stale_rows(path, [config for config, _, _ in jobs], models)
    done = set(results.read(path)["run_id"])
    todo = [
        (measure, run_columns(config) | columns, arguments)
        for config, columns, arguments in jobs
        if runs.run_id(config) not in done
    ]
    print(f"measuring {len(todo)} of {len(jobs)} SAEs, the others are in {Path(path).name}")
    for rows in sweep(_measure, todo, "measuring", executor):
        results.append(path, rows)
    wanted = {runs.run_id(config) for config, _, _ in jobs}
    table = results.read(path)
    return table[table["run_id"].isin(wanted)]


def _measure(measure, columns, arguments) -> list[dict[str, Any]]:
    return [
        columns | {"metric": metric, "value": value}
        for metric, value in measure(*arguments).items()
    ]


def _train_and_save(configs, activations, validation, models, device, force) -> None:
    saes, histories = train_saes(
        configs,
        [source.to(device) for source in activations],
        None if validation is None else [source.to(device) for source in validation],
        _checkpoint(models, configs),
        progress=False,
    )
    for config, sae, history in zip(configs, saes, histories, strict=True):
        runs.save_run(models, config, sae.state_dict(), history, overwrite=force)


def _load(config, models: Path | str) -> tuple:
    """A run that must be there."""
    run = runs.load_run(models, config)
    if run is None:
        raise FileNotFoundError(f"no run {runs.run_id(config)} in {models}: train it first")
    return run


def _load_or_train(
    config, train: Callable, models: Path | str, force: bool, half: bool = False
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Tensors and history of a run, from disk; trained and saved first if it is not there."""
    run = None if force else runs.load_run(models, config)
    if run is None:
        print(f"training {runs.run_id(config)}")
        model, history = train()
        tensors = {k: v.half() if half else v for k, v in model.state_dict().items()}
        runs.save_run(models, config, tensors, history, overwrite=force)
        run = runs.load_run(models, config)
    else:
        print(f"loaded   {runs.run_id(config)}")
    return run[0], run[1]


def _fill(model: nn.Module, tensors: dict[str, Tensor], config, models) -> nn.Module:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise runs.damaged(Path(models) / runs.run_id(config), str(error)) from error
    return model


def _checkpoint(models: Path | str, configs: list) -> Path:
    ids = "-".join(sorted(runs.config_hash(config)[:8] for config in configs))
    return Path(models) / ".unfinished" / f"{configs[0].name}-{ids}.safetensors"
