"""Figures of galaxies show what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from saehelpers import figures
from saehelpers.datasets import ImageSet


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def grey(*levels: int) -> torch.Tensor:
    """An image of 4 x 4 pixels for each level."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def labels(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def shown(fig) -> list[float]:
    """The mean of every picture, row by row."""
    return [float(ax.images[0].get_array().mean()) for ax in fig.axes if ax.images]


def test_examples_are_the_first_of_each_class_that_occurs():
    own = ImageSet(grey(*range(5)), torch.tensor([2, 0, 2, 2, 0]), ("a", "b", "c"), "here")
    found = figures.examples_of_classes(own, 2)
    assert {kind: places.tolist() for kind, places in found.items()} == {"a": [1, 4], "c": [0, 2]}
    unlabelled = ImageSet(grey(*range(5)), None, (), "here")
    assert figures.examples_of_classes(unlabelled, 3)["images"].tolist() == [0, 1, 2]


def test_images_stand_under_the_name_of_their_source():
    sources = {"ours": [grey(1, 2), grey(3)], "theirs": [grey(4), grey(5)]}
    fig = figures.images_beside(sources, ["no_bar", "round"])
    assert [ax.get_title() for ax in fig.axes[:3]] == ["ours", "ours", "theirs"]
    assert [ax.get_ylabel() for ax in fig.axes[::3]] == ["no\nbar", "round"]
    assert shown(fig) == [1, 2, 4, 3, 255, 5]  # a white one where an image is missing
    with pytest.raises(ValueError, match=r"as many rows as each other, got \[2, 1\]"):
        figures.images_beside(sources | {"theirs": [grey(4)]})


def test_images_light_up_where_a_latent_is_active():
    maps = torch.zeros(2, 2, 2, 2)
    maps[0, 0] = 1  # the first latent, everywhere in the first image
    fig = figures.latents_on_images(grey(0, 0), maps, ["image", "latent 3", "latent 5"])
    assert [ax.get_ylabel() for ax in fig.axes[::2]] == ["image", "latent 3", "latent 5"]
    of_images, of_first, of_second = np.reshape(shown(fig), (3, 2)).tolist()
    assert of_images == [0, 0] and of_second == [0, 0]
    assert of_first[0] > 0.5 and of_first[1] == 0


def test_a_channel_is_shown_above_the_lowest_value_of_its_map():
    maps = torch.zeros(2, 3, 2, 2)
    maps[1] = torch.tensor([-1.0, 0.0, 4.0])[:, None, None]
    fig = figures.channel_under_group(grey(7, 8), maps, maps.flip(0), 2)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["element 0", "element 1"]
    assert shown(fig) == [7, 8, 0, 5, 5, 0]
    with pytest.raises(ValueError, match="channel must be below 3, got 3"):
        figures.channel_under_group(grey(7, 8), maps, maps, 3)


def test_properties_of_classes_are_lines_and_those_of_others_are_filled():
    measured = pd.DataFrame(
        {"ellipticity": [0.1, 0.2, np.nan], "semimajor": 0.1, "concentration": 3.0}
    )
    fig = figures.property_histograms({"no_bar": measured}, measured, "Hubble")
    assert labels(fig.axes[0]) == ["no bar", "Hubble"]
    line, *bars = fig.axes[0].patches
    assert not line.get_fill() and len(bars) == 30
    assert [ax.get_xlabel() for ax in fig.axes] == ["ellipticity", "semimajor", "concentration"]
    assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1)


def results(**columns) -> pd.DataFrame:
    rows = pd.DataFrame({"method": ["vanilla", "vanilla", "canonical", "canonical"],
                         "seed": [0, 1, 0, 1], "value": [0.1, 0.3, 0.5, 0.7]})  # fmt: skip
    return rows.assign(**columns)


def test_a_panel_of_bars_has_the_groups_that_its_table_has():
    both = pd.concat([results(metric="raw"), results(metric="mapped").assign(value=1.0)])
    tables = {"TopK 8": both, "TopK 16": results(metric="raw")}
    labelled = {"mapped": "mapped,\ntrue", "raw": "raw"}
    fig = figures.bars_in_panels(tables, "metric", labelled, ["vanilla", "canonical"])
    assert [ax.get_title() for ax in fig.axes] == ["TopK 8 (2 seeds)", "TopK 16 (2 seeds)"]
    ticks = [[text.get_text() for text in ax.get_xticklabels()] for ax in fig.axes]
    assert ticks == [["mapped,\ntrue", "raw"], ["raw"]]
    heights = [[bar.get_height() for bar in ax.patches] for ax in fig.axes]
    assert heights == [pytest.approx([1, 0.2, 1, 0.6]), pytest.approx([0.2, 0.6])]
    with pytest.raises(ValueError, match="x must be of columns of tables, got 'split'"):
        figures.bars_in_panels(tables, "split", labelled, ["vanilla"])


def test_the_latent_that_follows_the_angle_is_drawn():
    angles = torch.linspace(0, 3, 40)
    latents = torch.stack([torch.ones(40), torch.cos(2 * angles) + 1, angles.cos() ** 8], dim=1)
    fig = figures.latents_by_angle({"vanilla": latents, "vanilla_wide": latents.flip(1)}, angles)
    assert fig.axes[0].get_title() == "vanilla: latent 1, $R^2$ 1.00"
    points = fig.axes[0].collections[0].get_offsets()
    assert points[:, 0].tolist() == pytest.approx(angles.rad2deg().tolist(), abs=1e-4)
    assert points[:, 1].tolist() == pytest.approx(latents[:, 1].tolist())
    assert [ax.get_xlabel() for ax in fig.axes] == ["angle of the long axis (degrees)"] * 2


def test_two_galaxies_lie_on_any_curve():
    (ax,) = figures.latents_by_angle({"vanilla": torch.rand(2, 3)}, torch.rand(2)).axes
    assert not ax.collections
