"""SAEs trained side by side."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from saehelpers.networks.scaling import standardisation
from saehelpers.runs.checking import checked
from saehelpers.runs.folders import config_hash
from saehelpers.runs.threads import one_thread
from saehelpers.runs.wanted import NOT_EMPTY
from saehelpers.saes import (
    SAE,
    WITHOUT_GROUP,
    ArchetypalSAE,
    PrincipalComponents,
    make_sae,
    stack,
    unstack,
)
from saehelpers.saes.activations import ACTIVATIONS
from saehelpers.saes.making import DICTIONARIES
from saehelpers.saes.sparse import TopK, fast_products, firing_counts
from saehelpers.symmetry.actions import check_orbits
from saehelpers.training.fitting import Settings, fit, history_rows
from saehelpers.training.loss import Loss, total_loss
from saehelpers.training.methods import SAERun
from saehelpers.training.objectives import OBJECTIVES, OrbitBatch
from saehelpers.training.revival import Revival
from saehelpers.training.sparsity import SparsityController

if TYPE_CHECKING:
    import pandas

EVALUATION_SAMPLES = 1024
KMEANS_SAMPLES = 10_000
FIXED_WHEN_SPARSE = ("reconstruction", "canonical")  # objectives that select no latents
COVARIANCE_ROWS = 2**16  # that are held in double precision at a time


@checked
def train_sae(
    config: SAERun,
    x: Tensor | Callable[[int], Tensor],
    validation: Tensor | None = None,
    **settings,
) -> tuple[SAE, "pandas.DataFrame"]:
    """`train_saes` for one: the SAE and its history.

    Args:
        x: orbit activations (n, |G|, d); or activations (n, d) that no group acts on, which are
            orbits of one element; or a function of the epoch that gives orbit activations.
        validation: the same, held out.
        settings: further arguments of `train_saes`.

    Raises:
        ValueError: x or validation has another shape, or does not fit the config.
    """
    held_out = None if validation is None else [_as_orbits("validation", validation)]
    source = _as_orbits("x", x) if isinstance(x, Tensor) else x
    (sae,), (history,) = train_saes([config], [source], held_out, **settings)
    return sae, history


def _as_orbits(name: str, x: Tensor) -> Tensor:
    if x.ndim not in (2, 3):
        raise ValueError(f"{name} must be (n, d) or (n, |G|, d), got {tuple(x.shape)}")
    return x if x.ndim == 3 else x[:, None]


@checked
@one_thread()
def train_saes(
    configs: Annotated[list[SAERun], NOT_EMPTY],
    activations: Annotated[list[Tensor | Callable[[int], Tensor]], NOT_EMPTY],
    validation: list[Tensor] | None = None,
    checkpoint: Path | str | None = None,
    progress: bool = True,
    after_epoch: Callable[[int, SAE], None] | None = None,
) -> tuple[list[SAE], list["pandas.DataFrame"]]:
    """Train SAEs side by side; their configs may differ in seeds and activations only.

    Computes with one thread, unless `saehelpers.runs.several_threads` allows more. On a GPU, an
    update is recorded as a CUDA graph and replayed where every step does the same: not with AuxK,
    `sparsity_warmup_steps`, `compiled`, attention heads, or anything that was added (an objective,
    say); on the sparse path with TopK and a plain objective alone.

    Args:
        configs: one for each SAE.
        activations: orbit activations (n, |G|, d), one tensor for all or one for each; the
            groups may differ, unless the objective reads whole orbits. Or functions of the
            epoch alone that give new ones for it: drawn (`saehelpers.datasets.synthetic.Stream`),
            or read from disk (`saehelpers.datasets.ShardStream`). Those of the first epoch
            decide mean and scale. Of any type: an SAE is trained in float32.
        checkpoint: see `fitting.fit`; to be removed once the SAEs are saved.
        validation: the same, held out; the history's metrics are measured on 1,024 samples
            of it (of the training activations where there is none).
        after_epoch: called with the number of the epoch and the SAEs as they are after it,
            stacked into one, whose parameters are (inst, ...): for snapshots.

    Returns:
        The SAEs, which read and return activations in their original units, and their
        histories: the loss and its terms over an epoch, with a target_l0 the weight of its
        sparsity term ("lambda_sparsity"); then, held out, fvu and
        explained_variance of the reconstruction that the objective asks for (in units of
        the training activations' variance), l0 and dead_latents.
    """
    config, sources = configs[0], activations
    activations = [source if isinstance(source, Tensor) else source(0) for source in sources]
    _check(configs, activations, validation)
    objective = OBJECTIVES[config.objective]
    read = slice(1) if objective.is_canonical else slice(None)  # of an orbit
    statistics = [standardisation(source[:, read], config.sae.n_heads) for source in activations]
    batches = _Batches(activations, statistics)
    del activations  # a stream may need the memory
    device = batches.rows.device

    saes = [make_sae(run.sae, run.seed) for run in configs]
    for i, sae in enumerate(saes):
        if isinstance(sae, ArchetypalSAE):
            sae.set_centres(batches.sample(i, KMEANS_SAMPLES, configs[i].seed), configs[i].seed)
        elif isinstance(sae, PrincipalComponents):
            sae.set_components(batches.covariance(i))
    model = stack(saes).to(device).train()
    for part in model.modules():  # the SAEs, or their heads
        if isinstance(part, SAE):
            part.standardises = False  # the batches are standardised
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.autocast)
    with autocast:
        model.align()
        as_graph = _is_of_fixed_shape(config, model)
    helpers = nn.ModuleDict()  # whose buffers a checkpoint has, too
    if config.auxk:
        helpers["revival"] = Revival(model, config.auxk, config.dead_after, config.lambda_auxk)
    if config.target_l0:
        helpers["controller"] = SparsityController(model, float(config.target_l0))

    held_out = batches if validation is None else _Batches(validation, statistics)
    evaluation_batch = held_out.fixed(EVALUATION_SAMPLES, len(configs))
    targets = evaluation_batch.order if objective.is_of_orbits else 1  # of a sample

    @torch.no_grad()
    def evaluate(epoch: int) -> dict[str, Tensor]:
        if after_epoch is not None:
            after_epoch(epoch, model)
        model.eval()
        terms, latents = objective(model, evaluation_batch)
        model.train()
        fvu = terms["reconstruction"] / (config.sae.d * targets)
        counts = firing_counts(latents)
        return {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "l0": counts.sum(-1) / evaluation_batch.starts.shape[-1],
            "dead_latents": (counts == 0).sum(-1),
        }

    if isinstance(model, PrincipalComponents):  # which are known in closed form
        return _finished(model, statistics, _as_it_is(evaluate, config))
    streams = any(not isinstance(source, Tensor) for source in sources)
    n_steps = math.ceil(batches.n_samples / config.batch_size)
    number = 0  # of the step
    loss = Loss.of(config)

    def step(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        nonlocal number
        number += 1
        warmed = min(1.0, number / max(1, config.sparsity_warmup_steps))
        now = replace(loss, lambda_sparsity=warmed * config.lambda_sparsity)
        with autocast:
            return total_loss(model, batches(index, uniform), now, **helpers)

    def begin_epoch(epoch: int) -> None:
        nonlocal number
        number = epoch * n_steps
        if not streams:
            return
        drawn = [source if isinstance(source, Tensor) else source(epoch) for source in sources]
        for source in drawn:
            check_orbits(source)
        batches.replace_rows(drawn, in_place=as_graph and device.type == "cuda")

    with fast_products(device.type) if config.sae.is_large else nullcontext():
        history = fit(
            nn.ModuleDict({"sae": model, **helpers}) if helpers else model,
            step,
            batches.n_samples,
            [run.draws for run in configs],
            Settings.of(config),
            before_update=model.project_gradient if config.sae.unit_decoder else None,
            after_update=model.constrain,
            evaluate=evaluate,
            begin_epoch=begin_epoch,
            checkpoint=checkpoint,
            of=" ".join(map(config_hash, configs)) if checkpoint is not None else "",
            description=config.name,
            progress=progress,
            as_graph=as_graph,
        )
    return _finished(model, statistics, history)


def _finished(
    model: SAE, statistics: list[tuple[Tensor, Tensor]], history: "pandas.DataFrame"
) -> tuple[list[SAE], list["pandas.DataFrame"]]:
    trained = unstack(model.eval())
    for i, sae in enumerate(trained):
        sae.set_standardisation(*statistics[i % len(statistics)])
    histories = history.groupby("instance")
    return trained, [part.drop(columns="instance") for _, part in histories]


def _as_it_is(evaluate: Callable[[int], dict[str, Tensor]], config: SAERun) -> "pandas.DataFrame":
    """The history of what is known in closed form: one row."""
    import pandas as pd

    row = evaluate(0)
    return pd.DataFrame(history_rows({"loss": config.sae.d * row["fvu"], **row}, 0, 0))


def _check(
    configs: list[SAERun], activations: list[Tensor], validation: list[Tensor] | None
) -> None:
    """Raise a ValueError unless these can be trained side by side."""
    config, objective = configs[0], OBJECTIVES[configs[0].objective]
    if len({run.shared_settings for run in configs}) > 1:
        raise ValueError(
            "configs of SAEs trained side by side may differ in seeds and activations only"
        )
    for source in activations:
        check_orbits(source)
        if source.shape[-1] != config.sae.d:
            raise ValueError(f"sae.d is {config.sae.d}, the activations are {tuple(source.shape)}")
        has_blocks = objective.is_of_orbits and config.sae.dictionary not in WITHOUT_GROUP
        if has_blocks and source.shape[1] != config.sae.group_order:
            raise ValueError(
                f"sae.group_order says orbits of {config.sae.group_order} elements, the "
                f"activations are {tuple(source.shape)}"
            )
    if len(activations) not in (1, len(configs)) or len({len(a) for a in activations}) > 1:
        raise ValueError("activations must be one tensor, or one of equal length for each config")
    if validation is not None and len(validation) != len(activations):
        raise ValueError(f"{len(activations)} activations need as many validation tensors")
    for source, held_out in zip(activations, validation or activations, strict=True):
        if held_out.shape[1:] != source.shape[1:]:
            raise ValueError(
                f"validation must be of orbits and widths as the activations are, "
                f"{tuple(source.shape)}, got {tuple(held_out.shape)}"
            )


def _is_of_fixed_shape(config: SAERun, model: SAE) -> bool:
    """Whether every step does the same with other numbers, so that it can be recorded.

    Not where it depends on its number, on what is dead, or on how many latents there are of a
    kind; nor, as nobody can know, with an objective or a part of an SAE that was added.
    """
    sae = config.sae
    added = (
        config.objective in OBJECTIVES.added
        or sae.activation in ACTIVATIONS.added
        or sae.dictionary in DICTIONARIES.added
    )
    counted = config.auxk or config.sparsity_warmup_steps or config.compiled
    chosen = model.is_sparse and not (
        isinstance(model.activation, TopK) and config.objective in FIXED_WHEN_SPARSE
    )
    return not (added or counted or chosen or sae.n_heads > 1)


class _Batches:
    """Orbit activations of several instances, as one table of rows, standardised when read."""

    def __init__(self, activations: list[Tensor], statistics: list[tuple[Tensor, Tensor]]):
        means, scales = zip(*statistics, strict=True)
        self.mean = torch.stack(means).float()  # (statistics, d)
        self.scale = torch.stack([scale.view(-1) for scale in scales]).float()  # (..., 1 or d)
        self.shapes = [tuple(source.shape) for source in activations]
        self.replaced: Tensor | None = None
        self.replace_rows(activations)
        device = self.rows.device
        orders = [source.shape[1] for source in activations]
        sizes = [0] + [
            len(source) * order for source, order in zip(activations, orders, strict=True)
        ]
        self.orders = torch.tensor(orders, device=device)[:, None]  # (1 or inst, 1)
        self.offsets = torch.tensor(sizes, device=device).cumsum(0)[:-1, None]
        self.n_samples = len(activations[0])
        self.order = orders[0] if len(set(orders)) == 1 else None

    def replace_rows(self, activations: list[Tensor], in_place: bool = False) -> None:
        """Take new activations, of the same shapes; in place, from the second time on, for a graph
        that reads them where they are."""
        shapes = [tuple(source.shape) for source in activations]
        if shapes != self.shapes:
            raise ValueError(f"activations of shapes {self.shapes} became {shapes}")
        rows = [source.flatten(0, 1) for source in activations]
        if in_place:
            self.replaced = torch.cat(rows, out=self.replaced)
            self.rows = self.replaced
        else:
            self.rows = rows[0] if len(rows) == 1 else torch.cat(rows)  # may exceed the memory

    def __call__(self, index: Tensor, uniform: Tensor) -> OrbitBatch:
        """The samples `index` (inst, batch), each under the element of its draw in [0, 1)."""
        starts = self.offsets + index * self.orders
        elements = (uniform * self.orders).long()
        return OrbitBatch(self.rows, starts, elements, self.order, self.mean, self.scale)

    def fixed(self, n_samples: int, n_instances: int) -> OrbitBatch:
        """The first samples, the group elements in turn."""
        index = torch.arange(min(n_samples, self.n_samples), device=self.rows.device)
        index = index.expand(n_instances, -1)
        return self(index, (index % self.orders + 0.5) / self.orders)

    def covariance(self, instance: int) -> Tensor:
        """Of all rows of one instance, (d, d), in double precision."""
        instance %= len(self.orders)
        first, size = int(self.offsets[instance]), self.n_samples * int(self.orders[instance])
        total, products = 0.0, 0.0
        for rows in self.rows[first : first + size].split(COVARIANCE_ROWS):
            x = ((rows.float() - self.mean[instance]) / self.scale[instance]).double()
            total, products = total + x.sum(0), products + x.T @ x
        return products / size - torch.outer(total, total) / size**2

    def sample(self, instance: int, n_samples: int, seed: int) -> Tensor:
        """Rows of one instance, drawn without replacement."""
        instance %= len(self.orders)
        size = self.n_samples * int(self.orders[instance])
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(size, generator=generator)[:n_samples].to(self.rows.device)
        rows = self.rows[self.offsets[instance] + index].float()
        return (rows - self.mean[instance]) / self.scale[instance]
