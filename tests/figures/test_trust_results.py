import pandas as pd
import pytest
from matplotlib import pyplot as plt

from saehelpers.figures import (
    card_points,
    kept_promises,
    reliability,
    subgroup_curves,
    true_by_verdict,
)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def predicted() -> pd.DataFrame:
    """Of kind a, every latent is as likely true as it is said to be; of b, none is trusted."""
    rows = [("a", p, i < 10 * p, "trust" if p > 0.5 else "do not")
            for p in (0.2, 0.8) for i in range(10)]  # fmt: skip
    rows += [("b", 0.3, False, "not decided")] * 5
    return pd.DataFrame(rows, columns=["kind", "probability", "true", "verdict"])


def test_reliability_is_the_share_that_is_true(ax):
    reliability(ax, predicted())
    line = ax.get_lines()[0]
    assert line.get_label() == "a"
    points = sorted(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert points == [pytest.approx((0.2, 0.2)), pytest.approx((0.8, 0.8))]


def test_promises_are_of_those_that_are_trusted(ax):
    kept_promises(ax, predicted())
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.8, 0])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a (10)", "b (0)"]


def test_shares_are_drawn_by_method_and_verdict(ax):
    true_by_verdict(ax, predicted().rename(columns={"kind": "method"}))
    drawn = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert drawn == {"trust": [pytest.approx(0.8), 0], "not decided": [0, 0],
                     "do not": [pytest.approx(0.2), 0]}  # fmt: skip
    assert [text.get_text() for text in ax.texts] == ["10", "0", "0", "5", "10", "0"]


def test_subgroups_are_drawn_over_layers_in_their_order(ax):
    rows = pd.DataFrame(
        [(layer, name, metric, value + shift)
         for layer, value in (("net.late", 0.4), ("net.early", 0.8)) for name in ("C2", "C4")
         for metric, shift in (("r2", 0), ("r2_low", -0.1), ("r2_high", 0.1),
                               ("r2_identity", -0.3))],
        columns=["features", "task", "metric", "value"],
    )  # fmt: skip
    subgroup_curves(ax, rows, ["net.early", "net.late"], 0.7)
    drawn = [container.lines[0].get_ydata().tolist() for container in ax.containers]
    assert drawn == [pytest.approx([0.8, 0.4])] * 2
    assert [text.get_text() for text in ax.get_xticklabels()] == ["net.early", "net.late"]


def test_cards_are_points_in_the_colours_of_their_verdicts(ax):
    cards = pd.DataFrame({"verdict": ["trust", "do not", "trust"], "sharpness": [0.1, 0.5, 0.9],
                          "effect": [0.0, 0.1, 0.2]})  # fmt: skip
    card_points(ax, cards, "sharpness", "effect")
    counts = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    assert counts == {"trust (2)": 2, "not decided (0)": 0, "do not (1)": 1}
    assert ax.get_yscale() == "log"
    with pytest.raises(ValueError, match="x must be a number of cards, got 'sharp'"):
        card_points(ax, cards, "sharp", "effect")
