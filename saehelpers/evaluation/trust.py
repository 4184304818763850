"""Which latents to trust: the probability that one is a true feature, from what can be measured.

    p = sigmoid(bias + sum over i of w_i z_i),    z_i = (x_i - mean_i) / scale_i within -3 and 3

A logistic regression over a card's numbers, fitted where the true features are known (see
`saehelpers.experiments.calibration`), and shipped as trust.json beside this module. A *true*
latent: cosine with a true direction at least 0.9, one to one modulo the group, and F1 of its
firings as that feature's detector at least 0.8. Calibration is tested on kinds of worlds that
were left out of the fit. What no number of a card tells is a direction that always carries some of
another one, as a child's carries its parent's: a latent with a near neighbour is never trusted.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saehelpers.evaluation.consistency import above_null
from saehelpers.evaluation.matching import match
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.identities import identity
from saehelpers.runs.wanted import NOT_EMPTY, Open, Share, one_of, with_columns
from saehelpers.symmetry import LinearAction

TRUE_COSINE, TRUE_F1 = 0.9, 0.8
TRUST, DO_NOT, NOT_DECIDED = "trust", "do not", "not decided"
PROMISE = 0.95  # share that is true among the trusted, and false among those not to be trusted
FARTHEST = 3.0  # deviations: no number goes farther beyond those that the fit has seen
MIXED_COSINE = 0.4  # with its neighbour, from which a latent may be a mixture, and is not trusted
LEAST_FIRINGS = 10  # below it nothing is said of a latent
LEAST_TRUSTED = 20  # latents that a promise must rest on
NUMBERS = (
    "firing_rate", "weak_share", "silent_share", "nested", "split_cosine", "neighbour_cosine",
    "sharpness", "copy_cosine", "consistency", "agreement",
)  # fmt: skip
OF_SEEDS = ("consistency", "agreement")  # which one SAE alone does not have
MODELS = ("several_seeds", "one_seed")
Numbers = Annotated[Sequence[Annotated[str, one_of(NUMBERS)]], NOT_EMPTY]
Table = Annotated[
    pd.DataFrame, with_columns("kind", "seed", "true", "firings", "consistency_null", *NUMBERS)
]


@checked
@dataclass(frozen=True)
class TrustModel:
    """The regression, and from which probability on its verdict is "trust", up to which "do not".

    Args:
        numbers: the inputs' columns.
        means, scales: of the inputs it was fitted to.
        weights: of standardised inputs.
        trust, do_not: None where no promise can be kept.
        fitted_to: the identity of the table, and how many latents and of which kinds of worlds it
            had.
    """

    numbers: Annotated[tuple[str, ...], NOT_EMPTY]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    trust: Share | None
    do_not: Share | None
    fitted_to: dict[str, object]

    def __post_init__(self):
        for name in ("means", "scales", "weights"):
            if len(getattr(self, name)) != len(self.numbers):
                raise ValueError(
                    f"{name} must be {len(self.numbers)}, one for each of numbers, got "
                    f"{len(getattr(self, name))}"
                )

    @checked
    def probabilities(self, table: pd.DataFrame) -> Float[np.ndarray, " n"]:
        """p of every row of a table of card numbers; NaN below 10 firings, 0 for none at all.

        Raises:
            ValueError: the table lacks a number.
        """
        p = self._of_inputs(_inputs(table, self.numbers))
        firings = table["firings"].to_numpy()
        return np.where(firings == 0, 0.0, np.where(firings < LEAST_FIRINGS, np.nan, p))

    def _of_inputs(self, inputs: Float[np.ndarray, "n numbers"]) -> Float[np.ndarray, " n"]:
        """p of inputs as the regression takes them: rates as log10, consistency above its null."""
        standardised = ((inputs - self.means) / self.scales).clip(-FARTHEST, FARTHEST)
        return 1 / (1 + np.exp(-(self.bias + standardised @ np.array(self.weights))))

    @checked
    def verdicts(self, table: pd.DataFrame) -> list[str]:
        """ "trust", "do not" or "not decided" of every row of a table of card numbers.

        A latent with a neighbour at a cosine of 0.4 or more is not trusted.

        Raises:
            ValueError: the table lacks a number.
        """
        probabilities = self.probabilities(table)
        trust = np.inf if self.trust is None else self.trust
        do_not = 0.0 if self.do_not is None else self.do_not
        alone = _alone(table)
        return [
            TRUST if p >= trust and is_alone else DO_NOT if p <= do_not else NOT_DECIDED
            for p, is_alone in zip(probabilities, alone, strict=True)
        ]


@functools.cache
def trust_model(name: str = "several_seeds") -> TrustModel:
    """The shipped regression for cards of several seeds, or of an SAE alone ("one_seed")."""
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(MODELS)}, got {name!r}")
    text = files("saehelpers.evaluation").joinpath("trust.json").read_text(encoding="utf-8")
    return _read(json.loads(text)[name])


def _read(fields: dict) -> TrustModel:
    return TrustModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


@checked
def true_latents(
    dictionary: Float[Tensor, "n_latents d"],
    features: Float[Tensor, "n_features d"],
    fires: Bool[Tensor, "samples n_latents"],
    present: Bool[Tensor, "samples n_features"],
    action: LinearAction | None = None,
) -> Bool[Tensor, " n_latents"]:
    """Which latents are true features: a cosine of 0.9 or more, and an F1 of 0.8 or more.

    Latents and features are matched one to one, modulo the group of an `action`; F1 is that of the
    latent's firings as a detector of the feature it is matched to.
    """
    pairs = match(dictionary, features, False, action)
    fired, there = fires[:, pairs.a], present[:, pairs.b]
    both, either = (fired & there).sum(0), (fired.sum(0) + there.sum(0)).clamp(min=1)
    true = torch.zeros(len(dictionary), dtype=torch.bool)
    true[pairs.a] = (pairs.cosines >= TRUE_COSINE) & (2 * both / either >= TRUE_F1)
    return true


# --- fitting, where the truth is known ---


@checked
def fit_trust(table: Table, numbers: Numbers = NUMBERS) -> TrustModel:
    """The regression of "true" on a card's numbers, with thresholds that keep their promise.

    Least penalised logistic loss (scikit-learn, L2 of standardised inputs, C = 1). Thresholds go
    by probabilities of latents whose kind of world was left out: "trust" begins where 95 % of
    those at or above are true that have no near neighbour, at the largest coverage; "do not" ends
    where 95 % of those at or below are false.

    Args:
        table: a row for each latent: "kind" of the world, "seed", whether it is "true", firings,
            consistency_null and the numbers. Rows below 10 firings are left out.

    Raises:
        ValueError: fewer than two kinds, or latents of one sort, true or false, alone.
    """
    table, columns = _known(table), ["kind", "seed", "true", "firings", *numbers]
    told = {"table": identity(table[columns]), "latents": len(table),
            "kinds": sorted(table["kind"].unique())}  # fmt: skip
    return dataclasses.replace(_Fits(table, tuple(numbers)).fit(), fitted_to=told)


@checked
def leave_one_kind_out(table: Table, numbers: Numbers = NUMBERS) -> pd.DataFrame:
    """The table with the probability and verdict of each latent by a fit without its kind.

    The thresholds, too, are set without that kind. base_rate: the share that is true of the
    latents of the other kinds.

    Raises:
        ValueError: fewer than three kinds, or latents of one sort alone.
    """
    table, parts = _known(table), []
    if table["kind"].nunique() < 3:
        raise ValueError(
            f"table must have three kinds of worlds or more, got {table['kind'].nunique()}"
        )
    fits = _Fits(table, tuple(numbers))
    for kind in table["kind"].unique():
        others, own = table[table["kind"] != kind], table[table["kind"] == kind]
        model = fits.fit(kind)
        parts.append(own.assign(probability=model.probabilities(own), verdict=model.verdicts(own),
                                base_rate=others["true"].mean()))  # fmt: skip
    return pd.concat(parts)


@checked
def calibration_scores(
    predicted: Annotated[
        pd.DataFrame, with_columns("kind", "seed", "true", "probability", "verdict", "base_rate")
    ],
) -> pd.DataFrame:
    """Scores of what `leave_one_kind_out` predicts, a row for each kind, seed and metric.

    base_rate: share that is true; brier: mean of (p - true)^2, brier_of_base_rate: the same of the
    other kinds' base rate; auc: area under the ROC curve; coverage: share of the latents that is
    trusted; precision: share of the trusted that is true; precision_of_do_not: of those not to be
    trusted that is false. NaN where there is nothing to count.
    """
    with extra("probes"):
        from sklearn.metrics import roc_auc_score

    rows = []
    for (kind, seed), own in predicted.groupby(["kind", "seed"], sort=False):
        true, p = own["true"].astype(bool), own["probability"]
        trusted, refused = own["verdict"] == TRUST, own["verdict"] == DO_NOT
        scores = {
            "base_rate": true.mean(),
            "brier": (p - true).pow(2).mean(),
            "brier_of_base_rate": (own["base_rate"] - true).pow(2).mean(),
            "auc": roc_auc_score(true, p) if true.nunique() > 1 else np.nan,
            "coverage": trusted.mean(),
            "precision": true[trusted].mean(),
            "precision_of_do_not": (~true[refused]).mean(),
        }
        rows += [(kind, seed, metric, float(value)) for metric, value in scores.items()]
    return pd.DataFrame(rows, columns=["kind", "seed", "metric", "value"])


@checked
def thresholds(
    probabilities: Float[np.ndarray, " n"], true: Bool[np.ndarray, " n"], promise: Open = PROMISE
) -> tuple[float | None, float | None]:
    """(trust, do_not): from where on a share `promise` is true, and up to where it is false.

    At the largest coverage of 20 latents or more that allows it; None if none does.
    """

    def reached(order: np.ndarray, holds: np.ndarray) -> float | None:
        counts = np.arange(1, len(order) + 1)
        kept = (np.cumsum(holds[order]) / counts >= promise) & (counts >= LEAST_TRUSTED)
        return float(probabilities[order][kept.nonzero()[0][-1]]) if kept.any() else None

    order = np.argsort(-probabilities, kind="stable")
    return reached(order, true), reached(order[::-1], ~true)


def _known(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["firings"] >= LEAST_FIRINGS]


def _alone(table: pd.DataFrame) -> Bool[np.ndarray, " n"]:
    """Which latents have no neighbour that they may be mixed with."""
    if "neighbour_cosine" not in table:
        raise ValueError("table lacks neighbour_cosine, a number of a card")
    return (table["neighbour_cosine"] < MIXED_COSINE).to_numpy()


def _inputs(table: pd.DataFrame, numbers: Sequence[str]) -> Float[np.ndarray, "n numbers"]:
    """The regression's inputs: firing rates as log10, consistency above its null."""
    missing = [name for name in ("firings", *numbers) if name not in table]
    if missing:
        raise ValueError(f"table lacks {', '.join(missing)}, numbers of a card")
    columns = {name: table[name] for name in numbers}
    if "firing_rate" in columns:
        columns["firing_rate"] = np.log10(columns["firing_rate"].clip(lower=1e-9))
    if "consistency" in columns:
        columns["consistency"] = above_null(table["consistency"], table["consistency_null"])
    return pd.DataFrame(columns).fillna(0.0).to_numpy(float)


