"""Measurements by blocks of held-out samples: of games, say, whose samples belong together.

Blocks are what intervals resample, beside seeds: see `statements`.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.evaluation.metrics import f1, symmetry_report
from saehelpers.evaluation.probing import PROBES, SETTINGS, fit_predict, predict_by_trees
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import FROM_ZERO, one_of, with_columns
from saehelpers.saes import SAE
from saehelpers.symmetry import LinearAction

Blocks = Annotated[Int[Tensor, " m"], FROM_ZERO]


@checked
def probe_by_block(
    features: Float[Tensor, "n d"],
    labels: Bool[Tensor, "n tasks"],
    tasks: Annotated[pd.DataFrame, with_columns("task_type", "task")],
    blocks: Blocks,
    probe: Annotated[str, one_of(PROBES)] = "xgboost",
) -> list[dict[str, Any]]:
    """F1 of a probe of each task in each block of the held-out samples, as rows of results.

    A row has "task_type", "task", "split" ("test 0", say), "metric" and "value": NaN where it
    cannot be evaluated: the positive class is not in the block, or a class not in the training
    samples.

    Args:
        tasks: a row for each column of `labels`.
        blocks: of the last len(blocks) samples; the others train.
    """
    n_train = len(labels) - len(blocks)
    if n_train < 1 or len(tasks) != labels.shape[1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} must be of more samples than the {len(blocks)} of "
            f"blocks, and of the {len(tasks)} tasks"
        )
    train, test, numbers = labels[:n_train].T.numpy(), labels[n_train:].T.numpy(), blocks.numpy()
    known = train.any(1) & ~train.all(1)
    x = features.numpy()
    given = x[:n_train], train[known], x[n_train:]
    found = predict_by_trees(*given) if probe == "xgboost" else _predict_linearly(*given)
    rows = []
    told_tasks = tasks[["task_type", "task"]].to_dict("records")
    for told, is_known, truth in zip(told_tasks, known, test, strict=True):
        predicted = next(found) if is_known else None
        for block in np.unique(numbers):
            own = numbers == block
            scored = is_known and truth[own].any()
            value = f1(truth[own], predicted[own]) if scored else float("nan")
            rows.append(told | {"split": f"test {block}", "metric": "f1", "value": value})
    return rows


def _predict_linearly(x_train, labels, x_test) -> Iterator[np.ndarray]:
    return (fit_predict("logistic", x_train, y, x_test) for y in labels)


probe_by_block.version = f"1 {SETTINGS}"


@checked
def report_by_block(
    sae: SAE,
    action: LinearAction,
    activations: Float[Tensor, "n order d"],
    blocks: Blocks,
    search: bool = False,
) -> list[dict[str, Any]]:
    """`metrics.symmetry_report` of each block of samples, as rows with "split" ("test 0", say)."""
    if len(blocks) != len(activations):
        raise ValueError(f"blocks are of {len(blocks)} samples, activations of {len(activations)}")
    return [
        {"split": f"test {block}", "metric": metric, "value": value}
        for block in blocks.unique().tolist()
        for metric, value in symmetry_report(
            sae, action, activations[blocks == block], search
        ).items()
    ]
