"""Nothing is lost, and nothing is another than was asked for, whoever writes beside a reader."""

import ast
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from saehelpers import load, runs
from saehelpers.evaluation import ProbeInput, probe_tasks, probing
from saehelpers.experiments import load_onto, load_or_train_saes, measure_runs
from saehelpers.experiments.once import checkpoint_path
from saehelpers.networks import make_gpt2
from saehelpers.runs import files, reading, results
from saehelpers.runs.identities import identity
from saehelpers.saes import SAEConfig, load_sae_lens, make_sae, save_sae_lens
from saehelpers.training import EndToEndRun, SAERun, fitting, model_id
from saehelpers.training.checkpoints import resume, save_checkpoint

PACKAGE = Path(__file__).parents[1] / "saehelpers"
CONFIG = SAERun("vanilla", "toy", SAEConfig(8, 12, topk=3))
HISTORY = pd.DataFrame({"epoch": [0, 1], "loss": [0.5, 0.25]})
ROW = {"metric": "fvu", "measure": "m", "data": "d"}


def save(folder: Path, value: float, **settings) -> Path:
    return runs.save_run(folder, CONFIG, {"x": torch.full((50,), value)}, HISTORY, **settings)


def beside(path: Path, process: int, machine: str | None = None) -> Path:
    """The hidden name that another process would give."""
    token = f"{machine or files._machine()}-{process}-{'0' * 16}"
    return path.with_name(f".{path.name}-{token}")


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


# --- several processes ---


def test_a_run_is_read_whole_while_another_takes_its_place(tmp_path):
    save(tmp_path, 0.0)
    done = threading.Event()

    def write():
        for value in range(1, 41):
            save(tmp_path, float(value), overwrite=True)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        tensors, _, _ = runs.load_run(tmp_path, CONFIG)
        assert len(tensors["x"].unique()) == 1
        seen.append(tensors["x"][0].item())
    writer.join()
    assert seen == sorted(seen) and len(set(seen)) > 1


def test_a_checkpoint_is_read_whole_while_others_write_and_remove_it(tmp_path):
    path, model = tmp_path / "checkpoint", torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    done = threading.Event()

    def write():
        for epoch in range(150):
            save_checkpoint(path, "run", model, adam, [False] * 2, epoch, [{"epoch": epoch}])
            if epoch % 3 == 2:
                path.unlink()
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        other = torch.nn.Linear(2, 2)
        adam_of_other = torch.optim.Adam(other.parameters())
        epoch, rows = resume(path, "run", other, adam_of_other, [False] * 2)
        assert rows == ([{"epoch": epoch}] if rows else [])
        seen.add((epoch, bool(rows)))
    writer.join()
    assert len(seen) > 2


def test_what_killed_writers_leave_is_cleared_and_never_read(tmp_path, gone):
    folder = save(tmp_path, 0.0)
    left = beside(folder, gone), beside(tmp_path / "file", gone)
    kept = beside(folder, os.getpid()), beside(folder, gone, "01234567"), tmp_path / ".mine-12"
    for path in (left[0], *kept):
        path.mkdir()
        (path / "config.json").write_text("half")
    left[1].write_text("half")
    assert runs.load_run(tmp_path, CONFIG)[0]["x"][0] == 0
    with pytest.raises(FileNotFoundError, match=rf"pass one of them: {folder}$"):
        load(tmp_path)
    save(tmp_path, 1.0, overwrite=True)
    assert not any(path.exists() for path in left)
    assert all((path / "config.json").exists() for path in kept)


@pytest.mark.parametrize("is_whole", [True, False])
def test_an_exchange_that_was_killed_is_finished(tmp_path, gone, is_whole):
    folder = save(tmp_path / "models", 0.0)
    new = beside(folder, gone)
    if is_whole:
        save(tmp_path / "other", 1.0).rename(new)
    folder.rename(new.with_name(f"{new.name}-before"))
    assert runs.load_run(folder.parent, CONFIG)[0]["x"][0] == float(is_whole)
    assert list(folder.parent.iterdir()) == [folder]