class _Fits:
    """Regressions on a table of which kinds of worlds are left out, each fitted once."""

    def __init__(self, table: pd.DataFrame, numbers: tuple[str, ...]):
        self.numbers, self.inputs = numbers, _inputs(table, numbers)
        self.kinds, self.alone = table["kind"].to_numpy(), _alone(table)
        self.true = table["true"].to_numpy(bool)
        self.made = {}

    def fit(self, *without: str) -> TrustModel:
        """With thresholds, which go by regressions that lack one kind more."""
        there = ~np.isin(self.kinds, without)
        kinds = list(pd.unique(self.kinds[there]))
        if len(kinds) < 2:
            raise ValueError(f"table must have two kinds of worlds or more, got {kinds}")
        left_out = np.full(len(self.kinds), np.nan)
        for kind in kinds:
            own = self.kinds == kind
            left_out[own] = self.regression(*without, kind)._of_inputs(self.inputs[own])
        trust, _ = thresholds(left_out[there & self.alone], self.true[there & self.alone])
        _, do_not = thresholds(left_out[there], self.true[there])
        if None not in (trust, do_not):
            do_not = min(do_not, float(np.nextafter(trust, 0)))
        return dataclasses.replace(self.regression(*without), trust=trust, do_not=do_not)

    def regression(self, *without: str) -> TrustModel:
        if (left_out := frozenset(without)) not in self.made:
            there = ~np.isin(self.kinds, without)
            self.made[left_out] = _regression(self.inputs[there], self.true[there], self.numbers)
        return self.made[left_out]


def _regression(
    inputs: Float[np.ndarray, "n numbers"], true: Bool[np.ndarray, " n"], numbers: tuple[str, ...]
) -> TrustModel:
    with extra("probes"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

    if true.all() or not true.any():
        raise ValueError("table must have latents that are true and latents that are not")
    scaler = StandardScaler().fit(inputs)
    standardised = scaler.transform(inputs).clip(-FARTHEST, FARTHEST)
    fitted = LogisticRegression(solver="newton-cholesky").fit(standardised, true)
    values = scaler.mean_, scaler.scale_, fitted.coef_[0]
    return TrustModel(
        numbers, *(tuple(map(float, some)) for some in values), float(fitted.intercept_[0]),
        None, None, {},
    )  # fmt: skip
