"""Training in several processes, one for each GPU: `torchrun --nproc-per-node=4 train.py`.

Every process runs the same script, reads the same activations and holds the same model. Each
batch is divided among them and their gradients are averaged, so that training goes as it would
in one process; but BatchTopK compares latents within each process's part, and `target_l0` is
sought there. The first process alone prints and writes files.
"""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Rate


@checked
@contextmanager
def process_group(timeout_seconds: Rate = 600.0) -> Iterator[str]:
    """Within the context, this process is one of those that torchrun has started.

    Yields the device to train on: this process's GPU, or "cpu" where there is none. What
    processes other than the first print is dropped. A process that torchrun did not start is
    alone, and everything goes as without the context.

    Args:
        timeout_seconds: that a process waits for the others before it gives up.

    Raises:
        ConnectionError: another process ended, or was silent for `timeout_seconds`.
    """
    has_gpu = torch.cuda.is_available()
    if "RANK" not in os.environ:
        yield "cuda" if has_gpu else "cpu"
        return
    device = f"cuda:{os.environ['LOCAL_RANK']}" if has_gpu else "cpu"
    if has_gpu:
        torch.cuda.set_device(device)
    try:
        timeout = timedelta(seconds=timeout_seconds)
        # DistributedDataParallel imports it, and default arguments of its functions are the group
        # that there is then: with one, they would keep it, and its threads, until Python ends.
        import_module("torch.distributed.nn")
        distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=timeout)
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            redirect_stdout(sys.stdout if is_first() else nowhere),
        ):
            yield device
            wait_for_all()
    except BaseException as error:
        # Frames that failed hold the model's DistributedDataParallel, and it the group. If it were
        # the last to let go, it would wait for the group's threads while it holds Python's global
        # lock, and for good if one of them needs the lock to end.
        traceback.clear_frames(error.__traceback__)
        lost = isinstance(error, distributed.DistError) or "gloo" in str(error)
        if not (isinstance(error, RuntimeError) and lost):
            raise
        raise ConnectionError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} lost another: it ended, "
            f"or was silent for {timeout_seconds:g} s. See what that one has printed, and start "
            "all of them again: training goes on from its checkpoint, where it keeps one."
        ) from error
    finally:
        if is_active():
            gc.collect()  # models that are kept by nothing but themselves
            distributed.destroy_process_group()


def is_active() -> bool:
    """Whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized()


def is_first() -> bool:
    """Whether this process prints and writes files; one that is alone does."""
    return not is_active() or distributed.get_rank() == 0


def wait_for_all() -> None:
    if is_active():
        distributed.barrier()


@checked
def check_same(what: str, values: list[int]) -> None:
    """Raise a ValueError unless all processes have the same integers."""
    if not is_active():
        return
    own = torch.tensor(values, device=_device())
    everyones = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyones, own)
    found = [other.tolist() for other in everyones]
    if any(other != values for other in found):
        raise ValueError(f"the processes differ in {what}: {found}; they must see the same files")


@checked
def data_parallel(model: nn.Module, step: Callable) -> Callable:
    """A step whose gradients by the model's parameters are averaged over the processes."""
    if not is_active():
        return step
    return DistributedDataParallel(
        _Step(model, step), forward_sync_buffers=False, gradient_as_bucket_view=True
    )


@checked
def not_yet(step: Callable) -> AbstractContextManager:
    """Within the context, gradients of a `data_parallel` step are added up, but not averaged."""
    return step.no_sync() if is_active() else nullcontext()


class _Step(nn.Module):
    """A step of training as a module: what it computes is its `forward`."""

    def __init__(self, model: nn.Module, step: Callable):
        super().__init__()
        self.model, self.step = model, step

    def forward(self, index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        return self.step(index, uniform)


@checked
def own_part(*batch: Tensor) -> tuple[list[Tensor], float]:
    """This process's part of tensors (inst, batch), and its weight in an average over processes.

    The weight is 1 where all parts are equally large. Of a batch with fewer samples than there
    are processes, some take one that is not theirs, with weight 0.
    """
    if not is_active():
        return list(batch), 1.0
    rank, size = distributed.get_rank(), distributed.get_world_size()
    parts = [tensor.tensor_split(size, dim=1)[rank] for tensor in batch]
    weight = size * parts[0].shape[1] / batch[0].shape[1]
    return (parts, weight) if weight else ([tensor[:, :1] for tensor in batch], 0.0)


@checked
def average(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Terms of the loss (inst), averaged over the processes."""
    if not is_active():
        return terms
    together = torch.stack(list(terms.values()))
    distributed.all_reduce(together)
    return dict(zip(terms, together / distributed.get_world_size(), strict=True))


@checked
def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers (BatchTopK's threshold, say)."""
    for buffer in model.buffers() if is_active() else ():
        distributed.broadcast(buffer, 0)


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
