"""Probes: how much of a task can be read from a few latents?

A probe keeps the m latents that differ most between the classes, decodes those alone
(truncated recons), and classifies what comes out. Which decoder a sample is given, and what
else the probe is told, makes the difference between a fair comparison and a gift: each is a
`ProbeInput` of its own.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.evaluation.metrics import f1, largest_differences
from saehelpers.runs.extras import extra
from saehelpers.runs.sweeps import sweep
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder
from saehelpers.symmetry import LinearAction

if TYPE_CHECKING:
    import xgboost

PROBES = ("xgboost", "logistic")
CHUNK = 180  # tasks that one process takes at a time


@dataclass(frozen=True)
class ProbeInput:
    """Latents, and how features for a probe are made of those that are kept.

    features: "recons", sum of kept latents through decoder `blocks[blocks_used]`; "latents",
    the kept latents themselves; "activations", the base model's, of which all are kept.
    element: what is known of the group element: "none", "true", "inferred", or the name of
    a control.

    latents: (n, copies * n_latents); copies > 1 hold the latents of the sample's orbit.
    blocks, biases: decoders (B, copies * n_latents, d) and (B, d). blocks_used: (n,).
    extra: further columns for every sample, (n, k).
    """

    features: str
    element: str
    latents: Float[Tensor, "n n_latents"]
    blocks: Float[Tensor, "n_blocks n_latents d"] | None = None
    biases: Float[Tensor, "n_blocks d"] | None = None
    blocks_used: Int[Tensor, " n"] | None = None
    extra: Float[Tensor, "n k"] | None = None
    copies: int = 1

    @property
    def n_latents(self) -> int:
        return self.latents.shape[1] // self.copies

    def matrix(self, keep: Int[Tensor, " m"], reduced: bool = False) -> np.ndarray:
        """Features (n, d) made of the latents `keep` alone.

        `reduced`: in an orthonormal basis of the space that the kept decoder rows span, up
        to a shift. Distances are the same and the columns far fewer, which is all that a
        linear probe with an L2 penalty depends on.
        """
        offsets = self.n_latents * torch.arange(self.copies)
        keep = (offsets[:, None] + keep).flatten()
        made = self.latents[:, keep]
        if self.blocks is not None:
            blocks, biases = self.blocks[:, keep], self.biases
            if reduced:
                biases = biases - biases[0]
                basis = torch.linalg.qr(torch.cat([blocks.flatten(0, 1), biases]).T).Q
                blocks, biases = blocks @ basis, biases @ basis
            kept, made = made, torch.empty(len(made), blocks.shape[-1])
            for block in range(len(blocks)):
                rows = self.blocks_used == block
                made[rows] = kept[rows] @ blocks[block] + biases[block]
        if self.extra is not None:
            made = torch.cat([made, self.extra], dim=1)
        return made.numpy()

    @property
    def width(self) -> int | None:
        """Number of dimensions that the features live in; None: as many as are kept."""
        return None if self.blocks is None else self.blocks.shape[-1]


@torch.no_grad()
def probe_inputs(
    sae: SAE,
    activations: Float[Tensor, "n order d"],
    elements: Int[Tensor, " n"],
    action: LinearAction | None = None,
    search: bool = False,
) -> dict[str, ProbeInput]:
    """What probes are given of an SAE, by name, for images under the given elements.

    Without an `action`: "none", the SAE's recons. With one, or for a crosscoder: "true",
    mapped by the true element, and "inferred", by the one that the SAE infers. Always
    "latents". With `search`, the SAE reads what the action has turned back (see
    `EquivariantSAE`): by the true element for "true", by the inferred one for the others. A
    crosscoder's "true" and "latents" come from the canonical activation, which no one has who
    is given only the image: only its "inferred" is a fair method.
    """
    x = activations[torch.arange(len(activations)), elements]
    if isinstance(sae, GroupCrosscoder):
        if action is None:
            raise ValueError("a crosscoder infers elements by an action: pass one")
        latents = true_latents = sae.encode(activations[:, 0])
        inferred_latents, inferred = sae.encode_inferred(x, action)
    elif action is not None:
        sae = EquivariantSAE(sae, action, search)
        latents, inferred = sae.encode_inferred(x)
        true_latents, inferred_latents = sae.encode_given(x, elements), latents
    else:
        latents = sae.encode(x)
    blocks, biases = sae.decoder_blocks()
    decoder = {"blocks": blocks, "biases": biases}
    inputs = {"latents": ProbeInput("latents", "none", latents)}
    if len(blocks) == 1:
        first = torch.zeros(len(x), dtype=torch.long)
        inputs["none"] = ProbeInput("recons", "none", latents, **decoder, blocks_used=first)
    else:
        inputs["true"] = ProbeInput("recons", "true", true_latents, **decoder, blocks_used=elements)
        inputs["inferred"] = ProbeInput(
            "recons", "inferred", inferred_latents, **decoder, blocks_used=inferred
        )
    return inputs


def with_element(probe_input: ProbeInput, elements: Int[Tensor, " n"], order: int) -> ProbeInput:
    """Control: the probe is told the true element, one-hot."""
    one_hot = torch.nn.functional.one_hot(elements, order).float()
    return replace(probe_input, element="one_hot", extra=one_hot)


@torch.no_grad()
def orbit_averaged(
    sae: SAE,
    activations: Float[Tensor, "n order d"],
    elements: Int[Tensor, " n"],
    action: LinearAction,
) -> ProbeInput:
    """Control: recons of a vanilla SAE averaged over the orbit at test time.

    mean over h of rho(h)^-1 D(E(psi(h g x))): every image is turned by every h, encoded, and
    the recons are turned back. No label is used, only |G| times the computation.
    """
    group = action.group
    rows = torch.arange(len(activations))
    composed = torch.tensor(
        [[group.compose(h, g) for g in range(group.order)] for h in range(group.order)]
    )
    latents = [sae.encode(activations[rows, composed[h][elements]]) for h in range(group.order)]
    blocks, biases = action.decoder_blocks(sae.decoder_blocks()[0][0], sae.decoder_blocks()[1][0])
    inverses = [group.inverse(h) for h in range(group.order)]
    return ProbeInput(
        "recons",
        "orbit_average",
        torch.cat(latents, dim=1),
        torch.cat([blocks[h] for h in inverses])[None] / group.order,
        biases[inverses].mean(0, keepdim=True),
        torch.zeros(len(rows), dtype=torch.long),
        copies=group.order,
    )


def probe_tasks(
    probe_input: ProbeInput,
    labels: Bool[Tensor, "n tasks"],
    n_train: int,
    probe: str,
    truncation: int | None = None,
    n_bins: int = 16,
) -> list[float]:
    """F1 on held-out samples of one probe per task.

    Args:
        labels: of all samples; the first `n_train` of them train.
        truncation: m, how many latents are kept: those with the largest absolute difference
            in mean between the classes, on the training samples alone. None keeps all.
        n_bins: histogram bins of XGBoost; see `benchmarks/probes.py` for what 16 instead of
            the default 256 gain and cost.

    Returns:
        One F1 for each task; NaN where a class is missing from the training samples, or the
        positive class from the held-out ones: such a task cannot be evaluated.
    """
    if not 1 <= n_train < len(labels):
        raise ValueError(f"n_train must be between 1 and {len(labels) - 1}, got {n_train}")
    if truncation is None:
        keep = torch.arange(probe_input.n_latents).expand(labels.shape[1], -1)
    else:
        own = probe_input.latents[:n_train, : probe_input.n_latents]
        keep = largest_differences(own, labels[:n_train], truncation)
    scores = []
    for task in range(labels.shape[1]):
        y = labels[:, task].numpy()
        train, test = y[:n_train], y[n_train:]
        if train.all() or not train.any() or not test.any():
            scores.append(float("nan"))
            continue
        x = probe_input.matrix(keep[task], reduced=probe == "logistic")
        predicted = fit_predict(probe, x[:n_train], train, x[n_train:], n_bins, probe_input.width)
        scores.append(f1(test, predicted))
    return scores


def fit_predict(
    probe: str,
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    n_bins: int = 16,
    width: int | None = None,
) -> np.ndarray:
    """Predicted labels of a probe for `x_test`.

    "xgboost": 100 trees of depth 6, learning rate 0.3, L2 weight 1, on one thread, over
    features cut into `n_bins` (up to 255) at the quantiles of the training samples.
    "logistic": L2 weight 1, features scaled by one common factor to a total variance of
    `width` (the number of columns, unless the features are in a reduced basis).
    """
    if probe == "xgboost":
        with extra("probes"):
            import xgboost

        settings = {
            "max_depth": 6,
            "eta": 0.3,
            "lambda": 1.0,
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_bin": n_bins,
            "nthread": 1,
        }
        edges = np.sort(x_train, axis=0)[np.arange(1, n_bins) * len(x_train) // n_bins]
        # bins that are known need no sketch of quantiles, which would cost as much as the trees
        data = xgboost.QuantileDMatrix(
            _binned(x_train, edges),
            y_train,
            ref=_every_bin(x_train.shape[1], n_bins),
            max_bin=n_bins,
            nthread=1,
        )
        booster = xgboost.train(settings, data, num_boost_round=100)
        return booster.inplace_predict(_binned(x_test, edges)) > 0.5
    if probe == "logistic":
        with extra("probes"):
            from sklearn.linear_model import LogisticRegression

        # double precision: Newton's steps need a Hessian that is positive definite
        x_train, x_test = x_train.astype(np.float64), x_test.astype(np.float64)
        mean = x_train.mean(axis=0)
        total = x_train.var(axis=0).sum() / (width or x_train.shape[1])
        scale = np.sqrt(max(total, 1e-30))
        model = LogisticRegression(solver="newton-cholesky", max_iter=3000).fit(
            (x_train - mean) / scale, y_train
        )
        return model.predict((x_test - mean) / scale)
    raise ValueError(f"unknown probe {probe!r}; known are {', '.join(PROBES)}")


def _binned(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of its feature's bin edges each value reaches."""
    bins = np.zeros(x.shape, dtype=np.uint8)
    for edge in edges:
        bins += x >= edge
    return bins


