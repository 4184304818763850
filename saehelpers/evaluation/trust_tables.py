"""Tables of SAEs of known worlds and known tasks, from their rows: what verdicts are worth."""

from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float

from saehelpers.evaluation.statements import wilson
from saehelpers.evaluation.trust import (
    DO_NOT,
    NUMBERS,
    OF_SEEDS,
    TRUST,
    Table,
    calibration_scores,
    leave_one_kind_out,
    trust_model,
)
from saehelpers.runs import results
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import with_columns

TASK_F1 = 0.9  # from which a latent answers a task alone
RESAMPLES = 1000
EVERY = "all"  # methods together


@checked
def card_table(rows: results.Rows) -> pd.DataFrame:
    """Rows of `experiments.calibration_rows` as a table for `fit_trust`: a row for each latent.

    kind, seed, and run (of the SAE), world (its seed), method, n_latents, topk; beside the
    numbers of the card and `true`.
    """
    own = rows[(rows["experiment"] == "trust") & (rows["task"] != "")]
    names = {"data_source": "kind", "run_id": "run", "base_seed": "world", "task": "latent"}
    own = own.rename(columns=names).assign(topk=own["topk"].fillna(0).astype(int))
    by = ["kind", "world", "method", "n_latents", "topk", "seed", "run", "latent"]
    wide = own.pivot_table("value", by, "metric", sort=False).reset_index()
    wide.columns.name = None
    return wide.assign(true=wide["true"].astype(bool), seed=wide["seed"].astype(int))


@checked
def sae_table(rows: results.Rows) -> pd.DataFrame:
    """Rows of `experiments.calibration_rows` as a table of SAEs, of each what is known.

    kind, world, run, seed; recovery: of the true features, modulo the group; share_true: of the
    latents. What anybody can measure: fvu, in the inferred frame where there is one, l0,
    dead_share, alive_latents, consistency (above its null, mean over latents), invariance_error.
    """
    own = rows[(rows["experiment"] == "trust") & (rows["task"] == "")]
    by = ["data_source", "base_seed", "run_id", "seed"]
    wide = own.pivot_table("value", by, "metric", sort=False).reset_index()
    wide.columns.name = None
    return wide.rename(columns={"data_source": "kind", "base_seed": "world", "run_id": "run"})


@checked
def without_each(table: Table) -> pd.DataFrame:
    """Mean scores on kinds that were left out, by what the verdict may use.

    All numbers, without each of them, consistency alone, and consistency with agreement; columns
    are metrics of `calibration_scores`, means over kinds and seeds.
    """
    sets = {"all numbers": NUMBERS, "consistency alone": OF_SEEDS[:1], "of seeds alone": OF_SEEDS}
    sets |= {f"without {name}": [n for n in NUMBERS if n != name] for name in NUMBERS}
    found = {}
    for name, numbers in sets.items():
        scores = calibration_scores(leave_one_kind_out(table, numbers))
        found[name] = scores.groupby("metric", sort=False)["value"].mean()
    return pd.DataFrame(found).T


@checked
def rule_success(
    saes: Annotated[pd.DataFrame, with_columns("kind", "world", "seed", "run", "recovery")],
    predicted: Annotated[pd.DataFrame, with_columns("run", "probability")],
) -> pd.DataFrame:
    """How well rules without labels choose among the SAEs of a world and a seed.

    Rules: "expected_true", the largest sum of the latents' probabilities (their mean over those
    that were drawn, times the latents that fire); "mean_probability"; "consistency"; "least_fvu";
    and "by lot". A row for each kind, world, seed and rule: best, whether the SAE has the best
    recovery; lost, the recovery that it lacks.

    Args:
        saes: as `sae_table` gives it.
        predicted: as `leave_one_kind_out` gives it: by a regression that has not seen the kind.
    """
    mean = predicted.groupby("run")["probability"].mean()
    saes = saes.set_index("run")
    scored = {
        "expected_true": mean.reindex(saes.index) * saes["alive_latents"],
        "mean_probability": mean.reindex(saes.index),
        "consistency": saes["consistency"],
        "least_fvu": -saes["fvu"],
    }
    rows = []
    for told, own in saes.groupby(["kind", "world", "seed"], sort=False):
        best = own["recovery"].max()
        for rule, score in scored.items():
            got = own["recovery"][score[own.index].fillna(-1).idxmax()]
            rows.append((*told, rule, float(got == best), best - got))
        rows.append((*told, "by lot", 1 / len(own), best - own["recovery"].mean()))
    return pd.DataFrame(rows, columns=["kind", "world", "seed", "rule", "best", "lost"])


