"""What was trained is measured once: rows that results files have already are not made again."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from saehelpers import runs
from saehelpers.evaluation.inputs import ProbeInput
from saehelpers.evaluation.probing import probe_sweep
from saehelpers.experiments.once import load_existing
from saehelpers.experiments.subjects import ActionRun
from saehelpers.runs import results
from saehelpers.runs.progress import progress_line
from saehelpers.runs.sweeps import sweep
from saehelpers.training.methods import EndToEndRun, SAERun, run_columns

Run = SAERun | EndToEndRun | ActionRun


def drop_stale_rows(path: Path | str, configs: Iterable[Run], models: Path | str) -> None:
    """Remove from a results file what was measured on earlier models of the same configs."""
    created = {
        runs.run_id(config): load_existing(config, models)[2]["created_utc"] for config in configs
    }
    dropped = results.drop_stale(path, created)
    if dropped:
        print(f"{dropped} rows of earlier models removed from {Path(path).name}")


def measure_runs(
    measure: Callable[..., dict[str, float] | list[dict[str, Any]]],
    jobs: list[tuple[Run, dict[str, Any], tuple]],
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
    jobs = [(measure, _columns_of(config) | columns, rest) for config, columns, rest in jobs]
    done = set(_measurements(results.read(path)))
    todo = [job for job in jobs if _measurement(job[1]) not in done]
    print(progress_line("SAEs measured", len(jobs) - len(todo), len(jobs)))
    for rows in sweep(_measure, todo, "measuring", executor):
        results.append(path, rows)
    return _rows_of([columns for _, columns, _ in jobs], path)


def measure_probes(
    plan: list[tuple[Run, dict[str, Any], str, int | None, ProbeInput]],
    labels: Bool[Tensor, "n tasks"],
    tasks: pd.DataFrame,
    n_train: int,
    path_of: Callable[[dict[str, Any]], Path],
    models: Path | str,
    executor=None,
) -> pd.DataFrame:
    """F1 of every planned probe on every task, and the rows of the results files.

    Only what they have no row of is measured, and is written as it is done: stopped at any
    time, it goes on from there.

    Args:
        plan: (config, further columns of its rows, probe, truncation, input); see `probe_tasks`.
        tasks: a row with task_type and task for each column of `labels`.
        n_train: so many samples train, the others are held out.
        path_of: the results file for a row of these columns.
    """
    names = tasks[["task_type", "task"]].to_dict("records")
    rows_of_plan = [
        _columns_of(config) | {
            "probe": probe, "features": given.features, "truncation": truncation,
            "element": given.element, "metric": "f1", "split": "test", "n_train": n_train,
            "n_test": len(labels) - n_train,
        } | columns
        for config, columns, probe, truncation, given in plan
    ]  # fmt: skip
    paths = [path_of(columns) for columns in rows_of_plan]
    jobs = []
    for path in sorted(set(paths)):
        own = [i for i, other in enumerate(paths) if other == path]
        drop_stale_rows(path, {plan[i][0] for i in own}, models)
        is_new = results.missing(path, [rows_of_plan[i] | name for i in own for name in names])
        n_done, times = len(is_new) - sum(is_new), results.read(path).created_utc
        print(progress_line(path.stem, n_done, len(is_new), times))
        for i in own:
            new, is_new = is_new[: len(names)], is_new[len(names) :]
            _, _, probe, truncation, given = plan[i]
            job = {"row": i, "probe": probe, "truncation": truncation}
            jobs.append((job, given, [task for task, missing in enumerate(new) if missing]))
    for job, done, scores in probe_sweep(jobs, labels, n_train, executor):
        columns, path = rows_of_plan[job["row"]], paths[job["row"]]
        measured = zip(done, scores, strict=True)
        results.append(path, [columns | names[task] | {"value": score} for task, score in measured])
    print(progress_line("probes", len(plan) * len(names), len(plan) * len(names)))
    return _rows_of(rows_of_plan, sorted(set(paths)))


def _columns_of(config: Run) -> dict[str, Any]:
    if isinstance(config, ActionRun):
        return {"run_id": runs.run_id(config), "method": config.method, "seed": config.seed}
    return run_columns(config)


def _rows_of(wanted: list[dict[str, Any]], paths: Path | str | list[Path]) -> pd.DataFrame:
    """The rows in results files that come from the same runs and numbers of samples."""
    table, wanted = results.read(paths), {_measurement(columns) for columns in wanted}
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
