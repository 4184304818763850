"""Which symmetries does a network know, and where? Linear actions of subgroups, with controls."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, Real
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import FROM_ZERO, Cosine, Open, Seed, with_columns
from saehelpers.symmetry import Group, LinearAction, check_orbits, fit_action, rotations_and_flips
from saehelpers.symmetry.tables import products

RESAMPLES = 1000
LEAST_UNITS = 20  # below it, no interval of 95 % is given
HOLDS, WRONG, NOT_DECIDED = "holds", "does not hold", "not decided"


@checked
def subgroups(group: Group) -> dict[str, tuple[int, ...]]:
    """The elements of subgroups by name, the smallest subgroups first.

    Of C_n and D_n those that have such a name, C_m and D_m for every m that divides n, without
    C_1: of D4 they are C2, D1 (a flip), C4, D2 and D4. Their order is that of the subgroup's own
    elements. Of any other group, those that some of its generators make: of one with two
    generators "<g>", "<h>" and the group itself; of a product each factor is among them.
    """
    found = _dihedral(group) if group.has_name else _generated(group)
    return dict(sorted(found.items(), key=lambda item: (len(item[1]), item[0])))


def _dihedral(group: Group) -> dict[str, tuple[int, ...]]:
    n, flips = rotations_and_flips(group)
    found = {}
    for m in range(1, n + 1):
        if n % m:
            continue
        turns = tuple(p * (n // m) for p in range(m))
        if m > 1:
            found[f"C{m}"] = turns
        if flips == 2:
            found[f"D{m}"] = (*turns, *(p + n for p in turns))
    return found


def _generated(group: Group) -> dict[str, tuple[int, ...]]:
    """By letters of generators, as `str(group)` has them; the whole group under its own name."""
    lettered = [*zip(group.letters, group.generators, strict=True)]
    found = {}
    for n in range(1, len(lettered)):
        for some in combinations(lettered, n):
            letters, generators = zip(*some, strict=True)
            made = products(np.array(group.table), generators)
            found[f"{group.name} <{', '.join(letters)}>"] = tuple(np.flatnonzero(made).tolist())
    return found | {group.name: tuple(range(group.order))}


@checked
def subgroup_r2(
    train: Real[Tensor, "n order d"],
    test: Real[Tensor, "m order d"],
    group: Group,
    units: Annotated[Int[Tensor, " m"], FROM_ZERO],
    level: Open = 0.95,
    seed: Seed = 0,
) -> list[dict[str, Any]]:
    """How well a linear action of each subgroup explains held-out activations, and controls.

        R^2 = 1 - SSE / SST    over the elements of the subgroup but the identity

    of one matrix for each generator, fitted to whole orbits (`fit_action`) and multiplied out. A
    row for each subgroup ("task") and metric: r2; r2_identity, of leaving activations as they are;
    r2_shuffled, of an action fitted to orbits whose members are shuffled, sample by sample (not of
    two elements, which shuffled are the same). Each has its interval: r2_low, r2_high, and so on,
    over units drawn with replacement.

    Args:
        units: which one each held-out sample belongs to: its image, say.

    Raises:
        ValueError: orbits that are not the group's, or fewer than 20 units: too few for intervals.
    """
    check_orbits(train, group)
    check_orbits(test, group)
    n_units = len(units.unique())
    if n_units < LEAST_UNITS:
        raise ValueError(
            f"units must be {LEAST_UNITS} or more for an interval of {level:.0%}, got {n_units}"
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for name, elements in subgroups(group).items():
        own = group.subgroup(name, elements)
        orbits, held_out = train[:, elements].float(), test[:, elements].float()
        actions = {
            "r2": fit_action(orbits, own, "whole_orbits"),
            "r2_identity": LinearAction.identity(own, orbits.shape[-1]),
        }
        if own.order > 2:
            shuffled = torch.rand(orbits.shape[:2], generator=generator).argsort(1)
            wrong = orbits.gather(1, shuffled[..., None].expand_as(orbits))
            actions["r2_shuffled"] = fit_action(wrong, own, "whole_orbits")
        for metric, action in actions.items():
            value, low, high = _r2(action, held_out, units, level, seed)
            found = {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            rows += [{"task": name, "metric": key, "value": v} for key, v in found.items()]
    return rows


@checked
def smaller_subgroups(group: Group) -> dict[str, list[str]]:
    """By the name of each of `subgroups`, the names of those that lie within it."""
    found = subgroups(group)
    return {
        name: [other for other, some in found.items() if set(some) < set(elements)]
        for name, elements in found.items()
    }


@checked
def judged(
    rows: Annotated[pd.DataFrame, with_columns("task", "metric", "value")],
    least: Cosine,
    parts: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.Series:
    """What `subgroup_r2` says of each subgroup: "holds", "does not hold" or "not decided".

    It holds where the whole interval of R^2 is at `least` or above, and above those of both
    controls; it does not where the whole interval is below `least`, or below that of a control.
    R^2 is a mean over elements: a group is said to hold no more surely than its parts.

    Args:
        parts: by a group's name the names of groups within it, as `smaller_subgroups` has them.
    """
    wide = rows.pivot_table("value", "task", "metric", sort=False)
    controls = wide.filter(regex="^r2_(identity|shuffled)_high$").max(axis=1)
    others = wide.filter(regex="^r2_(identity|shuffled)_low$").max(axis=1)
    holds = (wide["r2_low"] >= least) & (wide["r2_low"] > controls)
    wrong = (wide["r2_high"] < least) | (wide["r2_high"] < others)
    alone = pd.Series(np.where(holds, HOLDS, np.where(wrong, WRONG, NOT_DECIDED)), wide.index)
    of_parts = {
        name: {alone[name], *(alone[part] for part in parts.get(name, ()) if part in alone)}
        for name in alone.index
    }
    least_sure = (WRONG, NOT_DECIDED, HOLDS)
    return pd.Series({name: min(said, key=least_sure.index) for name, said in of_parts.items()})


def _r2(
    action: LinearAction, orbits: Tensor, units: Tensor, level: float, seed: int
) -> tuple[float, float, float]:
    """R^2 and the quantiles of a bootstrap over units."""
    with extra("probes"):
        from scipy.stats import bootstrap

    targets, predicted = orbits[:, 1:], action.orbit(orbits[:, 0])[:, 1:]
    errors = (targets - predicted).square().sum((1, 2))
    total = (targets - targets.mean((0, 1))).square().sum((1, 2))
    numbers = units.unique(return_inverse=True)[1]
    sse, sst = (torch.zeros(int(numbers.max()) + 1).index_add_(0, numbers, v).numpy()
                for v in (errors, total))  # fmt: skip

    def r2(sse, sst, axis=-1):
        return 1 - sse.sum(axis) / sst.sum(axis)

    interval = bootstrap(
        (sse, sst), r2, paired=True, vectorized=True, n_resamples=RESAMPLES,
        confidence_level=level, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(r2(sse, sst)), float(interval.low), float(interval.high)
