"""Intervals over base models and seeds, and what they decide."""

import math

import numpy as np
import pandas as pd
import pytest

from saehelpers.evaluation.statements import (
    Estimate,
    each_above,
    interval,
    paired_difference,
    verdict,
)


def rows(values) -> pd.DataFrame:
    """Of an array (base models, seeds)."""
    return pd.DataFrame(
        [
            {"base_seed": base, "seed": seed, "value": value}
            for base, own in enumerate(np.asarray(values, dtype=float))
            for seed, value in enumerate(own)
        ]
    )


def test_mean_is_over_base_models_of_their_means():
    table = pd.concat([rows([[1.0, 3.0]]), rows([[8.0]]).assign(base_seed=1)])
    assert interval(table).mean == (2 + 8) / 2
    assert interval(table)[3:5] == (2, 1)


def test_interval_is_as_wide_as_base_models_differ():
    seeds_alone, bases_too = np.zeros((4, 50)), np.zeros((4, 50))
    seeds_alone[:, ::2], bases_too[:2] = 1, 1
    narrow, wide = interval(rows(seeds_alone)), interval(rows(bases_too))
    assert narrow.mean == wide.mean == 0.5
    assert narrow.high - narrow.low < 0.2
    assert (wide.low, wide.high) == (0, 1)


def test_interval_against_a_plain_loop():
    generator = np.random.default_rng(1)
    values = generator.normal(size=(3, 5))
    means = []
    for _ in range(20_000):
        bases = generator.integers(3, size=3)
        means.append(np.mean([generator.choice(values[base], 5).mean() for base in bases]))
    found = interval(rows(values), 0.9)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=0.03)
    assert interval(rows(values), 0.9) == found  # the same every time


def test_it_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    found = [
        interval(rows(generator.normal(size=(12, 1)) + generator.normal(size=(12, 5)) / 2))
        for _ in range(200)
    ]
    assert np.mean([one.low < 0 < one.high for one in found]) == pytest.approx(0.92, abs=0.05)


def test_one_base_model_has_no_interval_and_says_why():
    found = interval(rows([[1.0, 2.0]]))
    assert math.isnan(found.low) and math.isnan(found.high)
    assert str(found) == "1.500 (no interval: one base model)"
    assert verdict(found) == "not decided"
    nothing = interval(rows([[math.nan]]))
    assert nothing.why_none == "nothing was measured"


def test_differences_are_paired():
    base = np.random.default_rng(3).normal(size=(3, 5))  # which both share
    gain = paired_difference(rows(base + 0.1), rows(base))
    assert gain.mean == pytest.approx(0.1)
    assert gain.high - gain.low == pytest.approx(0)
    assert verdict(gain) == "holds"
    assert str(gain) == "0.100 (0.100 to 0.100)"
    partly = paired_difference(rows(base), rows(base[:2]))
    assert partly.base_models == 2


def test_what_was_tested_on_is_drawn_anew_too():
    """No base model and no seed differs: the interval is that of the resamples, shared by all."""
    shifts = np.random.default_rng(4).normal(size=20)
    one = rows(np.zeros((3, 5)))
    table = pd.concat(
        [one.assign(resample=0)]
        + [one.assign(resample=n, value=shift) for n, shift in enumerate(shifts, start=1)]
    )
    found = interval(table)
    assert found.mean == 0
    assert (found.low, found.high) == pytest.approx(np.quantile(shifts, [0.025, 0.975]), abs=0.3)
    # in a difference of methods that were tested on the same, it cancels
    gain = paired_difference(table.assign(value=table.value + 0.1), table)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="base model 2, seed 4, lacks resamples that others have"):
        interval(table.iloc[:-1])


def test_what_an_interval_decides():
    found = Estimate(0.2, 0.1, 0.3, 3, 5)
    assert [verdict(found, bound) for bound in (0, 0.2, 0.4)] == [
        "holds", "not decided", "does not hold",
    ]  # fmt: skip
    assert found.decides
    assert not Estimate(0.2, -0.1, 0.3, 3, 5).decides


@pytest.mark.parametrize(
    ("gains", "said"),
    [((0.1, 0.2), "holds"), ((0.1, -0.1), "does not hold"), ((0.1, None), "not decided")],
)
def test_what_is_said_of_several_methods(gains, said):
    base = np.random.default_rng(3).normal(size=(3, 5))
    tables = [rows(base).assign(method="baseline")]
    tables += [
        rows(base + gain).assign(method=name)
        for name, gain in zip("ab", gains, strict=True) if gain is not None
    ]  # fmt: skip
    found = each_above(pd.concat(tables), ["a", "b"], "baseline")
    assert found["verdict"] == said
    assert found["a"].mean == pytest.approx(0.1)
    assert gains[1] is not None or str(found["b"]) == "not measured"


def test_pairs_that_are_none_are_named():
    table = rows([[1.0], [2.0]])
    with pytest.raises(ValueError, match="no base_seed, seed in common"):
        paired_difference(table, table.assign(seed=7))
    with pytest.raises(ValueError, match="first must have one row for each base_seed, seed"):
        paired_difference(pd.concat([table, table]), table)
    with pytest.raises(ValueError, match="by must be of columns of first, got 'task'"):
        paired_difference(table, table, ["task"])
