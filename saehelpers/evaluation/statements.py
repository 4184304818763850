"""What a comparison says, and how sure it is: differences paired by base model and seed.

Base models and seeds are two levels of chance: SAEs on one base model share what that one has
learnt. What was tested on is a third. Intervals resample them all (hierarchical bootstrap: Davison
and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8), and nothing is said that
an interval does not decide.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Name, Open, check_columns, with_columns

BASE, SEED, RESAMPLE = "base_seed", "seed", "resample"
RESAMPLES = 10_000
HOLDS, DOES_NOT_HOLD, NOT_DECIDED = "holds", "does not hold", "not decided"
Values = Annotated[pd.DataFrame, with_columns(BASE, SEED, "value")]


class Estimate(NamedTuple):
    """A mean with the interval that holds it in a `level` of resamples.

    low and high are NaN where there is none, and `why_none` says why.
    """

    mean: float
    low: float
    high: float
    base_models: int
    seeds: int
    why_none: str = ""

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return self.why_none
        mean, low, high = (f"{round(value, 3) + 0.0:.3f}" for value in self[:3])  # no "-0.000"
        if self.why_none:
            return f"{mean} (no interval: {self.why_none})"
        return f"{mean} ({low} to {high})"

    @property
    def decides(self) -> bool:
        """Whether the interval leaves 0."""
        return self.low > 0 or self.high < 0


@checked
def interval(values: Values, level: Open = 0.95) -> Estimate:
    """Mean over base models of their means over seeds, and the hierarchical bootstrap's interval.

    Base models are drawn with replacement, then seeds of each that is drawn, then what was tested
    on, if there are resamples of it; the interval is between the quantiles of the means. With one
    base model it would say nothing of others: there is none.

    Args:
        values: a row for each base model and seed, or several (tasks, say), which are averaged.
            A column "resample", if there is one, is 0 for the value itself, and from 1 the number
            of a resample of what was tested on, the same for all.

    Raises:
        ValueError: some base models and seeds have resamples that others lack.
    """
    rows = values.dropna(subset="value")
    rows = rows if RESAMPLE in rows else rows.assign(**{RESAMPLE: 0})
    wide = rows.groupby([BASE, SEED, RESAMPLE])["value"].mean().unstack()
    if wide.empty:
        return Estimate(*[float("nan")] * 3, 0, 0, "nothing was measured")
    if wide.isna().any(axis=None):
        base, seed = wide.index[wide.isna().any(axis=1)][0]
        raise ValueError(
            f"values: base model {base}, seed {seed}, lacks resamples that others have"
        )
    of_base = [own.to_numpy() for _, own in wide.groupby(level=BASE)]  # (seeds, 1 + resamples)
    mean = float(np.mean([own[:, 0].mean() for own in of_base]))
    counts = len(of_base), min(map(len, of_base))
    if len(of_base) < 2:
        return Estimate(mean, float("nan"), float("nan"), *counts, "one base model")
    generator = np.random.default_rng(0)
    shape, n_values = (RESAMPLES, len(of_base)), wide.shape[1]
    tested_on = generator.integers(min(1, n_values - 1), n_values, size=RESAMPLES)
    # seeds of every base model are drawn for every place of every resample: those of one are taken
    seeds = [generator.integers(len(own), size=(*shape, len(own))) for own in of_base]
    drawn = generator.integers(len(of_base), size=shape)
    means = np.empty(shape)
    for number, own in enumerate(of_base):
        taken = drawn == number
        tested = tested_on[taken.nonzero()[0], None]
        means[taken] = own[seeds[number][taken], tested].mean(axis=1)
    resampled = means.mean(axis=1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high), *counts)


@checked
def paired_difference(
    first: Values, second: Values, by: Sequence[Name] = (), level: Open = 0.95
) -> Estimate:
    """`interval` of first minus second, of the same base model, seed, resample, and `by`.

    Raises:
        ValueError: there are no pairs, or several rows of one.
    """
    check_columns("first", first, by=list(by))
    check_columns("second", second, by=list(by))
    keys = [BASE, SEED, *by]
    keys += [RESAMPLE] if RESAMPLE in first and RESAMPLE in second else []
    for name, table in (("first", first), ("second", second)):
        if table.duplicated(keys).any():
            raise ValueError(f"{name} must have one row for each {', '.join(keys)}, it has several")
    both = first.merge(second, on=keys, suffixes=("", "_of_second"))
    if both.empty:
        raise ValueError(f"first and second have no {', '.join(keys)} in common")
    return interval(both.assign(value=both["value"] - both["value_of_second"]), level)


@checked
def verdict(difference: Estimate, more_than: int | float = 0) -> str:
    """What an interval says of the claim that a difference is more than so much.

    "holds" where the whole interval is above, "does not hold" where it is below, "not decided"
    otherwise, or where there is none.
    """
    if difference.low > more_than:
        return HOLDS
    return DOES_NOT_HOLD if difference.high < more_than else NOT_DECIDED


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson) of a share of n independent trials."""
    with extra("probes"):
        from scipy.stats import binomtest

    found = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return found.low, found.high


@checked
def each_above(
    values: Annotated[pd.DataFrame, with_columns("method", SEED, "value")],
    methods: Annotated[Sequence[Name], NOT_EMPTY],
    baseline: Name,
    by: Sequence[Name] = (),
) -> dict[str, Estimate | str]:
    """How far each method is above a baseline, and what that says of the claim that all are.

    Returns:
        The `paired_difference` of each method, by its name, and the "verdict": it holds where it
        holds of every method, and does not where it does not of one.
    """
    rows = values if BASE in values else values.assign(**{BASE: 0})
    of_baseline = rows[rows["method"] == baseline]
    found = {}
    for name in methods:
        own = rows[rows["method"] == name]
        both = len(own) and len(of_baseline)
        nothing = Estimate(*[float("nan")] * 3, 0, 0, "not measured")
        found[name] = paired_difference(own, of_baseline, by) if both else nothing
    verdicts = [verdict(difference) for difference in found.values()]
    if DOES_NOT_HOLD in verdicts:
        return found | {"verdict": DOES_NOT_HOLD}
    return found | {"verdict": HOLDS if set(verdicts) == {HOLDS} else NOT_DECIDED}
