"""Tables of differences between methods, with what each says of a claim.

Each is a paired difference with its interval, see `saehelpers.evaluation.statements`: by itself
where there is no interval, as one base model says nothing of others.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import pandas as pd

from saehelpers.evaluation.statements import (
    BASE,
    RESAMPLE,
    SEED,
    Estimate,
    each_above,
    paired_difference,
)
from saehelpers.figures.analysis import base_models_of
from saehelpers.figures.names import label
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY, Name, check_columns, with_columns

CLAIM, WHY = "claim", "no interval, because of"


@checked
def claims_of(
    text: str,
    values: Annotated[pd.DataFrame, with_columns("method", BASE, SEED, "value")],
    methods: Annotated[Sequence[str], NOT_EMPTY],
    baseline: Name,
    where: Name = "base_model",
) -> pd.DataFrame:
    """Whether each of some methods is above a baseline, a row for each base model.

    Args:
        text: the claim; "{}" in it stands for the baseline.
        values: several of one method, base model and seed (of tasks, say) are averaged.
        where: the column whose values are judged one by one.

    Returns:
        The claim, the difference of each method in a column with its label, the verdict on
        them all (see `each_above`), and why there is no interval.
    """
    check_columns("values", values, where=where)
    told_by = [where, "method", BASE, SEED, *{RESAMPLE} & {*values}]
    means = values.groupby(told_by)["value"].mean().reset_index()
    rows = []
    for name, own in means.groupby(where):
        found = each_above(own, methods, baseline)
        told = {method: found[method] for method in methods}
        why = {difference.why_none for difference in told.values()} - {""}
        rows.append(
            {CLAIM: f"{name}: {text.format(label(baseline))}"}
            | {label(method): _shown(difference) for method, difference in told.items()}
            | {"verdict": found["verdict"], WHY: ", ".join(sorted(why))}
        )
    return pd.DataFrame(rows, columns=[CLAIM, *map(label, methods), "verdict", WHY])


@checked
def differences_between(
    values: Annotated[pd.DataFrame, with_columns("base_model", "probe", BASE, SEED, "value")],
    pairs: Annotated[Mapping[str, tuple[str, str]], NOT_EMPTY],
    column: Name = "condition",
) -> pd.DataFrame:
    """The differences of some pairs, a row for each, by base model and probe.

    Args:
        values: one of each base model, seed, probe and name in `column`.
        pairs: what is said of each, and two names in `column`: the first minus the second.
    """
    check_columns("values", values, column=column)
    found = {}
    for base_model in base_models_of(values):
        own = values[values["base_model"] == base_model]
        for probe, rows in own.groupby("probe"):
            parts = dict(list(rows.groupby(column)))
            found[base_model, label(probe)] = {
                said: _difference(parts.get(first), parts.get(second))
                for said, (first, second) in pairs.items()
            }
    return pd.DataFrame(found, index=list(pairs))


def _difference(first: pd.DataFrame | None, second: pd.DataFrame | None) -> str:
    if first is None or second is None or first.merge(second, on=[BASE, SEED]).empty:
        return "not measured"
    return _shown(paired_difference(first, second))


def _shown(difference: Estimate) -> str:
    """Without why there is no interval, where there is a difference."""
    if difference.why_none and difference.mean == difference.mean:
        return f"{round(difference.mean, 3) + 0.0:.3f}"  # no "-0.000"
    return str(difference)
