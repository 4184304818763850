"""One training loop, resumable, and SAEs trained by it side by side."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.activations import standardisation
from saehelpers.methods import SAERun
from saehelpers.objectives import OBJECTIVES, OrbitBatch, total_loss
from saehelpers.progress import tqdm
from saehelpers.saes import SAE, ArchetypalSAE, make_sae, stack, unstack
from saehelpers.symmetry.actions import check_orbits

CHECKPOINT_SECONDS = 20.0
EVALUATION_SAMPLES = 1024
KMEANS_SAMPLES = 10_000


@dataclass(frozen=True)
class Settings:
    """The settings of `fit` itself: the fields of the same names of a run's config."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0


def fit(
    model: nn.Module,
    step: Callable[[Tensor, Tensor], dict[str, Tensor]],
    n_samples: int,
    seeds: list[int],
    settings: Settings,
    before_update: Callable[[], None] | None = None,
    after_update: Callable[[], None] | None = None,
    begin_epoch: Callable[[int], None] | None = None,
    evaluate: Callable[[int], dict[str, Tensor]] | None = None,
    checkpoint: Path | None = None,
    description: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """The training loop: Adam over shuffled samples, with one stream of draws per instance.

    Args:
        model: its parameters are trained.
        step: takes sample indices (inst, batch) and uniform draws in [0, 1) of the same
            shape, and returns the terms of the loss, each (inst); "loss" is minimised.
        seeds: one for each instance. All draws of an epoch come from (seed, epoch), so that
            training resumed at an epoch sees what it would have seen without the stop.
        before_update, after_update: called before and after the optimiser moves the weights.
        begin_epoch: called with the number of an epoch before it.
        evaluate: called with it afterwards, for further columns of the history.
        checkpoint: a file that training is resumed from where it exists; written at the end
            of an epoch when 20 s have passed since the last one, removed at the end.

    Returns:
        The history: one row for each epoch and instance.

    Raises:
        FloatingPointError: the loss became NaN or infinite; names the step. The last
            checkpoint stays.
    """
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, settings.learning_rate, fused=True)
    n_steps = math.ceil(n_samples / settings.batch_size)
    first, rows = _resume(checkpoint, model, optimiser)
    saved = time.monotonic()
    epochs = range(first, settings.epochs)
    bar = tqdm(
        epochs, description, initial=first, total=settings.epochs, disable=not progress, leave=False
    )
    for epoch in bar:
        if begin_epoch is not None:
            begin_epoch(epoch)
        order, draws = _draws(seeds, epoch, n_samples, parameters[0].device)
        batches = zip(
            order.split(settings.batch_size, 1), draws.split(settings.batch_size, 1), strict=True
        )
        totals: dict[str, Tensor] = {}
        for number, (index, uniform) in enumerate(batches, start=epoch * n_steps):
            terms = step(index, uniform)
            loss = terms["loss"].sum()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of {description or 'training'} is {loss.item()} at step {number} "
                    f"(epoch {epoch}); the last checkpoint is kept"
                )
            optimiser.zero_grad()
            loss.backward()
            if before_update is not None:
                before_update()
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(settings, number, settings.epochs * n_steps)
            optimiser.step()
            if after_update is not None:
                after_update()
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.detach()
        row = {name: total / n_steps for name, total in totals.items()}
        row |= evaluate(epoch) if evaluate is not None else {}
        rows += _history_rows(row, epoch, (epoch + 1) * n_steps)
        bar.set_postfix({name: f"{value.float().mean().item():.3g}" for name, value in row.items()})
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save_checkpoint(checkpoint, model, optimiser, epoch + 1, rows)
            saved = time.monotonic()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return pd.DataFrame(rows)


def _draws(seeds: list[int], epoch: int, n_samples: int, device) -> tuple[Tensor, Tensor]:
    """Sample order and uniform draws of one epoch, (inst, n_samples) each."""
    orders, draws = [], []
    for seed in seeds:
        # the generator reads 32 bits; the factor keeps the epochs of two seeds apart
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)
        orders.append(torch.randperm(n_samples, generator=generator))
        draws.append(torch.rand(n_samples, generator=generator))
    return torch.stack(orders).to(device), torch.stack(draws).to(device)


