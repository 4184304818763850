"""One training loop for every model, resumable."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from saehelpers.runs import distributed
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.progress import tqdm
from saehelpers.runs.threads import one_thread
from saehelpers.runs.wanted import NOT_EMPTY, Count, Positive, Rate, Seed, one_of
from saehelpers.training.checkpoints import resume, save_checkpoint
from saehelpers.training.graphs import Replayed

if TYPE_CHECKING:
    import pandas

CHECKPOINT_SECONDS = 20.0
SCHEDULES = ("constant", "linear", "cosine")
Schedule = Annotated[str, one_of(SCHEDULES)]


@checked_config
@dataclass(frozen=True)
class Settings:
    """The settings of `fit` itself: the fields of the same names of a run's config.

    accumulate: parts that a batch is computed in, one after another, for batches that do not
    fit into memory at once; clip_norm: largest norm of the gradient.
    """

    epochs: Positive
    batch_size: Positive
    learning_rate: Rate
    schedule: Schedule = "constant"
    warmup_steps: Count = 0
    accumulate: Positive = 1
    clip_norm: Rate | None = None

    @classmethod
    def of(cls, config: Any, **others: Any) -> "Settings":
        """Those that a run's config has, and others that it leaves to its kind of model."""
        named = [field.name for field in fields(cls) if hasattr(config, field.name)]
        return cls(**{name: getattr(config, name) for name in named}, **others)


@checked
@one_thread()
def fit(
    model: nn.Module,
    step: Callable[[Tensor, Tensor], dict[str, Tensor]],
    n_samples: Positive,
    seeds: Annotated[list[Seed], NOT_EMPTY],
    settings: Settings,
    before_update: Callable[[], None] | None = None,
    after_update: Callable[[], None] | None = None,
    begin_epoch: Callable[[int], None] | None = None,
    evaluate: Callable[[int], dict[str, Tensor]] | None = None,
    checkpoint: Path | str | None = None,
    of: str = "",
    description: str = "",
    progress: bool = True,
    log: Callable[[dict], object] | None = None,
    as_graph: bool = False,
) -> "pandas.DataFrame":
    """The training loop: Adam over shuffled samples, with one stream of draws per instance.

    Under torchrun, each process computes its part of every batch (`saehelpers.runs.distributed`).
    A process computes with one thread, so that the same weights come out on any number of cores.

    Args:
        model: its parameters are trained. A ModuleList is of models that are trained side by
            side: the gradient of each is clipped by itself.
        step: takes sample indices (inst, batch) and uniform draws in [0, 1) of the same
            shape, and returns the terms of the loss, each (inst); "loss" is minimised.
        seeds: one for each instance. All draws of an epoch come from (seed, epoch), so that
            training resumed at an epoch sees what it would have seen without the stop.
        before_update, after_update: called before and after the optimiser moves the weights.
        begin_epoch: called with the number of an epoch before it.
        evaluate: called with it afterwards, for further columns of the history.
        checkpoint: a file that training is resumed from where it exists; written at the end
            of an epoch when 20 s have passed since the last one. It stays, for the caller to remove
            once what was trained is saved.
        of: tells what is trained; a checkpoint of anything else is refused.
        log: called with every row of the history when it is made (`wandb.log`, say).
        as_graph: on a GPU, an update is recorded as a CUDA graph and replayed, several times as
            fast for a small model. For a step that copies no value to the CPU and reads what
            changes in its arguments alone; not under torchrun.

    Returns:
        The history: one row for each epoch and instance.

    Raises:
        FloatingPointError: the loss became NaN or infinite; names the step. On a GPU it is looked
            at after an epoch. The last checkpoint stays.
        ValueError: a checkpoint is damaged, of another training, or not the same for all processes.
    """
    parameters = list(model.parameters())
    parts = model if isinstance(model, nn.ModuleList) else [model]
    upright = [_upright(parameter) for parameter in parameters]
    device = parameters[0].device
    on_cpu = device.type == "cpu"
    as_graph = as_graph and device.type == "cuda" and not distributed.is_active()
    rate: Any = settings.learning_rate  # in a graph, a number would never change
    rate = torch.tensor(rate, device=device) if as_graph else rate
    optimiser = torch.optim.Adam(upright, rate, fused=True, capturable=as_graph)
    n_steps = math.ceil(n_samples / settings.batch_size)
    turned = [moved is not own for moved, own in zip(upright, parameters, strict=True)]
    first, rows = resume(checkpoint, of, model, optimiser, turned)
    distributed.check_same("samples and first epoch", [n_samples, first])
    step = distributed.data_parallel(model, step)

    def update(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        terms = _gradient(step, index, uniform, settings.accumulate)
        if on_cpu:
            _check_finite([terms["loss"].sum()], number, epoch, description)
        if before_update is not None:
            before_update()
        if settings.clip_norm is not None:
            for part in parts:
                nn.utils.clip_grad_norm_(part.parameters(), settings.clip_norm)
        for moved, parameter in zip(upright, parameters, strict=True):
            if moved is not parameter:
                moved.grad = parameter.grad.mT
        optimiser.step()
        if after_update is not None:
            after_update()
        return terms

    def state() -> list[Tensor]:
        moments = [value for own in optimiser.state.values() for value in own.values()]
        return [*model.parameters(), *model.buffers(), *moments]

    update = Replayed(update, state) if as_graph else update
    progress = progress and distributed.is_first()
    saved, keeps = time.monotonic(), checkpoint is not None and distributed.is_first()
    epochs = range(first, settings.epochs)
    bar = tqdm(
        epochs, description, initial=first, total=settings.epochs, disable=not progress, leave=False
    )
    for epoch in bar:
        if begin_epoch is not None:
            begin_epoch(epoch)
        order, draws = _draws(seeds, epoch, n_samples, device)
        batches = zip(
            order.split(settings.batch_size, 1), draws.split(settings.batch_size, 1), strict=True
        )
        totals: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        for number, (index, uniform) in enumerate(batches, start=epoch * n_steps):
            _set_learning_rate(
                optimiser, _learning_rate(settings, number, settings.epochs * n_steps)
            )
            terms = update(index, uniform)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value
            if not on_cpu:  # to copy a value would wait for it
                losses.append(terms["loss"].sum())
        _check_finite(losses, epoch * n_steps, epoch, description)
        distributed.share_buffers(model)
        row = {name: total / n_steps for name, total in totals.items()}
        row |= evaluate(epoch) if evaluate is not None else {}
        new = history_rows(row, epoch, (epoch + 1) * n_steps)
        rows += new
        for entry in new if log is not None and distributed.is_first() else []:
            log(entry)
        shown = {name: f"{value.float().mean().item():.3g}" for name, value in row.items()}
        bar.set_postfix(shown, refresh=False)  # in the bar's next line, not in one of its own
        if keeps and time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, of, model, optimiser, turned, epoch + 1, rows)
            saved = time.monotonic()
    import pandas as pd

    return pd.DataFrame(rows)


