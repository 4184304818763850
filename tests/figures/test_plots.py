"""Colours and labels of methods; figures of methods that the package does not know."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from saehelpers import figures
from saehelpers.figures import names, plots

MEASURED = pd.DataFrame(
    {
        "method": ["vanilla", "mine"] * 2,
        "topk": ["4", "4", "8", "8"],
        "mean": [0.1, 0.2, 0.3, 0.4],
        "se": [0.01] * 4,
        "seeds": [2] * 4,
    }
)


def test_known_methods_keep_their_colours_and_labels():
    assert figures.colour("vanilla_wide") == "#88ccee"
    assert figures.label("vanilla_wide") == "vanilla (wide)"


def test_other_methods_have_colours_of_their_own():
    assert figures.label("mine") == "mine"
    assert to_hex(figures.colour("mine")) == "#e7cb94"  # in every process, the same
    assert len({figures.colour(f"mine {i}") for i in range(200)}) == len(names.OTHER_COLOURS)
    assert not {to_hex(colour) for colour in names.OTHER_COLOURS} & set(names.COLOURS.values())


@pytest.mark.parametrize("draw", [figures.curves, figures.grouped_bars, figures.grouped_points])
def test_methods_that_are_not_known_are_drawn(draw):
    fig, ax = plt.subplots()
    methods = ["vanilla", "mine"]
    if draw is figures.curves:
        draw(ax, MEASURED, "topk", methods)
    else:
        draw(ax, MEASURED, "topk", ["4", "8"], methods)
    handles, labels = ax.get_legend_handles_labels()
    assert labels == methods
    drawn = [handle.patches[0].get_facecolor() if draw is figures.grouped_bars
             else handle.lines[0].get_color() for handle in handles]  # fmt: skip
    assert [to_hex(c) for c in drawn] == [to_hex(figures.colour(method)) for method in methods]
    plt.close(fig)


def test_summaries_of_seeds_and_of_base_models():
    table = pd.DataFrame({
        "method": "vanilla", "base_seed": [0, 0, 1, 1], "seed": [0, 1, 0, 1],
        "value": [0.0, 2.0, 4.0, 8.0],
    })  # fmt: skip
    of_seeds = plots.summarise(table.drop(columns="base_seed").assign(seed=range(4)), ["method"])
    assert of_seeds[["mean", "seeds"]].to_numpy().tolist() == [[3.5, 4]]
    of_bases = plots.summarise(table, ["method"])
    assert of_bases[["mean", "seeds", "base_models"]].to_numpy().tolist() == [[3.5, 2, 2]]
    assert of_bases["se"].tolist() == pytest.approx([2.5])  # of the means 1 and 6
    first = plots.summarise(table[:2].assign(base_seed=None), ["method"])
    assert first["se"].tolist() == pytest.approx([1.0])  # between the seeds 0 and 2
    notes = [plots.seeds_note(each) for each in (of_seeds, of_bases, first)]
    assert notes == ["4 seeds", "2 seeds on 2 base models", "2 seeds"]


def test_means_have_their_intervals():
    fig, ax = plt.subplots()
    table = pd.DataFrame({"mean": [0.5, 0.7], "low": [0.4, 0.7], "high": [0.8, 0.9]})
    figures.means_and_intervals(ax, [1, 3], table, "red", "seeds")
    assert ax.get_legend_handles_labels()[1] == ["seeds"]
    with pytest.raises(ValueError, match="places must be 2"):
        figures.means_and_intervals(ax, [1], table)
    bars = [container[2][0].get_segments()[0].tolist() for container in ax.containers]
    assert bars == [[[1, pytest.approx(0.4)], [1, pytest.approx(0.8)]],
                    [[3, pytest.approx(0.7)], [3, pytest.approx(0.9)]]]  # fmt: skip
    plt.close(fig)


def test_how_many_directions_hold_the_variance():
    fig, ax = plt.subplots()
    x = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]]) + 5
    figures.explained_by_directions(ax, x, "x")
    (curve,) = ax.lines
    assert curve.get_xdata().tolist() == [0, 0.5, 1]
    assert curve.get_ydata().tolist() == pytest.approx([0.9, 1, 1])
    plt.close(fig)
