"""Probes: how much of a task can be read from a few latents, or which class an image has?

Yes-or-no tasks are probed on what `inputs` makes of the latents kept; classes on the latents
themselves, of images their means over the pixels (`saehelpers.networks.feature_maps.mean_latents`).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real, Shaped
from torch import Tensor

from saehelpers.evaluation.inputs import ProbeInput
from saehelpers.evaluation.logistic import Factors, at_a_time, predict_logistic
from saehelpers.evaluation.metrics import f1, macro_f1, separating_latents
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.precision import full_precision
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import FROM_ZERO, AnyExecutor, Positive, one_of

if TYPE_CHECKING:
    import xgboost

PROBES = ("xgboost", "logistic")
RESAMPLES = 20  # of held-out samples
N_TREES = 100
XGBOOST = {
    "max_depth": 6, "learning_rate": 0.3, "reg_lambda": 1.0, "tree_method": "hist", "n_jobs": 1,
}  # fmt: skip
TASK_BINS = 16  # of a feature; what they gain and cost beside 256 says benchmarks/probes.py
FEW_LATENTS, THEIR_BINS = 2, 64  # of so few latents recons are cut at few places
MOST_BINS = 256  # where few columns differ
CLASS_BINS = 64  # there are few probes of classes, which need not save
# what decides a score besides the data, for the key of its row; raised when a probe changes
SETTINGS = {"xgboost": (2, XGBOOST, N_TREES, TASK_BINS), "logistic": (2,)}


@checked
def probe_tasks(
    probe_input: ProbeInput,
    labels: Bool[Tensor, "n tasks"],
    n_train: Positive,
    probe: Annotated[str, one_of(PROBES)],
    truncation: Positive | None = None,
) -> list[float]:
    """F1 on held-out samples of one probe per task; see `predict_tasks`.

    Returns:
        One F1 for each task; NaN where a class is missing from the training samples, or the
        positive class from the held-out ones: such a task cannot be evaluated.
    """
    predictions = predict_tasks(probe_input, labels, n_train, probe, truncation)
    return task_scores(labels[n_train:], predictions)


@checked
def predict_tasks(
    probe_input: ProbeInput,
    labels: Bool[Tensor, "n tasks"],
    n_train: Positive,
    probe: Annotated[str, one_of(PROBES)],
    truncation: Positive | None = None,
) -> list[np.ndarray | None]:
    """What one probe per task says of the held-out samples.

    Args:
        labels: of all samples; the first `n_train` of them train.
        truncation: m, how many latents are kept: the `separating_latents` of the training
            samples alone. None keeps all.

    Returns:
        Labels (n - n_train,) for each task; None where a class is missing from the training
        samples, or the positive class from the held-out ones.
    """
    if not 1 <= n_train < len(labels):
        raise ValueError(f"n_train must be between 1 and {len(labels) - 1}, got {n_train}")
    if truncation is None:
        keep = torch.arange(probe_input.n_latents).expand(labels.shape[1], -1)
    else:
        own = probe_input.latents[:n_train, : probe_input.n_latents]
        keep = separating_latents(own, labels[:n_train], truncation)
    train, test = labels[:n_train], labels[n_train:]
    known = (train.any(0) & ~train.all(0) & test.any(0)).nonzero()[:, 0]
    predictions: list[np.ndarray | None] = [None] * labels.shape[1]
    predict = _predict_linearly if probe == "logistic" else _predict_by_trees
    of_known = predict(probe_input, keep[known], train.T[known])
    for task, predicted in zip(known.tolist(), of_known, strict=True):
        predictions[task] = predicted
    return predictions


@checked
def task_scores(
    truth: Bool[Tensor, "n tasks"], predictions: Sequence[np.ndarray | None]
) -> list[float]:
    """F1 of the predictions of each task; NaN where there are none.

    Raises:
        ValueError: not as many predictions as tasks.
    """
    _check_each_task(truth, predictions)
    return [
        float("nan") if predicted is None else f1(column, predicted)
        for column, predicted in zip(truth.numpy().T, predictions, strict=True)
    ]


@checked
def resampled_scores(
    truth: Bool[Tensor, "n tasks"],
    predictions: Sequence[np.ndarray | None],
    units: Annotated[Int[Tensor, " n"], FROM_ZERO],
) -> Float[np.ndarray, "resamples tasks"]:
    """F1 of each task on samples drawn anew, by units (bootstrap): how much hangs on those drawn.

    As many units are drawn with replacement as there are, each with all its samples. The draws
    are the same for whatever is measured on the same units, so that differences can be paired.
    NaN where there are no predictions, or where no sample that was drawn is positive.

    Args:
        units: which one each sample belongs to: the composition of an image, say.

    Raises:
        ValueError: not as many predictions as tasks.
    """
    _check_each_task(truth, predictions)
    members, unit_of = units.unique(return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(
        len(members), np.full(len(members), 1 / len(members)), size=RESAMPLES
    )
    drawn = torch.from_numpy(drawn).double()
    known = [task for task, predicted in enumerate(predictions) if predicted is not None]
    scores = np.full((RESAMPLES, len(predictions)), np.nan)
    if known:
        predicted = torch.from_numpy(np.stack([predictions[task] for task in known], axis=1))
        positive = truth[:, known]

        def count(of_samples: Tensor) -> Tensor:
            sums = torch.zeros(len(members), len(known), dtype=torch.double)
            return drawn @ sums.index_add_(0, unit_of, of_samples.double())

        n_positive, both = count(positive), 2 * count(positive & predicted)
        found = both / (n_positive + count(predicted))
        scores[:, known] = found.masked_fill(n_positive == 0, float("nan")).numpy()
    return scores


def _check_each_task(truth: Tensor, predictions: Sequence[np.ndarray | None]) -> None:
    if len(predictions) != truth.shape[1]:
        raise ValueError(
            f"predictions must be of the {truth.shape[1]} tasks of truth, got {len(predictions)}"
        )


def _predict_by_trees(
    probe_input: ProbeInput, keep: Tensor, labels: Tensor
) -> Iterator[np.ndarray]:
    """Predicted labels of the held-out samples for one task after another."""
    for kept, y in zip(keep, labels.numpy(), strict=True):
        x = probe_input.matrix(kept)
        bins = THEIR_BINS if len(kept) <= FEW_LATENTS else TASK_BINS
        yield next(predict_by_trees(x[: len(y)], y[None], x[len(y) :], bins))


def _predict_linearly(
    probe_input: ProbeInput, keep: Tensor, labels: Tensor
) -> Iterator[np.ndarray]:
    """The same, of some tasks at a time: so many that their features stay in the cache."""
    if not len(keep):
        return
    first = probe_input.reduced(keep[:1])
    size, width = at_a_time(first.values.numel()), probe_input.width or first.rows.shape[3]
    for some, y in zip(keep.split(size), labels.split(size), strict=True):
        features = probe_input.reduced(some)
        yield from predict_logistic(features, y, width).numpy()


@checked
def fit_predict(
    probe: Annotated[str, one_of(PROBES)],
    x_train: Real[np.ndarray, "n columns"],
    y_train: Shaped[np.ndarray, " n"],
    x_test: Real[np.ndarray, "m columns"],
    width: Positive | None = None,
) -> np.ndarray:
    """Predicted labels of a probe of one task for `x_test`.

    "xgboost": 100 trees of depth 6, learning rate 0.3, L2 weight 1, on one thread, over
    features cut into 16 bins at the quantiles of the training samples (up to 256 where few
    columns differ); a value that many samples share takes one bin.
    "logistic": L2 weight 1, features scaled by one common factor to a total variance of
    `width` (the number of columns, unless the features are in a reduced basis).
    """
    _check_name(probe)
    if probe == "xgboost":
        return next(predict_by_trees(x_train, y_train[None], x_test))
    x = torch.from_numpy(np.concatenate([x_train, x_test]).astype(np.float64))[None]
    y = torch.from_numpy(y_train.astype(bool))[None]
    return predict_logistic(Factors.of(x), y, width or x.shape[2])[0].numpy()


def predict_by_trees(
    x_train: Real[np.ndarray, "n columns"],
    labels: Shaped[np.ndarray, "tasks n"],
    x_test: Real[np.ndarray, "m columns"],
    bins: int = TASK_BINS,
) -> Iterator[np.ndarray]:
    """What `fit_predict` by XGBoost gives for one task after another, the features binned once.

    Of columns that cut the training samples alike, as those of recons of one latent do, trees take
    the first: the others are left out. The fewer are left, the finer they are cut.
    """
    with extra("probes"):
        import xgboost

    binned = _binned(x_train, _bin_edges(x_train, bins))
    first = {column.tobytes(): i for i, column in reversed([*enumerate(binned.T)])}
    columns = sorted(first.values())
    x_train, x_test = x_train[:, columns], x_test[:, columns]
    bins = max(bins, min(MOST_BINS, 8 * MOST_BINS // len(columns)))
    edges = _bin_edges(x_train, bins)
    # bins that are known need no sketch of quantiles, which would cost as much as the trees
    data = xgboost.QuantileDMatrix(
        _binned(x_train, edges), ref=_every_bin(len(columns), bins), max_bin=bins, nthread=1
    )
    unseen = _binned(x_test, edges)
    settings = XGBOOST | {"objective": "binary:logistic", "max_bin": bins}
    for y in labels:
        data.set_label(y)
        booster = xgboost.train(settings, data, num_boost_round=N_TREES)
        yield booster.inplace_predict(unseen) > 0.5


def _check_name(probe: str) -> None:
    if probe not in PROBES:
        raise ValueError(f"unknown probe {probe!r}; known are {', '.join(PROBES)}")


def _bin_edges(x: np.ndarray, n_bins: int) -> np.ndarray:
    """Edges of bins with as many samples each, (n_bins - 1, columns).

    A value that more samples share than a bin holds takes one bin, with a few just below it if
    there are some, and the others share out the rest: the zero of a latent that seldom fires must
    not take all bins.
    """
    ordered = np.sort(x, axis=0)
    edges = ordered[np.arange(1, n_bins) * len(x) // n_bins]
    for column in np.flatnonzero((edges[1:] == edges[:-1]).any(0)):
        values, counts = np.unique(ordered[:, column], return_counts=True)
        share = counts if len(values) > n_bins else np.ones(len(values))
        rounds = 16 if len(values) > n_bins else 0  # until hardly any value has more than a bin
        for _ in range(rounds):
            share = np.minimum(share, share.sum() / n_bins)
        before = np.cumsum(share) - share
        bins = np.floor(before / share.sum() * n_bins + 1e-6)
        first = np.searchsorted(bins, np.arange(1, n_bins))
        edges[:, column] = values[np.minimum(first, len(values) - 1)]
    return edges


def _binned(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of its feature's bin edges each value reaches."""
    bins = np.zeros(x.shape, np.min_scalar_type(len(edges)))
    for edge in edges:
        bins += x >= edge
    return bins


