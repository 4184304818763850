"""What a comparison says, and how sure it is: differences paired by base model and seed.

Base models and seeds are two levels of chance: SAEs on one base model share what that one has
learnt. So the means of base models are what an interval is made of, by Student's t: with as few as
there are, resampling them would give intervals that hold the truth less often than they say
(Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008). What was tested on is a
third level. Nothing is said that an interval does not decide.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Name, Open, check_columns, with_columns

BASE, SEED, RESAMPLE = "base_seed", "seed", "resample"
HOLDS, DOES_NOT_HOLD, NOT_DECIDED = "holds", "does not hold", "not decided"
Values = Annotated[pd.DataFrame, with_columns(BASE, SEED, "value")]


class Estimate(NamedTuple):
    """A mean with its interval.

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
    r"""Mean over base models of their means over seeds, and its interval.

        mean +- sqrt((t s_B / sqrt(B))^2 + (z s_R)^2)

    s_B is the standard deviation of the means of the B base models, which holds what seeds add to
    it; t the quantile of Student's distribution with B - 1 degrees of freedom. s_R is the standard
    deviation of the mean over resamples of what was tested on, which all share; z the quantile of
    the normal one. With one base model nothing is known of others: there is no interval.

    Args:
        values: a row for each base model and seed, or several (tasks, say), which are averaged.
            A column "resample", if there is one, is 0 for the value itself, and from 1 the number
            of a resample of what was tested on, the same for all.

    Raises:
        ValueError: some base models and seeds have resamples that others lack.
    """
    drawn_by = [RESAMPLE] if RESAMPLE in values else []
    rows = values[[BASE, SEED, "value", *drawn_by]].dropna()
    if rows.empty:
        return Estimate(*[float("nan")] * 3, 0, 0, "nothing was measured")
    base, bases = pd.factorize(rows[BASE], sort=True)
    seed, seeds = pd.factorize(rows[SEED], sort=True)
    draw, drawn = pd.factorize(rows.get(RESAMPLE, np.zeros(len(rows))), sort=True)
    means = _means(rows["value"].to_numpy(float), base, seed, draw)
    measured = ~np.isnan(means)
    lacking = measured.any(2) & ~measured.all(2)
    if lacking.any():
        i, j = np.argwhere(lacking)[0]
        raise ValueError(
            f"values: base model {bases[i]}, seed {seeds[j]}, lacks resamples that others have"
        )
    of_base = np.nanmean(means, axis=1)  # (base models, resamples)
    itself, others = of_base[:, drawn == 0][:, 0], of_base[:, drawn != 0]
    mean, n = float(itself.mean()), len(bases)
    counts = n, int(measured[:, :, 0].sum(1).min())
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), *counts, "one base model")
    with extra("probes"):
        from scipy import stats

    upper = (1 + level) / 2
    half = stats.t.ppf(upper, n - 1) * itself.std(ddof=1) / np.sqrt(n)
    if others.shape[1] > 1:
        half = np.hypot(half, stats.norm.ppf(upper) * others.mean(0).std(ddof=1))
    return Estimate(mean, mean - float(half), mean + float(half), *counts)


def _means(values: np.ndarray, *axes: np.ndarray) -> np.ndarray:
    """Means of the values of each cell, whose place along each axis is given; NaN of none.

    By hand: a page asks for thousands of intervals, and pandas takes ten times as long.
    """
    shape = [axis.max() + 1 for axis in axes]
    cell = np.ravel_multi_index(axes, shape)
    sums, counts = (np.bincount(cell, by, np.prod(shape)) for by in (values, None))
    return np.divide(sums, counts, where=counts > 0, out=np.full(len(sums), np.nan)).reshape(shape)


class Spreads(NamedTuple):
    """Standard deviations of two levels of chance."""

    of_base_models: float
    of_seeds: float


@checked
def spreads(values: Values, by: Sequence[Name] = ()) -> Spreads:
    r"""How much base models differ, and how much seeds of one do: v_bs = mean + a_b + e_bs.

        s_e^2 = sum_bs (v_bs - v_b)^2 / sum_b (n_b - 1)
        s_a^2 = max(0, var_b(v_b) - s_e^2 mean_b(1 / n_b))

    v_b is the mean of base model b over its n_b seeds, and var_b its variance over base models:
    what seeds add to that is taken off (analysis of variance with one random factor).

    Args:
        by: columns; both s^2 are means over their values, the first before it is cut at 0.

    Raises:
        ValueError: there is one base model, or one seed of each.
    """
    check_columns("values", values, by=list(by))
    found = []
    for _, own in values.groupby(list(by)) if by else [((), values)]:
        of_seeds = own.groupby([BASE, SEED])["value"].mean().groupby(BASE)
        means, n = of_seeds.mean(), of_seeds.size()
        if len(n) < 2 or n.max() < 2:
            raise ValueError("values must be of two base models or more, and of two seeds of one")
        within = (of_seeds.var(ddof=0) * n).sum() / (n - 1).sum()
        found.append((means.var() - within * (1 / n).mean(), within))
    return Spreads(*np.sqrt(np.mean(found, axis=0).clip(min=0)).tolist())


@checked
def crossed_interval(values: Values, level: Open = 0.95) -> Estimate:
    """The same where all base models (blocks of what was tested on, say) share their seeds.

    The squares of half the widths of two intervals are added: over base models of means over
    seeds, and over seeds of means over base models. With one of either there is none.
    """
    of_bases = interval(values, level)
    of_seeds = interval(values.rename(columns={BASE: SEED, SEED: BASE}), level)
    if of_bases.why_none or of_seeds.why_none:
        why = of_bases.why_none or "one seed"
        return of_bases._replace(low=float("nan"), high=float("nan"), why_none=why)
    half = float(np.hypot(of_bases.high - of_bases.mean, of_seeds.high - of_seeds.mean))
    return of_bases._replace(low=of_bases.mean - half, high=of_bases.mean + half)


@checked
def paired_difference(
    first: Values,
    second: Values,
    by: Sequence[Name] = (),
    level: Open = 0.95,
    crossed: bool = False,
) -> Estimate:
    """`interval` of first minus second, of the same base model, seed, resample, and `by`.

    Args:
        crossed: all base models share their seeds: `crossed_interval` instead.

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
    first, second = first[[*keys, "value"]], second[[*keys, "value"]]
    both = first.merge(second, on=keys, suffixes=("", "_of_second"))
    if both.empty:
        raise ValueError(f"first and second have no {', '.join(keys)} in common")
    differences = both.assign(value=both["value"] - both["value_of_second"])
    return (crossed_interval if crossed else interval)(differences, level)


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
