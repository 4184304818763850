"""Figures of orbits show what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from saehelpers import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def measured(**columns) -> pd.DataFrame:
    """Two methods, two seeds each: means of 0.2 and 0.6."""
    rows = {"method": ["vanilla"] * 2 + ["canonical"] * 2, "seed": [0, 1] * 2,
            "metric": "recovery", "value": [0.1, 0.3, 0.5, 0.7]}  # fmt: skip
    return pd.DataFrame(rows | columns)


def heights(ax) -> list[float]:
    return [patch.get_height() for patch in ax.patches]


def test_eigenvalues_of_a_quarter_turn():
    ax = plt.subplots()[1]
    figures.eigenvalues(ax, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), "M")
    points = ax.collections[0].get_offsets()
    assert sorted(points[:, 1]) == pytest.approx([-1, 1]) and abs(points[:, 0]).max() < 1e-6
    assert ax.get_title() == "M"


@pytest.mark.parametrize(("lowest", "limits"), [(-1.0, (-3, 3)), (0.0, (0, 3))])
def test_a_line_for_each_element(lowest, limits):
    values = torch.tensor([[lowest, 2.0], [3.0, 0.0], [1.0, 1.0]])
    ax = plt.subplots()[1]
    figures.over_orbit(ax, values, "vanilla")
    (image,) = ax.images
    assert image.get_array().tolist() == values.tolist()
    assert image.get_clim() == limits
    assert ax.get_yticks().tolist() == [0, 1, 2] and ax.get_xlabel() == "latent"


def test_rows_of_a_dictionary_stand_by_what_they_are_closest_to(toy):
    orbits = toy.action.orbit_of_directions(toy.features)  # (4, 4, 8)
    dictionary = orbits[[2, 0], [1, 3]]  # feature 2 turned once, feature 0 three times
    ax = plt.subplots()[1]
    image = figures.dictionary_in_orbits(ax, dictionary, orbits, "vanilla")
    cosines = np.asarray(image.get_array())
    assert cosines.argmax(1).tolist() == [3, 9]
    assert cosines.max(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert ax.get_xlabel() == "true features, 4 orientations each"


def test_bars_of_every_metric():
    table = pd.concat([measured(N="8"), measured(N="16", metric="mse")])
    titles = {"recovery": "recovered", "mse": "error"}
    methods = ["vanilla", "canonical"]
    axes = figures.bars_by_metric(table, titles, "N", ["8", "16"], methods).axes
    assert [ax.get_title() for ax in axes] == ["recovered (2 seeds)", "error (2 seeds)"]
    assert [ax.get_xlabel() for ax in axes] == ["N", "N"]
    assert heights(axes[0])[::2] == pytest.approx([0.2, 0.6])  # of N = 8
    assert heights(axes[1])[1::2] == pytest.approx([0.2, 0.6])  # of N = 16
    assert np.isnan(heights(axes[0])[1::2]).all()


def test_columns_of_bars_must_be_there():
    with pytest.raises(ValueError, match=r"x must be of columns of table, got 'N'"):
        figures.bars_by_metric(measured(), {"recovery": "recovered"}, "N", ["8"], ["vanilla"])


def test_orbits_are_as_large_as_the_order_of_the_group():
    table = pd.concat([measured(group="C8"), measured(group="C16"), measured(group="D8")])
    (ax,) = figures.by_orbit_size(table, {"recovery": "recovered"}, ["canonical"]).axes
    line = ax.containers[0].lines[0]
    assert line.get_xdata().tolist() == [8, 16]
    assert line.get_ydata().tolist() == pytest.approx([0.6, 0.6])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["8", "16"]
    assert ax.get_title() == "2 seeds" and ax.get_ylabel() == "recovered"


def test_errors_in_four_frames():
    frames = {"canonical": 0.1, "mapped": 0.2, "inferred": 0.3, "raw": 0.4}
    fvu = pd.DataFrame([{"method": "vanilla", "seed": 0, "metric": f"fvu_{name}", "value": value}
                        for name, value in frames.items()])  # fmt: skip
    mse = fvu.assign(metric=fvu["metric"].str.replace("fvu", "mse"), value=1.0)
    l0 = fvu[:1].assign(metric="l0")
    fig = figures.error_by_frame({"mlp": pd.concat([l0, fvu]), "toy": mse}, ["vanilla"])
    assert [ax.get_ylabel() for ax in fig.axes] == ["FVU", "MSE"]
    assert [ax.containers[0].lines[0].get_ydata().tolist() for ax in fig.axes] == [
        [0.1, 0.2, 0.3, 0.4],
        [1.0] * 4,
    ]


def test_what_a_direction_changes():
    decoder = nn.Unflatten(1, (1, 2, 2))  # the picture is the activation itself
    directions = torch.tensor([[1.0, 0, 0, 0], [0, -2.0, 0, 0]])
    changes = figures.decoded_changes(decoder, torch.ones(4), directions)
    assert changes.tolist() == [[[1, 0], [0, 0]], [[0, 2], [0, 0]]]
