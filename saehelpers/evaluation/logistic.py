"""Logistic regressions of many tasks at once, by Newton's method."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive

STEPS = 200  # Newton's method needs about ten
TOLERANCE = 1e-7  # of the gradient of the mean loss
NO_VARIANCE = 1e-30
CACHE = 2**23  # bytes of the values of tasks that are fitted at a time


class Factors(NamedTuple):
    """Features as products: sample i has values[:, i] @ rows[:, blocks_used[i]].

    Few latents go through a decoder into many dimensions: what a fit adds up over samples is of
    the latents alone. The last value of every sample is 1. In double precision.
    """

    values: Float[Tensor, "tasks n q"]
    rows: Float[Tensor, "tasks blocks q columns"]
    blocks_used: Int[Tensor, " n"]

    @classmethod
    def of(cls, x: Float[Tensor, "tasks n columns"]) -> "Factors":
        """Features that are not products."""
        ones, rows = x.new_ones(*x.shape[:2], 1), torch.eye(x.shape[2] + 1).to(x)[:, :-1]
        used = torch.zeros(x.shape[1], dtype=torch.long)
        return cls(torch.cat([x, ones], dim=2), rows.expand(len(x), 1, -1, -1), used)

    def dense(self) -> Float[Tensor, "tasks n columns"]:
        x = self.values.new_empty(*self.values.shape[:2], self.rows.shape[3])
        for block in range(self.rows.shape[1]):
            used = self.blocks_used == block
            x[:, used] = self.values[:, used] @ self.rows[:, block]
        return x


def at_a_time(n_values: int) -> int:
    """How many tasks of so many values are fitted at a time: they stay in the cache."""
    return max(1, CACHE // (8 * n_values))


@checked
def predict_logistic(
    features: Factors, labels: Bool[Tensor, "tasks n_train"], width: Positive | None = None
) -> Bool[Tensor, "tasks n_test"]:
    """What a logistic regression of each task says of the samples after those with labels.

    The minimum over w and b of sum_i log(1 + exp(-s_i (w x_i + b))) + ||w||^2 / 2, s_i = 1 where
    the label holds and -1 elsewhere. Features of a task are scaled by one common factor to a
    total variance of `width`, if it is given. Both labels must occur in every task.
    """
    values, rows, used = features
    n_train = labels.shape[1]
    if not len(labels):
        return labels.new_zeros(0, len(used) - n_train)
    of_block = [(used[:n_train] == block).nonzero()[:, 0] for block in range(rows.shape[1])]
    index = torch.nn.utils.rnn.pad_sequence(of_block, batch_first=True)  # (blocks, samples)
    places = torch.arange(index.shape[1])
    present = (places < torch.tensor([[len(block)] for block in of_block])).double()
    grouped = values[:, index] * present[..., None]  # (tasks, blocks, samples, q)
    intercept = torch.zeros_like(rows[..., :1])
    intercept[:, :, -1] = 1
    scale = 1 if width is None else (width / _variance(grouped, rows, n_train)).sqrt()
    rows = torch.cat([scale * rows, intercept], dim=3)
    weights = _fit(grouped, present, rows, labels.double()[:, index])
    combined = (rows @ weights[:, None, :, None])[..., 0]  # (tasks, blocks, q)
    margins = torch.einsum("tnq, tnq -> tn", values[:, n_train:], combined[:, used[n_train:]])
    return margins > 0


def _variance(grouped: Tensor, rows: Tensor, n_train: int) -> Tensor:
    """Of all columns together, (tasks, 1, 1, 1)."""
    second = rows.mT @ (grouped.mT @ grouped) @ rows  # (tasks, blocks, columns, columns)
    mean = (grouped.sum(2, keepdim=True) @ rows).sum((1, 2)) / n_train
    total = second.diagonal(dim1=2, dim2=3).sum((1, 2)) / n_train - mean.square().sum(1)
    return total.clamp(min=NO_VARIANCE)[:, None, None, None]


def _fit(values: Tensor, present: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Weights (tasks, columns), the intercept last; a step that went too far is halved."""
    penalty = rows.new_ones(rows.shape[3])
    penalty[-1] = 0
    weights = moved = rows.new_zeros(len(rows), rows.shape[3])
    least = rows.new_full((len(rows),), float("inf"))
    for _ in range(STEPS):
        margins = (values @ (rows @ moved[:, None, :, None]))[..., 0]
        losses = ((torch.nn.functional.softplus(margins) - labels * margins) * present).sum((1, 2))
        losses += (penalty * moved.square()).sum(1) / 2
        worse = losses > least * (1 + 1e-12)
        if worse.any():
            moved = torch.where(worse[:, None], (weights + moved) / 2, moved)
            continue
        weights, least, probability = moved, losses, torch.sigmoid(margins)
        residual = (probability - labels) * present
        gradient = ((residual[:, :, None] @ values) @ rows).sum(1)[:, 0] + penalty * weights
        if gradient.abs().max() <= TOLERANCE * labels[0].numel():
            break
        curvature = (probability * (1 - probability) * present)[..., None]
        hessian = (rows.mT @ ((curvature * values).mT @ values) @ rows).sum(1)
        hessian.diagonal(dim1=1, dim2=2).add_(penalty + 1e-9)
        moved = weights - torch.linalg.solve(hessian, gradient)
    return weights
