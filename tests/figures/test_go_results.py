import numpy as np
import pandas as pd
import pytest

from saehelpers import figures
from saehelpers.evaluation.statements import Estimate
from saehelpers.figures.go_results import FVU, PAIRS, PUBLISHED, RIVALS, WITH, WITHOUT
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training import SAERun, matched_runs

LEVELS = {  # F1 without a direction, with one, and FVU
    **dict.fromkeys(RIVALS, (0.6, 0.5, 0.2)),
    **dict.fromkeys(PUBLISHED, (0.7, 0.3, 0.3)), "self_oriented": (0.6, 0.6, 0.1),
}  # fmt: skip
RAW = ("vanilla", "vanilla_matched", "vanilla_compute", "vanilla_wide")


def measured(method: str, noise: float = 0.001) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for split in ("test 0", "test 1", "test 2"):
        for seed in (0, 1):
            for task, kind in (("a", WITHOUT), ("b", WITHOUT), ("up", WITH)):
                value = LEVELS[method][kind == WITH] + noise * generator.normal()
                rows.append((method, split, seed, kind, task, value))
    return pd.DataFrame(rows, columns=["method", "split", "seed", "task_type", "task", "value"])


@pytest.fixture
def f1() -> pd.DataFrame:
    return pd.concat(map(measured, LEVELS), ignore_index=True)


@pytest.fixture
def fvu() -> pd.DataFrame:
    rows = [
        {"method": method, "split": f"test {block}", "seed": seed, "task_type": "", "task": "",
         "metric": metric, "value": value}
        for method, (_, _, own) in LEVELS.items() for block in (0, 1) for seed in (0, 1)
        for metric, value in (("fvu_raw", own if method in RAW else 0.9),
                              ("fvu_inferred", 0.8 if method in RAW else own))
    ]  # fmt: skip
    return figures.own_frame_fvu(pd.DataFrame(rows))


def test_every_method_is_scored_in_the_frame_that_it_explains(fvu):
    means = fvu.groupby("method").value.mean()
    assert means.to_dict() == pytest.approx({name: level[2] for name, level in LEVELS.items()})


def test_what_differs_is_told_and_what_does_not_is_no_worse(f1, fvu):
    said = figures.go_verdict(f1, fvu)
    assert len(said) == len(PAIRS) and list(said) == [FVU, WITHOUT, WITH]
    published = said.loc["canonical / vanilla"]
    assert published[FVU].startswith("worse, -0.10")
    assert published[WITHOUT].startswith("better, 0.10")
    assert published[WITH].startswith("worse, -0.20")
    ours = said.loc["self-oriented / vanilla, searched"]
    assert ours[FVU].startswith("better, 0.10") and ours[WITH].startswith("better, 0.10")
    assert ours[WITHOUT].startswith(("no worse, ", "better, 0.00", "worse, 0.00", "worse, -0.00"))


def test_what_is_lost_is_less_than_a_little_or_is_not_decided():
    for low, says in ((-0.009, "no worse"), (-0.02, "not decided")):
        assert figures.in_words(Estimate(0.0, low, 0.02, 2, 2)).startswith(says)


def test_what_was_not_measured_is_not_judged(f1, fvu):
    without = [rows[rows.method != "latent_inv"] for rows in (f1, fvu)]
    assert not figures.go_verdict(*without).index.str.contains("latent_inv").any()
    assert figures.go_verdict(without[0], fvu).loc["latent_inv / vanilla"].isna().sum() == 2
    assert len(figures.go_verdict(f1[:0], fvu[:0])) == 0


