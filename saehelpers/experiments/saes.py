"""SAEs, trained once, then loaded, and measured once."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from saehelpers import runs
from saehelpers.datasets.shards import ShardStream, map_activations
from saehelpers.datasets.synthetic import Stream
from saehelpers.experiments.loading import checkpoint_path, load_existing, load_weights
from saehelpers.runs import results
from saehelpers.runs.progress import progress_line
from saehelpers.runs.sweeps import sweep
from saehelpers.saes import SAE, make_sae
from saehelpers.training.methods import EndToEndRun, SAERun, run_columns
from saehelpers.training.side_by_side import train_saes


def load_or_train_saes(
    configs: list[SAERun],
    activations: Tensor | Path | list[Tensor] | list[Stream] | list[ShardStream],
    models: Path | str,
    validation: Tensor | None = None,
    device: str = "cpu",
    executor=None,
    force: bool = False,
) -> list[SAE]:
    """The SAEs of these configs, in their order, loaded from disk or trained.

    Configs that differ in their seeds alone are trained side by side, the others in
    parallel processes (see `saehelpers.runs.sweeps.sweep`).

    Args:
        activations: orbit activations (n, |G|, d) for all configs, or the file that they are
            mapped from; or one tensor for each, or one stream for each.
        validation: held-out activations for the histories, where all share `activations`.
        device: where they are trained; what is returned is on the CPU.
    """
    sources = activations if isinstance(activations, list) else [activations] * len(configs)
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
            [sources[i] for i in group] if isinstance(activations, list) else [activations],
            None if validation is None else [validation],
            models,
            device,
            force,
        )
        for group in together.values()
    ]
    for _ in sweep(_train_and_save, jobs, "SAEs", executor):
        pass
    return [load_sae(config, models) for config in configs]


def load_sae(config: SAERun | EndToEndRun, models: Path | str) -> SAE:
    """The trained SAE of this config.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    tensors, _, _ = load_existing(config, models)
    return load_weights(make_sae(config.sae), tensors, config, models).eval().requires_grad_(False)


def drop_stale_rows(path: Path | str, configs: list, models: Path | str) -> None:
    """Remove from a results file what was measured on earlier models of the same configs."""
    created = {
        runs.run_id(config): load_existing(config, models)[2]["created_utc"] for config in configs
    }
    dropped = results.drop_stale(path, created)
    if dropped:
        print(f"{dropped} rows of earlier models removed from {Path(path).name}")


def measure_runs(
    measure: Callable[..., dict[str, float] | list[dict[str, Any]]],
    jobs: list[tuple[SAERun | EndToEndRun, dict[str, Any], tuple]],
    path: Path | str,
    models: Path | str,
    executor=None,
) -> pd.DataFrame:
    """Measure every SAE that the results file has no rows of yet, and return the file's rows.

    Rows that were measured on other numbers of samples than a job's columns say do not count.

    Args:
        measure: gives the values of a model's metrics by name, or rows with further columns.
        jobs: (config, further columns of its rows, arguments of `measure`).
    """
    drop_stale_rows(path, [config for config, _, _ in jobs], models)
    jobs = [(measure, run_columns(config) | columns, rest) for config, columns, rest in jobs]
    done = set(_measurements(results.read(path)))
    todo = [job for job in jobs if _measurement(job[1]) not in done]
    print(progress_line("SAEs measured", len(jobs) - len(todo), len(jobs)))
    for rows in sweep(_measure, todo, "measuring", executor):
        results.append(path, rows)
    wanted = {_measurement(columns) for _, columns, _ in jobs}
    table = results.read(path)
    return table[[measurement in wanted for measurement in _measurements(table)]]


def _measurements(table: pd.DataFrame) -> Iterable[tuple]:
    return zip(*(table[name] for name in ("run_id", *results.SAMPLES)), strict=True)


def _measurement(columns: dict[str, Any]) -> tuple:
    return tuple(columns.get(name, pd.NA) for name in ("run_id", *results.SAMPLES))


def _measure(measure, columns, arguments) -> list[dict[str, Any]]:
    measured = measure(*arguments)
    if isinstance(measured, dict):
        measured = [{"metric": metric, "value": value} for metric, value in measured.items()]
    return [columns | row for row in measured]


def _train_and_save(configs, activations, validation, models, device, force) -> None:
    sources = [map_activations(s) if isinstance(s, Path) else s for s in activations]
    saes, histories = train_saes(
        configs,
        [source.to(device) for source in sources],
        None if validation is None else [source.to(device) for source in validation],
        checkpoint_path(models, configs),
        progress=False,
    )
    for config, sae, history in zip(configs, saes, histories, strict=True):
        runs.save_run(models, config, sae.state_dict(), history, overwrite=force)
