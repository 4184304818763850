"""Figures of what attention heads do, and what latents read from them."""

from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from saehelpers.figures.names import label
from saehelpers.figures.plots import legend_below, panels
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Positive, with_columns

with extra("notebooks"):
    from matplotlib.axes import Axes
    from matplotlib.colors import CenteredNorm
    from matplotlib.figure import Figure

SOURCE_COLOURS = ("#4477aa", "#88ccee", "#ddcc77", "#cc3311", "#228833", "#cccccc")


@checked
def attention_by_source(
    losses: Float[Tensor, " positions"], attended: Annotated[pd.DataFrame, NOT_EMPTY]
) -> Figure:
    """The loss at each position from the second on, and where heads look.

    Args:
        attended: mean attention, a row for each kind of source, a column for each head.
    """
    fig, axes = panels(2, (5.4, 3.4))
    axes[0].plot(range(1, len(losses) + 1), losses, color="black")
    axes[0].set(xlabel="position", ylabel="loss (nats)", title="random tokens that come twice")
    image = axes[1].imshow(attended, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes[1].set_xticks(range(attended.shape[1]), attended.columns)
    axes[1].set_yticks(range(len(attended)), attended.index)
    axes[1].set(xlabel="layer.head", title="mean attention in the second half")
    fig.colorbar(image, ax=axes[1])
    return fig


@checked
def likeness_of_heads(
    shared: Annotated[pd.DataFrame, with_columns("task", "metric", "mean", "se")],
    spread: dict[str, Float[Tensor, " n_latents"]],
    n_heads: Positive,
) -> Figure:
    """How alike the latents of every two heads are, and over how many heads dense ones are spread.

    Left and middle: the correlation of matched latents, and the cosine of what they write, beside
    chance. Right: how many heads write a latent, by seed.

    Args:
        shared: of `summarise`: the metrics "correlation" and "written", and each with "_null".
        spread: of each dense SAE, the number of heads for every latent.
    """
    fig, axes = panels(3, (4.6, 3.4))
    for ax, metric in zip(axes, ("correlation", "written"), strict=False):
        _draw_pairs(ax, shared[shared["metric"] == metric], "black", "matched")
        _draw_pairs(ax, shared[shared["metric"] == f"{metric}_null"], "grey", "by chance")
        ax.set(xlabel="pair of heads", ylim=(0, 1))
    axes[0].set(ylabel="mean correlation", title="activations of matched latents")
    axes[1].set(ylabel="mean cosine", title="what matched latents write")
    axes[0].legend(frameon=False)
    for name, heads in spread.items():
        axes[2].hist(heads, np.linspace(1, n_heads, 25), histtype="step", label=name)
    axes[2].set(title="dense SAE", xlabel="heads that write a latent", ylabel="latents")
    if spread:
        axes[2].legend(frameon=False)
    return fig


def _draw_pairs(ax: Axes, rows: pd.DataFrame, color: str, name: str) -> None:
    style = {"color": color, "marker": "o", "linestyle": "", "capsize": 2, "label": name}
    heads = rows["task"].str.removeprefix("heads ")
    ax.errorbar(heads, rows["mean"], rows["se"].fillna(0), **style)


@checked
def induction_shares(
    attributed: Float[Tensor, "t s"],
    found: Annotated[
        pd.DataFrame,
        with_columns(
            "method", "induction_share", "induction_share_by_chance", "best_share_by_chance"
        ),
    ],
    methods: Annotated[list[str], NOT_EMPTY],
) -> Figure:
    """Where a latent reads from, and how much of it comes from the true source, beside chance.

    Args:
        attributed: mean attribution of one latent, at the last t positions, by source.
        found: of each method and seed, the share of its best latent, of random directions on
            average, and of the best of as many.
    """
    fig, axes = panels(2, (5.2, 4.0))
    n, context = attributed.shape
    extent = (-0.5, context - 0.5, context - 0.5, context - n - 0.5)
    style = {"cmap": "RdBu_r", "norm": CenteredNorm(), "extent": extent, "aspect": "auto"}
    image = axes[0].imshow(np.asarray(attributed), **style)
    axes[0].set(xlabel="source position", ylabel="position")
    fig.colorbar(image, ax=axes[0], label="mean over sequences")
    seeds = found.groupby("method")
    for metric, marker, name in (
        ("induction_share", "o", "best induction latent"),
        ("best_share_by_chance", "+", "best of as many random directions"),
        ("induction_share_by_chance", "x", "random directions there"),
    ):
        means, errors = (seeds[metric].agg(how).loc[methods] for how in ("mean", "sem"))
        style = {"linestyle": "", "color": "black", "marker": marker, "label": name}
        axes[1].errorbar(means, range(len(methods)), xerr=errors.fillna(0), **style)
    axes[1].set_yticks(range(len(methods)), [label(method) for method in methods])
    axes[1].set(xlim=(0, 1.02), xlabel="share of positive attribution on the true source")
    legend_below(fig, axes[1], columns=3)
    return fig


@checked
def read_by_head(shares: Annotated[pd.DataFrame, NOT_EMPTY]) -> Figure:
    """What the latents of each head read most: a bar for each head, a part for each source.

    Args:
        shares: a row for each head, a column for each kind of source, the last one for the rest.
    """
    fig, (ax,) = panels(1, (8.5, 3.4))
    left = np.zeros(len(shares))
    for source, color in zip(shares.columns, SOURCE_COLOURS, strict=False):
        ax.barh(shares.index, shares[source], left=left, color=color, label=source)
        left += shares[source].to_numpy()
    ax.invert_yaxis()
    ax.set(xlabel="share of the latents that are active", ylabel="layer.head")
    ax.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    return fig
