"""What several notebooks do alike: base models, actions and SAEs, trained once, then loaded."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.base_models import Autoencoder, make_autoencoder
from saehelpers.saes import SAE, SAEConfig, make_sae
from saehelpers.sweeps import sweep
from saehelpers.symmetry import Group, LinearAction, fit_action
from saehelpers.training import SAERun, Settings, fit, train_saes


@dataclass(frozen=True)
class Method:
    """How an SAE is set up: its objective, its width (times n_latents) and its dictionary."""

    objective: str
    width: int = 1
    dictionary: str = "free"

    @property
    def train_setup(self) -> str:
        """ "normal", "archetypal" or "equivariant": the last three reconstruct the canonical frame."""
        if self.dictionary == "archetypal":
            return "archetypal"
        return "normal" if self.objective in ("reconstruction", "crosscoder") else "equivariant"


METHODS = {
    "vanilla": Method("reconstruction"),
    "vanilla_wide": Method("reconstruction", width=4),
    "archetypal": Method("reconstruction", dictionary="archetypal"),
    "archetypal_wide": Method("reconstruction", width=4, dictionary="archetypal"),
    "crosscoder": Method("crosscoder", dictionary="blocks"),
    "canonical": Method("canonical"),
    "latent_inv": Method("latent_inv"),
    "output_inv": Method("output_inv"),
}


@dataclass(frozen=True)
class BaseModelRun:
    """Everything that decides what an image autoencoder learns.

    `augment`: train on images under a random element of `group`, else on canonical ones.
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


def method_run(method: str, activations: str, sae: SAEConfig, group: Group, **settings) -> SAERun:
    """The run of a named method: `sae` widened and its dictionary replaced as it asks.

    `settings` are further fields of `SAERun`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    how = METHODS[method]
    sae = dataclasses.replace(
        sae,
        n_latents=how.width * sae.n_latents,
        dictionary=how.dictionary,
        unit_decoder=sae.unit_decoder and how.dictionary == "free",
        group_order=group.order if how.dictionary == "blocks" else 1,
    )
    return SAERun(method, activations, sae, how.objective, **settings)


def load_or_train_base_model(
    config: BaseModelRun,
    images: Float[Tensor, "n 1 size size"],
    models: Path | str,
    validation: Float[Tensor, "m 1 size size"] | None = None,
    device: str = "cpu",
    force: bool = False,
) -> tuple[Autoencoder, pd.DataFrame]:
    """The autoencoder of this config and its history (loss is the mean squared error).

    Weights are kept in half precision. What is returned always comes from disk, so that
    results do not depend on whether the model was trained just now.
    """
    model = make_autoencoder(
        config.architecture, config.latent_dim, config.hidden_dim, images.shape[-1], config.seed
    )

    def train() -> tuple[nn.Module, pd.DataFrame]:
        return model, _train_base_model(model.to(device), config, images, validation, models)

    tensors, history = _load_or_train(config, train, models, force, half=True)
    return _fill(model, tensors, config, models).to(device).eval().requires_grad_(False), history


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
    def evaluate() -> dict[str, Tensor]:
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
    force: bool = False,
) -> LinearAction:
    """The action of this config, fitted to orbit activations or read from disk."""
    group = Group.named(config.group)

    def train() -> tuple[nn.Module, pd.DataFrame]:
        orbits = activations
        if config.shuffled:
            generator = torch.Generator().manual_seed(config.seed)
            order = torch.rand(orbits.shape[:2], generator=generator).argsort(1).to(orbits.device)
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
        return action, pd.DataFrame()

    tensors, _ = _load_or_train(config, train, models, force)
    return LinearAction(group, **tensors).to(activations.device)


def load_or_train_saes(
    configs: list[SAERun],
    activations: Tensor | list[Tensor],
    models: Path | str,
    validation: Tensor | None = None,
    executor=None,
    force: bool = False,
) -> list[SAE]:
    """The SAEs of these configs, in their order, loaded from disk or trained.

    Configs that differ in their seeds alone are trained side by side, the others in
    parallel processes (see `saehelpers.sweeps.sweep`).

    Args:
        activations: orbit activations (n, |G|, d) for all configs, or one tensor for each.
        validation: held-out activations for the histories, where all share `activations`.
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
            [sources[i].cpu() for i in group]
            if isinstance(activations, list)
            else [sources[0].cpu()],
            None if validation is None else [validation.cpu()],
            str(models),
            str(sources[0].device),
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
    run = runs.load_run(models, config)
    if run is None:
        raise FileNotFoundError(f"no run {runs.run_id(config)} in {models}: train it first")
    return _fill(make_sae(config.sae), run[0], config, models).eval().requires_grad_(False)


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
