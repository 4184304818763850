"""Figures of consistency show what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from saehelpers import figures
from saehelpers.runs import identity
from saehelpers.saes import SAEConfig
from saehelpers.training import SAERun


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def labels(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def heights(ax) -> list[float]:
    """Of the points with intervals."""
    return [float(container.lines[0].get_ydata()[0]) for container in ax.containers]


def test_recovery_beside_consistency():
    dictionaries = pd.DataFrame({
        "kind": ["relu", "topk", "topk"], "width": [4, 8, 16], "mean": [0.1, 0.2, 0.3],
        "above null": [0.0, 0.1, 0.2], "recovery": [0.5, 0.6, 0.7],
    })  # fmt: skip
    latents = pd.DataFrame({"of": ["wide"] * 3, "consistency": [0.1, 0.2, 0.9], "cosine": 0.5})
    axes = figures.recovery_by_consistency(dictionaries, latents).axes
    assert labels(axes[0]) == ["ReLU + L1", "TopK"] and labels(axes[2]) == ["wide"]
    topk = axes[1].collections[1]
    assert topk.get_offsets().tolist() == [[0.1, 0.6], [0.2, 0.7]]
    assert topk.get_sizes().tolist() == [4, 8]


def test_runs_are_told_by_both_seeds():
    told = identity(torch.zeros(1))
    run = SAERun("vanilla", told, SAEConfig(4, 8, topk=2), seed=3, order_seed=5)
    ax = plt.subplots()[1]
    image = figures.pw_mcc_image(ax, [run, run], torch.eye(2), "Shapes")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3, 5"] * 2
    assert image.get_array().tolist() == [[1, 0], [0, 1]]


def test_agreement_falls_with_the_width():
    widths = pd.DataFrame({
        "width": [8, 16], "mean": [0.6, 0.4], "low": 0.3, "high": 0.7, "null": [0.1, 0.2],
        "in widest": [0.8, 1.0], "of widest": [0.5, 1.0],
    })  # fmt: skip
    left, right = figures.agreement_by_width(widths).axes
    assert heights(left) == [0.6, 0.4] and labels(left)[:1] == ["random directions"]
    assert [line.get_ydata().tolist() for line in right.lines] == [[0.8, 1], [0.5, 1]]


def test_methods_stand_in_the_order_of_their_agreement():
    table = pd.DataFrame({
        "frame": ["plain"] * 2 + ["modulo"] * 2, "method": ["vanilla", "canonical"] * 2,
        "mean": [0.6, 0.5, 0.6, 0.7], "low": 0.4, "high": 0.8, "random directions": 0.1,
        "random activations": 0.3,
    })  # fmt: skip
    axes = figures.agreement_and_nulls(table).axes
    names = [[text.get_text() for text in ax.get_xticklabels()] for ax in axes]
    assert names == [["canonical", "vanilla"], ["vanilla", "canonical"]]
    assert [ax.get_title() for ax in axes] == ["plain", "modulo"]
    assert heights(axes[0]) == [0.5, 0.6]


def test_which_latents_are_counted():
    counted = pd.DataFrame({
        "kind": ["topk", "relu"] * 2, "counted": ["all", "all", "alive", "alive"],
        "mean": [0.1, 0.2, 0.3, 0.4], "low": 0.0, "high": 0.5,
    })  # fmt: skip
    latents = pd.DataFrame({
        "kind": ["topk"] * 3 + ["relu"], "frequency": [0.0, 0.5, 0.5, 1.0],
        "cosine": [0.2, 0.6, 0.8, 0.9], "strength": [0.0, 0.5, 1.0, 1.0],
    })  # fmt: skip
    axes = figures.agreement_by_activation(counted, latents).axes
    assert labels(axes[0]) == ["TopK", "ReLU + L1"]
    assert heights(axes[0]) == [0.1, 0.3, 0.2, 0.4]  # of each kind: all, then alive
    by_frequency = axes[2].lines[0].get_ydata()
    assert by_frequency[[0, -1]].tolist() == pytest.approx([0.2, 0.7])
    assert np.isnan(by_frequency[1:-1]).all()
    shares = dict(zip(*axes[3].lines[0].get_data(), strict=True))
    assert (
        shares[0] == 1 and shares[0.5] == pytest.approx(2 / 3) and shares[1] == pytest.approx(1 / 3)
    )


def test_a_bar_for_each_measure_and_a_line_for_its_null():
    table = pd.DataFrame(
        {"cka": [0.9], "correlation": [0.4], "svcca": [0.5], "rsa": [0.1], "rsa_null": [0.05]},
        index=["cnn"],
    )
    (ax,) = figures.similarity_bars(table).axes
    assert labels(ax) == ["linear CKA", "correlation", "SVCCA", "RSA"]
    assert [patch.get_height() for patch in ax.patches] == [0.9, 0.4, 0.5, 0.1]
    (null,) = ax.collections
    assert null.get_segments()[0][:, 1].tolist() == [0.05, 0.05]
