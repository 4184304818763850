"""Whatever is loaded and damaged is an error that names it, or what it was: never another thing."""

import gzip
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch

from saehelpers import load, runs
from saehelpers.datasets import ShardStream, write_shards
from saehelpers.datasets.galaxies import simulate_galaxies
from saehelpers.datasets.text import train_tokeniser
from saehelpers.experiments import (
    ActionRun,
    LanguageModelRun,
    make_language_model,
    save_equivariant,
)
from saehelpers.networks.feature_maps import orbit_pixels
from saehelpers.runs import fingerprints, results
from saehelpers.saes import EquivariantSAE, SAEConfig, load_sae_lens, make_sae, save_sae_lens
from saehelpers.symmetry import Group
from saehelpers.training import EndToEndRun, SAERun
from saehelpers.training.checkpoints import resume, save_checkpoint
from tests.damage import outcomes

CONFIG = SAERun("vanilla", "toy", SAEConfig(8, 12, topk=3))
HISTORY = pd.DataFrame({"epoch": [0, 1], "loss": [0.5, 0.25]})
ROW = {"metric": "fvu", "measure": "m", "data": "d"}


def saved_run(folder: Path) -> Path:
    return runs.save_run(folder, CONFIG, make_sae(CONFIG.sae).state_dict(), HISTORY)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "history.csv"])
def test_runs(tmp_path, name):
    folder = saved_run(tmp_path)
    for seed, read in enumerate((lambda: runs.load_run(tmp_path, CONFIG), lambda: load(folder))):
        found = outcomes(read, folder / name, 55, seed, folder)
        assert found["errors"] > 40


@pytest.mark.parametrize("kind", ["end to end", "action", "equivariant", "language model"])
def test_what_is_loaded_from_its_folder_alone(tmp_path, kind, toy):
    sae = make_sae(CONFIG.sae)
    if kind == "end to end":
        config = EndToEndRun("e2e", "gpt2/1", "text", "h.1", CONFIG.sae)
        folder = runs.save_run(tmp_path, config, sae.state_dict(), HISTORY)
    elif kind == "action":
        config = ActionRun("action", "toy", "C4")
        folder = runs.save_run(tmp_path, config, toy.action.state_dict(), HISTORY)
    elif kind == "equivariant":
        both = EquivariantSAE(sae, toy.action)
        folder = save_equivariant(tmp_path / "both", both, {"module": "encoder", "note": None})
    else:
        config = LanguageModelRun("gpt2", "cats", 270, 8, 16, 1, 2)
        files = {"tokenizer.json": train_tokeniser(["some cats", "other cats"], 270).to_str()}
        state = make_language_model(config).half().state_dict()
        folder = runs.save_run(tmp_path, config, state, HISTORY, files=files)

    def read():
        loaded = load(folder)
        if kind == "language model":
            return loaded[0], loaded[1].to_str()
        return loaded

    for seed, path in enumerate(sorted(folder.iterdir())):
        assert outcomes(read, path, 22, seed, folder)["errors"] > 12


def test_checkpoints(tmp_path):
    path, model = tmp_path / "checkpoint.safetensors", torch.nn.Linear(3, 4)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    rows = [{"epoch": 0, "loss": 0.5}]
    save_checkpoint(path, "a run", model, optimiser, [False, False], 1, rows)

    def read():
        other = torch.nn.Linear(3, 4)
        adam = torch.optim.Adam(other.parameters())
        found = resume(path, "a run", other, adam, [False, False])
        return found, other, adam.state_dict()["state"]

    assert outcomes(read, path, 110, 0, path)["errors"] > 80


def test_sae_lens(tmp_path):
    sae = make_sae(SAEConfig(8, 12, topk=3, encoder="linear"))
    folder = save_sae_lens(sae, tmp_path / "lens", {"model_name": "gpt2"})
    for seed, name in enumerate(("cfg.json", "sae_weights.safetensors")):
        found = outcomes(lambda: load_sae_lens(folder), folder / name, 77, seed, folder)
        assert found["errors"] > 50


def test_shards(tmp_path):
    folder = write_shards(tmp_path / "shards", torch.rand(600, 2, 3).split(400))

    def read():
        stream = ShardStream(folder, 300)
        return [stream(epoch) for epoch in range(stream.epochs_per_pass)]

    for seed, path in enumerate(sorted(folder.iterdir())):
        assert outcomes(read, path, 33, seed, folder)["errors"] > 15


def test_files_of_pixels(tmp_path):
    path, group = tmp_path / "pixels.npy", Group.named("C2")

    def read():
        return orbit_pixels(torch.nn.Identity(), images, group, "", path)

    images = torch.rand(3, 2, 4, 4)
    read()
    for seed, file in enumerate((path, path.with_name("pixels.npy.fingerprint"))):
        assert outcomes(read, file, 55, seed, path)["errors"] > 40


def test_galaxies(tmp_path):
    with ThreadPoolExecutor(1) as executor:
        simulate_galaxies(4, tmp_path, 16, executor=executor)
    (path,) = tmp_path.iterdir()

    def read():
        found = simulate_galaxies(4, tmp_path, 16, executor=Executor())
        return found.images, found.labels, found.properties

    assert outcomes(read, path, 110, 0, path)["errors"] > 70


@pytest.mark.parametrize("name", ["toy.csv.gz", "own/toy.csv"])
def test_tables(tmp_path, monkeypatch, name):
    """Compressed ones have a checksum of their own, others one beside them."""
    rows = [ROW | {"seed": seed, "value": seed / 7} for seed in range(9)]
    results.append(tmp_path / "toy.csv", rows)
    path = tmp_path / name
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress((tmp_path / "own" / "toy.csv").read_bytes()))
        (tmp_path / "own" / "toy.csv").unlink()
    found = outcomes(lambda: results.read(tmp_path / "toy.csv"), path, 88, 0, path)
    assert found["errors"] > 60


def test_fingerprints_beside_files(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "LARGE", 1)
    path = tmp_path / "activations.npy"
    path.write_bytes(b"x" * 100)
    digits = runs.file_fingerprint(path)
    beside = tmp_path / "activations.npy.fingerprint"
    found = outcomes(lambda: runs.file_fingerprint(path), beside, 55, 0, path)
    assert found["errors"] > 40 and runs.file_fingerprint(path) == digits
