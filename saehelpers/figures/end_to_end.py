"""Figures of what SAEs cost a language model, and of what becomes of its later layers."""

import html
from typing import Annotated

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from saehelpers.figures.names import colour, label
from saehelpers.figures.plots import curves, legend_below, log_ticks, panels, summarise
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, with_columns

with extra("notebooks"):
    from matplotlib.figure import Figure

ANSWERS = {
    "accuracy": "questions answered right",
    "kl": "KL to the model, nats",
    "orbit_jaccard": "latents shared in an orbit",
}
LINES = {"": "-", "none": "-", "inferred": "-", "true": ":"}  # by element
BySparsity = Annotated[pd.DataFrame, NOT_EMPTY, with_columns("method", "topk", "seed", "value")]


@checked
def cost_by_sparsity(
    table: Annotated[BySparsity, with_columns("metric", "task")],
) -> Figure:
    """What SAEs add to a model's cross-entropy: by L0 (left), by alive latents (right).

    Args:
        table: rows of the metrics "ce_increase" and "alive_latents"; the task is the layer, a line
            of panels each.
    """
    layers, methods = list(table["task"].unique()), list(table["method"].unique())
    fig, axes = panels(2 * len(layers), (4.0, 3.4), rows=len(layers))
    for layer, left, right in zip(layers, axes[::2], axes[1::2], strict=True):
        own = table[table["task"] == layer]
        cost, alive = (
            summarise(own[own["metric"] == metric], ["method", "topk"])
            for metric in ("ce_increase", "alive_latents")
        )
        curves(left, cost, "topk", methods)
        curves(right, cost.assign(alive=alive["mean"]), "alive", methods, marker="s")
        log_ticks(left, [float(topk) for topk in cost["topk"]])
        left.set_xlabel("L0")
        right.set_xlabel("alive latents")
        for ax in (left, right):
            ax.set(ylabel=f"CE increase, nats; layer {layer}", ylim=(0, None))
    legend_below(fig, axes[0])
    return fig


@checked
def learning_curves(
    histories: Annotated[
        pd.DataFrame, NOT_EMPTY, with_columns("layer", "method", "topk", "tokens", "kl")
    ],
) -> Figure:
    """Held-out KL against thousands of training tokens, a panel for each layer.

    Lines of the smallest TopK are dotted.
    """
    layers = list(histories.groupby("layer", sort=False))
    fig, axes = panels(len(layers), (4.2, 3.2))
    fewest = histories["topk"].min()
    for ax, (layer, own) in zip(axes, layers, strict=True):
        for (method, topk), rows in own.groupby(["method", "topk"], sort=False):
            line = ":" if topk == fewest else "-"
            style = {"color": colour(method), "label": f"{label(method)}, L0 {topk}"}
            ax.plot(rows["tokens"], rows["kl"], line, marker=".", **style)
        ax.set(title=f"layer {layer}", xlabel="training tokens, thousands", yscale="log")
        ax.set(ylabel="held-out KL, nats")
        ax.set_yticks([0.05, 0.1, 0.2, 0.4], [0.05, 0.1, 0.2, 0.4])
        ax.minorticks_off()
    legend_below(fig, axes[0], columns=3)
    return fig


@checked
def unexplained_by_layer(
    later: Annotated[
        pd.DataFrame, NOT_EMPTY, with_columns("task", "place", "method", "seed", "value")
    ],
    norms: BySparsity,
) -> Figure:
    """Unexplained variance at each layer ("place") behind a splice; the length of recons.

    Args:
        later: the task is the layer that the SAE is spliced in after, a panel each.
        norms: of recons, as shares of those of activations.
    """
    splices = list(later.groupby("task", sort=False))
    methods = list(later["method"].unique())
    fig, axes = panels(len(splices) + 1, (3.8, 3.2))
    for ax, (layer, own) in zip(axes, splices, strict=False):
        curves(ax, summarise(own, ["method", "place"]), "place", methods)
        ax.set(title=f"spliced after layer {layer}", xticks=sorted(own["place"].unique()))
        ax.set(xlabel="layer", ylabel="variance unexplained", yscale="log", ylim=(0.05, 8))
    curves(axes[-1], summarise(norms, ["method", "topk"]), "topk", methods)
    axes[-1].set(xlabel="L0", ylabel="norm of recons / activations")
    legend_below(fig, axes[0])
    return fig


@checked
def dictionary_map(
    places: Annotated[pd.DataFrame, NOT_EMPTY, with_columns("method", "x", "y")],
    nearest: BySparsity,
) -> Figure:
    """Dictionary rows on a plane, by method; and how close rows of one dictionary are."""
    fig, axes = panels(2, (4.4, 3.8))
    methods = list(places["method"].unique())
    for method in methods:
        own = places[places["method"] == method]
        axes[0].scatter(own["x"], own["y"], s=6, alpha=0.6, color=colour(method))
    axes[0].set(title="dictionary rows", xticks=[], yticks=[])
    curves(axes[1], summarise(nearest, ["method", "topk"]), "topk", methods)
    axes[1].set(title="within a dictionary", xlabel="L0")
    axes[1].set_ylabel("mean largest cosine with another row")
    legend_below(fig, axes[1])
    return fig


@checked
def answers_by_sparsity(
    table: Annotated[BySparsity, with_columns("metric", "element")],
) -> Figure:
    """What becomes of a model's answers, and of the latents of an orbit, by L0.

    A line for each method and element; with the true element, which nobody tells, it is dotted.
    """
    fig, axes = panels(len(ANSWERS), (3.8, 3.2))
    for ax, (metric, quantity) in zip(axes, ANSWERS.items(), strict=True):
        means = summarise(table[table["metric"] == metric], ["method", "element", "topk"])
        for (method, element), rows in means.groupby(["method", "element"], sort=False):
            name = label(method) + (
                f", {element} element" if element in ("inferred", "true") else ""
            )
            style = {"fmt": LINES[element], "color": colour(method), "label": name}
            ax.errorbar(rows["topk"], rows["mean"], rows["se"], marker="o", capsize=2, **style)
        ax.set(xlabel="L0", ylabel=quantity, xticks=sorted(means["topk"].unique()))
    legend_below(fig, axes[0], columns=3)
    return fig


@checked
def coloured_tokens(
    words: Annotated[list[str], NOT_EMPTY], strengths: Float[Tensor, " tokens"]
) -> str:
    """Tokens as HTML, each on a ground as dark as its strength, from 0 to 1.

    Raises:
        ValueError: there are not as many strengths as tokens.
    """
    if len(words) != len(strengths):
        raise ValueError(f"strengths must be {len(words)}, one a token, got {len(strengths)}")
    spans = [
        f"<span style='background: rgba(170, 51, 119, {strength:.2f})'>{html.escape(word)}</span>"
        for word, strength in zip(words, strengths.tolist(), strict=True)
    ]
    return f"<code>{''.join(spans)}</code>"
