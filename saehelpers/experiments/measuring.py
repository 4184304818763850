"""What was trained is measured once: rows that results tables have already are not made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from jaxtyping import Bool, Int
from torch import Tensor

from saehelpers import runs
from saehelpers.evaluation.inputs import ProbeInput
from saehelpers.evaluation.probing import (
    RESAMPLES,
    SETTINGS,
    probe_sweep,
    probe_tasks,
    resampled_scores,
    task_scores,
)
from saehelpers.experiments.subjects import ActionRun
from saehelpers.runs import results
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identity
from saehelpers.runs.progress import progress_line
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import FROM_ZERO, NOT_EMPTY, AnyExecutor, Positive, with_columns
from saehelpers.saes import SAE, EquivariantSAE
from saehelpers.symmetry import LinearAction
from saehelpers.training.methods import EndToEndRun, SAERun, run_columns

Run = SAERun | EndToEndRun | ActionRun


@checked
def measure_runs(
    measure: Callable[..., dict[str, float] | list[dict[str, Any]]],
    jobs: list[tuple[Run, dict[str, Any], tuple]],
    path: Path | str,
    executor: AnyExecutor | None = None,
) -> pd.DataFrame:
    """Measure whatever the results table has no rows of yet, and return the rows of these jobs.

    A row stands for what it was measured on: in its key are the weights of the SAE, the action,
    the data (all other arguments) and the measuring function (see `saehelpers.runs.identities`).
    Whoever changes one of them, a line of `measure` say, gets new values.

    Args:
        measure: gives the values of a model's metrics by name, or rows with further columns.
        jobs: (config, further columns of its rows, arguments of `measure`).
    """
    known: dict[int, str] = {}

    def told(value: Any) -> str:
        """The identity of an argument; the same object serves many jobs."""
        if id(value) not in known:
            known[id(value)] = identity(value)
        return known[id(value)]

    described = []
    for config, columns, arguments in jobs:
        causes = {"measure": told(measure)}
        for kind in ("weights", "action", "data"):
            causes[kind] = "-".join(told(value) for value in arguments if _kind(value) == kind)
        described.append((measure, _columns_of(config) | columns | causes, arguments))
    wanted = [columns for _, columns, _ in described]
    absent = results.missing(path, wanted)
    todo = [job for job, is_absent in zip(described, absent, strict=True) if is_absent]
    print(progress_line("SAEs measured", len(jobs) - len(todo), len(jobs)))
    for rows in sweep(_measure, todo, "measuring", executor):
        results.append(path, rows)
    return results.take(path, wanted)


def _kind(argument: Any) -> str:
    if isinstance(argument, LinearAction):
        return "action"
    return "weights" if isinstance(argument, SAE | EquivariantSAE) else "data"


@checked
def measure_probes(
    plan: Annotated[list[tuple[Run, dict[str, Any], str, int | None, ProbeInput]], NOT_EMPTY],
    labels: Bool[Tensor, "n tasks"],
    tasks: Annotated[pd.DataFrame, with_columns("task_type", "task")],
    n_train: Positive,
    path_of: Callable[[dict[str, Any]], Path],
    executor: AnyExecutor | None = None,
    units: Annotated[Int[Tensor, " n_test"], FROM_ZERO] | None = None,
) -> pd.DataFrame:
    """F1 of every planned probe on every task: the rows of the results tables.

    Only what they have no row of is measured, and is written as it is done: stopped at any
    time, it goes on from there.

    Args:
        plan: (config, further columns of its rows, probe, truncation, input); see `predict_tasks`.
        tasks: a row with task_type and task for each column of `labels`.
        n_train: so many samples train, the others are held out.
        path_of: the results table for a row of these columns.
        units: of the held-out samples, which one each belongs to: the composition of an image,
            say. If they are given, there are also rows of the metric "f1_resampled", the mean
            over the tasks of a type on units drawn anew (see `resampled_scores`).

    Raises:
        ValueError: there are not as many units as held-out samples.
    """
    if units is not None and len(units) != len(labels) - n_train:
        raise ValueError(f"units must be {len(labels) - n_train}, one for each held-out sample, "
                         f"got {len(units)}")  # fmt: skip
    wanted = _columns_of_tasks(labels, tasks, units)
    rows_of_plan = []
    for config, columns, probe, truncation, given in plan:
        shared = _columns_of(config) | {
            "probe": probe, "features": given.features, "truncation": truncation,
            "element": given.element, "split": "test", "n_train": n_train,
            "n_test": len(labels) - n_train, "measure": identity((probe_tasks, SETTINGS[probe])),
        } | columns | (given.causes or {"data": identity(given)})  # fmt: skip
        rows_of_plan.append(
            [shared | row | {"data": f"{shared['data']}-{row['data']}"} for row in wanted]
        )
    paths = [path_of(rows[0]) for rows in rows_of_plan]
    jobs = []
    for path in sorted(set(paths)):
        own = [i for i, other in enumerate(paths) if other == path]
        absent = results.missing(path, [row for i in own for row in rows_of_plan[i]])
        print(progress_line(path.stem, len(absent) - sum(absent), len(absent)))
        for i in own:
            absent_here, absent = absent[: len(wanted)], absent[len(wanted) :]
            _, _, probe, truncation, given = plan[i]
            todo = [task for task, is_absent in enumerate(absent_here) if is_absent]
            if todo and todo[-1] >= len(tasks):  # means over tasks need them all
                todo = [*range(len(tasks))]
            jobs.append(({"row": i, "probe": probe, "truncation": truncation}, given, todo))
    for job, done, predictions in probe_sweep(jobs, labels, n_train, executor):
        rows, truth = rows_of_plan[job["row"]], labels[n_train:, done]
        scores = [(rows[t], v) for t, v in zip(done, task_scores(truth, predictions), strict=True)]
        if units is not None and len(done) == len(tasks):
            resampled = pd.DataFrame(resampled_scores(truth, predictions, units))
            means = resampled.T.groupby(tasks["task_type"].to_numpy(), sort=False).mean()
            scores += zip(rows[len(tasks) :], means.to_numpy().ravel(), strict=True)
        results.append(paths[job["row"]], [row | {"value": value} for row, value in scores])
    print(progress_line("probes", len(plan) * len(tasks), len(plan) * len(tasks)))
    of_path = {path: [] for path in sorted(set(paths))}
    for path, rows in zip(paths, rows_of_plan, strict=True):
        of_path[path] += rows
    return pd.concat([results.take(*pair) for pair in of_path.items()], ignore_index=True)


def _columns_of_tasks(labels: Tensor, tasks: pd.DataFrame, units: Tensor | None) -> list[dict]:
    """What tells the rows of one input: of each task, then of each type and each resample."""
    told = [
        row | {"metric": "f1", "data": identity(column)}
        for row, column in zip(
            tasks[["task_type", "task"]].to_dict("records"), labels.T, strict=True
        )
    ]
    if units is None:
        return told
    data = identity((labels, units))
    return told + [
        {"task_type": kind, "task": f"resample {n}", "metric": "f1_resampled", "data": data}
        for kind in tasks["task_type"].unique()
        for n in range(1, RESAMPLES + 1)
    ]


def _columns_of(config: Run) -> dict[str, Any]:
    if isinstance(config, ActionRun):
        return {"run_id": runs.run_id(config), "method": config.method, "seed": config.seed}
    return run_columns(config)


def _measure(measure, columns, arguments) -> list[dict[str, Any]]:
    measured = measure(*arguments)
    if isinstance(measured, dict):
        measured = [{"metric": metric, "value": value} for metric, value in measured.items()]
    return [columns | row for row in measured]
