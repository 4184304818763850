"""Figures of end-to-end SAEs show what they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from saehelpers import figures

KINDS = ["local", "e2e"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def rows(metric: str, value_of, topks=(4, 8), **columns) -> pd.DataFrame:
    return pd.DataFrame([
        {"metric": metric, "method": kind, "topk": topk, "seed": seed,
         "value": value_of(kind, topk) + (0.1, -0.1)[seed]} | columns
        for kind in KINDS for topk in topks for seed in (0, 1)
    ])  # fmt: skip


def points(ax) -> dict[str, list[list[float]]]:
    """By label, the points of lines with error bars."""
    handles, labels = ax.get_legend_handles_labels()
    return {name: bars.lines[0].get_xydata().round(3).tolist()
            for name, bars in zip(labels, handles, strict=True)}  # fmt: skip


def test_costs_stand_against_active_and_alive_latents():
    def of_layer(layer):
        return [rows("ce_increase", lambda kind, topk: len(kind) / topk, task=layer),
                rows("alive_latents", lambda kind, topk: 100.0 * topk, task=layer)]  # fmt: skip

    axes = figures.cost_by_sparsity(pd.concat(of_layer("1") + of_layer("2"))).axes
    assert len(axes) == 4
    assert points(axes[2])["e2e"] == [[4, 0.75], [8, 0.375]]
    assert [x for x, _ in points(axes[1])["local"]] == [400, 800]
    assert [ax.get_ylabel()[-1] for ax in axes] == ["1", "1", "2", "2"]


def test_the_fewest_active_latents_are_dotted():
    histories = pd.DataFrame([
        {"layer": layer, "method": "e2e", "topk": topk, "tokens": tokens, "kl": 1 / tokens}
        for layer in (1, 2) for topk in (4, 32) for tokens in (10.0, 20.0)
    ])  # fmt: skip
    for ax in figures.learning_curves(histories).axes:
        assert [line.get_linestyle() for line in ax.lines] == [":", "-"]
        assert ax.get_legend_handles_labels()[1] == ["e2e, L0 4", "e2e, L0 32"]
        assert ax.lines[0].get_xydata().tolist() == [[10, 0.1], [20, 0.05]]


def test_later_layers_stand_behind_the_splice():
    later = pd.concat(
        [rows("fvu", lambda kind, topk, place=place: place / 10, (4,), task="1", place=place)
         for place in (1, 2, 3)]
    )  # fmt: skip
    norms = rows("norm_ratio", lambda kind, topk: topk / 4)
    left, right = figures.unexplained_by_layer(later, norms).axes
    assert points(left)["local"] == [[1, 0.1], [2, 0.2], [3, 0.3]]
    assert points(right)["e2e"] == [[4, 1], [8, 2]]


def test_rows_of_each_dictionary_have_its_colour():
    places = pd.DataFrame({"method": ["local", "local", "e2e"], "x": [0, 1, 2], "y": [3, 4, 5]})
    nearest = rows("nearest_cosine", lambda kind, topk: 0.5)
    left, right = figures.dictionary_map(places, nearest).axes
    assert [part.get_offsets().tolist() for part in left.collections] == [
        [[0, 3], [1, 4]],
        [[2, 5]],
    ]
    assert list(points(right)) == KINDS


def test_answers_with_the_true_element_are_dotted():
    table = pd.concat(
        [rows(metric, lambda kind, topk: 0.5, element=element)
         for metric in ("accuracy", "kl", "orbit_jaccard") for element in ("inferred", "true")]
    )  # fmt: skip
    axes = figures.answers_by_sparsity(table).axes
    handles, labels = axes[0].get_legend_handles_labels()
    lines = {
        name: bars.lines[0].get_linestyle() for name, bars in zip(labels, handles, strict=True)
    }
    assert lines == {f"{kind}, {element} element": {"inferred": "-", "true": ":"}[element]
                     for kind in KINDS for element in ("inferred", "true")}  # fmt: skip


def test_tokens_are_as_dark_as_they_are_strong():
    found = figures.coloured_tokens(["a<b", " c"], torch.tensor([0.0, 0.5]))
    assert "0.00)'>a&lt;b</span>" in found and "0.50)'> c</span>" in found
    with pytest.raises(ValueError, match="strengths must be 2"):
        figures.coloured_tokens(["a", "b"], torch.zeros(3))
