"""What the probes' measurements say: F1 by method, by what it was told, beside the paper."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import pandas as pd

from saehelpers.evaluation.statements import RESAMPLE
from saehelpers.networks.autoencoders import ARCHITECTURES, UNTRAINED
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Name, Positive, check_columns, one_of, with_columns
from saehelpers.training.methods import METHODS

EQUIVARIANT = ("canonical", "latent_inv", "output_inv")
CELL = ("group", "topk", "truncation", "task_type")  # of the published tables
GIVEN = ("base_model", *CELL, "probe", "features", "element", "method", "base_seed", "seed")
RUN = ("group", "base_model", "topk", "epochs", "probe")
PAIR = ("base_model", *CELL, "probe", "base_seed", "seed")  # that a baseline is paired by
COUNTED = {"base_seed": "base models", "seed": "seeds", "method": "methods"}
TOLD = ("none", "true", "inferred")  # of the group element
Scores = Annotated[pd.DataFrame, with_columns(*GIVEN, "value")]  # of `mean_f1`
Cells = Annotated[pd.DataFrame, with_columns(*CELL, "method")]  # of `beside_published`


@checked
def mean_f1(
    table: Annotated[pd.DataFrame, with_columns(*GIVEN, "metric", "value")],
) -> pd.DataFrame:
    """Mean F1 over the tasks of each type, for each SAE and each way to probe it.

    Takes the rows of an experiment with probes; returns one row for each combination of the
    columns `GIVEN`, with "value". Tasks that could not be evaluated are left out. Rows that name
    no seed of a base model are of the first.
    """
    rows = table[table["metric"] == "f1"].dropna(subset="value").fillna({"base_seed": 0})
    return rows.groupby(list(GIVEN), dropna=False)["value"].mean().reset_index()


@checked
def resampled_f1(
    table: Annotated[pd.DataFrame, with_columns(*GIVEN, "task", "metric", "value")],
) -> pd.DataFrame:
    """`mean_f1`, as resample 0, and the same on every resample of what was tested on.

    What `saehelpers.evaluation.statements` makes intervals of.
    """
    rows = table[table["metric"] == "f1_resampled"].fillna({"base_seed": 0})
    number = rows["task"].str.removeprefix("resample ").astype("int64")
    drawn = rows[[*GIVEN, "value"]].assign(**{RESAMPLE: number})
    return pd.concat([mean_f1(table).assign(**{RESAMPLE: 0}), drawn], ignore_index=True)


@checked
def of_width(
    table: Annotated[pd.DataFrame, with_columns("method", "n_latents")], n_latents: Positive
) -> pd.DataFrame:
    """The rows of SAEs with so many latents times their method's width, and those of no method.

    And those of methods with blocks, whose width is that of the group.
    """
    one_by_one = {name: method for name, method in METHODS.items() if not method.blocks}
    widths = {name: n_latents * method.width for name, method in one_by_one.items()}
    wanted = table["method"].map(widths)
    return table[wanted.isna() | table["n_latents"].isna() | (table["n_latents"] == wanted)]


@checked
def base_models_of(
    table: Annotated[pd.DataFrame, with_columns("base_model")],
) -> list[str]:
    """The base models of some rows: the architectures in their usual order, then others by name."""
    names = set(table["base_model"])
    usual = [name for name in (*ARCHITECTURES, *UNTRAINED) if name in names]
    return usual + sorted(names - set(usual))


@checked
def recons_of(
    rows: Annotated[pd.DataFrame, with_columns("features", "element", "method")],
    element: Annotated[str, one_of(TOLD)] = "inferred",
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The rows of recons: those of baselines, and of symmetric SAEs that are given `element`.

    methods: of these alone; by default of all that there are.
    """
    chosen = (rows["features"] == "recons") & rows["element"].isin(["none", element])
    return rows[chosen if methods is None else chosen & rows["method"].isin(methods)]


@checked
def what_is_there(
    probes: Annotated[pd.DataFrame, with_columns(*RUN, *COUNTED, "features", "truncation")],
) -> pd.DataFrame:
    """On how many base models, seeds and methods the F1 of recons rest, lengths side by side."""
    run = list(RUN)
    rows = probes[probes["features"] == "recons"]
    counted = rows.fillna({"base_seed": 0}).groupby([*run, "truncation"])[list(COUNTED)].nunique()
    counted = counted.rename(columns=COUNTED).reset_index()
    lengths = counted["truncation"].astype(str)
    counted = counted.assign(truncations=lengths).groupby([*run, *COUNTED.values()])
    return counted["truncations"].agg(", ".join).reset_index(list(COUNTED.values()))


@checked
def at(f1: Scores, group: Name, topk: Positive, truncation: Positive | None = None) -> pd.DataFrame:
    """F1 of a group and a number of active latents, at one truncation length or at every one.

    Rows to which TopK or truncation mean nothing (a base model's) belong to every value of it.

    Raises:
        ValueError: XGBoost was not fitted to such SAEs; names those it was fitted to.
    """
    rows = f1[(f1["group"] == group) & (f1["topk"].isna() | (f1["topk"] == topk))]
    if truncation is not None:
        rows = rows[rows["truncation"].isna() | (rows["truncation"] == truncation)]
    if _of_xgboost(rows).empty:
        lengths = _of_xgboost(f1).groupby(["group", "topk"])["truncation"]
        there = [f"{g} with TopK {k} at truncations {sorted(set(t))}" for (g, k), t in lengths]
        asked = f"group {group} with TopK {topk}" + (
            f" at truncation {truncation}" if truncation else ""
        )
        raise ValueError(f"no F1 by XGBoost of {asked}; there is {'; '.join(there)}")
    return rows


