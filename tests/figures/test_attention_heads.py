"""Figures of attention heads show what they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from saehelpers import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_heads_are_columns_and_sources_rows():
    attended = pd.DataFrame({"0.0": [0.5, 0.1], "0.1": [0.2, 0.3]}, index=["here", "one back"])
    left, right, _ = figures.attention_by_source(torch.tensor([3.0, 1.0]), attended).axes
    assert left.lines[0].get_xydata().tolist() == [[1, 3], [2, 1]]
    assert [text.get_text() for text in right.get_xticklabels()] == ["0.0", "0.1"]
    assert right.images[0].get_array().tolist() == [[0.5, 0.2], [0.1, 0.3]]


def test_pairs_of_heads_stand_beside_chance():
    metrics = ["correlation", "correlation_null", "written", "written_null"]
    shared = pd.DataFrame({
        "task": "heads 0, 1", "metric": metrics, "mean": [0.4, 0.1, 0.3, 0.2], "se": [0.1] * 4
    })  # fmt: skip
    spread = {"seed 0": torch.tensor([1.0, 2.0, 2.0])}
    axes = figures.likeness_of_heads(shared, spread, 2).axes
    drawn = [[float(bars.lines[0].get_ydata()[0]) for bars in ax.containers] for ax in axes[:2]]
    assert drawn == [[0.4, 0.1], [0.3, 0.2]]
    assert axes[0].get_legend_handles_labels()[1] == ["matched", "by chance"]
    assert axes[2].get_legend_handles_labels()[1] == ["seed 0"]
    assert not figures.likeness_of_heads(shared, {}, 2).axes[2].patches  # no dense SAE


def test_shares_of_the_true_source_are_means_over_seeds():
    found = pd.DataFrame({
        "method": ["dense", "dense", "block_diagonal"], "induction_share": [0.8, 1.0, 0.9],
        "induction_share_by_chance": [0.2, 0.4, 0.8], "best_share_by_chance": [0.5, 0.7, 0.9],
    })  # fmt: skip
    methods = ["block_diagonal", "dense"]
    axes = figures.induction_shares(torch.eye(3, 7), found, methods).axes
    assert axes[0].images[0].get_extent() == [-0.5, 6.5, 6.5, 3.5]  # the last three positions
    best, random, chance = (bars.lines[0].get_xdata().tolist() for bars in axes[1].containers)
    assert best == pytest.approx([0.9, 0.9]) and chance == pytest.approx([0.8, 0.3])
    assert random == pytest.approx([0.9, 0.6])
    labels = [text.get_text() for text in axes[1].get_yticklabels()]
    assert labels == [figures.label(method) for method in methods]


def test_parts_of_a_head_follow_one_another():
    shares = pd.DataFrame({"here": {"1.0": 0.25, "1.1": 1.0}, "rest": {"1.0": 0.75, "1.1": 0.0}})
    (ax,) = figures.read_by_head(shares).axes
    parts = [(patch.get_x(), patch.get_width()) for patch in ax.patches]
    assert parts == [(0, 0.25), (0, 1), (0.25, 0.75), (1, 0)]
    assert ax.get_legend_handles_labels()[1] == ["here", "rest"]
