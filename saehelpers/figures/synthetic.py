"""Figures of SAEs beside the true features of synthetic activations."""

from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from typing import Annotated

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from saehelpers.figures.names import colour, label
from saehelpers.figures.plots import (
    grouped_bars,
    legend_below,
    panels,
    seeds_note,
    similarities,
    summarise,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Cosine, Positive, Rate, with_columns

with extra("notebooks"):
    from matplotlib.figure import Figure

SCORES = {"mcc": "MCC", "f1": "F1 of the detectors", "hedging": "hedging"}
LINES = ("-", "--", ":")  # of worlds
MARKERS = "osD^v"  # of numbers of samples
OF_BENCHMARK = {  # what is drawn against what
    ("recall_by_latent", "precision_by_latent"): "every latent as a detector",
    ("explained_variance", "mcc"): "reconstruction and recovery",
    ("l0", "absorption"): "absorption",
}
Rows = Annotated[
    pd.DataFrame, with_columns("data_source", "method", "topk", "seed", "metric", "value")
]
Names = Annotated[Sequence[str], NOT_EMPTY]
Rates = Float[Tensor, " n_features"]


@checked
def firing_by_world(
    asked: Mapping[str, Rates],
    counted: Mapping[str, tuple[Rates, Float[Tensor, "n_features n_features"]]],
) -> Figure:
    """How often the features of each world fire, and with whom: a column for each world.

    Above: rates that were counted against those that were asked for. Below: correlations of
    firings.

    Args:
        counted: rates and correlations, as `SyntheticFeatures.firing_rates` gives them.

    Raises:
        ValueError: other worlds were counted than were asked for.
    """
    if asked.keys() != counted.keys():
        raise ValueError(
            f"counted must be of the worlds {', '.join(asked)}, got {', '.join(counted)}"
        )
    fig, axes = panels(2 * len(asked), (4, 3), rows=2)
    lower = axes[len(asked) :]
    for name, ax, below in zip(asked, axes, lower, strict=False):
        rates, correlations = counted[name]
        ax.scatter(asked[name], rates, s=10, color="black")
        ax.axline((0, 0), slope=1, color="grey", linewidth=0.6)
        ax.set(title=name, xlabel="firing rate asked for", ylabel="counted")
        image = similarities(below, correlations, "feature", "feature")
    fig.colorbar(image, ax=lower, label="correlation of firings")
    return fig


@checked
def scores_by_world(table: Rows, worlds: Names, methods: Names, null: Cosine) -> Figure:
    """MCC, F1 and hedging of every method, by world: means over seeds, with standard errors.

    Args:
        table: rows of results; the world is their "data_source".
        null: the MCC of random directions, a dotted line.
    """
    fig, axes = panels(len(SCORES), (4.4, 3.4))
    for ax, (metric, title) in zip(axes, SCORES.items(), strict=True):
        rows = table[table["metric"] == metric].rename(columns={"data_source": "world"})
        summary = summarise(rows, ["method", "world"])
        grouped_bars(ax, summary, "world", worlds, methods)
        ax.set_title(f"{title} ({seeds_note(summary)})")
    axes[0].axhline(null, color="black", linewidth=0.8, linestyle=":")
    legend_below(fig, axes[0], columns=5)
    return fig


@checked
def scores_by_topk(table: Rows, worlds: Names, true_l0: Rate) -> Figure:
    """MCC, F1 and hedging against the number of active latents, a line for each world.

    Args:
        table: rows of results of one method; the world is their "data_source".
        true_l0: features that fire in a sample, a grey line.
    """
    fig, axes = panels(len(SCORES), (4.2, 3.2))
    for ax, (metric, title) in zip(axes, SCORES.items(), strict=True):
        summary = summarise(table[table["metric"] == metric], ["data_source", "topk"])
        for world, line in zip(worlds, cycle(LINES), strict=False):
            rows = summary[summary["data_source"] == world]
            style = {"color": "black", "linestyle": line, "label": world}
            ax.errorbar(rows["topk"].astype(float), rows["mean"], rows["se"].fillna(0), **style)
        ax.set(title=f"{title} ({seeds_note(summary)})", xlabel="k of a TopK SAE")
        ax.axvline(true_l0, color="grey", linewidth=0.6)
    legend_below(fig, axes[0])
    return fig


@checked
def cosine_panels(
    cosines: Mapping[str, Float[Tensor, "latents features"]], rows: Positive = 1
) -> Figure:
    """Cosines of latents with true features, a panel for each name, all on one scale."""
    fig, axes = panels(len(cosines), (3.4, 3), rows)
    for ax, (name, own) in zip(axes, cosines.items(), strict=True):
        image = similarities(ax, own)
        ax.set_title(name, fontsize=10)
    fig.colorbar(image, ax=axes, label="cosine")
    return fig


@checked
def bars_by_case(
    summary: Annotated[
        pd.DataFrame, with_columns("metric", "method", "n_latents", "mean", "se", "seeds")
    ],
    cases: Mapping[str, tuple[str, int]],
    titles: Mapping[str, str],
) -> Figure:
    """A bar with its standard error for each case, a panel for each metric.

    Args:
        summary: of `summarise`.
        cases: by name, the method and the number of latents.
        titles: of the metrics that are shown.
    """
    fig, axes = panels(len(titles), (4, 3.6))
    found = summary.set_index(["metric", "method", "n_latents"])
    colours = [colour(method) for method, _ in cases.values()]
    for ax, (metric, title) in zip(axes, titles.items(), strict=True):
        rows = found.loc[metric].loc[list(cases.values())]
        ax.barh(range(len(cases)), rows["mean"], xerr=rows["se"].fillna(0), color=colours)
        ax.set(yticks=[], title=title)
        ax.invert_yaxis()
    axes[0].set_yticks(range(len(cases)), list(cases))
    fig.suptitle(seeds_note(summary))
    return fig


@checked
def benchmark_scores(
    scores: Annotated[
        pd.DataFrame,
        NOT_EMPTY,
        with_columns("method", "n_train", *chain(*OF_BENCHMARK)),
    ],
) -> Figure:
    """Scores of SAEs of the field's benchmark against each other, in order of their L0.

    Args:
        scores: a row for each SAE. "n_train": samples that it has seen; a line for each method
            and number, a marker for each number.
    """
    markers = dict(zip(sorted(scores["n_train"].unique()), cycle(MARKERS), strict=False))
    fig, axes = panels(len(OF_BENCHMARK), (4.2, 3.4))
    for ax, ((x, y), title) in zip(axes, OF_BENCHMARK.items(), strict=True):
        for (method, n_train), rows in scores.sort_values("l0").groupby(["method", "n_train"]):
            name = f"{label(method)}, {n_train / 1e6:.0f} million samples"
            style = {"color": colour(method), "marker": markers[n_train], "markersize": 5}
            ax.plot(rows[x], rows[y], label=name, **style)
        ax.set(title=title, xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    legend_below(fig, axes[0], columns=3)
    return fig
