"""Intervals over base models and seeds, and what they decide."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saehelpers.evaluation.statements import (
    Estimate,
    crossed_interval,
    each_above,
    interval,
    paired_difference,
    spreads,
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
    assert narrow.high - narrow.low < 1e-9
    assert wide.high - wide.low > 1


def test_spreads_are_those_that_were_drawn():
    generator = np.random.default_rng(3)
    values = 0.5 * generator.normal(size=(400, 1)) + 0.2 * generator.normal(size=(400, 3))
    found = spreads(rows(values))
    assert found.of_base_models == pytest.approx(0.5, rel=0.1)
    assert found.of_seeds == pytest.approx(0.2, rel=0.1)
    uneven = rows(values).query("base_seed % 2 == 0 or seed < 2")  # three seeds here, two there
    assert spreads(uneven).of_base_models == pytest.approx(0.5, rel=0.1)


def test_spreads_of_several_are_averaged_before_they_are_cut():
    alike, apart = rows([[0.0, 1.0], [1.0, 0.0]]), rows([[0.0, 1.0], [1.0, 2.0]])
    both = pd.concat([alike.assign(of="a"), apart.assign(of="b")])
    found = spreads(both, by=["of"])
    assert found.of_base_models == pytest.approx(math.sqrt((-0.25 + 0.25) / 2))
    assert found.of_seeds == pytest.approx(math.sqrt(0.5))


def test_spreads_of_seeds_alone_leave_nothing_to_base_models():
    found = spreads(rows([[0.0, 1.0], [1.0, 0.0]]))
    assert found.of_base_models == 0
    assert found.of_seeds == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0], [2.0]]])
def test_spreads_need_two_of_each(values):
    with pytest.raises(ValueError, match="two base models or more, and of two seeds of one"):
        spreads(rows(values))


def test_interval_is_that_of_student():
    values = np.random.default_rng(1).normal(size=(3, 5))
    found = interval(rows(values), 0.9)
    expected = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("shape", [(2, 1), (2, 2), (3, 3), (5, 1), (12, 5)])
@pytest.mark.parametrize("of_bases", [0.0, 1.0])
def test_it_holds_the_truth_as_often_as_it_says(shape, of_bases):
    """Also with few base models, whether these differ or seeds alone do."""
    generator = np.random.default_rng(2)
    n_bases = shape[0]
    found = [
        interval(
            rows(of_bases * generator.normal(size=(n_bases, 1)) + generator.normal(size=shape))
        )
        for _ in range(150)
    ]
    assert np.mean([one.low < 0 < one.high for one in found]) > 0.9


@pytest.mark.parametrize("of_bases", [0.0, 1.0])
@pytest.mark.parametrize("of_seeds", [0.0, 1.0])
def test_crossed_seeds_are_drawn_once_for_all_base_models(of_bases, of_seeds):
    generator = np.random.default_rng(3)
    held = []
    for _ in range(150):
        values = of_bases * generator.normal(size=(5, 1)) + of_seeds * generator.normal(size=(1, 3))
        found = crossed_interval(rows(values + generator.normal(size=(5, 3)) / 10))
        held.append(found.low < 0 < found.high)
    assert np.mean(held) > 0.9
    assert crossed_interval(rows(np.ones((5, 1)))).why_none == "one seed"
    assert crossed_interval(rows(np.ones((1, 5)))).why_none == "one base model"


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
    shifted = base + np.linspace(0, 1, 5)  # by seed
    in_pairs = paired_difference(rows(shifted), rows(base), crossed=True)
    assert in_pairs.high == pytest.approx(crossed_interval(rows(shifted - base)).high)
    assert in_pairs.high > paired_difference(rows(shifted), rows(base)).high
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
    assert found.high == -found.low == pytest.approx(1.96 * shifts.std(ddof=1), rel=1e-3)
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
