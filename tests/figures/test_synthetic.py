"""Figures of SAEs beside the truth show what they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from saehelpers import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def labels(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def scores(**columns) -> pd.DataFrame:
    """Two seeds of every score: 0.1 and 0.3, and 0.2 more with every further row."""
    rows = pd.DataFrame(columns)
    rows = rows.assign(value=[0.2 + 0.2 * i for i in range(len(rows))])
    return pd.concat([
        rows.assign(metric=metric, seed=seed, value=rows["value"] + shift)
        for metric in ("mcc", "f1", "hedging") for seed, shift in ((0, -0.1), (1, 0.1))
    ])  # fmt: skip


def test_a_column_of_panels_for_each_world():
    asked = {name: torch.tensor([0.1, 0.3]) for name in ("alone", "together")}
    counted = {name: (asked[name] + 0.05, torch.eye(2)) for name in asked}
    fig = figures.firing_by_world(asked, counted)
    above, below = fig.axes[:2], fig.axes[2:4]
    assert [ax.get_title() for ax in above] == ["alone", "together"]
    points = above[1].collections[0].get_offsets()
    assert points.tolist() == [pytest.approx((0.1, 0.15)), pytest.approx((0.3, 0.35))]
    assert below[0].images[0].get_array().tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="counted must be of the worlds alone, together, got"):
        figures.firing_by_world(asked, {"alone": counted["alone"]})


def test_methods_stand_beside_each_other_in_every_world():
    table = scores(method=["topk", "relu"], data_source="nested", topk=4)
    axes = figures.scores_by_world(table, ["nested"], ["topk", "relu"], 0.25).axes
    assert [ax.get_title() for ax in axes] == [
        "MCC (2 seeds)", "F1 of the detectors (2 seeds)", "hedging (2 seeds)"
    ]  # fmt: skip
    assert labels(axes[0]) == ["TopK", "ReLU + L1"]
    for ax in axes:
        assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.2, 0.4])
    assert [len([line for line in ax.lines if line.get_linestyle() == ":"]) for ax in axes] == [
        1, 0, 0
    ]  # fmt: skip


def test_scores_by_the_number_of_active_latents():
    table = scores(data_source=["one", "one", "other"], topk=[8, 2, 2], method="topk")
    axes = figures.scores_by_topk(table, ["one", "other"], 3.5).axes
    first, second = axes[0].containers
    assert first.lines[0].get_xdata().tolist() == [2, 8]
    assert first.lines[0].get_ydata().tolist() == pytest.approx([0.4, 0.2])
    assert second.lines[0].get_ydata().tolist() == pytest.approx([0.6])
    assert [c.lines[0].get_linestyle() for c in (first, second)] == ["-", "--"]
    assert labels(axes[0]) == ["one", "other"]


def test_cosines_are_shown_in_rows_on_one_scale():
    cosines = {name: torch.full((2, 3), value) for name, value in (("a", 0.5), ("b", -0.5))}
    *panels, bar = figures.cosine_panels(cosines, rows=2).axes
    assert [ax.get_title() for ax in panels] == ["a", "b"]
    assert [ax.images[0].get_clim() for ax in panels] == [(-1, 1)] * 2
    assert panels[1].images[0].get_array().max() == -0.5
    assert bar.get_ylabel() == "cosine"


def test_a_bar_for_each_case_in_its_methods_colour():
    summary = pd.DataFrame({
        "metric": ["fvu"] * 3, "method": ["vanilla", "vanilla", "canonical"],
        "n_latents": [8, 16, 8], "mean": [0.3, 0.2, 0.1], "se": 0.01, "seeds": 5,
    })  # fmt: skip
    cases = {"narrow": ("vanilla", 8), "ours": ("canonical", 8)}
    fig = figures.bars_by_case(summary, cases, {"fvu": "FVU"})
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == [0.3, 0.1]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["narrow", "ours"]
    colours = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colours == [figures.colour("vanilla"), figures.colour("canonical")]
    assert fig.get_suptitle() == "5 seeds"


def test_a_line_for_each_method_and_number_of_samples():
    told = {"recall_by_latent": 0.1, "precision_by_latent": 0.2, "explained_variance": 0.3}
    wide = pd.DataFrame({
        "method": ["topk", "topk", "gated"], "n_train": [2e6, 2e6, 1e6], "l0": [25.0, 15.0, 20.0],
        "absorption": [0.5, 0.4, 0.1], "mcc": 0.6, **told,
    })  # fmt: skip
    axes = figures.benchmark_scores(wide).axes
    assert labels(axes[2]) == ["gated, 1 million samples", "TopK, 2 million samples"]
    assert [line.get_marker() for line in axes[2].lines] == ["o", "s"]
    assert axes[2].lines[1].get_xdata().tolist() == [15, 25]
    assert axes[2].lines[1].get_ydata().tolist() == [0.4, 0.5]
    assert axes[0].get_xlabel() == "recall by latent"