@functools.cache
def _every_bin(n_features: int, n_bins: int) -> "xgboost.QuantileDMatrix":
    """Data in which every bin of every feature occurs: its cuts are those of binned data."""
    import xgboost

    values = np.repeat(np.arange(n_bins, dtype=np.uint8)[:, None], n_features, axis=1)
    return xgboost.QuantileDMatrix(values, np.zeros(n_bins), max_bin=n_bins, nthread=1)


def probe_sweep(
    jobs: list[tuple[dict, ProbeInput, list[int]]],
    labels: Bool[Tensor, "n tasks"],
    n_train: int,
    executor=None,
) -> Iterator[tuple[dict, list[int], list[float]]]:
    """Probe many inputs in parallel, yielding (job, tasks, scores) as they are done.

    A job is (description, input, tasks): the description has "probe" and "truncation", the
    tasks are columns of `labels`. The progress bar counts chunks of tasks.
    """
    chunks = [
        (job, probe_input, tasks[i : i + CHUNK], labels[:, tasks[i : i + CHUNK]], n_train)
        for job, probe_input, tasks in jobs
        for i in range(0, len(tasks), CHUNK)
    ]
    yield from sweep(_probe_chunk, chunks, f"probes, by {CHUNK} tasks", executor)


def _probe_chunk(job, probe_input, tasks, labels, n_train):
    scores = probe_tasks(probe_input, labels, n_train, job["probe"], job["truncation"])
    return job, tasks, scores