def _of_xgboost(f1: Scores) -> pd.DataFrame:
    """F1 of XGBoost on a number of latents of an SAE with TopK."""
    whole = {"topk": int, "truncation": int}
    return f1[f1["probe"] == "xgboost"].dropna(subset=list(whole)).astype(whole)


@checked
def over_task_types(f1: Scores) -> pd.DataFrame:
    """The mean over task types, each counted once, as rows of the task type "mean"."""
    told_by = [name for name in (*GIVEN, RESAMPLE) if name in f1 and name != "task_type"]
    means = f1.groupby(told_by, dropna=False)["value"].mean().reset_index()
    return means.assign(task_type="mean")


@checked
def at_every(f1: Scores, column: Name) -> pd.DataFrame:
    """The rows of those base models and seeds that were measured at every value of a column.

    Means at different values are then means over the same SAEs.
    """
    check_columns("f1", f1, column=column)
    measured = f1.groupby(["base_model", "base_seed", "seed"])[column].transform("nunique")
    return f1[measured == f1[column].nunique()]


@checked
def conditions(f1: Scores, named: Mapping[str, tuple[Sequence[str], str, str]]) -> pd.DataFrame:
    """F1 under named conditions (methods, features, element), with the name as "condition".

    One of several methods is their mean, for the base models and seeds that have them all.
    """
    told_by = [name for name in (*GIVEN, RESAMPLE) if name in f1 and name != "method"]
    parts = []
    for name, (methods, features, element) in named.items():
        chosen = f1["method"].isin(methods) & (f1["features"] == features)
        rows = f1[chosen & (f1["element"] == element)]
        means = rows.groupby(told_by, dropna=False)["value"].agg(["mean", "count"]).reset_index()
        means = means[means["count"] == len(methods)].rename(columns={"mean": "value"})
        parts.append(means.drop(columns="count").assign(condition=name))
    return pd.concat(parts, ignore_index=True)


@checked
def advantage(
    rows: Annotated[pd.DataFrame, with_columns(*PAIR, "value")],
    baseline: Annotated[pd.DataFrame, with_columns(*PAIR, "value")],
) -> pd.DataFrame:
    """`rows` with the baseline's value taken from theirs, paired by their cell and seed.

    Rows without a baseline are left out.

    Raises:
        ValueError: a cell and seed has several baselines.
    """
    pair = list(PAIR)
    taken = baseline.set_index(pair)["value"].rename("baseline")
    if taken.index.has_duplicates:
        raise ValueError("a cell and seed has several baselines: choose one condition")
    paired = rows.join(taken, on=pair).dropna(subset="baseline")
    return paired.assign(value=paired["value"] - paired["baseline"]).drop(columns="baseline")


@checked
def beside_published(
    f1: Scores,
    published: Annotated[pd.DataFrame, with_columns(*CELL, "method", "f1_mean")],
    element: Annotated[str, one_of(TOLD)] = "true",
) -> pd.DataFrame:
    """Every published cell and method that was measured: "paper", "ours" and how often.

    f1: of one probe. published: columns of `CELL`, "method" and "f1_mean". Recons of baselines,
    and of symmetric SAEs given `element`. "ours" is the mean over base models of means over
    seeds; "seeds" is the least number of seeds of a base model.
    """
    key = [*CELL, "method"]
    rows = recons_of(f1, element).dropna(subset="topk")
    rows = rows.groupby([*key, "base_model", "base_seed"])["value"].agg(["mean", "count"])
    rows = rows.groupby([*key, "base_model"]).agg({"mean": "mean", "count": "min"}).reset_index()
    ours = rows.groupby(key).agg(
        ours=("mean", "mean"), seeds=("count", "min"), base_models=("base_model", "nunique")
    )
    paper = published.set_index(key)["f1_mean"].rename("paper")
    return ours.join(paper, how="inner").reset_index()


@checked
def above_baseline(cells: Cells, column: Name, baseline: str = "vanilla") -> pd.Series:
    """How far each equivariant SAE is above the baseline, for every cell that has them all."""
    check_columns("cells", cells, column=column)
    wide = cells.pivot_table(index=list(CELL), columns="method", values=column)
    wide = wide.reindex(columns=[*EQUIVARIANT, baseline]).dropna()
    return wide[list(EQUIVARIANT)].sub(wide[baseline], axis=0).stack()


@checked
def ordering(cells: Cells, column: Name, baseline: str = "vanilla") -> pd.Series:
    """Whether each equivariant SAE is above the baseline, for every cell that has them all."""
    return above_baseline(cells, column, baseline).gt(0).groupby(level=list(CELL)).all()


@checked
def rank_correlation(f1: Scores, element: Annotated[str, one_of(TOLD)] = "inferred") -> pd.Series:
    """Spearman's correlation of methods' F1 under the two probes, by base model and seeds.

    Of recons of baselines, and of symmetric SAEs given `element`, over the methods that both
    probes were fitted to; four or more make a ranking.
    """
    ranking = ["base_model", "base_seed", "seed"]
    index = [*ranking, "method"]
    rows = recons_of(f1, element)
    wide = rows.pivot_table(index=index, columns="probe", values="value").dropna()
    wide = wide.groupby(ranking).filter(lambda methods: len(methods) >= 4)
    return (
        wide.groupby(ranking)
        .rank()
        .groupby(ranking)
        .apply(lambda pair: pair["xgboost"].corr(pair["logistic"]))
    )
