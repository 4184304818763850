"""What measurements of a Go network say: tasks that count, methods with intervals, a verdict.

Everything is resampled over blocks of test games and over seeds: a row's block is its "split".
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd

from saehelpers.evaluation.statements import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_DECIDED,
    Estimate,
    crossed_interval,
    paired_difference,
    verdict,
)
from saehelpers.figures import analysis
from saehelpers.figures.names import colour, label
from saehelpers.figures.plots import legend_below, panels
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Name, with_columns
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training import METHODS, SAERun, matched_runs

with extra("notebooks"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORK, BESIDE = "base_model", ("inputs", "random_network")
WITHOUT, WITH, FVU = "without direction", "with direction", "FVU"
SEARCHED = {  # vanilla SAEs in whose use every element is tried, by the name of their training
    "vanilla": "vanilla_searched",
    "vanilla_compute": "vanilla_compute_searched",
}
PUBLISHED = ("canonical", "latent_inv", "output_inv")
RIVALS = (
    "vanilla", "vanilla_matched", "vanilla_compute", *SEARCHED.values(), "vanilla_wide",
    *PUBLISHED, "oriented",
)  # fmt: skip
PAIRS = (  # a method, and one that it is held against
    *((name, rival) for rival in ("vanilla", "vanilla_compute") for name in PUBLISHED),
    *(("self_oriented", rival) for rival in RIVALS),
)
LOSS = 0.01  # of F1, or of FVU: who loses less is "no worse"
FITS = {  # what turns activations: the method of the fit, and the metric of its rows
    "one matrix per generator": ("refined", "r2"),
    "free matrices": ("per_element", "r2"),
    "identity": ("refined", "r2_identity"),
}
Values = Annotated[
    pd.DataFrame, with_columns("method", "split", "seed", "task", "task_type", "value")
]


@checked
def explained_by_block(
    rows: Annotated[pd.DataFrame, with_columns("base_model", "method", "metric", "value")],
    networks: Annotated[Sequence[str], NOT_EMPTY],
    layers: Annotated[Sequence[int], NOT_EMPTY],
) -> Figure:
    """R^2 of what turns activations (`FITS`) by the block that these enter, a panel a network.

    Args:
        rows: of `report_action` over all elements; the base model is "katago, block 8", say.
    """
    fig, axes = panels(len(networks), (4, 3), sharey=True)
    r2 = rows.groupby(["base_model", "method", "metric"])["value"].mean()
    for ax, name in zip(axes, networks, strict=True):
        for fit, (method, metric) in FITS.items():
            keys = [(f"{name}, block {layer}", method, metric) for layer in layers]
            ax.plot(layers, [r2.get(key, np.nan) for key in keys], marker="o", label=fit)
        ax.set(title=name, xlabel="what enters block")
    axes[0].set_ylabel("$R^2$, test positions")
    legend_below(fig, axes[0])
    return fig


@checked
def tasks_that_count(probes: Values, margin: int | float = 0.05) -> pd.DataFrame:
    """Mean F1 of a network and of what it must beat, by task, and whether the task "counts".

    It does where the network's activations ("base_model") are above the inputs around the point
    and above the same network with random weights, by more than the margin.
    """
    compared = probes[probes["method"].isin([NETWORK, *BESIDE])]
    found = compared.pivot_table(
        index=["task_type", "task"], columns="method", values="value", sort=False
    ).reindex(columns=[NETWORK, *BESIDE])
    counts = found[NETWORK] > found[list(BESIDE)].max(axis=1) + margin
    return found.rename(columns=label).assign(counts=counts)


@checked
def own_frame_fvu(table: Annotated[pd.DataFrame, with_columns("method", "metric")]) -> pd.DataFrame:
    """FVU in the frame that a method explains: with the inferred element, or raw, as "fvu"."""
    known = {name: method.symmetric for name, method in METHODS.items()}
    known |= dict.fromkeys(SEARCHED.values(), True)
    symmetric = table["method"].map(lambda name: known.get(name, False))
    wanted = symmetric.map({True: "fvu_inferred", False: "fvu_raw"})
    return table[table["metric"] == wanted].assign(metric="fvu")


@checked
def over_blocks(values: Values) -> Estimate:
    """The mean, with its interval over blocks of games and seeds: all blocks share the SAEs."""
    return crossed_interval(values.assign(base_seed=values["split"]))


@checked
def points_with_intervals(
    ax: Axes, values: Values, methods: Annotated[Sequence[str], NOT_EMPTY]
) -> None:
    """A line for each method: its mean, and the interval over blocks of games and seeds."""
    for place, name in enumerate(methods):
        found = over_blocks(values[values["method"] == name])
        known = not found.why_none
        sides = [[found.mean - found.low], [found.high - found.mean]] if known else None
        ax.errorbar(found.mean, place, xerr=sides, fmt="o", color=colour(name), capsize=2)
    ax.set_yticks(range(len(methods)), [label(name) for name in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="x", linewidth=0.4)
    ax.spines[["top", "right"]].set_visible(False)


@checked
def of_go_size(
    rows: Annotated[pd.DataFrame, with_columns("method", "n_latents", "topk")],
    sae: SAEConfig,
    group: Group,
) -> pd.DataFrame:
    """Rows of SAEs as wide and as sparse as one, by method; and those of what has no latents.

    Wide SAEs have four times the latents, matched ones as many as make up for the action.
    """
    rows = rows[rows["topk"].isna() | (rows["topk"] == sae.topk)]
    rows = analysis.of_width(rows, sae.n_latents)
    matched = matched_runs(SAERun("vanilla", "", sae), group)[0]
    widths = [sae.n_latents, matched.sae.n_latents]
    fits = rows["n_latents"].isna() | rows["n_latents"].isin(widths)
    return rows[fits | rows["method"].isin(METHODS)]


@checked
def on_tasks_that_count(values: Values, probes: Values, margin: int | float = 0.05) -> pd.DataFrame:
    """The rows of tasks that count. For a block of test games the other blocks decide which do.

    Were they chosen on the games that they are then judged by, chance would choose, too.
    """
    kept = []
    for block, own in values.groupby("split", sort=False):
        counts = tasks_that_count(probes[probes["split"] != block], margin)["counts"]
        tasks = counts[counts].index.get_level_values("task")
        kept.append(own[own["task"].isin(tasks)])
    return pd.concat(kept) if kept else values


@checked
def untold_recons(
    probes: Annotated[Values, with_columns("features", "element")],
) -> pd.DataFrame:
    """F1 of recons where nobody is told the element, of one layer."""
    return analysis.recons_of(probes, "inferred")


@checked
def go_values(f1: Values, fvu: Values) -> dict[str, pd.DataFrame]:
    """What methods are compared by, of one layer: FVU, and F1 of tasks of either type.

    Args:
        f1: of the recons of every method, on one layer.
        fvu: see `own_frame_fvu`, on the same layer.
    """
    kinds = {FVU: fvu} | {kind: f1[f1["task_type"] == kind] for kind in (WITHOUT, WITH)}
    return {what: values.dropna(subset="value") for what, values in kinds.items()}


@checked
def go_difference(values: Values, first: Name, second: Name, lower_is_better: bool) -> Estimate:
    """By how much the first method is better than the second: paired by block, seed and task.

    Args:
        values: of one of `go_values`; of FVU, the lower is the better.

    Raises:
        ValueError: one of the methods has no rows.
    """
    rows = values.assign(base_seed=values["split"])
    of_first, of_second = (rows[rows["method"] == name] for name in (first, second))
    pair = (of_second, of_first) if lower_is_better else (of_first, of_second)
    return paired_difference(*pair, by=["task"], crossed=True)


@checked
def go_verdict(f1: Values, fvu: Values) -> pd.DataFrame:
    """`go_difference` of every pair of `PAIRS` as a table, with what each interval says.

    "better" and "worse": it leaves 0. "no worse": what is lost is less than `LOSS`.
    """
    values = go_values(f1, fvu)
    methods = {what: {*rows["method"]} for what, rows in values.items()}
    rows = {
        f"{label(first)} / {label(second)}": {
            what: in_words(go_difference(values[what], first, second, what == FVU))
            for what in values
            if {first, second} <= methods[what]
        }
        for first, second in PAIRS
    }
    said = {pair: row for pair, row in rows.items() if row}
    return pd.DataFrame.from_dict(said, orient="index", columns=[*values])


@checked
def in_words(difference: Estimate) -> str:
    """What an interval of a difference says of the first, and the difference."""
    says = verdict(difference)
    if says == NOT_DECIDED and difference.low > -LOSS:
        return f"no worse, {difference}"
    words = {HOLDS: "better", DOES_NOT_HOLD: "worse"}
    return f"{words.get(says, says)}, {difference}"
