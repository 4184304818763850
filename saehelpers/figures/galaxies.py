"""Figures of galaxies: pictures, latents as maps on them, measurements, probes of their classes."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saehelpers.datasets import ImageSet
from saehelpers.evaluation import angle_dependence
from saehelpers.figures.names import colour, label
from saehelpers.figures.plots import (
    grouped_bars,
    image_grid,
    legend_below,
    overlay,
    panels,
    seeds_note,
    summarise,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import (
    EMPTY,
    NOT_EMPTY,
    Count,
    Name,
    Positive,
    check_columns,
    with_columns,
)

with extra("notebooks"):
    from matplotlib.figure import Figure

SHAPE = ("ellipticity", "semimajor", "concentration")  # of a galaxy, at whatever angle it lies
RowsOfImages = Annotated[
    Sequence[Annotated[UInt8[Tensor, "... 3 height width"], EMPTY]], NOT_EMPTY
]  # a tensor (n, 3, h, w) for each row
Results = Annotated[pd.DataFrame, with_columns("method", "seed", "value")]


@checked
def examples_of_classes(images: ImageSet, n: Positive) -> dict[str, Tensor]:
    """Of each class that occurs, the places of its first `n` images; without labels, of all."""
    if images.labels is None:
        return {"images": torch.arange(len(images.images))[:n]}
    present = images.labels.unique().tolist()
    return {images.classes[c]: (images.labels == c).nonzero()[:n, 0] for c in present}


@checked
def images_beside(
    sources: Annotated[Mapping[str, RowsOfImages], NOT_EMPTY], row_titles: Sequence[str] = ()
) -> Figure:
    """Rows of images (n, 3, h, w) of several sources side by side, each source under its name.

    Where a source has fewer images in a row than in others, their places stay white.

    Raises:
        ValueError: the sources have not as many rows as each other.
    """
    counts = [len(rows) for rows in sources.values()]
    if len(set(counts)) > 1:
        raise ValueError(f"sources must have as many rows as each other, got {counts}")
    widths = {name: max(map(len, rows)) for name, rows in sources.items()}
    grid = [
        [picture for name, rows in sources.items() for picture in _padded(rows[i], widths[name])]
        for i in range(counts[0])
    ]
    titles = [name for name, width in widths.items() for _ in range(width)]
    return image_grid(grid, titles, [title.replace("_", "\n") for title in row_titles])


@checked
def latents_on_images(
    images: UInt8[Tensor, "n 3 size size"],
    maps: Float[Tensor, "n latents h w"],
    row_titles: Sequence[str] = (),
) -> Figure:
    """A row of images, and a row for each latent in which they light up where it is active.

    row_titles: that of the images first.
    """
    rows = [overlay(images, own) for own in maps.unbind(1)]
    return image_grid([_pictures(images), *rows], row_titles=row_titles)


@checked
def channel_under_group(
    images: UInt8[Tensor, "order 3 size size"],
    maps: Float[Tensor, "order d h w"],
    turned_back: Float[Tensor, "order d h w"],
    channel: Count,
) -> Figure:
    """An image under every element, one channel of its feature maps, and of these turned back.

    Raises:
        ValueError: the maps have no such channel.
    """
    if channel >= maps.shape[1]:
        raise ValueError(f"channel must be below {maps.shape[1]}, got {channel}")
    stages = [own[:, channel] - own.amin((1, 2, 3))[:, None, None] for own in (maps, turned_back)]
    titles = [f"element {element}" for element in range(len(images))]
    rows = ["image", f"channel {channel}", "turned back"]
    return image_grid([_pictures(images), *stages], titles, rows)


def _pictures(images: Tensor) -> np.ndarray:
    """As they are shown: (n, h, w, 3)."""
    return images.movedim(-3, -1).numpy()


def _padded(images: Tensor, width: int) -> list[np.ndarray]:
    """Pictures, and white ones behind them up to a number."""
    white = np.full((*images.shape[-2:], 3), 255, np.uint8)
    return [*_pictures(images), *[white] * (width - len(images))]


@checked
def property_histograms(
    classes: Mapping[str, Annotated[pd.DataFrame, with_columns(*SHAPE)]],
    others: Annotated[pd.DataFrame, with_columns(*SHAPE)],
    name: Name,
) -> Figure:
    """How ellipticity, size and concentration are spread in each class: lines.

    Filled, in grey: in other galaxies, which are called `name`.
    """
    fig, axes = panels(len(SHAPE), (4, 2.8))
    for ax, quantity in zip(axes, SHAPE, strict=True):
        for kind, measured in classes.items():
            values, title = measured[quantity].dropna(), kind.replace("_", " ")
            ax.hist(values, 30, histtype="step", density=True, label=title)
        ax.hist(others[quantity].dropna(), 30, density=True, color="#cccccc", label=name)
        ax.set(xlabel=quantity, yticks=[])
    axes[0].set_ylabel("density")
    legend_below(fig, axes[0], columns=5)
    return fig


@checked
def bars_in_panels(
    tables: Annotated[Mapping[str, Results], NOT_EMPTY],
    x: Name,
    labels: Mapping[str, str],
    methods: Annotated[Sequence[str], NOT_EMPTY],
    size: tuple[float | int, float | int] = (4.6, 3.4),
) -> Figure:
    """Rows of results as bars: a panel for each table, a group for each value of column `x`.

    Args:
        labels: what values of `x` are called, in their order; others are left out, and so are,
            panel by panel, those that a table does not have.
    """
    fig, axes = panels(len(tables), size)
    for ax, (title, rows) in zip(axes, tables.items(), strict=True):
        check_columns("tables", rows, x=x)
        order = [value for value in labels if rows[x].eq(value).any()]
        summary = summarise(rows[rows[x].isin(order)], ["method", x])
        grouped_bars(ax, summary, x, order, methods)
        ax.set_xticks(range(len(order)), [labels[value] for value in order])
        ax.set_title(f"{title} ({seeds_note(summary)})")
    legend_below(fig, axes[0], columns=5)
    return fig


@checked
def latents_by_angle(
    latents: Annotated[Mapping[str, Annotated[Float[Tensor, "n ..."], EMPTY]], NOT_EMPTY],
    angles: Annotated[Float[Tensor, " n"], EMPTY],
) -> Figure:
    """Of each method the latent that follows an angle most closely, against this angle.

    Of fewer than three samples nothing is drawn: two points lie on any curve.

    Args:
        latents: by method, (n, n_latents).
        angles: of axes, in radians; shown in degrees.
    """
    fig, axes = panels(len(latents), (4, 2.8))
    for ax, (method, own) in zip(axes, latents.items(), strict=True):
        if len(angles) < 3:
            continue
        dependence = angle_dependence(own, angles)
        latent = int(dependence.argmax())
        ax.scatter(angles.rad2deg(), own[:, latent], s=3, color=colour(method))
        title = f"{label(method)}: latent {latent}, $R^2$ {dependence[latent]:.2f}"
        ax.set(title=title, xlabel="angle of the long axis (degrees)")
    axes[0].set_ylabel("mean activation")
    return fig
