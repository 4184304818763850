"""Figures of what was tried, one try below the other."""

from collections.abc import Mapping

from saehelpers.figures.names import colour
from saehelpers.figures.plots import Summary
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra

with extra("notebooks"):
    from matplotlib.axes import Axes


@checked
def points_by_try(ax: Axes, dots: Summary, squares: Summary, methods: Mapping[str, str]) -> None:
    """Two means with standard errors for each try: filled dots, and hollow squares below.

    Args:
        dots, squares: what `summarise` gives, by try; a try without a mean has no point.
        methods: of each try, the method whose colour it has; the first try stands on top.
    """
    names = list(methods)[::-1]
    for table, marker, shift in ((dots, "o", 0.15), (squares, "s", -0.15)):
        rows = table.reindex(names).fillna({"se": 0})
        for place, (name, mean, se) in enumerate(zip(names, rows["mean"], rows["se"], strict=True)):
            color = colour(methods[name])
            face = color if marker == "o" else "white"
            style = {"fmt": marker, "color": color, "markerfacecolor": face}
            ax.errorbar(mean, place + shift, xerr=se, **style)
    ax.set_yticks(range(len(names)), names)
    ax.spines[["top", "right"]].set_visible(False)
