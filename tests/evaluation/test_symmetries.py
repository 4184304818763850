import pandas as pd
import pytest
import torch

from saehelpers.datasets import make_toy
from saehelpers.evaluation import judged, smaller_subgroups, subgroup_r2, subgroups
from saehelpers.symmetry import Group, LinearAction, report_action

D4 = Group.named("D4")
N, D = 120, 8


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def turning(d4_action) -> torch.Tensor:
    """Orbits on which quarter turns act linearly, and flips do nothing that the input tells."""
    vectors, others = noise(2 * N, D, seed=0), noise(2 * N, D, seed=1)
    orbits = d4_action.orbit(vectors)
    orbits[:, 4:] = d4_action.orbit(others)[:, 4:]
    return orbits


def test_subgroups_are_closed_and_act_as_their_own_group():
    found = subgroups(D4)
    assert [*found] == ["C2", "D1", "C4", "D2", "D4"]
    for name, elements in found.items():
        own = Group.named(name)
        table = [[elements.index(D4.compose(g, h)) for h in elements] for g in elements]
        assert table == [list(row) for row in own.table]
    assert [*subgroups(Group.named("C6"))] == ["C2", "C3", "C6"]
    shifts = Group.product(Group.named("C2"), Group.named("C3"))
    assert subgroups(shifts) == {"C2xC3 <g>": (0, 1), "C2xC3 <h>": (0, 2, 4),
                                 "C2xC3": tuple(range(6))}  # fmt: skip
    cubes = Group.product(shifts, Group.named("C2"), "cubes")
    assert [*subgroups(cubes)] == [
        "cubes <g1>", "cubes <g3>", "cubes <g2>", "cubes <g1, g3>", "cubes <g1, g2>",
        "cubes <g2, g3>", "cubes",
    ]  # fmt: skip


def test_the_subgroups_of_a_product_are_told_apart():
    """Two groups act on vectors, and what the second does is noise."""
    product = Group.product(Group.named("C2"), Group.named("C3"), "both")
    swap = torch.eye(D).roll(D // 2, 0)
    first = LinearAction.from_generators(Group.named("C2"), [swap])
    orbits = torch.cat([first.orbit(noise(2 * N, D, seed=i)) for i in range(3)], dim=1)
    rows = pd.DataFrame(subgroup_r2(orbits[:N], orbits[N:], product, torch.arange(N)))
    assert judged(rows, 0.8).to_dict() == {
        "both <g>": "holds", "both <h>": "does not hold", "both": "does not hold"
    }  # fmt: skip


def test_what_holds_and_what_does_not(turning):
    units = torch.arange(N) // 2
    rows = pd.DataFrame(subgroup_r2(turning[:N], turning[N:], D4, units))
    r2 = rows[rows.metric == "r2"].set_index("task").value
    assert r2[["C2", "C4"]].min() > 0.99 and r2[["D1", "D2", "D4"]].max() < 0.8
    verdicts = judged(rows, 0.8)
    assert verdicts[["C2", "C4"]].tolist() == ["holds"] * 2
    assert verdicts[["D1", "D2", "D4"]].tolist() == ["does not hold"] * 3
    wide = rows.pivot_table("value", "task", "metric", sort=False)
    assert wide["r2_shuffled"].notna().tolist() == [False, False, True, True, True]
    for metric in ("r2", "r2_identity", "r2_shuffled"):
        wide = wide[wide[metric].notna()]
        assert (wide[f"{metric}_low"] <= wide[metric] + 1e-6).all()
        assert (wide[metric] <= wide[f"{metric}_high"] + 1e-6).all()


def test_the_identity_is_that_of_the_report(turning):
    found = subgroup_r2(turning[:N], turning[N:], D4, torch.arange(N))
    report = report_action(LinearAction.identity(D4, D), turning[N:])
    expected = report.query("metric == 'r2_identity' and element == 'all'").value.item()
    (value,) = [row["value"] for row in found if (row["task"], row["metric"]) ==
                ("D4", "r2_identity")]  # fmt: skip
    assert value == pytest.approx(expected, abs=1e-5)


def test_no_more_is_decided_than_an_interval_decides():
    values = {"r2": 0.85, "r2_low": 0.7, "r2_high": 0.95, "r2_identity_low": 0.1,
              "r2_identity_high": 0.2, "r2_shuffled_low": 0.0, "r2_shuffled_high": 0.1}  # fmt: skip

    def of(**changes):
        rows = [{"task": "C2", "metric": m, "value": v} for m, v in (values | changes).items()]
        return judged(pd.DataFrame(rows), 0.8)["C2"]

    assert of() == "not decided"
    assert of(r2_low=0.81) == "holds"
    assert of(r2_high=0.79) == "does not hold"
    assert of(r2_low=0.81, r2_identity_low=0.96, r2_identity_high=0.99) == "does not hold"


def test_a_group_holds_no_more_surely_than_its_parts():
    assert smaller_subgroups(D4) == {
        "C2": [], "D1": [], "C4": ["C2"], "D2": ["C2", "D1"], "D4": ["C2", "D1", "C4", "D2"]
    }  # fmt: skip

    def rows(**r2):
        """R^2 known to 0.02, of which turns and flips have different ones."""
        found = {f"{name}{end}": value + shift for name, value in r2.items()
                 for end, shift in (("", 0), ("_low", -0.01), ("_high", 0.01))}  # fmt: skip
        return pd.DataFrame([
            {"task": name.split("_")[0], "metric": metric, "value": value}
            for name, own in found.items()
            for metric, value in ((f"r2{name[2:]}", own), (f"r2_identity{name[2:]}", 0.0))
        ])  # fmt: skip

    values = rows(C2=0.9, D1=0.65, C4=0.9, D2=0.75, D4=0.76)
    alone = judged(values, 0.7)
    assert (alone == "holds").sum() == 4 and alone["D1"] == "does not hold"
    together = judged(values, 0.7, smaller_subgroups(D4))
    assert together[["C2", "C4"]].tolist() == ["holds"] * 2
    assert together[["D1", "D2", "D4"]].tolist() == ["does not hold"] * 3
    unsure = judged(rows(C2=0.9, D1=0.7, C4=0.9, D2=0.75, D4=0.76), 0.7, smaller_subgroups(D4))
    assert unsure[["D1", "D2", "D4"]].tolist() == ["not decided"] * 3


def test_too_few_inputs_for_intervals(turning):
    with pytest.raises(ValueError, match="units must be 20 or more for an interval of 95%, got 10"):
        subgroup_r2(turning[:N], turning[N:], D4, torch.arange(N) % 10)
    with pytest.raises(ValueError, match="C4 has orbits of 4 elements"):
        subgroup_r2(turning[:N], turning[N:], Group.named("C4"), torch.arange(N))


def test_a_turn_is_known_also_where_canonical_activations_never_go():
    """Four features in one orientation: they span half of what their orbits span."""
    toy = make_toy(2 * N, 4, 4, seed=0, d=D)
    assert torch.linalg.matrix_rank(toy.activations[:, 0]) == 4
    rows = subgroup_r2(toy.activations[:N], toy.activations[N:], Group.named("C4"), torch.arange(N))
    r2 = {row["task"]: row["value"] for row in rows if row["metric"] == "r2"}
    assert min(r2.values()) > 0.999
