"""Sweeps: every result comes, whatever fails, on the executor that is given."""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from saehelpers.sweeps import sweep


def test_all_results_come():
    with ThreadPoolExecutor(2) as executor:
        results = list(sweep(pow, [(i, 2) for i in range(20)], executor=executor))
    assert sorted(results) == [i**2 for i in range(20)]


def test_given_executor_is_used():
    with ThreadPoolExecutor(1, thread_name_prefix="given") as executor:
        names = list(sweep(lambda: threading.current_thread().name, [()] * 3, "", executor))
    assert names == ["given_0"] * 3


def test_jobs_may_be_a_generator():
    with ThreadPoolExecutor(1) as executor:
        assert sorted(sweep(abs, ((-i,) for i in range(4)), executor=executor)) == [0, 1, 2, 3]


def test_failing_jobs_are_told_after_the_others_are_done():
    results = []
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(RuntimeError, match="2 of 5 jobs failed") as raised,
    ):
        for result in sweep(math.sqrt, [(4,), (-1,), (9,), (-1,), (16,)], executor=executor):
            results.append(result)
    assert sorted(results) == [2, 3, 4]
    assert isinstance(raised.value.__cause__, ValueError)


def test_no_jobs():
    assert list(sweep(pow, [])) == []


def test_by_default_jobs_run_in_other_processes():
    processes = set(sweep(os.getpid, [()] * 4))
    assert os.getpid() not in processes


def test_processes_use_one_thread_each():
    assert set(sweep(os.getenv, [("OMP_NUM_THREADS",), ("MKL_NUM_THREADS",)])) == {"1"}


def test_failure_in_another_process():
    with pytest.raises(RuntimeError, match="1 of 2 jobs failed") as raised:
        list(sweep(math.sqrt, [(4,), (-1,)]))
    assert isinstance(raised.value.__cause__, ValueError)
