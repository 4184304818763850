"""Figures of how alike the features are that several training runs have found."""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from saehelpers.evaluation import consistency
from saehelpers.figures.names import colour, label
from saehelpers.figures.plots import legend_below, log_ticks, means_and_intervals, panels
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, with_columns
from saehelpers.training.methods import SAERun

with extra("notebooks"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RAREST = 1e-4  # share of the samples; latents that fire less often are drawn as if they never did
FREQUENCIES = [0.0, *np.geomspace(RAREST, 1, 9)]
SIMILARITIES = {"cka": "linear CKA", "correlation": "correlation", "svcca": "SVCCA", "rsa": "RSA"}


@checked
def recovery_by_consistency(
    dictionaries: Annotated[
        pd.DataFrame, with_columns("kind", "width", "mean", "above null", "recovery")
    ],
    latents: Annotated[pd.DataFrame, with_columns("of", "consistency", "cosine")],
) -> Figure:
    """Does consistency tell that features are true? Of dictionaries, and of single latents.

    Left: PW-MCC against recovery, a point for each dictionary, as large as it is wide; middle:
    PW-MCC above the null. Right: for each latent its consistency, and the cosine with its best
    true feature.
    """
    fig, axes = panels(3, (4.2, 3.6))
    for kind, rows in dictionaries.groupby("kind"):
        style = {"s": rows["width"] / 2, "alpha": 0.8, "color": colour(kind), "label": label(kind)}
        axes[0].scatter(rows["mean"], rows["recovery"], **style)
        axes[1].scatter(rows["above null"], rows["recovery"], **style)
    for name, rows in latents.groupby("of", sort=False):
        axes[2].scatter(rows["consistency"], rows["cosine"], s=8, alpha=0.6, label=name)
    axes[0].set(xlabel="PW-MCC between seeds", ylabel="recovery of the truth")
    axes[1].set(xlabel="PW-MCC above the null")
    axes[2].set(xlabel="consistency of a latent", ylabel="cosine with its best true feature")
    axes[0].legend(frameon=False)
    axes[2].legend(frameon=False)
    return fig


@checked
def pw_mcc_image(ax: Axes, configs: list[SAERun], cosines: Float[Tensor, "n n"], title: str):
    """Show the PW-MCC of every two runs, by the seeds of their weights and of their data's order.

    Returns the image.
    """
    image = ax.imshow(np.asarray(cosines), vmin=0, vmax=1, cmap="viridis")
    labels = [f"{config.seed}, {config.draws}" for config in configs]
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    ax.set(title=title, xlabel="seed of weights, seed of order")
    return image


@checked
def agreement_by_width(
    widths: Annotated[
        pd.DataFrame,
        with_columns("width", "mean", "low", "high", "null", "in widest", "of widest"),
    ],
) -> Figure:
    """PW-MCC between seeds against the number of latents; what each has of the widest SAE."""
    fig, axes = panels(2, (4.6, 3.4))
    means_and_intervals(axes[0], list(widths["width"]), widths, label="seeds")
    axes[0].plot(widths["width"], widths["mean"], color="black")
    style = {"color": "grey", "linestyle": ":", "label": "random directions"}
    axes[0].plot(widths["width"], widths["null"], **style)
    for column, name in (("in widest", "its rows in the widest"),
                         ("of widest", "the widest's rows in it")):  # fmt: skip
        axes[1].plot(widths["width"], widths[column], marker="o", label=name)
    for ax, quantity in zip(axes, ("PW-MCC", "mean max cosine"), strict=True):
        log_ticks(ax, list(widths["width"]))
        ax.set(xlabel="latents", ylabel=quantity, ylim=(0, 1))
        ax.legend(frameon=False)
    return fig


@checked
def agreement_and_nulls(
    table: Annotated[
        pd.DataFrame,
        NOT_EMPTY,
        with_columns(
            "frame", "method", "mean", "low", "high", "random directions", "random activations"
        ),
    ],
) -> Figure:
    """PW-MCC of each method's seeds, a panel for each frame, beside what chance reaches there."""
    frames = list(table.groupby("frame", sort=False))
    fig, axes = panels(len(frames), (5.0, 3.6))
    for ax, (frame, rows) in zip(axes, frames, strict=True):
        rows = rows.sort_values("mean")
        places, methods = list(range(len(rows))), list(rows["method"])
        for place, method in enumerate(methods):
            means_and_intervals(ax, [place], rows.iloc[[place]], colour(method))
        for null, marker, size in (("random directions", "x", 5), ("random activations", "_", 12)):
            ax.plot(places, rows[null], f"k{marker}", markersize=size, label=null)
        ax.set_xticks(places, [label(method) for method in methods], rotation=40, ha="right")
        ax.set(title=frame, ylabel="PW-MCC", ylim=(0, 1))
    axes[0].legend(frameon=False)
    return fig


@checked
def agreement_by_activation(
    counted: Annotated[pd.DataFrame, with_columns("kind", "counted", "mean", "low", "high")],
    latents: Annotated[pd.DataFrame, with_columns("kind", "frequency", "cosine", "strength")],
) -> Figure:
    """How consistent SAEs of several activation functions are, and which of their latents.

    From the left: PW-MCC by which latents are counted; how often latents fire; the cosine of
    matched latents by that; the share of latents whose `shared_strength` reaches a threshold.

    Args:
        latents: of one SAE of each kind, matched with those of another seed.
    """
    fig, axes = panels(4, (3.6, 3.4))
    names, kinds = list(counted["counted"].unique()), list(counted["kind"].unique())
    for i, kind in enumerate(kinds):
        rows = counted[counted["kind"] == kind].set_index("counted").loc[names]
        places = np.arange(len(names)) + 0.2 * (i - (len(kinds) - 1) / 2)
        means_and_intervals(axes[0], list(places), rows, colour(kind), label(kind))
        own = latents[latents["kind"] == kind]
        _draw_latents(axes[1:], own, {"color": colour(kind)})
    axes[0].set_xticks(range(len(names)), names)
    axes[0].set(title="latents counted", ylabel="PW-MCC", ylim=(0, 1))
    axes[1].set(title="how often latents fire", xscale="log", xlabel="frequency (left: never)")
    axes[2].set(title="matched cosine by frequency", xscale="log", xlabel="frequency")
    axes[3].set(title="encoder and dictionary agree", xlabel="threshold", ylabel="share of latents")
    legend_below(fig, axes[0])
    return fig


def _draw_latents(axes: list[Axes], latents: pd.DataFrame, style: dict) -> None:
    frequency, cosine, strength = (
        torch.tensor(latents[column].to_numpy()) for column in ("frequency", "cosine", "strength")
    )
    bins = np.geomspace(RAREST / 4, 1, 24)
    axes[0].hist(frequency.clamp(min=RAREST / 2), bins, histtype="step", **style)
    means = consistency.frequency_bins(cosine, frequency, FREQUENCIES)
    middles = [np.sqrt(max(low, RAREST / 4) * high) for low, high, _, _ in means]
    axes[1].plot(middles, [mean for _, _, mean, _ in means], marker="o", **style)
    thresholds = np.linspace(0, 1, 41)
    shares = [consistency.shared_fraction(strength, float(least)) for least in thresholds]
    axes[2].plot(thresholds, shares, **style)


@checked
def similarity_bars(table: Annotated[pd.DataFrame, with_columns(*SIMILARITIES)]) -> Figure:
    """Linear CKA, correlation, SVCCA and RSA of each row of a table.

    Dotted lines: the columns "correlation_null" and so on, where there are such.
    """
    fig, (ax,) = panels(1, (7.0, 3.4))
    places = np.arange(len(table))
    for i, (measure, name) in enumerate(SIMILARITIES.items()):
        start = places + 0.2 * (i - 2)
        ax.bar(start, table[measure], 0.2, align="edge", label=name)
        if f"{measure}_null" in table:
            style = {"color": "black", "linestyle": ":"}
            ax.hlines(table[f"{measure}_null"], start, start + 0.2, **style)
    ax.set_xticks(places, table.index, rotation=20, ha="right")
    ax.set_ylim(0, 1)
    ax.legend(frameon=False, ncols=4, loc="upper right")
    return fig
