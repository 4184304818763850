"""Trained once, then loaded: what the runs of every kind of model share."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import pandas as pd
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY, Config, Positive
from saehelpers.training.checkpoints import remove_checkpoint
from saehelpers.training.fitting import Settings, fit


@checked
def load_or_train(
    config: Config,
    train: Callable,
    models: Path | str,
    force: bool,
    half: bool = False,
    files: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Tensors and history of a run, from disk; trained and saved first if it is not there.

    `files`: further text files of the run, which `train` may fill in.
    """
    run = None if force else runs.load_run(models, config)
    if run is None:
        print(f"training {runs.run_id(config)}")
        if force:
            begin_anew(models, [config])
        model, history = train()
        tensors = {k: v.half() if half else v for k, v in model.state_dict().items()}
        runs.save_run(models, config, tensors, history, force, files)
        remove_checkpoint(checkpoint_path(models, [config]))
        run = runs.load_run(models, config)
    else:
        print(f"loaded   {runs.run_id(config)}")
    return run[0], run[1]


@checked
def load_existing(config: Config, models: Path | str) -> tuple:
    """A run that must be there."""
    run = runs.load_run(models, config)
    if run is None:
        raise FileNotFoundError(f"no run {runs.run_id(config)} in {models}: train it first")
    return run


@checked
def load_weights(
    model: nn.Module, tensors: dict[str, Tensor], config: Config, models: Path | str
) -> nn.Module:
    return fill(model, tensors, Path(models) / runs.run_id(config), runs.damaged)


@checked
def fill(
    model: nn.Module,
    tensors: dict[str, Tensor],
    folder: Path,
    error_of: Callable[[Path, str], ValueError],
) -> nn.Module:
    """The model with the tensors of a folder; what to say if they do not fit comes from outside."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise error_of(folder, str(error)) from error
    return model


def begin_anew(models: Path | str, configs: list) -> None:
    """Remove what an earlier training of these configs left unfinished."""
    remove_checkpoint(checkpoint_path(models, configs))


@checked
def checkpoint_path(models: Path | str, configs: Annotated[list[Config], NOT_EMPTY]) -> Path:
    hashes = sorted(runs.config_hash(config) for config in configs)
    digits = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    name = f"{runs.folders.checked_name(configs[0])}-{digits}"
    return Path(models) / ".unfinished" / f"{name}.safetensors"


@checked
def fit_run(
    model: nn.Module,
    step: Callable,
    n_samples: Positive,
    config: Config,
    models: Path | str,
    evaluate: Callable,
    begin_epoch: Callable | None = None,
    **settings,
) -> pd.DataFrame:
    """`fitting.fit` of one model with what its run decides, and `settings` beyond that."""
    return fit(
        model.train(),
        step,
        n_samples,
        [config.seed],
        Settings.of(config, **settings),
        begin_epoch=begin_epoch,
        evaluate=evaluate,
        checkpoint=checkpoint_path(models, [config]),
        of=runs.config_hash(config),
        description=config.name,
    ).drop(columns="instance")
