"""What a comparison says, and how sure it is: differences paired by base model and seed.

Base models and seeds are two levels of chance: SAEs on one base model share what that one has
learnt. Intervals resample both (hierarchical bootstrap: Davison and Hinkley, Bootstrap Methods and
their Application, 1997, section 3.8), and nothing is said that an interval does not decide.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Name, Open, check_columns, with_columns

BASE, SEED = "base_seed", "seed"
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
        if self.why_none:
            return f"{self.mean:.3f} (no interval: {self.why_none})"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def decides(self) -> bool:
        """Whether the interval leaves 0."""
        return self.low > 0 or self.high < 0


@checked
def interval(values: Values, level: Open = 0.95) -> Estimate:
    """Mean over base models of their means over seeds, and the hierarchical bootstrap's interval.

    Base models are drawn with replacement, then seeds of each that is drawn; the interval is
    between the quantiles of the means. With one base model it would say nothing of others: there
    is none.

    Args:
        values: a row for each base model and seed, or several (tasks, say), which are averaged.
    """
    rows = values.dropna(subset="value").groupby([BASE, SEED])["value"].mean()
    of_base = [own.to_numpy() for _, own in rows.groupby(level=BASE)]
    if not of_base:
        return Estimate(*[float("nan")] * 3, 0, 0, "nothing was measured")
    mean = float(np.mean([own.mean() for own in of_base]))
    counts = len(of_base), min(map(len, of_base))
    if len(of_base) < 2:
        return Estimate(mean, float("nan"), float("nan"), *counts, "one base model")
    generator = np.random.default_rng(0)
    # for every place of every resample, a mean over seeds of every base model: one is taken
    shape = (RESAMPLES, len(of_base))
    means = np.stack(
        [own[generator.integers(len(own), size=(*shape, len(own)))].mean(-1) for own in of_base]
    )
    drawn = generator.integers(len(of_base), size=shape)
    resampled = np.take_along_axis(means, drawn[None], axis=0)[0].mean(axis=1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high), *counts)


@checked
def paired_difference(
    first: Values, second: Values, by: Sequence[Name] = (), level: Open = 0.95
) -> Estimate:
    """`interval` of first minus second, of the same base model and seed, and the same of `by`.

    Raises:
        ValueError: there are no pairs, or several rows of one.
    """
    check_columns("first", first, by=list(by))
    check_columns("second", second, by=list(by))
    keys = [BASE, SEED, *by]
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