@functools.cache
def _every_bin(n_features: int, n_bins: int) -> "xgboost.QuantileDMatrix":
    """Data in which every bin of every feature occurs: its cuts are those of binned data."""
    with extra("probes"):
        import xgboost

    values = np.repeat(
        np.arange(n_bins, dtype=np.min_scalar_type(n_bins))[:, None], n_features, axis=1
    )
    return xgboost.QuantileDMatrix(values, np.zeros(n_bins), max_bin=n_bins, nthread=1)


@checked
def probe_sweep(
    jobs: list[tuple[dict, ProbeInput, list[int]]],
    labels: Bool[Tensor, "n tasks"],
    n_train: Positive,
    executor: AnyExecutor | None = None,
) -> Iterator[tuple[dict, list[int], list[np.ndarray | None]]]:
    """Probe many inputs in parallel, yielding (job, tasks, predictions) as they are done.

    A job is (description, input, tasks): the description has "probe" and "truncation", the
    tasks are columns of `labels`. The progress bar counts jobs.
    """
    told = [(*job, labels[:, job[2]], n_train) for job in jobs if job[2]]
    yield from sweep(_probe, told, "inputs probed", executor)


def _probe(job, probe_input, tasks, labels, n_train):
    told = labels, n_train, job["probe"], job["truncation"]
    return job, tasks, predict_tasks(probe_input, *told)


