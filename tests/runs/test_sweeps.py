"""Sweeps: every result comes, whatever fails, on the executor that is given."""

import inspect
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import pytest
import submitit
import torch
from loky import process_executor

from saehelpers import SAEConfig, SAERun
from saehelpers.evaluation.probing import PROBES, ProbeInput, probe_sweep, task_scores
from saehelpers.experiments import load_or_train_saes
from saehelpers.runs import identity, results
from saehelpers.runs.sweeps import _begin, _n_processes, is_seen, n_cores, sweep


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


def test_processes_work_in_the_folder_that_is_current_when_the_sweep_begins(tmp_path, monkeypatch):
    assert {*sweep(Path.cwd, [()] * 4)} == {Path.cwd()}
    monkeypatch.chdir(tmp_path)  # the processes are those of before
    assert {*sweep(Path.cwd, [()] * 4)} == {tmp_path}


def test_processes_use_one_thread_each():
    assert set(sweep(os.getenv, [("OMP_NUM_THREADS",), ("MKL_NUM_THREADS",)])) == {"1"}


def test_a_job_alone_is_done_here_with_one_thread():
    def where():
        return os.getpid(), torch.get_num_threads()

    here, before = os.getpid(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(sweep(where, [()], alone_here=True)) == [(here, 1)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(RuntimeError, match=r"1 of 1 jobs failed, .* domain") as raised:
        list(sweep(math.sqrt, [(-1,)], alone_here=True))
    assert isinstance(raised.value.__cause__, ValueError)
    assert here not in sweep(os.getpid, [()] * 2, alone_here=True)
    assert here not in sweep(os.getpid, [()])


def test_jobs_that_use_one_device_are_done_here_one_after_another():
    done = []
    for result in sweep(lambda i: done.append(i) or os.getpid(), [(0,), (1,)], device="meta"):
        assert result == os.getpid()
        assert len(done) in (1, 2)
    assert done == [0, 1]
    assert is_seen(2, None, "meta")
    assert not is_seen(2, None)


def test_several_gpus_have_a_process_each(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert _n_processes("cuda") == 3
    assert _n_processes("cuda:1") == _n_processes("mps") == 0
    assert _n_processes("cpu") == n_cores()
    given = []
    monkeypatch.setattr("torch.cuda.set_device", given.append)
    monkeypatch.setattr("saehelpers.runs.sweeps._CLAIMS", [])
    with ThreadPoolExecutor(1) as other:  # locks of files are held by threads as by processes
        for thread in (other.submit, lambda function, path: function(path)):
            thread(_begin, tmp_path / "pool")
    assert given == [0, 1]


def test_a_process_that_is_replaced_since_it_has_grown_is_no_news():
    told = re.findall(r'"(A worker was restarted.*)"', inspect.getsource(process_executor))
    list(sweep(pow, [(2, 2)] * 2))
    for text in told:
        warnings.warn(text, UserWarning, stacklevel=1)  # would be an error here
    assert told


def test_failure_in_another_process():
    with pytest.raises(RuntimeError, match="1 of 2 jobs failed") as raised:
        list(sweep(math.sqrt, [(4,), (-1,)]))
    assert isinstance(raised.value.__cause__, ValueError)


# --- other executors ---


def train_and_probe(executor, folder) -> dict[str, list[float]]:
    """An SAE and probes of its latents, as notebook 04 has them made, on an executor."""
    activations = torch.randn(60, 1, 8, generator=torch.Generator().manual_seed(0))
    sae = SAEConfig(8, 4, topk=2, encoder="linear")
    config = SAERun("vanilla", identity(activations), sae, epochs=1)
    (sae,) = load_or_train_saes([config], activations, folder / "models", executor=executor)
    given = ProbeInput("latents", "none", sae.encode(activations[:, 0]).detach())
    jobs = [({"probe": probe, "truncation": 2}, given, [0, 1]) for probe in PROBES]
    found = probe_sweep(jobs, activations[:, 0, :2] > 0, 40, executor)
    truth = activations[40:, 0, :2] > 0
    return {job["probe"]: task_scores(truth, predictions) for job, _, predictions in found}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict:
    """What comes out in a thread of this process."""
    with ThreadPoolExecutor(1) as executor:
        return train_and_probe(executor, tmp_path_factory.mktemp("here"))


def test_pool_of_joblib():
    with joblib.externals.loky.get_reusable_executor(max_workers=1) as executor:
        assert sorted(sweep(pow, [(i, 2) for i in range(3)], executor=executor)) == [0, 1, 4]


@pytest.mark.filterwarnings("ignore")  # dask's and tornado's own, at the end of a cluster
def test_cluster_of_dask(tmp_path, here):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = sweep(pow, [(i, 2) for i in range(3)], executor=client.get_executor())
        assert sorted(found) == [0, 1, 4]
        with pytest.raises(RuntimeError, match="1 of 2 jobs failed"):
            list(sweep(math.sqrt, [(4,), (-1,)], executor=client.get_executor()))
        assert train_and_probe(client.get_executor(), tmp_path) == here


def test_executor_of_submitit(tmp_path, here):
    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(timeout_min=10)
    with pytest.raises(RuntimeError, match=r"(?s)1 of 2 jobs failed.*math domain error"):
        for found in sweep(math.sqrt, [(4,), (-1,)], executor=executor):
            assert found == 2
    assert train_and_probe(executor, tmp_path) == here


# --- killed ---


def square_unless_killed(number: int, victim: int) -> int:
    if number == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_process_that_is_killed_fails_its_own_job_alone():
    found = []
    with pytest.raises(RuntimeError, match=r"1 of 12 jobs failed, the first with .*Terminated"):
        for result in sweep(square_unless_killed, [(i, 3) for i in range(12)]):
            found.append(result)
    assert sorted(found) == [i**2 for i in range(12) if i != 3]


N_JOBS = 40
SCRIPT = """
import sys, time
from pathlib import Path
from saehelpers.runs import results
from saehelpers.runs.sweeps import sweep

def measure(number):
    time.sleep(0.2)
    row = {"run_id": f"run-{number}", "metric": "square", "value": number**2}
    return row | {"measure": "square"}

if __name__ == "__main__":
    path = Path(sys.argv[1])
    wanted = [{"run_id": f"run-{n}"} for n in range(int(sys.argv[2]))]
    jobs = [(n,) for n, absent in enumerate(results.missing(path, wanted)) if absent]
    print(len(jobs), flush=True)
    for row in sweep(measure, jobs):
        results.append(path, [row])
"""


def test_run_that_is_killed_goes_on_where_it_was(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = tmp_path / "results.csv"
    command = [sys.executable, str(tmp_path / "script.py"), str(path), str(N_JOBS)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not len(results.read(path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    rows = len(results.read(path))
    assert 0 < rows < N_JOBS
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(again.stdout) == N_JOBS - rows
    table = results.read(path)
    assert sorted(table["value"]) == [n**2 for n in range(N_JOBS)]