def _check_finite(losses: list[Tensor], first: int, epoch: int, description: str) -> None:
    """Raise a FloatingPointError that names the first step whose loss is not."""
    for number, loss in enumerate(torch.stack(losses).tolist() if losses else [], start=first):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of {description or 'training'} is {loss} at step {number} "
                f"(epoch {epoch}); the last checkpoint is kept"
            )


def _upright(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter as it lies in memory: one that is a transposed matrix the other way round.

    A fused optimiser copies what it does not find contiguous.
    """
    return parameter if parameter.is_contiguous() else nn.Parameter(parameter.data.mT)


def _gradient(step: Callable, index: Tensor, uniform: Tensor, parts: int) -> dict[str, Tensor]:
    """Add up the gradient of a batch part by part, and return the terms of its loss."""
    totals: dict[str, Tensor] = {}
    (index, uniform), weight = distributed.own_part(index, uniform)
    pieces = list(zip(index.chunk(parts, 1), uniform.chunk(parts, 1), strict=True))
    for number, (some, draws) in enumerate(pieces, start=1):
        share = weight * some.shape[1] / index.shape[1]
        with nullcontext() if number == len(pieces) else distributed.not_yet(step):
            terms = step(some, draws)
            (share * terms["loss"].sum()).backward()
        for name, value in terms.items():
            totals[name] = totals.get(name, 0.0) + share * value.detach()
    return distributed.average(totals)


def _draws(seeds: list[int], epoch: int, n_samples: int, device) -> tuple[Tensor, Tensor]:
    """Sample order and uniform draws of one epoch, (inst, n_samples) each."""
    orders, draws = [], []
    for seed in seeds:
        # the generator reads 32 bits; the factor keeps the epochs of two seeds apart
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)
        orders.append(torch.randperm(n_samples, generator=generator))
        draws.append(torch.rand(n_samples, generator=generator))
    return torch.stack(orders).to(device), torch.stack(draws).to(device)


def _set_learning_rate(optimiser: torch.optim.Adam, rate: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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


def history_rows(row: dict[str, Tensor], epoch: int, step: int) -> list[dict]:
    columns = {name: value.reshape(-1).tolist() for name, value in row.items()}
    return [
        {"epoch": epoch, "step": step, "instance": i} | {k: v[i] for k, v in columns.items()}
        for i in range(len(columns["loss"]))
    ]
