import dataclasses
import errno
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from saehelpers import results, runs
from saehelpers.methods import SAERun
from saehelpers.saes import SAEConfig
from saehelpers.training import train_saes

HISTORY = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, 1.0]})
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}


@pytest.fixture
def config() -> SAERun:
    return SAERun("vanilla", "toy", SAEConfig(d=8, n_latents=12))


# --- runs ---


def test_hash_is_that_of_the_sorted_json(config):
    """Stable between processes and versions of Python: models on disk are found by it."""
    text = json.dumps({"version": 1, **dataclasses.asdict(config)}, sort_keys=True)
    import hashlib

    assert runs.config_hash(config) == hashlib.sha256(text.encode()).hexdigest()
    assert runs.run_id(config) == f"vanilla-{runs.config_hash(config)[:8]}"


def test_hash_depends_on_every_field(config):
    changes = {
        field.name: {"objective": "canonical", "sparsity": "l1", "schedule": "cosine"}.get(
            field.name, "other" if isinstance(getattr(config, field.name), str) else 77
        )
        for field in dataclasses.fields(config)
        if field.name != "sae"
    }
    changed = [dataclasses.replace(config, **{name: value}) for name, value in changes.items()]
    changed.append(dataclasses.replace(config, sae=SAEConfig(d=8, n_latents=12, delta=0.5)))
    hashes = {runs.config_hash(other) for other in [config, *changed]}
    assert len(hashes) == len(dataclasses.fields(config)) + 1


def test_saved_run_is_read_back(config, tmp_path):
    folder = runs.save_run(tmp_path / "models", config, TENSORS, HISTORY)
    assert folder == tmp_path / "models" / runs.run_id(config)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "history.csv",
        "weights.safetensors",
    ]
    tensors, history, record = runs.load_run(tmp_path / "models", config)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert history.equals(HISTORY)
    assert record["config"] == dataclasses.asdict(config)
    assert record["torch"] == torch.__version__
    assert record["created_utc"] <= runs.now_utc()


def test_run_that_was_not_trained_is_none(config, tmp_path):
    assert runs.load_run(tmp_path, config) is None
    assert runs.load_run(tmp_path / "nowhere", config) is None


def test_a_run_is_kept_unless_it_is_overwritten(config, tmp_path):
    runs.save_run(tmp_path, config, {"a": torch.zeros(2)}, HISTORY)
    runs.save_run(tmp_path, config, {"a": torch.ones(2)}, HISTORY)
    assert runs.load_run(tmp_path, config)[0]["a"].tolist() == [0, 0]
    runs.save_run(tmp_path, config, {"a": torch.ones(2)}, HISTORY, overwrite=True)
    assert runs.load_run(tmp_path, config)[0]["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == [runs.run_id(config)]


def test_a_run_is_written_whole_or_not_at_all(config, tmp_path, monkeypatch):
    def interrupted(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)  # the last file of three
    with pytest.raises(KeyboardInterrupt):
        runs.save_run(tmp_path, config, TENSORS, HISTORY)
    assert list(tmp_path.iterdir()) == []


def damage_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def remove_weights(folder):
    (folder / "weights.safetensors").unlink()


def damage_config(folder):
    (folder / "config.json").write_text('{"config": ')


def foreign_config(folder):
    record = json.loads((folder / "config.json").read_text())
    record["config"]["epochs"] = 999
    (folder / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_weights, "SafetensorError"),
        (remove_weights, "weights.safetensors"),
        (damage_config, "JSONDecodeError"),
        (foreign_config, "config.json describes another run"),
    ],
)
def test_damaged_runs_name_their_folder_and_what_to_do(damage, why, config, tmp_path):
    folder = runs.save_run(tmp_path, config, TENSORS, HISTORY)
    damage(folder)
    with pytest.raises(ValueError, match=rf"the run in {folder} cannot be used: .*{why}") as error:
        runs.load_run(tmp_path, config)
    assert "Delete that folder, or pass force=True" in str(error.value)


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    runs.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        runs.write_atomically(path, b"newer")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_trained_sae_survives_the_disk(config, toy, tmp_path):
    run = dataclasses.replace(config, epochs=1)
    (sae,), (history,) = train_saes([run], [toy.activations], progress=False)
    runs.save_run(tmp_path, run, sae.state_dict(), history)
    tensors, _, _ = runs.load_run(tmp_path, run)
    assert all(torch.equal(tensors[name], value) for name, value in sae.state_dict().items())


# --- results ---


def row(task: str, value: float = 0.5, **more) -> dict:
    columns = {"run_id": "vanilla-12345678", "n_latents": 32, "task": task, "metric": "f1"}
    return columns | {"value": value} | more


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "table.csv"


def test_appended_rows_are_read_back(path):
    assert results.append(path, [row("a", 0.25, n_train=10), row("b", float("nan"))]) == 2
    table = results.read(path)
    assert tuple(table.columns) == results.COLUMNS
    assert table["task"].tolist() == ["a", "b"]
    assert table["value"].iloc[0] == 0.25 and pd.isna(table["value"].iloc[1])
    assert table["n_train"].iloc[0] == 10 and pd.isna(table["n_train"].iloc[1])
    assert table["method"].tolist() == ["", ""]
    assert table["n_latents"].dtype == "Int64"
    assert table["git_commit"].iloc[0] == runs.git_state()[0]
    assert table["created_utc"].iloc[0] <= runs.now_utc()