def test_a_task_counts_where_the_network_beats_inputs_and_random_weights():
    scores = {"seen": (0.9, 0.88, 0.2), "learnt": (0.9, 0.7, 0.8), "of any net": (0.9, 0.1, 0.9),
              "unmeasured": (0.9, np.nan, 0.1)}  # fmt: skip
    rows = [
        {"method": method, "split": "test 0", "seed": 0, "task_type": WITHOUT, "task": task,
         "value": value}
        for task, values in scores.items()
        for method, value in zip(("base_model", "inputs", "random_network"), values, strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    counts = figures.tasks_that_count(table).counts.droplevel("task_type")
    assert counts.to_dict() == {
        "seen": False, "learnt": True, "of any net": False, "unmeasured": True
    }  # fmt: skip
    assert figures.tasks_that_count(table, 0.01).counts.sum() == 3


def test_points_stand_at_means_with_their_intervals(f1):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    figures.points_with_intervals(ax, f1, ["vanilla", "self_oriented", "absent"])
    expected = figures.over_blocks(f1[f1.method == "vanilla"])
    line = ax.lines[0]
    assert line.get_xdata()[0] == pytest.approx(expected.mean) and line.get_ydata()[0] == 0
    assert expected.base_models == 3 and expected.low < expected.mean < expected.high
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "vanilla", "self-oriented", "absent"
    ]  # fmt: skip
    plt.close(fig)


def test_rows_of_one_size_are_those_of_its_width_with_what_is_matched_to_it():
    sae, group = SAEConfig(16, 8, topk=4), Group.named("C4")
    matched = matched_runs(SAERun("vanilla", "", sae), group)[0].sae.n_latents
    rows = [("vanilla", 8, 4), ("vanilla", 8, 2), ("vanilla", 9, 4), ("vanilla_wide", 32, 4),
            ("vanilla_wide", 8, 4), ("vanilla_matched", matched, 4), ("vanilla_matched", 8 + 9, 4),
            ("vanilla_compute", 8, 4), ("inputs", None, None)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "n_latents", "topk"])
    assert figures.of_go_size(table, sae, group).index.tolist() == [0, 3, 5, 7, 8]


def test_recons_that_nobody_told_the_element():
    rows = [("recons", "none"), ("latents", "none"), ("recons", "one_hot"), ("recons", "inferred")]
    table = pd.DataFrame(rows, columns=["features", "element"])
    columns = {"method": "vanilla", "split": "test 0", "seed": 0, "task": "a", "task_type": "x"}
    assert figures.untold_recons(table.assign(value=0.4, **columns)).index.tolist() == [0, 3]


def test_other_games_decide_which_tasks_count():
    """A task that the network answers well in one block alone counts in the others alone."""
    columns = ["method", "task", "split", "value"]
    rows = [
        *[("base_model", "always", split, 0.9) for split in "ab"],
        ("base_model", "by luck", "a", 0.9), ("base_model", "by luck", "b", 0.2),
        *[(name, task, split, 0.2) for name in ("inputs", "random_network")
          for task in ("always", "by luck") for split in "ab"],
    ]  # fmt: skip
    probes = pd.DataFrame(rows, columns=columns).assign(seed=0, task_type="x")
    kept = figures.on_tasks_that_count(probes[probes.method == "inputs"], probes)
    assert set(zip(kept.task, kept.split, strict=True)) == {
        ("always", "a"), ("always", "b"), ("by luck", "b"),
    }  # fmt: skip


def test_what_turns_activations_by_block():
    import matplotlib.pyplot as plt

    fits = {("refined", "r2"): 0.9, ("per_element", "r2"): 0.95, ("refined", "r2_identity"): 0.5}
    rows = [
        {"base_model": f"{name}, block {layer}", "method": method, "metric": metric,
         "value": value - layer / 100 - (name == "random weights") / 10}
        for name in ("katago", "random weights") for layer in (0, 4)
        for (method, metric), value in fits.items()
    ]  # fmt: skip
    networks = ["random weights", "katago", "absent"]
    fig = figures.explained_by_block(pd.DataFrame(rows), networks, [4, 0])
    assert [ax.get_title() for ax in fig.axes] == networks
    drawn = {line.get_label(): line.get_xydata().tolist() for line in fig.axes[0].lines}
    assert drawn == {
        "one matrix per generator": [[4, pytest.approx(0.76)], [0, pytest.approx(0.8)]],
        "free matrices": [[4, pytest.approx(0.81)], [0, pytest.approx(0.85)]],
        "identity": [[4, pytest.approx(0.36)], [0, pytest.approx(0.4)]],
    }
    assert all(np.isnan(line.get_ydata()).all() for line in fig.axes[2].lines)
    plt.close(fig)
