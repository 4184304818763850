"""Every two SAEs that a plan compares, measured against each other."""

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from saehelpers import runs
from saehelpers.experiments.measuring import measure_runs
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Wanted
from saehelpers.saes import SAE
from saehelpers.training.methods import SAERun

KEYS = ["run_id", "task_type", "task"]


@checked
def measure_pairs(
    measure: Callable[..., dict[str, float]],
    plans: Mapping[Any, list[SAERun]],
    saes: Mapping[SAERun, SAE],
    columns: Annotated[
        Mapping[str, Any], Wanted("columns with a task_type", lambda told: "task_type" in told)
    ],
    path: Path | str,
    *arguments: Any,
) -> pd.DataFrame:
    """Scores of every two runs of each plan; a row of results for each pair and metric.

    Args:
        measure: gives scores by name of two SAEs, and of further arguments.
        plans: by name, the runs that are compared with one another.
        saes: the trained SAEs of all of them.
        columns: of the rows of results. In the "task_type", {plan} stands for the plan's name;
            the "task" says the seeds of both runs, of the weights and of the order.

    Returns:
        The columns plan, first and second (places in the plan), metric and value.
    """
    jobs, pairs = [], []
    for plan, configs in plans.items():
        seeds = [f"{config.seed}/{config.draws}" for config in configs]
        shared = {**columns, "task_type": columns["task_type"].format(plan=plan)}
        for first, second in combinations(range(len(configs)), 2):
            told = shared | {"task": f"{seeds[first]} with {seeds[second]}"}
            both = saes[configs[first]], saes[configs[second]]
            jobs.append((configs[first], told, (*both, *arguments)))
            key = runs.run_id(configs[first]), told["task_type"], told["task"]
            pairs.append((plan, first, second, *key))
    named = pd.DataFrame(pairs, columns=["plan", "first", "second", *KEYS])
    table = measure_runs(measure, jobs, path)
    return named.merge(table[[*KEYS, "metric", "value"]], on=KEYS).drop(columns=KEYS)