def _learning_rate(settings: Settings, step: int, n_steps: int) -> float:
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = 1 - (step - warmup) / max(1, n_steps - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * left
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate


def _history_rows(row: dict[str, Tensor], epoch: int, step: int) -> list[dict]:
    columns = {name: value.reshape(-1).tolist() for name, value in row.items()}
    return [
        {"epoch": epoch, "step": step, "instance": i} | {k: v[i] for k, v in columns.items()}
        for i in range(len(columns["loss"]))
    ]


def _save_checkpoint(path: Path, model, optimiser, epoch: int, rows: list[dict]) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"epoch": str(epoch), "history": json.dumps(rows)}
    runs.write_atomically(path, save(tensors, metadata=metadata))


def _resume(path: Path | None, model, optimiser) -> tuple[int, list[dict]]:
    """(first epoch, history so far), after loading the checkpoint if there is one."""
    if path is None or not path.exists():
        return 0, []
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            epoch, rows = int(metadata["epoch"]), json.loads(metadata["history"])
            for name in file.keys():  # noqa: SIM118 (no mapping)
                kind, rest = name.split(".", 1)
                if kind == "model":
                    weights[rest] = file.get_tensor(name)
                else:
                    index, key = rest.split(".")
                    moments.setdefault(int(index), {})[key] = file.get_tensor(name)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the checkpoint {path} is damaged: delete it ({error!r})") from error
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return epoch, rows