@checked
def fit_class_probe(
    latents: Float[Tensor, "n n_latents"],
    labels: Int[Tensor, " n"],
    probe: Annotated[str, one_of(PROBES)],
    truncation: Positive | None = None,
) -> Callable[[Float[Tensor, "m n_latents"]], Int[np.ndarray, " m"]]:
    """What predicts the class of an image, from the `separating_latents` (all if None).

    Labels are any whole numbers; those that do not occur are never predicted, and one alone
    always is. Used by notebook 05.

    "xgboost": 100 trees of depth 6, learning rate 0.3, L2 weight 1, 64 bins, on one thread;
    "logistic": multinomial, on standardised latents, L-BFGS of at most 3,000 steps.
    """
    _check_name(probe)
    m = latents.shape[1] if truncation is None else truncation
    classes, codes = labels.cpu().unique(return_inverse=True)
    keep = separating_latents(latents, codes.to(latents.device), m)
    if len(classes) == 1:
        return lambda unseen: np.full(len(unseen), classes.item())
    if probe == "xgboost":
        with extra("probes"):
            import xgboost

        classifier = xgboost.XGBClassifier(n_estimators=N_TREES, max_bin=CLASS_BINS, **XGBOOST)
    else:
        with extra("probes"):
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler

        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    classifier.fit(full_precision(latents[:, keep]).numpy(), codes.numpy())
    return lambda unseen: classes.numpy()[
        classifier.predict(full_precision(unseen[:, keep]).numpy())
    ]


@checked
def class_probe_f1(
    trained_on: Int[Tensor, " n"], truth: Int[Tensor, " m"], predicted: Int[np.ndarray, " m"]
) -> float:
    """`macro_f1` of a class probe; NaN where it cannot be evaluated.

    That is where only one class trained it, or a held-out class did not. Used by notebook 05.
    """
    known, asked = trained_on.unique(), truth.unique()
    if len(known) < 2 or not torch.isin(asked, known).all():
        return float("nan")
    return macro_f1(truth.numpy(), predicted)
