"""Tables of SAEs of known worlds, from their rows: what verdicts without labels are worth."""

from typing import Annotated

import pandas as pd

from saehelpers.evaluation.trust import (
    NUMBERS,
    OF_SEEDS,
    Table,
    calibration_scores,
    leave_one_kind_out,
)
from saehelpers.runs import results
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import with_columns


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
