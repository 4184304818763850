"""Killed, or out of disk space, at any place: begun again, work ends as if nothing had been."""

import errno
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from saehelpers import runs
from saehelpers.datasets import ShardStream, write_shards
from saehelpers.datasets.galaxies.base import write_hdf5
from saehelpers.experiments import load_or_train_saes, measure_runs
from saehelpers.networks.feature_maps import orbit_pixels
from saehelpers.runs import results
from saehelpers.runs.identities import identity
from saehelpers.saes import SAE, SAEConfig, make_sae, save_sae_lens
from saehelpers.symmetry import Group
from saehelpers.training import SAERun, fitting
from saehelpers.training.checkpoints import save_checkpoint
from tests.damage import contents
from tests.faults import FULL, FULL_WITHIN, KILLED, KILLED_WITHIN, SIZES, with_fault

X = torch.randn(24, 1, 4, generator=torch.Generator().manual_seed(0))
CONFIG = SAERun(
    "vanilla", identity(X), SAEConfig(4, 6, topk=2, encoder="linear"), epochs=1, batch_size=12
)


def measure(sae: SAE, x: torch.Tensor) -> dict[str, float]:
    return {"norm": sae(x[:, 0]).norm().item()}


def small_run(folder: Path, forced: tuple[bool, ...] = (False, True)) -> None:
    """An SAE is trained, trained again by force, and measured; activations are written."""
    models = folder / "models"
    with ThreadPoolExecutor(1) as here:
        for force in forced:
            (sae,) = load_or_train_saes([CONFIG], X, models, executor=here, force=force)
        measure_runs(measure, [(CONFIG, {}, (sae, X))], folder / "results.csv", here)
    write_shards(folder / "shards", X, overwrite=True)


def found(folder: Path) -> Any:
    """All that the run has made, and whatever lies about."""
    tensors, history, _ = runs.load_run(folder / "models", CONFIG)
    rows = results.read(folder / "results.csv").drop(columns=["git_commit", "created_utc"])
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    shards = ShardStream(folder / "shards", 100)(0)
    return contents([tensors, history, rows, shards, files])


@pytest.mark.parametrize("fault", [KILLED, FULL, KILLED_WITHIN, FULL_WITHIN])
def test_a_fault_at_every_place_changes_nothing_in_the_end(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    work = partial(small_run, forced=(False,)) if fault == FULL else small_run
    work(tmp_path / "undisturbed")
    expected, number, folder = found(tmp_path / "undisturbed"), 0, tmp_path / "disturbed"
    while with_fault(work, folder, number, fault):
        work(folder)
        assert found(folder) == expected, f"{fault} at place {number}"
        shutil.rmtree(folder)
        number += 1
    assert number == len(SIZES) if fault in (KILLED_WITHIN, FULL_WITHIN) else number > 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small(small_disk):
    """Errors name the folder and what to do, leave nothing, and end no process."""
    x, images = torch.zeros(3000, 1, 256), torch.zeros(64, 3, 64, 64, dtype=torch.uint8)
    model, group = torch.nn.Conv2d(3, 3, 1), Group.named("C1")
    adam = torch.optim.Adam(model.parameters())
    rows = [{"epoch": number, "loss": 0.1} for number in range(80_000)]
    table = pd.DataFrame({"radius": torch.rand(64).tolist()})
    sae = make_sae(SAEConfig(256, 2000, topk=2, encoder="linear"))
    writes = {
        "run": lambda: runs.save_run(small_disk, CONFIG, sae.state_dict(), table),
        "lens": lambda: save_sae_lens(sae, small_disk / "lens"),
        "shards": lambda: write_shards(small_disk / "shards", x),
        "pixels": lambda: orbit_pixels(
            model, images.float(), group, "", small_disk / "pixels.npy", batch_size=8
        ),
        "checkpoint": lambda: save_checkpoint(
            small_disk / "checkpoint", "", model, adam, [False] * 2, 1, rows
        ),
        "galaxies": lambda: write_hdf5(
            small_disk / "galaxies.hdf5", images.repeat(4, 1, 1, 1), torch.zeros(256), table
        ),
    }
    for name, write in writes.items():
        with pytest.raises(OSError, match=r"No space left.*Free space") as error:
            write()
        assert error.value.errno == errno.ENOSPC, name
        assert str(error.value.filename).startswith(str(small_disk)), name
        assert not [path for path in small_disk.rglob("*") if path.is_file()], name
    small_run(small_disk)
