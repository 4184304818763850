"""What was measured, as sentences ask for it: by columns of the results, with intervals."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from saehelpers.datasets.shapes import SPLITS
from saehelpers.evaluation import (
    calibration_scores,
    card_table,
    leave_one_kind_out,
    rule_success,
    sae_table,
    task_table,
    verdict_scores,
)
from saehelpers.evaluation.statements import (
    Estimate,
    Spreads,
    each_above,
    interval,
    paired_difference,
    spreads,
)
from saehelpers.evaluation.trust import OF_SEEDS, PROMISE, TRUST
from saehelpers.figures import analysis, go_results
from saehelpers.runs import results
from saehelpers.runs.wanted import with_columns
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training.methods import METHODS

N_LATENTS = 32  # of the narrow SAEs of Shapes
GO = SAEConfig(192, 128, topk=8), Group.named("D4")  # the SAEs of Go that sentences are about
UNTOLD = {  # what is meant of the probes of Shapes where a template says nothing
    "experiment": "shapes_probes", "data_source": SPLITS["compositions"], "features": "recons",
    "task_type": "mean", "topk": 8, "truncation": 8,
}  # fmt: skip
PROMISES = ("kept", "not decided", "broken", "not made")


class _Rows:
    """A table that is asked often for the rows in which columns have some of few values."""

    def __init__(self, table: pd.DataFrame):
        self.table, self.found = table, {}

    def where(self, asked: dict[str, Any]) -> pd.DataFrame:
        there = np.ones(len(self.table), bool)
        for column, values in asked.items():
            values = values if isinstance(values, list) else [values]
            there &= np.logical_or.reduce([self._has(column, value) for value in values])
        if not there.any():
            raise ValueError(f"there are no rows of {asked}")
        return self.table[there]

    def _has(self, column: str, value: Any) -> np.ndarray:
        if (column, value) not in self.found:
            own = self.table[column]
            own = own.isna() | (own == "") if value is None else own.isin([value])
            self.found[column, value] = own.to_numpy()
        return self.found[column, value]


class Measured:
    """What templates may ask of a results table, by columns and what they must be.

    A value is compared with a column as it is; of a list, one must be equal; None stands for
    empty. In Jinja: {{ mean(experiment="toy", metric="recovery", method="vanilla") | two }}.

    Args:
        reference: the folder of published tables.
    """

    def __init__(
        self,
        table: Annotated[pd.DataFrame, with_columns("base_seed", "seed", "value")],
        reference: Path,
    ):
        table = table.dropna(subset="value").fillna({"base_seed": 0, "seed": 0})
        self.all, self.reference = _Rows(table), reference
        parts = table.groupby("experiment") if "experiment" in table else ()
        self.of_experiment = {name: _Rows(part) for name, part in parts}

    def published(self, name: str, **where: Any) -> pd.DataFrame:
        """Rows of a table of published figures, data/reference/<name>.csv."""
        return _Rows(pd.read_csv(self.reference / f"{name}.csv")).where(where)

    def has(self, **where: Any) -> bool:
        """Whether there are rows in which all these columns have these values."""
        try:
            return len(self.rows(**where)) > 0
        except ValueError:
            return False

    def rows(self, **where: Any) -> pd.DataFrame:
        """The rows in which all these columns have these values.

        Raises:
            ValueError: there are none; says what was asked for.
        """
        return self.of_experiment.get(where.get("experiment"), self.all).where(where)

    def mean(self, **where: Any) -> float:
        """Mean over base models of means over seeds."""
        return interval(self.rows(**where)).mean

    def estimate(self, **where: Any) -> Estimate:
        """The same with its interval, see `saehelpers.evaluation.statements`."""
        return interval(self.rows(**where))

    def each(self, by: str | Sequence[str], **where: Any) -> pd.Series:
        """`mean`, for every value of a column, or of several."""
        by = [by] if isinstance(by, str) else list(by)
        means = self.rows(**where)
        for keys in ([*by, "base_seed", "seed"], [*by, "base_seed"], by):
            means = means.groupby([*dict.fromkeys(keys)])["value"].mean().reset_index()
        return means.set_index(by)["value"]

    def f1(self, **where: Any) -> Estimate:
        """Mean F1 of the probes of Shapes: of recons, where nothing else is said, at TopK 8 and
        truncation 8, over all task types, without knowing the element; of the longest runs."""
        return interval(self._of_shapes(where))

    def f1_range(self, method: str, **where: Any) -> float:
        """By how much base models differ in `f1`, the largest from the smallest."""
        means = self._itself(where | {"method": method}).groupby("base_seed").mean()
        return float(means.max() - means.min())

    def f1_spreads(self, methods: Sequence[str], baseline: str, **where: Any) -> Spreads:
        """`spreads` of `f1` of a method above a baseline's, variances averaged over methods."""
        of_baseline = self._itself(where | {"method": baseline})
        gains = pd.concat(
            (self._itself(where | {"method": method}) - of_baseline).reset_index().assign(of=method)
            for method in methods
        )
        return spreads(gains.dropna(subset="value"), by=["of"])

    def _itself(self, where: dict[str, Any]) -> pd.Series:
        """`f1` of every base model and seed, of the test images themselves."""
        rows = self._of_shapes(where)
        rows = rows[rows["resample"] == 0] if "resample" in rows else rows
        return rows.groupby(["base_seed", "seed"])["value"].mean()

    def f1_gain(self, first: dict, second: dict, **where: Any) -> Estimate:
        """How far `f1` of the first is above that of the second, paired."""
        return paired_difference(self._of_shapes(where | first), self._of_shapes(where | second))

    def _of_shapes(self, where: dict[str, Any]) -> pd.DataFrame:
        where = UNTOLD | where
        symmetric = where["method"] in METHODS and METHODS[where["method"]].symmetric
        where = {"element": "inferred" if symmetric else "none"} | where
        return self._probes(where.pop("experiment"), where.pop("data_source")).where(where)

    @functools.cache  # noqa: B019 one of these is made at a time
    def _probes(self, experiment: str, data_source: str) -> _Rows:
        rows = self.rows(experiment=experiment, data_source=data_source)
        rows = analysis.of_width(rows, N_LATENTS)
        if experiment == "shapes_probes":  # tries of notebook 11 say by their names how long
            rows = results.trained_for(rows)
        f1 = analysis.resampled_f1(rows)
        return _Rows(pd.concat([f1, analysis.over_task_types(f1)], ignore_index=True))

    def by_seed(self, first: dict, second: dict, **where: Any) -> Estimate:
        """How far the first is above the second, where each seed has data of its own."""
        values = [self.rows(**where | one) for one in (first, second)]
        return paired_difference(*[own.assign(base_seed=own["seed"]) for own in values])

    def of_world(self, **where: Any) -> list[dict[str, Any]]:
        """SAEs of a synthetic world: a record for each kind and number of active latents asked for,
        with the mean over seeds of every metric; by kind, in the order of L0. Those that were not
        asked for a number are left out."""
        rows = self.rows(experiment="world", data_source="world", **where)
        keys = ["method", "topk"]
        groups = rows.groupby([*keys, "metric"])["value"]
        means = groups.mean().unstack("metric")
        means["seeds"] = rows.groupby(keys)["seed"].nunique()
        return means.reset_index().sort_values(["method", "l0"]).to_dict("records")

    def go_fvu(self, method: str, layer: int, **size: int) -> Estimate:
        """FVU in the frame that a method explains, of what enters a block of the Go network.

        Args:
            size: of the SAEs, where it is not that of `GO`: n_latents, topk.
        """
        return self._go(layer, **size)["fvu"][method]

    def go_f1(self, method: str, layer: int, task_type: str, **size: int) -> Estimate:
        """Mean F1 of recons, of activations ("base_model") or of what these must beat."""
        return self._go(layer, **size)["f1"][method, task_type]

    def go_counts(self, layer: int, task_type: str) -> int:
        """How many tasks the network answers better than its inputs and random weights."""
        return int(self._go(layer)["counts"][task_type])

    def go_difference(
        self, first: str, second: str, what: str, layer: int, counted: bool = False, **size: int
    ) -> Estimate:
        """`go_results.go_difference`, on all tasks or on those that count."""
        values = self._go(layer, **size)["values", counted][what]
        return go_results.go_difference(values, first, second, what == go_results.FVU)

    def go_spliced(self, metric: str, method: str, layer: int) -> Estimate:
        """How far the network's opinion moves with recons inside, or its "win_rate" in games."""
        rows = self.rows(
            experiment="go_match" if metric == "win_rate" else "go_splicing", metric=metric,
            data_source="katago", base_model=f"katago, block {layer}",
        )  # fmt: skip
        rows = go_results.of_go_size(rows, *GO)
        return go_results.over_blocks(rows[rows["method"] == method])

    @functools.cache  # noqa: B019 one of these is made at a time
    def _go(self, layer: int, **size: int) -> dict:
        read = {"data_source": "katago", "base_model": f"katago, block {layer}"}
        sae, group = GO
        probes, recons = (
            go_results.of_go_size(
                self.rows(experiment=f"go_{name}", **read), replace(sae, **size), group
            )
            for name in ("probes", "reconstruction")
        )
        fvu, every = go_results.own_frame_fvu(recons), go_results.untold_recons(probes)
        shown = pd.concat([every, probes[probes["features"] == "activations"]])
        counts = go_results.tasks_that_count(probes)["counts"]
        return {
            "fvu": {name: go_results.over_blocks(own) for name, own in fvu.groupby("method")},
            "f1": {
                key: go_results.over_blocks(own)
                for key, own in shown.groupby(["method", "task_type"])
            },
            "counts": counts.groupby(level="task_type").sum(),
            ("values", False): go_results.go_values(every, fvu),
            ("values", True): go_results.go_values(
                go_results.on_tasks_that_count(every, probes), fvu
            ),
        }

    def trust(self, metric: str, kind: str | None = None) -> Estimate:
        """A score of cards on kinds of worlds that their regression has not seen: of one kind, or
        over all. See `calibration_scores`."""
        scores = self._trust()["scores"]
        own = scores[scores["metric"] == metric]
        found = interval(own if kind is None else own[own["kind"] == kind])
        return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))

    def trust_kept(self, verdict: str) -> tuple[int, int]:
        """Latents of all kinds with this verdict, and how many of these are true."""
        predicted = self._trust()["predicted"]
        true = predicted.loc[predicted["verdict"] == verdict, "true"]
        return len(true), int(true.sum())

    def trust_found_again(self, least: float = 0.9) -> float:
        """Of the latents of all kinds that other seeds have, by a consistency above `least`, the
        share that is true."""
        predicted = self._trust()["predicted"]
        return float(predicted.loc[predicted["consistency"] > least, "true"].mean())

    def trust_brier(self, numbers: str) -> Estimate:
        """How much larger the Brier score is, kind by kind of world and seed by seed, where the
        verdict may use fewer numbers: "of seeds", "consistency"."""
        chosen = {"of seeds": OF_SEEDS, "consistency": OF_SEEDS[:1]}[numbers]
        known = card_table(self.rows(experiment="trust"))
        scores = calibration_scores(leave_one_kind_out(known, chosen))
        fewer = _by_kind(scores[scores["metric"] == "brier"])
        every = self._trust()["scores"]
        return paired_difference(fewer, every[every["metric"] == "brier"])

    def trust_lost(self, rule: str) -> float:
        """Mean recovery that a rule without labels loses against the best SAE."""
        success = self._trust()["success"]
        return float(success.loc[success["rule"] == rule, "lost"].mean())

    @functools.cache  # noqa: B019 one of these is made at a time
    def _trust(self) -> dict[str, pd.DataFrame]:
        rows = self.rows(experiment="trust")
        predicted = leave_one_kind_out(card_table(rows))
        scores = calibration_scores(predicted).dropna(subset="value")
        judged = pd.concat(
            verdict_scores(own.assign(method=kind)).assign(kind=kind, seed=0)
            for kind, own in predicted.groupby("kind", sort=False)
        )
        promises = judged["metric"].isin(["precision", "precision_of_do_not"])
        promised = judged[promises & (judged["method"] == "all")]
        # of few latents of a seed there is no share: those of all seeds count together
        scores = scores[~scores["metric"].isin(promised["metric"])]
        return {
            "predicted": predicted,
            "scores": _by_kind(pd.concat([scores, promised.dropna(subset="value")])),
            "promised": promised,
            "success": rule_success(sae_table(rows), predicted),
        }

    def trust_kinds(self, verdict: str) -> dict[str, list[str]]:
        """Kinds of worlds by what became of the promise of "trust" or "do not": see `promise`.

        Each with the share of these latents that is true, or false, and how many there are. The
        interval is over SAEs, and no narrower than Wilson's: see `verdict_scores`.
        """
        promised, found = self._trust()["promised"], {name: [] for name in PROMISES}
        metric = "precision" if verdict == TRUST else "precision_of_do_not"
        for own in promised[promised["metric"] == metric].itertuples():
            share = f" ({own.value:.2f} of {own.latents})" if own.latents else ""
            found[promise(own.low, own.high)].append(f"{own.kind}{share}")
        return found

    def trust_tasks(self, metric: str, dataset: str, method: str = "all") -> Estimate:
        """A score of the cards of SAEs of a network whose tasks are known; see `verdict_scores`."""
        judged, scores = self._trust_tasks(dataset)
        own = judged if method == "all" else judged[judged["method"] == method]
        found = scores.set_index(["method", "metric"]).loc[(method, metric)]
        return Estimate(
            found["value"], found["low"], found["high"], own["base_model"].nunique(),
            own["seed"].nunique(), "" if found["low"] <= found["high"] else "none",
        )  # fmt: skip

    def trust_task_counts(self, verdict: str, dataset: str, method: str = "all") -> tuple[int, int]:
        """Latents of such SAEs with this verdict, and how many of these answer a task alone."""
        judged, _ = self._trust_tasks(dataset)
        own = judged if method == "all" else judged[judged["method"] == method]
        true = own.loc[own["verdict"] == verdict, "true"]
        return len(true), int(true.sum())

    @functools.cache  # noqa: B019 one of these is made at a time
    def _trust_tasks(self, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        judged = task_table(self.rows(experiment="trust_tasks", dataset=dataset))
        return judged, verdict_scores(judged)

    def ratio(self, by: str | Sequence[str], first: dict, second: dict, **where: Any) -> pd.Series:
        """Each mean of `first` as a share of that of `second`, for every value of columns."""
        return self.each(by, **where | first) / self.each(by, **where | second)

    def above(
        self, methods: Sequence[str], baseline: str, by: Sequence[str] = (), **where: Any
    ) -> dict[str, Estimate | str]:
        """`each_above`: how far methods are above a baseline, and the verdict."""
        rows = self.rows(method=[*methods, baseline], **where)
        means = rows.groupby(["method", "base_seed", "seed", *by])["value"].mean().reset_index()
        return each_above(means, list(methods), baseline, list(by))


def _by_kind(scores: pd.DataFrame) -> pd.DataFrame:
    """Kinds of worlds in the place of base models."""
    kinds = {kind: i for i, kind in enumerate(sorted(scores["kind"].unique()))}
    return scores.assign(base_seed=scores["kind"].map(kinds))


def promise(low: float, high: float) -> str:
    """What an interval of the share that is as promised says of the promise: a key of `PROMISES`.

    It is kept where the whole interval is at 95 % or above, and broken where it is below.
    """
    if np.isnan(low):
        return "not made"
    return "kept" if low >= PROMISE else "broken" if high < PROMISE else "not decided"
