"""Figures that more than one notebook draws."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from saehelpers.figures.names import COLOURS, colour, label
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import (
    NOT_EMPTY,
    Count,
    Name,
    Positive,
    Rate,
    Wanted,
    check_columns,
    one_of,
    with_columns,
)

with extra("notebooks"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.colors import is_color_like
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Colour = Annotated[
    str | tuple[float, float, float], Wanted("a colour of matplotlib", is_color_like)
]
MeansAndIntervals = Annotated[pd.DataFrame, with_columns("mean", "low", "high")]
Summary = Annotated[pd.DataFrame, with_columns("mean", "se")]  # of `summarise`


@checked
def panels(
    number: Count,
    size: tuple[float | int, float | int],
    rows: Positive = 1,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` axes in `rows` rows, each of the given size in inches.

    Raises:
        ValueError: there would be no axes: nothing was measured that the figure shows.
    """
    if not number:
        raise ValueError("the number of panels is 0: nothing was measured that the figure shows")
    columns = number // rows
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        squeeze=False,
        sharex=sharex,
        sharey=sharey,
        layout="constrained",
    )
    return fig, list(axes.flat)


@checked
def image_grid(
    images: Sequence[Sequence[Tensor | np.ndarray] | Tensor | np.ndarray]
    | Shaped[Tensor, "rows columns h w *rgb"],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    size: Rate = 1.1,
) -> Figure:
    """Show images, grey (rows, columns, h, w) or in colour (rows, columns, h, w, 3), in a grid.

    Grey ones are scaled to their own range from 0 up. Rows may be of different lengths.
    """
    n_rows, n_columns = len(images), max(len(row) for row in images)
    fig, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(size * n_columns + 0.8, size * n_rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for i, row in enumerate(axes):
        for j, ax in enumerate(row):
            ax.set(xticks=[], yticks=[])
            if j >= len(images[i]):
                ax.axis("off")
                continue
            ax.imshow(np.asarray(images[i][j]), cmap="gray", vmin=0)
            if i == 0 and j < len(column_titles):
                ax.set_title(column_titles[j], fontsize=9)
            if j == 0 and i < len(row_titles):
                ax.set_ylabel(row_titles[i], fontsize=9)
    return fig


@checked
def overlay(
    images: UInt8[Tensor, "n 3 size size"], maps: Float[Tensor, "n h w"]
) -> Float[np.ndarray, "n size size 3"]:
    """Images in grey, lit up where maps are high; the brightest place of all maps is 1."""
    grey = images.float().mean(1, keepdim=True).permute(0, 2, 3, 1) / 255
    size = images.shape[-2:]
    heat = nn.functional.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
    heat = (heat / heat.amax().clamp(min=1e-12)).numpy()
    colour = plt.get_cmap("inferno")(heat)[..., :3]
    strength = heat[..., None] ** 0.5
    return (1 - strength) * grey.numpy() + strength * colour


@checked
def similarities(
    ax: Axes,
    cosines: Float[Tensor, "rows columns"],
    rows: str = "latent",
    columns: str = "true feature",
):
    """Show cosines (rows, columns) on the scale from -1 to 1, and return the image."""
    image = ax.imshow(np.asarray(cosines), vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    ax.set(xlabel=columns, ylabel=rows)
    return image


@checked
def summarise(
    table: Annotated[pd.DataFrame, with_columns("seed", "value")],
    by: Annotated[Sequence[str], NOT_EMPTY],
) -> pd.DataFrame:
    """Mean, standard error and numbers of seeds and base models of "value", by some columns.

    Within a seed, rows (the tasks of a type, say) are averaged first, and seeds within a base
    model (`base_seed`, if there is such a column). The standard error is that between base
    models; with one alone between seeds; it is missing for a single seed.
    """
    check_columns("table", table, by=by)
    of_base = ["base_seed"] if "base_seed" in table and "base_seed" not in by else []
    rows = table.fillna({"base_seed": 0}) if of_base else table
    per_seed = rows.groupby([*by, *of_base, "seed"], observed=True)["value"].mean().reset_index()
    seeds = per_seed.groupby([*by, *of_base], observed=True)["value"]
    seeds = seeds.agg(mean="mean", se="sem", seeds="count").reset_index()
    if not of_base:
        return seeds.assign(base_models=1)
    groups = seeds.groupby(list(by), observed=True)
    means = groups.agg(
        mean=("mean", "mean"), between=("mean", "sem"), se=("se", "first"),
        seeds=("seeds", "min"), base_models=("mean", "count"),
    )  # fmt: skip
    means["se"] = means.pop("between").fillna(means["se"])
    return means.reset_index()


@checked
def grouped_bars(
    ax: Axes,
    table: Summary,
    x: Name,
    order: Sequence[str],
    names: Annotated[Sequence[str], NOT_EMPTY],
    by: Name = "method",
) -> None:
    """Bars of what `summarise` gives: a group per value of column `x`, a bar per name in `by`."""
    colour_of = colour if by == "method" else COLOURS.get  # or matplotlib's next
    for name, places, rows, width in _grouped(table, x, order, names, by):
        ax.bar(
            places,
            rows["mean"],
            width,
            yerr=rows["se"].fillna(0),
            error_kw={"elinewidth": 0.8},
            color=colour_of(name),
            label=label(name),
        )
    ax.set_xticks(range(len(order)), order)
    ax.spines[["top", "right"]].set_visible(False)


@checked
def grouped_points(
    ax: Axes,
    table: Summary,
    x: Name,
    order: Sequence[str],
    names: Annotated[Sequence[str], NOT_EMPTY],
    hollow: bool = False,
) -> None:
    """`grouped_bars` of methods as points, for an axis without 0, on which bars have no base.

    `hollow` ones are diamonds without a label: further values of the same names.
    """
    for name, places, rows, _ in _grouped(table, x, order, names, "method"):
        style = {"color": colour(name), "label": None if hollow else label(name)}
        style |= {"fmt": "D", "markerfacecolor": "none"} if hollow else {"fmt": "o"}
        ax.errorbar(
            places, rows["mean"], rows["se"].fillna(0), markersize=9 if hollow else 5, **style
        )
    ax.set_xticks(range(len(order)), order)
    ax.grid(axis="y", linewidth=0.4)
    ax.spines[["top", "right"]].set_visible(False)


def _grouped(table, x, order, names, by) -> Iterator[tuple[str, np.ndarray, pd.DataFrame, float]]:
    """Of each name: its place in every group, its rows in the order of the groups, the width."""
    check_columns("table", table, x=x, by=by)
    width = 0.85 / len(names)
    for i, name in enumerate(names):
        rows = table[table[by] == name].set_index(x).reindex(order)
        yield name, np.arange(len(order)) + (i - (len(names) - 1) / 2) * width, rows, width


@checked
def means_and_intervals(
    ax: Axes,
    places: Sequence[int | float | str],
    table: MeansAndIntervals,
    color: Colour = "black",
    label: str | None = None,
) -> None:
    """A point with its interval for each row of a table, at as many places on the x axis.

    Raises:
        ValueError: there are not as many places as rows.
    """
    if len(places) != len(table):
        raise ValueError(f"places must be {len(table)}, one for each row, got {len(places)}")
    for i, (place, row) in enumerate(zip(places, table.to_dict("records"), strict=True)):
        sides = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        style = {"color": color, "marker": "o", "capsize": 2}
        ax.errorbar(place, row["mean"], sides, label=None if i else label, **style)


@checked
def explained_by_directions(ax: Axes, activations: Float[Tensor, "samples d"], name: Name) -> None:
    """A curve of how much of the variance the leading principal directions hold.

    Both axes are shares, so that activations of different widths can be compared.
    """
    values = torch.linalg.svdvals(activations - activations.mean(0)).square()
    ax.plot(np.linspace(0, 1, len(values)), values.cumsum(0) / values.sum(), label=name)
    ax.set(xlabel="share of the principal directions", ylabel="share of the variance")
    ax.set_ylim(0, 1.02)
    ax.legend(frameon=False)


@checked
def dots(
    ax: Axes,
    table: Annotated[pd.DataFrame, with_columns("mean", "se", "seeds")],
    y: Name,
    order: Sequence[str],
) -> None:
    """Points of what `summarise` gives, a line per value of `y`, with their numbers of seeds."""
    check_columns("table", table, y=y)
    rows = table.set_index(y).reindex(order).fillna({"se": 0})
    places = np.arange(len(order))
    ax.errorbar(rows["mean"], places, xerr=rows["se"], fmt="o", color="black", capsize=2)
    for place, row in zip(places, rows.itertuples(), strict=True):
        if row.mean == row.mean:  # measured
            beside = row.mean + row.se, place
            ax.annotate(f"{row.seeds:.0f}", beside, (6, -3), textcoords="offset points")
    ax.set_yticks(places, order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.grid(axis="x", linewidth=0.4)
    ax.spines[["top", "right"]].set_visible(False)


@checked
def curves(
    ax: Axes,
    table: Summary,
    x: Name,
    methods: Sequence[str],
    marker: Annotated[str, one_of(Line2D.markers)] = "o",
) -> None:
    """Lines of what `summarise` gives against column `x`, with error bars, one per method."""
    check_columns("table", table, x=x)
    for method in methods:
        rows = table[table["method"] == method].sort_values(x)
        ax.errorbar(
            rows[x].astype(float),
            rows["mean"],
            rows["se"].fillna(0),
            marker=marker,
            markersize=4,
            linewidth=1.2,
            capsize=2,
            color=colour(method),
            label=label(method),
        )
    ax.spines[["top", "right"]].set_visible(False)


@checked
def log_ticks(ax: Axes, values: Sequence[int | float]) -> None:
    """A logarithmic x axis whose ticks are the values themselves."""
    ticks = sorted(set(values))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


@checked
def seeds_note(table: Annotated[pd.DataFrame, with_columns("seeds")]) -> str:
    """What a table of `summarise` rests on: "3 seeds", "5 seeds on 3 base models"."""
    if table.empty:
        return "not measured"

    def counted(column: str, one: str) -> str:
        low, high = int(table[column].min()), int(table[column].max())
        return f"{low if low == high else f'{low} to {high}'} {one}{'' if high == 1 else 's'}"

    seeds = counted("seeds", "seed")
    several = "base_models" in table and table["base_models"].max() > 1
    return f"{seeds} on {counted('base_models', 'base model')}" if several else seeds


@checked
def legend_below(fig: Figure, ax: Axes, columns: Positive = 4) -> None:
    """One legend for the whole figure, under its axes."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