@checked
def task_table(rows: results.Rows) -> pd.DataFrame:
    """Rows of `experiments.shapes_trust_rows` as a table: a row for each latent, with its verdict.

    dataset, base_model, method, n_latents, seed, run (of the SAE); the numbers of the card; f1, of
    the task that it answers best alone; true, whether that is 0.9 or more; probability and verdict,
    by the regression that ships.
    """
    own = rows[rows["experiment"] == "trust_tasks"]
    own = own.rename(columns={"run_id": "run", "task": "latent"})
    by = ["dataset", "base_model", "method", "n_latents", "seed", "run", "latent"]
    wide = own.pivot_table("value", by, "metric", sort=False).reset_index()
    wide.columns.name = None
    model = trust_model("several_seeds")
    return wide.assign(
        true=wide["f1"] >= TASK_F1,
        probability=model.probabilities(wide),
        verdict=model.verdicts(wide),
    )


@checked
def verdict_scores(
    judged: Annotated[
        pd.DataFrame, with_columns("method", "run", "true", "probability", "verdict")
    ],
) -> pd.DataFrame:
    """Scores of verdicts, a row for each method, and all together, and metric.

    Metrics are those of `calibration_scores`; the base rate is that of these latents themselves,
    which nobody knows beforehand, and auc is of pairs of latents of one SAE: whoever has one SAE
    has these to choose from. value, with low and high: its 95 % interval over 1,000 draws of
    SAEs with replacement, each with all of its latents; of both precisions no narrower than
    Wilson's, which knows how few latents there are. latents: how many the value is of. NaN where
    there is nothing to count.
    """
    rows = []
    for method in (EVERY, *judged["method"].unique()):
        own = judged if method == EVERY else judged[judged["method"] == method]
        latents = {"precision": TRUST, "precision_of_do_not": DO_NOT}
        for metric, values in _resampled_scores(own).items():
            known = values[1:][~np.isnan(values[1:])]
            low, high = np.quantile(known, [0.025, 0.975]) if len(known) else [np.nan] * 2
            of = own["verdict"].eq(latents[metric]).sum() if metric in latents else len(own)
            if metric in latents and of:
                least, most = wilson(values[0], int(of))
                low, high = min(low, least), max(high, most)
            rows.append((method, metric, float(values[0]), float(low), float(high), int(of)))
    return pd.DataFrame(rows, columns=["method", "metric", "value", "low", "high", "latents"])


def _resampled_scores(judged: pd.DataFrame) -> dict[str, Float[np.ndarray, " draws"]]:
    """Scores of all SAEs, then of each draw of SAEs."""
    of_sae, saes = judged["run"].factorize()
    draws = np.random.default_rng(0).multinomial(
        len(saes), np.full(len(saes), 1 / len(saes)), size=RESAMPLES
    )
    weights = np.vstack([np.ones(len(saes)), draws])
    member = np.eye(len(saes))[of_sae]  # (latents, SAEs)
    true, p = judged["true"].to_numpy(bool), judged["probability"].to_numpy()
    trusted, refused = (judged["verdict"].eq(name).to_numpy() for name in (TRUST, DO_NOT))

    def total(values: np.ndarray) -> np.ndarray:
        return weights @ (values @ member)

    above = np.sign(p[true][:, None] - p[~true]) / 2 + 0.5
    ordered = np.diag(member[true].T @ above @ member[~true])  # pairs of each SAE
    pairs = member[true].sum(0) * member[~true].sum(0)
    with np.errstate(invalid="ignore"):
        base_rate = total(true) / total(np.ones(len(true)))
        return {
            "base_rate": base_rate,
            "brier": total((p - true) ** 2) / total(np.ones(len(true))),
            "brier_of_base_rate": base_rate * (1 - base_rate),
            "auc": weights @ ordered / (weights @ pairs),
            "coverage": total(trusted) / total(np.ones(len(true))),
            "precision": total(trusted & true) / total(trusted),
            "precision_of_do_not": total(refused & ~true) / total(refused),
        }
