"""SAEs of a language model, trained end to end once, then loaded onto it."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from jaxtyping import Integer
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.experiments.loading import load_folder
from saehelpers.experiments.once import begin_anew, checkpoint_path
from saehelpers.experiments.saes import load_sae
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import check_identity, identity
from saehelpers.runs.sweeps import is_seen, sweep
from saehelpers.runs.wanted import FROM_ZERO, AnyExecutor, Device
from saehelpers.saes import SAE
from saehelpers.training.checkpoints import remove_checkpoint
from saehelpers.training.end_to_end import check_model, train_end_to_end
from saehelpers.training.methods import EndToEndRun


@checked
def load_or_train_end_to_end(
    configs: list[EndToEndRun],
    model: nn.Module,
    blocks: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    validation: Annotated[Integer[Tensor, "m context"], FROM_ZERO],
    models: Path | str,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
    force: bool = False,
) -> list[SAE]:
    """The SAEs of these configs, in their order, loaded from disk or trained.

    Those that can be trained side by side (`shared_settings` are equal) are, each such group in a
    process of its own (see `saehelpers.runs.sweep`), a single group in this one, with a progress
    bar. An SAE that others go on from (`start`) must be on disk, in `models`. Arguments as in
    `train_end_to_end`.
    """
    told = identity(blocks)
    for config in configs:
        check_identity(f"text of {config.name!r}", config.text, told)
    missing = [config for config in configs if force or runs.load_run(models, config) is None]
    if missing:
        print(f"training {len(missing)} of {len(configs)} SAEs, the others are on disk")
    groups: dict[tuple, list[EndToEndRun]] = {}
    for config in missing:
        groups.setdefault(config.shared_settings, []).append(config)
    seen = is_seen(len(groups), executor, device)
    if groups and seen:  # training moves the model and freezes it; other processes have their own
        model = copy.deepcopy(model)
    jobs = [
        (group, model, blocks, validation, models, device, force, seen) for group in groups.values()
    ]
    for _ in sweep(_train_and_save, jobs, "SAEs", executor, alone_here=True, device=device):
        pass
    return [load_sae(config, models) for config in configs]


def _train_and_save(configs, model, blocks, validation, models, device, force, progress) -> None:
    if force:
        begin_anew(models, configs)
    checkpoint = checkpoint_path(models, configs)
    trained = train_end_to_end(
        configs,
        model.to(device),
        blocks.to(device),
        validation.to(device),
        starts=[load_start(config, models) if config.start else None for config in configs],
        checkpoint=checkpoint,
        progress=progress,
    )
    for config, sae, history in zip(configs, *trained, strict=True):
        runs.save_run(models, config, sae.state_dict(), history, overwrite=force)
    remove_checkpoint(checkpoint)


@checked
def load_start(config: EndToEndRun, models: Path | str) -> SAE:
    """The SAE that training of a config goes on from."""
    return load_folder(Path(models) / config.start)[1]


@checked
def load_onto(model: nn.Module, sources: Iterable[Path | str]) -> dict[str, SAE]:
    """SAEs by the module of the model that they are spliced into (`language_metrics.spliced`).

    Args:
        sources: folders, or names of Hugging Face hub repositories; every SAE in them and
            below is loaded.

    Raises:
        FileNotFoundError: there is no SAE in a source.
        ValueError: an SAE is of another model, two are of one module, or one is none of a
            language model or damaged.
    """
    saes: dict[str, SAE] = {}
    for source in sources:
        folder = runs.local_folder(source, ["*config.json", "*weights.safetensors"])
        paths = [
            path for path in folder.rglob("config.json") if runs.files.is_visible(path, folder)
        ]
        found = sorted(path.parent for path in paths)
        if not found:
            raise FileNotFoundError(f"no SAE (config.json and weights.safetensors) in {source}")
        for path in found:
            config, sae = load_folder(path)
            if not isinstance(config, EndToEndRun):
                raise ValueError(
                    f"{path} has no SAE of a language model, it is a {type(config).__name__}"
                )
            check_model(config, model)
            if config.module in saes:
                raise ValueError(f"{source} has a second SAE for the module {config.module!r}")
            saes[config.module] = sae
    return saes
