"""Figures of notebook 13: which subgroups hold, what cards say, and how far that reaches."""

from collections.abc import Sequence
from typing import Annotated

import pandas as pd

from saehelpers.evaluation.trust import DO_NOT, NOT_DECIDED, PROMISE, TRUST
from saehelpers.figures.names import label
from saehelpers.figures.plots import Axes
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Cosine, Name, with_columns

COLOURS = {TRUST: "#2667b8", NOT_DECIDED: "#888888", DO_NOT: "#ad345c"}
LEAST_EFFECT = 1e-7  # that a logarithmic axis shows
LEAST_R2 = -0.3  # that is shown
BINS = 6


@checked
def subgroup_curves(
    ax: Axes,
    rows: Annotated[pd.DataFrame, with_columns("features", "task", "metric", "value")],
    layers: Annotated[Sequence[Name], NOT_EMPTY],
    least: Cosine,
) -> None:
    """R^2 of each subgroup over layers, with intervals; dotted, that of the identity.

    rows: of `evaluation.subgroup_r2`, the layer in "features". least: from where on it counts.
    """
    wide = rows.pivot_table("value", ["task", "features"], "metric", sort=False)
    for i, name in enumerate(wide.index.get_level_values("task").unique()):
        found, places = wide.loc[name].loc[list(layers)], range(len(layers))
        ends = [found["r2"] - found["r2_low"], found["r2_high"] - found["r2"]]
        ax.errorbar(places, found["r2"], ends, marker="o", color=f"C{i}", label=name)
        ax.plot(places, found["r2_identity"], ":", color=f"C{i}")
    ax.axhline(least, color="grey", linewidth=0.6)
    ax.set_xticks(range(len(layers)), [_short(layer) for layer in layers], rotation=20, fontsize=8)
    smallest = wide[["r2", "r2_identity"]].to_numpy().min()
    lowest = min(smallest - 0.05, ax.get_ylim()[0])  # axes may share theirs with others
    ax.set_ylim(max(LEAST_R2, lowest), 1.02)


@checked
def card_points(
    ax: Axes,
    cards: Annotated[pd.DataFrame, with_columns("verdict")],
    x: Name,
    y: Name,
) -> None:
    """Two numbers of every latent's card, in the colour of its verdict.

    Effects, of which most are tiny, are on a logarithmic axis.

    Raises:
        ValueError: the cards lack a number.
    """
    for name, column in (("x", x), ("y", y)):
        if column not in cards:
            raise ValueError(f"{name} must be a number of cards, got {column!r}")
    for verdict, colour in COLOURS.items():
        own = cards[cards["verdict"] == verdict]
        values = own[y].clip(lower=LEAST_EFFECT) if y == "effect" else own[y]
        ax.scatter(own[x], values, s=12, color=colour, label=f"{verdict} ({len(own)})")
    ax.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    if y == "effect":
        ax.set_yscale("log")


@checked
def reliability(
    ax: Axes,
    predicted: Annotated[pd.DataFrame, with_columns("kind", "true", "probability")],
) -> None:
    """Of latents with a probability, how many are true: a curve for each kind of world."""
    with extra("probes"):
        from sklearn.calibration import calibration_curve

    known = predicted[predicted["probability"].notna()]
    for kind, own in known.groupby("kind", sort=False):
        share, mean = calibration_curve(
            own["true"], own["probability"], n_bins=BINS, strategy="quantile"
        )
        ax.plot(mean, share, "o-", markersize=3, label=kind)
    ax.axline((0, 0), slope=1, color="grey", linewidth=0.6)
    ax.set(xlabel="probability, kinds left out", ylabel="share that is true")


@checked
def kept_promises(
    ax: Axes,
    predicted: Annotated[pd.DataFrame, with_columns("kind", "true", "verdict")],
) -> None:
    """Of the latents that are trusted, how many are true: a bar for each kind of world."""
    trusted = predicted[predicted["verdict"] == TRUST]
    found = trusted.groupby("kind", sort=False)["true"].agg(["mean", "size"])
    found = found.reindex(predicted["kind"].unique())
    ax.barh(range(len(found)), found["mean"].fillna(0), color=COLOURS[TRUST])
    names = [f"{kind} ({int(n)})" for kind, n in found["size"].fillna(0).items()]
    ax.set_yticks(range(len(found)), names)
    ax.axvline(PROMISE, color="grey", linewidth=0.6)
    ax.set(xlabel="share of the trusted that is true", xlim=(0, 1))


@checked
def true_by_verdict(
    ax: Axes,
    judged: Annotated[pd.DataFrame, with_columns("method", "true", "verdict")],
) -> None:
    """Of the latents with a verdict, how many are true: a row for each method, a bar each."""
    methods = list(judged["method"].unique())
    for i, (verdict, colour) in enumerate(COLOURS.items()):
        own = judged[judged["verdict"] == verdict].groupby("method")["true"]
        found = own.agg(["mean", "size"]).reindex(methods).fillna(0)
        places = [row + 0.27 * (i - 1) for row in range(len(methods))]
        bars = ax.barh(places, found["mean"], 0.25, color=colour, label=verdict)
        ax.bar_label(bars, [str(int(n)) for n in found["size"]], fontsize=7, padding=2)
    ax.set_yticks(range(len(methods)), [label(method) for method in methods])
    ax.invert_yaxis()
    ax.set(xlabel="share that is true", xlim=(0, 1.05))


def _short(layer: str) -> str:
    """The last two parts of a module's name."""
    return ".".join(layer.split(".")[-2:])
