"""Figures of what probes read show what they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from saehelpers import figures
from saehelpers.figures import analysis

BASE = {"base_model": "mlp", "group": "C4", "topk": 8, "truncation": 8, "task_type": "S",
        "probe": "xgboost", "features": "recons", "element": "none", "method": "vanilla",
        "base_seed": 0, "seed": 0}  # fmt: skip
METHODS = ["vanilla", "canonical"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def f1(*rows) -> pd.DataFrame:
    """Rows that differ from `BASE` in what is said of them; the first of each is its value."""
    return pd.DataFrame([BASE | columns | {"value": value} for value, columns in rows])


def both_probes(*rows) -> pd.DataFrame:
    return pd.concat([f1(*rows), f1(*[(v / 2, c | {"probe": "logistic"}) for v, c in rows])])


CANONICAL = {"method": "canonical", "element": "inferred"}
TOLD = {"method": "canonical", "element": "true"}


def labels(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def titles(fig) -> list[str]:
    return [ax.get_title() for ax in fig.axes]


def heights(ax) -> list[float]:
    """Of points with error bars, those that were measured."""
    values = [y for container in ax.containers for y in container.lines[0].get_ydata()]
    return [float(value) for value in values if value == value]


def test_a_row_for_each_base_model_and_a_diamond_for_who_was_told():
    table = both_probes((0.4, {}), (0.6, CANONICAL), (0.8, TOLD), (0.5, {"base_model": "cnn"}))
    table = pd.concat([table, analysis.over_task_types(table)])
    fig = figures.f1_by_task_type(table, METHODS)
    assert titles(fig) == [f"{name}, {probe} (1 seed)" for name in ("mlp", "cnn")
                           for probe in ("logistic", "XGBoost")]  # fmt: skip
    assert heights(fig.axes[1]) == [0.8, 0.8, 0.4, 0.4, 0.6, 0.6]  # diamonds first
    assert heights(fig.axes[2]) == [0.25, 0.25]
    assert labels(fig.axes[0]) == METHODS
    assert [text.get_text() for text in fig.axes[3].get_xticklabels()] == ["S", "mean"]


def test_curves_for_each_probe_and_task_type():
    lengths = [(0.1 * m, {"truncation": m, "task_type": kind}) for m in (1, 8) for kind in "S"]
    fig = figures.f1_by_truncation(both_probes(*lengths), ["vanilla"])
    assert titles(fig) == ["S: mlp (1 seed)"] * 2
    assert [ax.get_ylabel() for ax in fig.axes] == ["F1, logistic", "F1, XGBoost"]
    assert heights(fig.axes[1]) == pytest.approx([0.1, 0.8])
    fig = figures.class_f1_by_truncation(both_probes(*lengths), ["vanilla"])
    assert titles(fig) == ["logistic (1 seed)", "XGBoost (1 seed)"]
    assert heights(fig.axes[0]) == pytest.approx([0.05, 0.4])
    linear = both_probes(*lengths).query("probe == 'logistic'")
    assert titles(figures.class_f1_by_truncation(linear, ["vanilla"])) == ["logistic (1 seed)"]


def test_advantages_and_what_was_published_beside_trees():
    table = both_probes((0.4, {}), (0.6, CANONICAL))
    parts = [analysis.conditions(table, {name: ([name], "recons", element)})
             for name, element in zip(METHODS, ("none", "inferred"), strict=True)]  # fmt: skip
    differences = analysis.advantage(parts[1], parts[0])
    fig = figures.advantage_bars(differences, ["canonical"], pd.Series({"S": 0.3, "SP": 0.1}))
    linear, trees = fig.axes
    assert [bar.get_height() for bar in trees.patches] == pytest.approx([0.2])
    assert [bar.get_height() for bar in linear.patches] == pytest.approx([0.1])
    assert labels(trees) == ["paper", "canonical"] and labels(linear) == ["canonical"]
    assert trees.collections[-1].get_offsets().tolist() == [[0, 0.3]]
    fig = figures.control_dots(pd.concat(parts), METHODS)
    assert titles(fig) == ["mlp, logistic (1 seed)", "mlp, XGBoost (1 seed)"]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == METHODS
    assert fig.axes[1].containers[0].lines[0].get_xdata().tolist() == [0.4, 0.6]


def test_gains_beside_the_published_ones():
    rows = [(0.1, {}), *((0.2 + 0.1 * i, TOLD | {"method": name})
                         for i, name in enumerate(analysis.EQUIVARIANT))]  # fmt: skip
    published = f1(*rows).assign(f1_mean=lambda table: table["value"] / 2)
    cells = analysis.beside_published(f1(*rows), published)
    fig = figures.gains_beside_published(cells)
    assert titles(fig) == ["S", "SO", "SP", "SPO"]
    assert labels(fig.axes[0]) == ["canonical, C4", "latent_inv, C4", "output_inv, C4"]
    points = [points.get_offsets().tolist() for points in fig.axes[0].collections]
    assert points == [[pytest.approx([g / 2, g])] for g in (0.1, 0.2, 0.3)]


def test_a_point_for_each_sae_of_every_base_model_that_is_ranked():
    several = [(0.4 + 0.1 * base + 0.01 * seed, {"base_seed": base, "seed": seed})
               for base in (0, 1) for seed in (0, 1)]  # fmt: skip
    table = both_probes(*several, (0.9, {"base_model": "cnn"}))
    index = pd.MultiIndex.from_tuples([("mlp", 0, 0), ("mlp", 0, 1)],
                                      names=["base_model", "base_seed", "seed"])  # fmt: skip
    fig = figures.f1_of_two_probes(table, ["vanilla"], pd.Series([0.5, 0.75], index=index))
    assert titles(fig) == ["mlp (2 seeds on 2 base models)\nrank correlation 0.50 to 0.75"]
    drawn = fig.axes[0].collections[0].get_offsets().tolist()
    assert drawn == [pytest.approx([value / 2, value]) for value, _ in several]


def test_f1_by_thousands_of_parameters():
    fig = figures.f1_by_size(f1((0.4, {}), (0.6, CANONICAL), (0.9, TOLD)), {"vanilla": 2500})
    (ax,) = fig.axes
    assert labels(ax) == ["vanilla"] and ax.get_ylabel() == "mean F1, XGBoost"
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[2.5, 0.4]]


def test_figures_of_nothing_say_so():
    nothing = f1((0.4, {}))[:0]
    for draw in (figures.f1_by_task_type, figures.f1_by_truncation):
        with pytest.raises(ValueError, match="nothing was measured"):
            draw(nothing, METHODS)
