"""Many jobs, on the cores of this machine or on any executor."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from typing import Any

import torch
from loky import get_reusable_executor

from saehelpers.progress import tqdm


def sweep(
    function: Callable,
    jobs: Iterable[tuple],
    description: str = "",
    executor: Executor | None = None,
) -> Iterator[Any]:
    """Yield `function(*job)` for every job as it is done, in any order.

    Args:
        executor: any `concurrent.futures.Executor`. By default one process per core, each
            with one torch thread.

    Raises:
        RuntimeError: jobs failed; names how many, and the first with its cause. The other
            jobs are finished first.
    """
    jobs = list(jobs)
    if not jobs:
        return
    executor = executor or _processes()
    futures = {executor.submit(function, *job): job for job in jobs}
    failures = []
    try:
        for future in tqdm(as_completed(futures), description, total=len(futures)):
            if future.exception() is None:
                yield future.result()
            else:
                failures.append(future.exception())
    finally:
        # after an interrupt, what has not begun must not keep the processes busy
        for future in futures:
            future.cancel()
    if failures:
        raise RuntimeError(
            f"{len(failures)} of {len(jobs)} jobs failed, the first with {failures[0]!r}"
        ) from failures[0]


def _processes() -> Executor:
    """Processes kept for the next sweep; they would fight over cores with threads of their own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return get_reusable_executor(
        max_workers=cores,
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