def test_rows_that_are_there_already_stay_as_they_are(path):
    results.append(path, [row("a", 0.1)])
    before = path.read_bytes()
    assert results.append(path, [row("a", 0.9)]) == 0
    assert path.read_bytes() == before
    assert results.append(path, [row("a", 0.9), row("b", 0.2), row("a", 0.3, seed=1)]) == 2
    assert path.read_bytes().startswith(before)
    assert results.read(path)["value"].tolist() == [0.1, 0.2, 0.3]


def test_a_key_given_twice_is_written_once(path):
    assert results.append(path, [row("a", 0.1), row("b", 0.2), row("a", 0.3)]) == 2
    assert results.read(path)["value"].tolist() == [0.1, 0.2]


def test_missing_says_what_is_left_to_measure(path):
    assert results.missing(path, [row("a")]) == [True]
    results.append(path, [row("a"), row("b", seed=0)])
    assert results.missing(path, [row("a"), row("b"), row("b", seed=0)]) == [False, True, False]


def test_several_files_are_read_as_one(path):
    other = path.with_name("other.csv")
    results.append(path, [row("a")])
    results.append(other, [row("b")])
    table = results.read([path, other, path.with_name("none.csv")])
    assert table["task"].tolist() == ["a", "b"]
    assert len(results.read(path.with_name("none.csv"))) == 0


def test_text_with_commas_and_quotes(path):
    results.append(path, [row('l, "turn" 1'), row("b")])
    assert results.read(path)["task"].tolist() == ['l, "turn" 1', "b"]
    assert results.append(path, [row('l, "turn" 1')]) == 0


def test_unknown_column(path):
    with pytest.raises(ValueError, match="no such results column: colour, shape"):
        results.append(path, [row("a", shape="l", colour="red")])
    assert not path.exists()


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda lines: [*lines[:2], lines[2].replace("0.5", "half"), lines[3]], 3),
        (lambda lines: [*lines[:3], "only,three,cells\n"], 4),
        (lambda lines: [*lines[:3], lines[3][:-30]], 4),  # torn: the machine stopped while writing
        (lambda lines: [*lines[:3], lines[3][:-1]], 4),
        (lambda lines: ["other,columns\n", "1,2\n"], 1),
    ],
)
def test_broken_rows_are_named_by_file_and_line(broken, line, path):
    results.append(path, [row("a"), row("b"), row("c")])
    path.write_text("".join(broken(path.read_text().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"table\.csv, line {line}: "):
        results.read(path)
    with pytest.raises(ValueError, match=rf"table\.csv, line {line}: "):
        results.append(path, [row("d")])
    assert path.read_bytes() == before


@pytest.mark.parametrize("there_before", [True, False])
def test_a_full_disk_leaves_the_file_as_it_was(there_before, path, monkeypatch):
    if there_before:
        results.append(path, [row("a")])
    before = path.read_bytes() if there_before else None
    write = os.write

    def full(descriptor, data):
        if b"vanilla" not in bytes(data):
            return write(descriptor, data)
        write(descriptor, bytes(data)[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left.*nothing was changed") as error:
            results.append(path, [row("b")])
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert (path.read_bytes() if path.exists() else None) == before
    assert results.append(path, [row("b")]) == 1
    assert results.read(path)["task"].tolist() == (["a", "b"] if there_before else ["b"])


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("ending", [".lock", ".csv"])
def test_a_read_only_folder_leaves_the_file_as_it_was(ending, code, path, monkeypatch):
    results.append(path, [row("a")])
    before, open_file = path.read_bytes(), os.open

    def read_only(name, flags, *arguments, **options):
        if str(name).endswith(ending) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), str(name))
        return open_file(name, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(OSError, match=f"cannot be written.*{os.strerror(code)}.*SAVE_PATH"):
            results.append(path, [row("b")])
    assert path.read_bytes() == before
    assert results.append(path, [row("b")]) == 1


def test_appends_from_two_processes_lose_nothing(path):
    program = (
        "import sys\n"
        "from saehelpers import results\n"
        "path, name = sys.argv[1:]\n"
        "for i in range(15):\n"
        "    results.append(path, [{'task': f'{name}{i}', 'metric': 'f1', 'value': i}])\n"
        "    results.append(path, [{'task': f'both{i}', 'metric': 'f1', 'value': i}])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in ("x", "y")
    ]
    assert [process.wait(timeout=90) for process in processes] == [0, 0]
    expected = [f"{name}{i}" for name in ("x", "y", "both") for i in range(15)]
    assert sorted(results.read(path)["task"]) == sorted(expected)


def test_stale_rows_are_dropped(path):
    old, new = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
    rows = [
        row("a", created_utc=old, run_id="retrained"),
        row("b", created_utc=new, run_id="retrained"),
        row("c", created_utc=old, run_id="older"),
        row("d", created_utc=old, run_id="unknown"),
    ]
    results.append(path, rows)
    created = {"retrained": "2024-06-01T00:00:00Z", "older": "2023-06-01T00:00:00Z"}
    assert results.drop_stale(path, created) == 1
    assert results.read(path)["task"].tolist() == ["b", "c", "d"]
    before = path.read_bytes()
    assert results.drop_stale(path, created) == 0
    assert path.read_bytes() == before
    assert results.drop_stale(path.with_name("none.csv"), created) == 0
    assert results.append(path, [rows[0]]) == 1
