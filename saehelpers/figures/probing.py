"""Figures of what probes read out of latents: F1 by method, by task, by what they are told."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import pandas as pd

from saehelpers.datasets.shapes import TASK_TYPES
from saehelpers.figures.analysis import (
    CELL,
    PAIR,
    Scores,
    above_baseline,
    base_models_of,
    recons_of,
)
from saehelpers.figures.names import colour, label
from saehelpers.figures.plots import (
    curves,
    dots,
    grouped_bars,
    grouped_points,
    legend_below,
    log_ticks,
    panels,
    seeds_note,
    summarise,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, with_columns

with extra("notebooks"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBES = ("logistic", "xgboost")  # linear first: what trees can read says less of an SAE
Methods = Annotated[Sequence[str], NOT_EMPTY]
Conditions = Annotated[pd.DataFrame, with_columns(*PAIR, "condition", "value")]


@checked
def f1_by_task_type(f1: Scores, methods: Methods) -> Figure:
    """F1 of recons by task type: a row for each base model, linear probes left, XGBoost right.

    Dots: symmetric SAEs are given the inferred element; hollow diamonds: the true one.
    """
    fig, found = _by_probe(f1, (7, 2.6))
    types = _task_types(f1)
    for ax, title, rows in found:
        told = rows[(rows["features"] == "recons") & (rows["element"] == "true")]
        for chosen, hollow in ((told, True), (recons_of(rows, "inferred", methods), False)):
            summary = summarise(chosen, ["method", "task_type"])
            grouped_points(ax, summary, "task_type", types, methods, hollow=hollow)
        ax.set_title(f"{title} ({seeds_note(summary)})", fontsize=10)
        ax.set_ylabel("F1")
        ax.label_outer()
    legend_below(fig, found[0][0])
    return fig


@checked
def f1_by_truncation(f1: Scores, methods: Methods) -> Figure:
    """F1 against the truncation length: a row for each probe, axes for each task type.

    Means over the base models that the titles name.
    """
    probes = [name for name in PROBES if name in set(f1["probe"])]
    cases = [(probe, kind) for probe in probes for kind in _task_types(f1)]
    fig, axes = panels(len(cases), (3.4, 3.2), rows=max(1, len(probes)), sharey=True)
    for ax, (probe, kind) in zip(axes, cases, strict=True):
        rows = f1[(f1["probe"] == probe) & (f1["task_type"] == kind)]
        _by_length(ax, rows, methods, f"{kind}: {', '.join(base_models_of(rows))}")
        ax.set(ylabel=f"F1, {label(probe)}", ylim=(0, 1))
        ax.label_outer()
    legend_below(fig, axes[0], columns=8)
    return fig


@checked
def class_f1_by_truncation(
    table: Annotated[pd.DataFrame, with_columns("probe", "method", "truncation", "seed", "value")],
    methods: Methods,
) -> Figure:
    """Macro F1 of telling classes apart against the truncation length, axes for each probe.

    Of several numbers of active latents it is the mean.
    """
    probes = [probe for probe in PROBES if table["probe"].eq(probe).any()]
    fig, axes = panels(len(probes), (5.5, 3.8), sharey=True)
    for ax, probe in zip(axes, probes, strict=True):
        _by_length(ax, table[table["probe"] == probe], methods, label(probe))
    axes[0].set_ylabel("macro F1")
    legend_below(fig, axes[0], columns=6)
    return fig


@checked
def advantage_bars(
    differences: Conditions,
    conditions: Annotated[Sequence[str], NOT_EMPTY],
    published: pd.Series | None = None,
) -> Figure:
    """F1 above narrow vanilla by task type, a bar for each condition; base models and probes as
    in `f1_by_task_type`.

    Args:
        differences: see `analysis.advantage`.
        published: by task type, what is marked beside trees: the published probes are such.
    """
    fig, found = _by_probe(differences, (6, 3))
    types = _task_types(differences)
    for ax, title, rows in found:
        summary = summarise(rows, ["condition", "task_type"])
        grouped_bars(ax, summary, "task_type", types, conditions, "condition")
        if published is not None and set(rows["probe"]) == {"xgboost"}:
            style = {"marker": "D", "color": "black", "label": "paper"}
            ax.scatter(range(len(types)), published.reindex(types), **style)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(f"{title} ({seeds_note(summary)})", fontsize=10)
        ax.set_ylabel("F1 above narrow vanilla")
        ax.label_outer()
    legend_below(fig, found[-1][0])
    return fig


@checked
def control_dots(f1: Conditions, conditions: Annotated[Sequence[str], NOT_EMPTY]) -> Figure:
    """Mean F1 under each condition, a line for each, with its number of seeds; base models and
    probes as in `f1_by_task_type`."""
    fig, found = _by_probe(f1, (6.5, 3.6))
    for ax, title, rows in found:
        summary = summarise(rows, ["condition"])
        dots(ax, summary, "condition", conditions)
        ax.set_title(f"{title} ({seeds_note(summary)})", fontsize=10)
        ax.set_xlabel("mean F1")
        ax.label_outer()
    return fig


@checked
def gains_beside_published(
    cells: Annotated[pd.DataFrame, with_columns(*CELL, "method", "paper", "ours", "seeds")],
) -> Figure:
    """F1 above narrow vanilla, published and here: axes for each task type.

    A point is a cell and an equivariant method, see `beside_published`; triangles have flips.
    """
    both = {name: above_baseline(cells, name) for name in ("paper", "ours")}
    gains = pd.concat(both, axis=1).reset_index()
    fig, axes = panels(len(TASK_TYPES), (3.4, 3.4), sharex=True, sharey=True)
    for ax, kind in zip(axes, TASK_TYPES, strict=True):
        ax.axhline(0, color="black", linewidth=0.8)
        ax.axline((0, 0), slope=1, color="#bbbbbb", linewidth=0.8)
        rows = gains[gains["task_type"] == kind]
        for (method, group), own in rows.groupby(["method", "group"]):
            style = {"color": colour(method), "marker": "o" if "C" in group else "^"}
            ax.scatter(own["paper"], own["ours"], label=f"{label(method)}, {group}", **style)
        ax.set(title=kind, xlabel="published")
    axes[0].set_ylabel("here")
    fig.suptitle(f"F1 above narrow vanilla, true element ({seeds_note(cells)})")
    legend_below(fig, axes[0], columns=6)
    return fig


@checked
def f1_of_two_probes(f1: Scores, methods: Methods, correlations: pd.Series) -> Figure:
    """F1 by XGBoost against F1 by linear probes: axes for each base model, a point for each SAE.

    correlations: see `rank_correlation`; the titles have their range over SAEs' seeds.
    """
    ranked = set(correlations.index.get_level_values("base_model"))
    f1 = f1[f1["base_model"].isin(ranked)]
    fig, parts = _by_base_model(f1, (4.4, 3.8))
    for ax, name, rows in parts:
        for method in methods:
            own = rows[rows["method"] == method]
            pairs = own.pivot(index=["base_seed", "seed"], columns="probe", values="value")
            pairs = pairs.reindex(columns=list(PROBES))
            style = {"color": colour(method), "label": label(method)}
            ax.scatter(pairs["logistic"], pairs["xgboost"], **style)
        found = correlations[name]
        ends = dict.fromkeys(f"{value:.2f}" for value in (found.min(), found.max()))
        note = seeds_note(summarise(rows, ["method"]))
        ax.set_title(f"{name} ({note})\nrank correlation {' to '.join(ends)}", fontsize=10)
        ax.set(xlabel="F1, linear", ylabel="F1, XGBoost")
    legend_below(fig, parts[0][0])
    return fig


@checked
def f1_by_size(f1: Scores, sizes: Mapping[str, int]) -> Figure:
    """F1 against the number of parameters, axes for each base model.

    sizes: numbers of parameters by method; others are not drawn.
    """
    fig, parts = _by_base_model(f1[f1["method"].isin(sizes)], (5, 3.8), sharey=True)
    for ax, name, rows in parts:
        summary = summarise(rows, ["method"]).fillna({"se": 0})
        for row in summary.itertuples():
            style = {"color": colour(row.method), "label": label(row.method), "fmt": "o"}
            ax.errorbar(sizes[row.method] / 1000, row.mean, row.se, **style)
        ax.set(title=f"{name} ({seeds_note(summary)})", xlabel="thousand parameters")
    parts[0][0].set_ylabel(f"mean F1, {', '.join(label(probe) for probe in f1['probe'].unique())}")
    legend_below(fig, parts[0][0])
    return fig


def _task_types(table: pd.DataFrame) -> list[str]:
    return [kind for kind in (*TASK_TYPES, "mean") if kind in set(table["task_type"])]


def _by_base_model(table, size, **options) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """A figure, and for each base model of the table its axes, its name and its rows."""
    names = base_models_of(table)
    fig, axes = panels(len(names), size, **options)
    parts = [table[table["base_model"] == name] for name in names]
    return fig, list(zip(axes, names, parts, strict=True))


def _by_probe(table, size) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """The same, a row of axes for each base model: linear probes left, XGBoost right."""
    cases = [(name, probe) for name in base_models_of(table) for probe in PROBES]
    rows = max(1, len(cases) // len(PROBES))
    fig, axes = panels(len(cases), size, rows=rows, sharex=True, sharey=True)
    parts = [table[(table["base_model"] == name) & (table["probe"] == probe)]
             for name, probe in cases]  # fmt: skip
    titles = [f"{name}, {label(probe)}" for name, probe in cases]
    return fig, list(zip(axes, titles, parts, strict=True))


def _by_length(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], title: str) -> None:
    summary = summarise(rows, ["method", "truncation"])
    curves(ax, summary, "truncation", methods)
    log_ticks(ax, list(summary["truncation"]))
    ax.set_title(f"{title} ({seeds_note(summary)})", fontsize=10)
    ax.set_xlabel("latents kept")