def test_saes_are_loaded_onto_a_model_beside_what_is_left(tmp_path, gone):
    model, sae = make_gpt2(16, 8, 8, 1, 1, 0), SAEConfig(8, 12, topk=3)
    config = EndToEndRun("e2e", model_id("gpt2", model), "text", "transformer.h.0", sae)
    folder = runs.save_run(tmp_path, config, make_sae(sae).state_dict(), HISTORY)
    for process in (gone, os.getpid()):
        folder.rename(tmp_path / "moved").rename(folder)
        left = beside(folder, process)
        left.mkdir()
        for path in folder.iterdir():
            (left / path.name).write_bytes(path.read_bytes())
    assert list(load_onto(model, [tmp_path])) == ["transformer.h.0"]


def test_tables_are_no_left_overs(tmp_path, gone):
    results.append(tmp_path / "toy.csv", [ROW])
    beside(tmp_path / "own" / "toy.csv", gone).write_text("half")
    beside(tmp_path / "toy.csv", gone).write_text("half")
    (tmp_path / "toy.csv.fingerprint").write_text("{}")
    assert results.tables(tmp_path) == [tmp_path / "toy.csv"]


# --- what is not saved yet ---


def test_a_checkpoint_stays_until_the_run_is_saved(tmp_path, monkeypatch):
    x = torch.randn(24, 1, 4, generator=torch.Generator().manual_seed(0))
    sae = SAEConfig(4, 6, topk=2, encoder="linear")
    config = SAERun("vanilla", identity(x), sae, epochs=3)
    expected = load_or_train_saes([config], x, tmp_path / "undisturbed")[0]
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    models = tmp_path / "models"
    with monkeypatch.context() as patch:

        def full(tensors, path, metadata):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(files, "save_file", full)
        with pytest.raises(RuntimeError, match=rf"No space left .*Free space.*{models}"):
            load_or_train_saes([config], x, models)
    assert checkpoint_path(models, [config]).exists()
    steps = []
    monkeypatch.setattr(fitting, "_learning_rate", lambda *given: steps.append(given) or 1e-3)
    (sae,) = load_or_train_saes([config], x, models)
    assert not steps  # nothing is trained again
    assert identity(dict(sae.state_dict())) == identity(dict(expected.state_dict()))
    assert not checkpoint_path(models, [config]).exists()


def test_a_checkpoint_of_another_training(tmp_path):
    path, model = tmp_path / "checkpoint", torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    save_checkpoint(path, "one", model, adam, [False] * 2, 1, [])
    with pytest.raises(ValueError, match=rf"{path} is damaged: .*no moments"):
        resume(path, "one", model, adam, [False] * 2)
    with pytest.raises(ValueError, match=rf"{path} is of another training"):
        resume(path, "two", model, adam, [False] * 2)


# --- results ---


def measure(sae, x: torch.Tensor) -> dict[str, float]:
    return {"norm": sae(x).norm().item()}


def test_what_was_trained_again_is_measured_again_within_a_second(tmp_path):
    sae, x = make_sae(CONFIG.sae), torch.ones(3, 8)

    def value() -> float:
        table = measure_runs(measure, [(CONFIG, {}, (sae, x))], tmp_path / "r.csv", Here())
        return table["value"].item()

    for seed in (0, 1):
        sae.load_state_dict(make_sae(CONFIG.sae, seed).state_dict())
        assert value() == pytest.approx(measure(sae, x)["norm"], rel=1e-5)


class Here:
    """An executor that does jobs at once."""

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*arguments))
        return future


def test_what_is_measured_is_read_from_a_disk_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "toy.csv"
    results.append(path, [ROW | {"seed": seed, "value": seed} for seed in range(3)])
    with monkeypatch.context() as patch:
        patch.setenv("SHIP_RESULTS", "1")
        results.append(path, [ROW | {"seed": 7, "value": 7}])
    opened = os.open

    def read_only(name, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(name))
        return opened(name, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    for seed in (0, 7):
        assert results.take(path, [ROW | {"seed": seed}])["value"].tolist() == [seed]
    assert results.missing(path, [ROW | {"seed": 1}, ROW | {"seed": 9}]) == [False, True]
    assert results.append(path, [ROW | {"seed": 1}]) == 0
    with pytest.raises(OSError, match=r"Read-only file system.*SAVE_PATH"):
        results.append(path, [ROW | {"seed": 9}])


def test_more_bins_than_a_byte_counts(monkeypatch):
    monkeypatch.setattr(probing, "TASK_BINS", 1000)
    probing._every_bin.cache_clear()
    x = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0))
    given = ProbeInput("latents", "none", x)
    (score,) = probe_tasks(given, x > 0.5, 1500, "xgboost")
    probing._every_bin.cache_clear()
    assert score > 0.99
    edges = np.arange(1, 1000.0)[:, None]
    assert probing._binned(np.array([[999.5], [300.0]]), edges).tolist() == [[999], [300]]


