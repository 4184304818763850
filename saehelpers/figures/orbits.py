"""Figures of orbits: what a group does to activations, and what SAEs make of that."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.evaluation.matching import cosine_matrix
from saehelpers.figures.plots import (
    curves,
    grouped_bars,
    grouped_points,
    legend_below,
    log_ticks,
    panels,
    seeds_note,
    similarities,
    summarise,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Name, check_columns, with_columns
from saehelpers.symmetry import Group

with extra("notebooks"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAMES = {
    "canonical": "canonical\nframe",
    "mapped": "mapped,\ntrue",
    "inferred": "mapped,\ninferred",
    "raw": "raw",
}
Measured = Annotated[pd.DataFrame, with_columns("method", "metric", "seed", "value")]
Titles = Annotated[Mapping[str, str], NOT_EMPTY]
Names = Annotated[Sequence[str], NOT_EMPTY]


@checked
def eigenvalues(ax: Axes, matrix: Float[Tensor, "d d"], title: Name) -> None:
    """The eigenvalues of a matrix, points of the complex plane."""
    values = torch.linalg.eigvals(matrix)
    ax.scatter(values.real, values.imag, s=8, color="black", alpha=0.5)
    ax.set(title=title, xlabel="real", ylabel="imaginary")
    ax.set_aspect("equal", "datalim")


@checked
def over_orbit(
    ax: Axes, values: Float[Tensor, "order n"], title: Name, columns: str = "latent"
) -> None:
    """Activations or latents of one input under every group element, a line for each.

    The colour of 0 is white where some values are negative, black where none is.
    """
    largest = float(values.abs().max())
    signed = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    scale = signed if (values < 0).any() else {"cmap": "magma", "vmin": 0, "vmax": largest}
    image = ax.imshow(np.asarray(values), aspect="auto", **scale)
    ax.set(title=title, xlabel=columns, ylabel="group element", yticks=range(len(values)))
    ax.figure.colorbar(image, ax=ax, label="activation")


@checked
def dictionary_in_orbits(
    ax: Axes,
    dictionary: Float[Tensor, "n_latents d"],
    orbits: Float[Tensor, "n_features order d"],
    title: Name,
):
    """Cosines of dictionary rows with true features, each in all orientations side by side.

    Rows are sorted by what they are closest to. Returns the image.
    """
    cosines = cosine_matrix(dictionary, orbits.flatten(0, 1))
    order = cosines.argmax(dim=1).argsort()
    columns = f"true features, {orbits.shape[1]} orientations each"
    image = similarities(ax, cosines[order], columns=columns)
    ax.set_title(title)
    return image


@checked
def bars_by_metric(
    table: Measured, titles: Titles, x: Name, order: Sequence[str], methods: Names
) -> Figure:
    """A panel for each metric: a group of bars for each value of column `x`, means over seeds.

    titles: of the panels, by metric.
    """
    check_columns("table", table, x=x)
    fig, axes = panels(len(titles), (4.2, 3.4), sharey=True)
    for ax, (metric, title) in zip(axes, titles.items(), strict=True):
        summary = summarise(table[table["metric"] == metric], ["method", x])
        grouped_bars(ax, summary, x, order, methods)
        ax.set(title=f"{title} ({seeds_note(summary)})", xlabel=x)
    legend_below(fig, axes[0])
    return fig


@checked
def by_orbit_size(
    table: Annotated[Measured, with_columns("group")], titles: Titles, methods: Names
) -> Figure:
    """A panel for each metric: a line for each method over the orders of groups, means over seeds.

    titles: of the y axes, by metric.
    """
    fig, axes = panels(len(titles), (4.2, 3.4))
    sizes = table["group"].map(lambda name: Group.named(name).order)
    for ax, (metric, title) in zip(axes, titles.items(), strict=True):
        rows = table.assign(size=sizes)[table["metric"] == metric]
        summary = summarise(rows, ["method", "size"])
        curves(ax, summary, "size", methods)
        log_ticks(ax, list(summary["size"]))
        ax.set(title=seeds_note(summary), xlabel="orbit size |G|", ylabel=title)
    legend_below(fig, axes[0])
    return fig


@checked
def error_by_frame(tables: Annotated[Mapping[str, Measured], NOT_EMPTY], methods: Names) -> Figure:
    """Errors of recons in four frames, axes for each table, with its name.

    tables: rows of results, of the metrics "fvu_raw", ... or "mse_raw", ...
    """
    fig, axes = panels(len(tables), (4.4, 3.4))
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        quantity = "mse" if "mse_raw" in set(rows["metric"]) else "fvu"
        shown = {f"{quantity}_{frame}": text for frame, text in FRAMES.items()}
        summary = summarise(rows[rows["metric"].isin(shown)], ["metric", "method"])
        grouped_points(ax, summary, "metric", list(shown), methods)
        ax.set_xticks(range(len(shown)), shown.values())
        ax.set(title=f"{name} ({seeds_note(summary)})", ylabel=quantity.upper(), yscale="log")
    legend_below(fig, axes[0])
    return fig


@checked
@torch.no_grad()
def decoded_changes(
    decoder: nn.Module, mean: Float[Tensor, " d"], directions: Float[Tensor, "n d"]
) -> Float[Tensor, "n h w"]:
    """How much each direction, added to a mean activation, changes every pixel that is decoded."""
    return (decoder(mean + directions) - decoder(mean[None]))[:, 0].abs()
