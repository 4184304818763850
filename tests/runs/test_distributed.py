"""Several processes train as one does, write once, and do not wait for one that died."""

import faulthandler
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from saehelpers.datasets.shards import write_shards
from saehelpers.runs import distributed
from saehelpers.training.side_by_side import train_saes

pytestmark = pytest.mark.xdist_group("distributed")  # one process tests what the fixture trains
SILENT_SECONDS = 15  # that the others wait for a process, also on a slow machine

# what both sides train: 103 samples make a last batch of 7, which two processes share unequally
CONFIGS = """
import dataclasses
import torch
from saehelpers import SAEConfig, SAERun

SAE = SAEConfig(8, 12, topk=3, encoder_hidden=16)
RUN = SAERun("topk", "x", SAE, epochs=4, batch_size=32, learning_rate=1e-2, seed=3)
of = lambda name, run=RUN, **changes: dataclasses.replace(
    run, name=name, sae=dataclasses.replace(SAE, **changes)
)
RUNS = {
    "topk": RUN,
    "jumprelu": of(
        "jumprelu", dataclasses.replace(RUN, sparsity="l1", lambda_sparsity=0.1),
        activation="jumprelu", encoder="linear",
    ),
    "sparse": of("sparse", n_latents=2**14, encoder="linear"),
    "unit rows": of("unit_rows", unit_decoder=True),
    "latent_inv": of("latent_inv", dataclasses.replace(RUN, objective="latent_inv")),
    "a last batch of one": dataclasses.replace(RUN, name="one", batch_size=34),
}
ACTIVATIONS = torch.randn(103, 2, 8, generator=torch.Generator().manual_seed(0))
"""

SCRIPT = (
    CONFIGS
    + """
from pathlib import Path
from saehelpers.runs import identity, process_group
from saehelpers.experiments import load_or_train_saes
from saehelpers.datasets.shards import ShardStream
from saehelpers.training.side_by_side import train_saes

with process_group() as device:
    print("trains on", device)
    for name, run in RUNS.items():
        (sae,), (history,) = train_saes([run], [ACTIVATIONS.to(device)])
        everyones = [None, None]
        torch.distributed.all_gather_object(everyones, sae.state_dict())
        torch.testing.assert_close(everyones[0], everyones[1], rtol=0, atol=0)
        history.to_csv(f"{name}.csv")
    stream = ShardStream("shards", n_samples=64)
    batch_topk = of(
        "batch_topk", dataclasses.replace(RUN, activations=identity(stream)),
        activation="batch_topk",
    )
    (sae,) = load_or_train_saes([batch_topk], [stream], "models", device=device)
    torch.distributed.all_gather_object(everyones, float(sae.activation.threshold))
    assert everyones[0] == everyones[1] > 0
# gloo's threads crash if Python ends while they hold tensors
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
"""
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a script that torchrun has run in two processes, and what it printed."""
    script = tmp_path_factory.mktemp("torchrun") / "train.py"
    script.write_text(SCRIPT)
    write_shards(script.parent / "shards", settings()["ACTIVATIONS"].split(30))
    torchrun = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, script],
        cwd=script.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return script.parent, done.stdout


def settings() -> dict:
    """What both sides train, in this process."""
    found: dict = {}
    exec(CONFIGS, found)
    return found


@pytest.mark.parametrize("name", settings()["RUNS"])
def test_two_processes_train_as_one_does(finished, name):
    given = settings()
    _, (alone,) = train_saes([given["RUNS"][name]], [given["ACTIVATIONS"]], progress=False)
    together = pd.read_csv(finished[0] / f"{name}.csv", index_col=0)
    assert together.columns.tolist() == alone.columns.tolist()
    for column in ("loss", "reconstruction", "fvu"):
        assert together[column].tolist() == pytest.approx(alone[column].tolist(), rel=1e-4)
    assert alone["loss"].iloc[-1] < 0.95 * alone["loss"].iloc[0]


def test_the_first_process_alone_prints_and_writes(finished):
    folder, output = finished
    assert output.count("trains on cpu") == 1
    assert output.count("SAEs trained: 0 of 1 done") == 1
    (run,) = (folder / "models").glob("*-*")
    assert {path.name for path in run.iterdir()} == {
        "config.json", "history.csv", "weights.safetensors"
    }  # fmt: skip
    assert list((folder / "models").glob(".*/*")) == []
    assert load_file(run / "weights.safetensors")["activation.threshold"] > 0


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def train_and_end(rank: int, death: str, port: str, folder: Path, ready) -> None:
    """One of two processes, of which the second ends during its second epoch."""
    given = settings()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def end(epoch, model):
        if (epoch, rank) == (1, 1):
            os.kill(os.getpid(), getattr(signal, death))

    faulthandler.dump_traceback_later(200)  # says where a process waits that should have ended
    ready.wait()
    try:
        with distributed.process_group(timeout_seconds=SILENT_SECONDS):
            activations = [given["ACTIVATIONS"]]
            train_saes([given["RUN"]], activations, after_epoch=end, progress=False)
    except ConnectionError as error:
        (folder / death).write_text(str(error))


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_died_is_not_waited_for(death, tmp_path):
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saehelpers", "torch.nn.parallel.distributed"])
    ready = context.Barrier(2)
    processes = [
        context.Process(target=train_and_end, args=(rank, death, port, tmp_path, ready))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    processes[0].join(timeout=300)
    ended = not processes[0].is_alive()
    for process in processes:
        process.kill()
        process.join()
    assert ended
    message = f"process 0 of 2 lost another: it ended, or was silent for {SILENT_SECONDS} s"
    assert (tmp_path / death).read_text().startswith(message)


def test_what_failed_lets_go_of_the_group_before_it_ends(monkeypatch):
    """Whoever keeps the error does not keep the model's DistributedDataParallel with it."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", free_port())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    steps = []

    def fail():
        step = distributed.data_parallel(torch.nn.Linear(2, 2), lambda index, uniform: {})
        steps.append(weakref.ref(step))
        raise RuntimeError("gloo: connection closed by peer")

    with pytest.raises(ConnectionError, match="lost another") as error, distributed.process_group():
        fail()
    assert error.value.__cause__ is not None and steps[0]() is None


# --- alone ---


def test_a_process_alone_needs_no_group(capsys):
    with distributed.process_group() as device:
        assert device == ("cuda" if torch.cuda.is_available() else "cpu")
        assert distributed.is_first() and not distributed.is_active()
        print("heard")
    assert capsys.readouterr().out == "heard\n"
    index, uniform = torch.arange(6).view(2, 3), torch.rand(2, 3)
    (own, draws), weight = distributed.own_part(index, uniform)
    assert own is index and draws is uniform and weight == 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_parts_of_a_batch_add_up(n, size, monkeypatch):
    """What the processes' means weigh together is the mean of the whole batch."""
    monkeypatch.setattr(distributed, "is_active", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)
    batch = torch.rand(2, n)
    total = torch.zeros(2)
    for rank in range(size):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        (part,), weight = distributed.own_part(batch)
        total += weight * part.mean(1) / size
    assert_close(total, batch.mean(1))