# --- names and texts ---


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".x", "..", "a\x00", "a\nb"])
def test_a_name_that_leads_out_of_its_folder(tmp_path, name):
    config = SAERun(name, "toy", CONFIG.sae)
    for use in (
        lambda: runs.save_run(tmp_path, config, {}, HISTORY),
        lambda: runs.load_run(tmp_path, config),
        lambda: checkpoint_path(tmp_path, [config]),
    ):
        with pytest.raises(ValueError, match="name begins that of a run's folder"):
            use()


def test_every_text_file_is_read_and_written_in_utf_8():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            given = {keyword.arg for keyword in node.keywords}
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            text = node.func.attr in ("read_text", "write_text") or (
                node.func.attr == "open" and modes[:1] and set(str(modes[0])) <= set("rwax+t")
            )
            if text and "encoding" not in given:
                wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong


# --- damaged records ---

NESTED = "[" * 100_000


@pytest.mark.parametrize("text", ["[]", "null", "3", "", "{", '"x"', NESTED, '{"config": []}'])
def test_a_config_that_is_none(tmp_path, text):
    folder = save(tmp_path, 0.0)
    (folder / "config.json").write_text(text)
    for read in (lambda: runs.load_run(tmp_path, CONFIG), lambda: load(folder)):
        with pytest.raises(ValueError, match=str(folder)):
            read()
    assert (folder / "config.json").read_text() == text


def without_fingerprints(folder: Path, **changes) -> None:
    record = json.loads((folder / "config.json").read_text()) | changes
    record = {k: v for k, v in record.items() if k not in ("fingerprint", "contents")}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in record.items() if v != 0}))


@pytest.mark.parametrize("time", [0, "yesterday", None, 5, []])
def test_a_run_that_does_not_say_when_it_was_made(tmp_path, time, monkeypatch):
    monkeypatch.setattr(reading, "_say_unchecked", lambda parent: None)
    folder = save(tmp_path, 0.0)
    without_fingerprints(folder, created_utc=time)
    with pytest.raises(ValueError, match=rf"{folder} .*does not say when it was made"):
        runs.load_run(tmp_path, CONFIG)


def test_runs_of_earlier_releases_load_with_a_word(tmp_path):
    folder = runs.save_run(tmp_path, CONFIG, make_sae(CONFIG.sae).state_dict(), HISTORY)
    without_fingerprints(folder)
    with pytest.warns(UserWarning, match=rf"runs in {tmp_path} .* earlier release .* no finger"):
        assert runs.load_run(tmp_path, CONFIG) is not None
    load(folder)  # once is enough


@pytest.mark.parametrize(
    "values",
    [
        {"k": None, "activation_fn_kwargs": None},
        {"metadata": [1]},
        {"architecture": []},
        {"d_in": None},
        {"k": "many"},
        {"apply_b_dec_to_input": None, "d_sae": {}},
    ],
)
def test_fields_that_sae_lens_never_writes(tmp_path, values):
    folder = save_sae_lens(make_sae(SAEConfig(8, 12, topk=3, encoder="linear")), tmp_path / "lens")
    weights = folder / "sae_weights.safetensors"
    save_file(load_file(weights), weights)  # as SAELens writes it, without a fingerprint
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text("\ufeff" + json.dumps(cfg), encoding="utf-8")
    assert load_sae_lens(folder)[1] == cfg
    (folder / "cfg.json").write_text(json.dumps(cfg | values))
    with pytest.raises(ValueError, match=str(folder)):
        load_sae_lens(folder)
