"""Tries stand one below the other, each with two points."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from saehelpers import figures


def test_two_points_for_each_try_that_was_measured():
    dots = pd.DataFrame({"mean": [0.9, 0.7], "se": [0.1, None]}, index=["ours", "theirs"])
    squares = pd.DataFrame({"mean": [0.8], "se": [0.2]}, index=["ours"])
    ax = plt.subplots()[1]
    figures.points_by_try(ax, dots, squares, {"ours": "oriented", "theirs": "canonical"})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["theirs", "ours"]
    points = {}
    for container in ax.containers:
        line, _, (whisker,) = container.lines
        (x,), (y,) = line.get_data()
        if x == x:  # measured
            half = whisker.get_segments()[0][:, 0]
            points[line.get_marker(), round(y)] = x, (half[1] - half[0]) / 2, line
    assert {key: value[:2] for key, value in points.items()} == {
        ("o", 1): (0.9, pytest.approx(0.1)), ("o", 0): (0.7, 0), ("s", 1): (0.8, pytest.approx(0.2))
    }  # fmt: skip
    for (marker, place), (_, _, line) in points.items():
        own = figures.colour("oriented" if place else "canonical")
        assert line.get_color() == own
        assert to_hex(line.get_markerfacecolor()) == (own if marker == "o" else "#ffffff")
    plt.close("all")
