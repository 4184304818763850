"""Many jobs, on the cores of this machine or on any executor."""

import functools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from loky import get_reusable_executor

from saehelpers.runs import distributed
from saehelpers.runs.checking import checked
from saehelpers.runs.progress import tqdm
from saehelpers.runs.registry import carrying
from saehelpers.runs.threads import one_thread
from saehelpers.runs.wanted import AnyExecutor, Device

KEPT_SECONDS = 60  # that a process waits for the next sweep, whose imports would take seconds
POLL_SECONDS = 0.5  # between looks at jobs that do not tell when they are done
_CLAIMS: list[FileLock] = []  # on the GPU of this process; a lock that is not kept is given back


@checked
def sweep(
    function: Callable,
    jobs: Iterable[tuple],
    description: str = "",
    executor: AnyExecutor | None = None,
    alone_here: bool = False,
    device: Device = "cpu",
) -> Iterator[Any]:
    """Yield `function(*job)` for every job as it is done, in any order.

    Wherever a job runs, it knows the objectives, activations, dictionaries and methods that users
    have added here (`saehelpers.runs.registry`).

    Args:
        executor: any `concurrent.futures.Executor` (dask's `Client.get_executor()`), or one of
            submitit's. By default one process per core, each with one torch thread; when one
            of them is killed, its job fails and the others go on. Processes that torchrun has
            started (`saehelpers.runs.distributed`) do each job together, one after another.
        device: that the jobs use. On "cuda", one process per GPU, its current device; where there
            is a single one, this process does one job after another: several would share it, each
            with a copy of the data.
        alone_here: do a job that has no others beside it in this process, by default, with one
            thread as well: how far it is shows here alone (see `is_seen`).

    Raises:
        RuntimeError: jobs failed; names how many, and the first with its cause. The other
            jobs are finished first.
    """
    jobs = list(jobs)
    if not jobs:
        return
    if distributed.is_active():
        yield from (function(*job) for job in jobs)
        return
    n_processes = _n_processes(device)
    if n_processes == 0 or (alone_here and is_seen(len(jobs), executor)):
        executor = executor or _Here()
    elif executor is None:  # processes may have started when another folder was the current one
        function = functools.partial(_in_folder, Path.cwd(), function)
    failures: list[BaseException] = []
    with tqdm(total=len(jobs), desc=description) as bar:
        waiting = [jobs]  # batches of jobs that run side by side
        while waiting:
            batch = waiting.pop(0)
            lost = []
            for job, future in _run(function, batch, executor or _processes(n_processes)):
                error = future.exception()
                if isinstance(error, BrokenExecutor) and executor is None and len(batch) > 1:
                    lost.append(job)
                    continue
                bar.update()
                if error is None:
                    yield future.result()
                else:
                    failures.append(error)
            waiting += _batches_after_a_crash(lost, batch)
    if failures:
        first = failures[0]
        raise RuntimeError(
            f"{len(failures)} of {len(jobs)} jobs failed, the first with {type(first).__name__}: "
            f"{first}"
        ) from first


def is_seen(n_jobs: int, executor, device: str = "cpu") -> bool:
    """Whether the progress of jobs shows where a sweep with `alone_here` is called."""
    here = n_jobs == 1 or _n_processes(device) == 0
    return distributed.is_active() or (here and executor is None)


class _Here(Executor):
    """Does a job at once, with one thread: the same bits as in a process of its own."""

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        future = Future()
        with one_thread():
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
        return future


def _in_folder(folder: Path, function: Callable, *arguments: Any) -> Any:
    os.chdir(folder)
    return function(*arguments)


def _run(function, jobs: list[tuple], executor) -> Iterator[tuple[tuple, Future]]:
    function = carrying(function)
    if isinstance(executor, _Here):
        yield from ((job, executor.submit(function, *job)) for job in jobs)
        return
    futures = {executor.submit(function, *job): job for job in jobs}
    try:
        for future in _as_done(list(futures)):
            yield futures[future], future
    finally:
        # after an interrupt, what has not begun must not keep the executor busy
        for future in futures:
            if not future.done():
                future.cancel()


def _as_done(futures: list) -> Iterator:
    """The futures as they are done; those of submitit have to be asked."""
    if all(isinstance(future, Future) for future in futures):
        yield from as_completed(futures)
        return
    while futures:
        for future in [future for future in futures if future.done()]:
            futures.remove(future)
            yield future
        time.sleep(POLL_SECONDS)


def _batches_after_a_crash(lost: list[tuple], jobs: list[tuple]) -> list[list[tuple]]:
    """A process that dies takes the pool along, and all jobs that were not done.

    The oldest of them were running: they run alone, so that the one that kills its process is
    found. The others go on side by side.
    """
    lost = [job for job in jobs if any(job is other for other in lost)]
    suspects, others = lost[: n_cores()], lost[n_cores() :]
    return [[job] for job in suspects] + ([others] if others else [])


def n_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _n_processes(device: str) -> int:
    """One for each core, or each of several GPUs; 0: what uses one device is done in this one."""
    kind = torch.device(device)
    if kind.type == "cpu":
        return n_cores()
    n_gpus = torch.cuda.device_count() if kind.type == "cuda" and kind.index is None else 1
    return n_gpus if n_gpus > 1 else 0


def _processes(n: int) -> Executor:
    """Processes kept for the next sweep; they would fight over cores with threads of their own."""
    # one that has grown is replaced between two jobs: nothing that a reader of a notebook can use
    warnings.filterwarnings("ignore", "A worker was restarted while some jobs", UserWarning)
    return get_reusable_executor(
        max_workers=n,
        timeout=KEPT_SECONDS,
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        initializer=_begin,
        initargs=(Path(tempfile.gettempdir()) / f"saehelpers-{os.getpid()}",),
    )


def _begin(lock: Path) -> None:
    """One thread, and of several GPUs the first that no other process of the pool has."""
    torch.set_num_threads(1)
    for number in range(torch.cuda.device_count()):
        claim = FileLock(f"{lock}-gpu-{number}.lock")  # given back when the process ends
        try:
            claim.acquire(blocking=False)
        except Timeout:
            continue
        torch.cuda.set_device(number)
        _CLAIMS.append(claim)
        return