def train_saes(
    configs: list[SAERun],
    activations: list[Tensor | Callable[[int], Tensor]],
    validation: list[Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    after_epoch: Callable[[int, SAE], None] | None = None,
) -> tuple[list[SAE], list[pd.DataFrame]]:
    """Train SAEs side by side; their configs may differ in seed and activations only.

    Args:
        configs: one for each SAE.
        activations: orbit activations (n, |G|, d), one tensor for all or one for each; the
            groups may differ, except for crosscoders. Or functions of the epoch alone that
            draw new ones for it (`saehelpers.datasets.synthetic.Stream`).
        validation: the same, held out; the history's metrics are measured on 1,024 samples
            of it (of the training activations where there is none).
        after_epoch: called with the number of the epoch and the SAEs as they are after it,
            stacked into one, whose parameters are (inst, ...): for snapshots.

    Returns:
        The SAEs, which read and return activations in their original units, and their
        histories: the loss and its terms over an epoch, then, held out, fvu and
        explained_variance of the reconstruction that the objective asks for (in units of
        the training activations' variance), l0 and dead_latents.
    """
    config, sources = configs[0], activations
    activations = [source if isinstance(source, Tensor) else source(0) for source in sources]
    for other in configs[1:]:
        if replace(other, seed=config.seed, activations=config.activations) != config:
            raise ValueError("SAEs trained side by side may differ in seed and activations only")
    for source in activations:
        check_orbits(source)
        if source.shape[-1] != config.sae.d:
            raise ValueError(f"sae.d is {config.sae.d}, the activations are {tuple(source.shape)}")
        if config.objective == "crosscoder" and source.shape[1] != config.sae.group_order:
            raise ValueError(
                f"the crosscoder is made for orbits of {config.sae.group_order} elements, the "
                f"activations are {tuple(source.shape)}"
            )
    if len(activations) not in (1, len(configs)) or len({len(a) for a in activations}) > 1:
        raise ValueError("activations must be one tensor, or one of equal length for each config")
    if validation is not None and len(validation) != len(activations):
        raise ValueError(f"{len(activations)} activations need as many validation tensors")
    statistics = [standardisation(source) for source in activations]
    batches = _Batches(activations, statistics)

    saes = [make_sae(run.sae, run.seed) for run in configs]
    for i, sae in enumerate(saes):
        if isinstance(sae, ArchetypalSAE):
            sae.set_centres(batches.sample(i, KMEANS_SAMPLES, configs[i].seed), configs[i].seed)
    model = stack(saes).to(activations[0].device).train()

    held_out = batches if validation is None else _Batches(validation, statistics)
    evaluation_batch = held_out.fixed(EVALUATION_SAMPLES, len(configs))
    blocks = config.sae.group_order if config.objective == "crosscoder" else 1

    @torch.no_grad()
    def evaluate(epoch: int) -> dict[str, Tensor]:
        if after_epoch is not None:
            after_epoch(epoch, model)
        model.eval()
        terms, latents = OBJECTIVES[config.objective](model, evaluation_batch)
        model.train()
        fvu = terms["reconstruction"] / (config.sae.d * blocks)
        active = latents > 0
        return {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "l0": active.sum(-1).float().mean(-1),
            "dead_latents": (~active.any(-2)).sum(-1),
        }

    def step(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        return total_loss(
            model,
            batches(index, uniform),
            config.objective,
            config.lambda_sym,
            config.lambda_mse,
            config.sparsity,
            config.lambda_sparsity,
            config.p,
        )

    def begin_epoch(epoch: int) -> None:
        drawn = [source if isinstance(source, Tensor) else source(epoch) for source in sources]
        for source in drawn:
            check_orbits(source)
        batches.fill(drawn)

    streams = any(not isinstance(source, Tensor) for source in sources)
    unit = config.sae.unit_decoder
    history = fit(
        model,
        step,
        len(activations[0]),
        [run.seed for run in configs],
        Settings(
            config.epochs,
            config.batch_size,
            config.learning_rate,
            config.schedule,
            config.warmup_steps,
        ),
        before_update=model.project_gradient if unit else None,
        after_update=model.normalise_dictionary if unit else None,
        evaluate=evaluate,
        begin_epoch=begin_epoch if streams else None,
        checkpoint=checkpoint,
        description=config.name,
        progress=progress,
    )
    trained = unstack(model.eval())
    for i, sae in enumerate(trained):
        sae.set_standardisation(*statistics[i % len(statistics)])
    histories = history.groupby("instance")
    return trained, [part.drop(columns="instance") for _, part in histories]


class _Batches:
    """Standardised orbit activations of several instances, as one table of rows."""

    def __init__(self, activations: list[Tensor], statistics: list[tuple[Tensor, Tensor]]):
        self.statistics = statistics
        self.shapes = [tuple(source.shape) for source in activations]
        self.fill(activations)
        device = self.rows.device
        orders = [source.shape[1] for source in activations]
        sizes = [0] + [
            len(source) * order for source, order in zip(activations, orders, strict=True)
        ]
        self.orders = torch.tensor(orders, device=device)[:, None]  # (1 or inst, 1)
        self.offsets = torch.tensor(sizes, device=device).cumsum(0)[:-1, None]
        self.n_samples, self.order = len(activations[0]), orders[0]

    def fill(self, activations: list[Tensor]) -> None:
        """Take new activations, of the same shapes."""
        shapes = [tuple(source.shape) for source in activations]
        if shapes != self.shapes:
            raise ValueError(f"activations of shapes {self.shapes} became {shapes}")
        self.rows = torch.cat(
            [
                ((source - mean) / scale).flatten(0, 1)
                for source, (mean, scale) in zip(activations, self.statistics, strict=True)
            ]
        )

    def __call__(self, index: Tensor, uniform: Tensor) -> OrbitBatch:
        """The samples `index` (inst, batch), each under the element of its draw in [0, 1)."""
        starts = self.offsets + index * self.orders
        return OrbitBatch(self.rows, starts, (uniform * self.orders).long(), self.order)

    def fixed(self, n_samples: int, n_instances: int) -> OrbitBatch:
        """The first samples, the group elements in turn."""
        index = torch.arange(min(n_samples, self.n_samples), device=self.rows.device)
        index = index.expand(n_instances, -1)
        return self(index, (index % self.orders + 0.5) / self.orders)

    def sample(self, instance: int, n_samples: int, seed: int) -> Tensor:
        """Rows of one instance, drawn without replacement."""
        instance %= len(self.orders)
        size = self.n_samples * int(self.orders[instance])
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(size, generator=generator)[:n_samples].to(self.rows.device)
        return self.rows[self.offsets[instance] + index]
