"""Runs and results on disk: whole or not there at all, and never mixed up."""

import dataclasses
import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from saehelpers import runs
from saehelpers.datasets import write_shards
from saehelpers.experiments import ActionRun, BaseModelRun, load_sae
from saehelpers.runs import columns, files, folders, results, table_files
from saehelpers.saes import SAEConfig, make_sae, save_sae_lens
from saehelpers.training.methods import EndToEndRun, SAERun

CONFIG = BaseModelRun("mlp", "shapes", "mlp")
TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor(0.5)}
HISTORY = pd.DataFrame({"epoch": [0, 1], "loss": [0.5, 0.25]})

# --- runs ---


def other_value(value):
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if value in ("constant", "adam"):  # one of few
        return {"constant": "linear", "adam": "refined"}[value]
    return value + "x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("config", [CONFIG, ActionRun("action", "mlp-1/C4", "C4")])
def test_hash_is_sensitive_to_every_field(config):
    hashes = {runs.config_hash(config)}
    for field in dataclasses.fields(config):
        changed = {field.name: other_value(getattr(config, field.name))}
        hashes.add(runs.config_hash(dataclasses.replace(config, **changed)))
    assert len(hashes) == 1 + len(dataclasses.fields(config))


def test_hash_of_an_sae_run_is_sensitive_to_its_architecture():
    sae = SAEConfig(d=8, n_latents=12)
    others = {
        "activation": "relu",
        "encoder": "linear",
        "encoder_activation": "gelu",
        "dictionary": "archetypal",
        "prefixes": (3, 12),
    }
    hashes = {runs.config_hash(sae)}
    for heads in (1, 2):
        blocks = dataclasses.replace(sae, dictionary="block_diagonal", n_heads=heads)
        hashes.add(runs.config_hash(blocks))
    for threshold in (0.05, 2.0):
        jump = dataclasses.replace(sae, activation="jumprelu", initial_threshold=threshold)
        hashes.add(runs.config_hash(jump))
    alone = ("n_heads", "initial_threshold")  # which not every SAE has
    fields = [field for field in dataclasses.fields(sae) if field.name not in alone]
    for field in fields:
        value = others.get(field.name) or other_value(getattr(sae, field.name))
        changed = dataclasses.replace(sae, **{field.name: value})
        hashes.add(runs.config_hash(changed))
    assert len(hashes) == 5 + len(fields)


@pytest.mark.parametrize("field", ["lambda_sym", "learning_rate", "lambda_mse"])
def test_equal_configs_have_one_hash_whatever_type_their_numbers_have(field):
    configs = [SAERun("vanilla", "toy", SAEConfig(d=8, n_latents=12)) for _ in range(2)]
    for config, value in zip(configs, (1, 1.0), strict=True):
        object.__setattr__(config, field, value)  # types are checked in tests alone
    assert configs[0] == configs[1]
    assert runs.run_id(configs[0]) == runs.run_id(configs[1])


def test_hash_does_not_depend_on_the_order_of_fields():
    @dataclass(frozen=True)
    class OneOrder:
        name: str = "x"
        epochs: int = 3

    @dataclass(frozen=True)
    class OtherOrder:
        epochs: int = 3
        name: str = "x"

    assert runs.config_hash(OneOrder()) == runs.config_hash(OtherOrder())


def test_hash_changes_with_the_version_of_training(monkeypatch):
    before = runs.config_hash(CONFIG)
    monkeypatch.setattr(folders, "VERSION", folders.VERSION + 1)
    assert runs.config_hash(CONFIG) != before


def test_run_id_is_the_name_and_eight_digits_of_the_hash():
    assert runs.run_id(CONFIG) == "mlp-" + runs.config_hash(CONFIG)[:8]


def test_a_run_is_printed_in_a_few_lines():
    sae = SAEConfig(d=256, n_latents=64, dictionary="archetypal", n_archetypes=100)
    config = SAERun("canonical", "toy", sae, "canonical", epochs=7, seed=0, auxk=0)
    head, *lines = str(config).splitlines()
    assert head == f"SAERun {runs.run_id(config)}"
    assert len(lines) <= 6 and all(len(line) <= 96 for line in lines)
    text = " ".join(" ".join(lines).split())
    for part in (
        "sae: SAEConfig(d=256, n_latents=64, activation='topk', topk=8, ",
        "dictionary='archetypal', n_archetypes=100, delta=1.0)",
        "activations='toy', objective='canonical', lambda_sym=1.0, p=1.0, epochs=7, ",
        "seed=0",
    ):
        assert part in text
    assert not any(name in text for name in ("group_order", "prefixes", "auxk", "lambda_mse"))
    assert repr(config).startswith("SAERun(name='canonical', activations='toy', sae=SAEConfig(")
    relu = str(SAEConfig(8, 12, "relu", encoder="linear", unit_decoder=True))
    expected = "d=8, n_latents=12, activation='relu', encoder='linear', unit_decoder=True, "
    assert relu == f"SAEConfig({expected}dictionary='free')"


@pytest.mark.parametrize(
    "config, parts",
    [
        (CONFIG, ["BaseModelRun mlp-", "group='C4'"]),
        (ActionRun("action", "toy", "D4"), ["ActionRun action-", "group='D4'", "method='adam'"]),
        (
            EndToEndRun("e2e", "gpt2/1a", "text", "h.6", SAEConfig(8, 12)),
            ["EndToEndRun e2e-", "module='h.6'", "lambda_kl=1.0", "n_latents=12", "seed=0"],
        ),
    ],
)
def test_what_print_shows_of_other_runs(config, parts):
    assert all(part in str(config) for part in parts)


def test_a_run_comes_back_as_it_was_saved(tmp_path):
    folder = runs.save_run(tmp_path / "models", CONFIG, TENSORS, HISTORY)
    assert folder == tmp_path / "models" / runs.run_id(CONFIG)
    tensors, history, record = runs.load_run(tmp_path / "models", CONFIG)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert history.equals(HISTORY)
    assert record["config"] == dataclasses.asdict(CONFIG)
    assert record["kind"] == "BaseModelRun"
    assert record["torch"] == torch.__version__
    assert record["created_utc"] <= runs.now_utc()


def test_tensors_need_not_be_contiguous_or_free_of_gradients(tmp_path):
    tensor = torch.arange(6.0).view(2, 3).requires_grad_().T
    runs.save_run(tmp_path, CONFIG, {"weight": tensor}, HISTORY)
    assert torch.equal(runs.load_run(tmp_path, CONFIG)[0]["weight"], tensor)


def test_a_run_that_was_not_trained(tmp_path):
    assert runs.load_run(tmp_path, CONFIG) is None
    assert runs.load_run(tmp_path / "no such folder", CONFIG) is None


def test_an_existing_run_is_kept_unless_overwritten(tmp_path):
    later = {name: tensor + 1 for name, tensor in TENSORS.items()}
    runs.save_run(tmp_path, CONFIG, TENSORS, HISTORY)
    folder = runs.save_run(tmp_path, CONFIG, later, HISTORY)
    assert torch.equal(runs.load_run(tmp_path, CONFIG)[0]["weight"], TENSORS["weight"])
    runs.save_run(tmp_path, CONFIG, later, HISTORY, overwrite=True)
    assert torch.equal(runs.load_run(tmp_path, CONFIG)[0]["weight"], later["weight"])
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_while_saving_leaves_no_trace(tmp_path, monkeypatch, overwrite):
    folder = runs.save_run(tmp_path, CONFIG, TENSORS, HISTORY)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def half_written(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", half_written)
    for config in (CONFIG, dataclasses.replace(CONFIG, seed=1)):
        message = rf"cannot be written \(No space left.*Free space.*{runs.run_id(config)}"
        with pytest.raises(OSError, match=message):
            runs.save_run(tmp_path, config, TENSORS, HISTORY, overwrite)
    assert list(tmp_path.iterdir()) == [folder]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_that_cannot_take_the_place_of_another_leaves_it(tmp_path, monkeypatch):
    folder = runs.save_run(tmp_path, CONFIG, TENSORS, HISTORY)
    rename = Path.rename

    def fail_to_replace(path, target):
        if target == folder and not path.name.endswith("-before"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_to_replace)
    with pytest.raises(OSError, match="Input/output error"):
        runs.save_run(tmp_path, CONFIG, {"weight": torch.zeros(1)}, HISTORY, overwrite=True)
    assert list(tmp_path.iterdir()) == [folder]
    assert torch.equal(runs.load_run(tmp_path, CONFIG)[0]["weight"], TENSORS["weight"])


def truncate_weights(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def replace_config(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    record["config"]["latent_dim"] += 1
    (folder / "config.json").write_text(json.dumps(record))


DAMAGES = {
    "truncated weights": truncate_weights,
    "foreign config": replace_config,
    "truncated config": lambda folder: (folder / "config.json").write_text('{"version": 1'),
    "config of nothing": lambda folder: (folder / "config.json").write_text("{}"),
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "no history": lambda folder: (folder / "history.csv").unlink(),
    "empty history": lambda folder: (folder / "history.csv").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run(tmp_path, damage):
    folder = runs.save_run(tmp_path, CONFIG, TENSORS, HISTORY)
    DAMAGES[damage](folder)
    with pytest.raises(ValueError, match=f"run in .*{folder.name} cannot be used.*force=True"):
        runs.load_run(tmp_path, CONFIG)
    runs.save_run(tmp_path, CONFIG, TENSORS, HISTORY, overwrite=True)
    assert runs.load_run(tmp_path, CONFIG) is not None


def test_weights_of_another_architecture(tmp_path):
    config = SAERun("vanilla", "toy", SAEConfig(d=8, n_latents=12))
    other = make_sae(SAEConfig(d=8, n_latents=13))
    folder = runs.save_run(tmp_path, config, other.state_dict(), HISTORY)
    with pytest.raises(
        ValueError, match=f"(?s)run in .*{folder.name} cannot be used: .*size mismatch"
    ):
        load_sae(config, tmp_path)


def test_writing_atomically_leaves_the_old_file_after_an_error(tmp_path, monkeypatch):
    path = tmp_path / "file"
    runs.write_atomically(path, b"old")

    def fail(self, target):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="Input/output error"):
            runs.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    runs.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_and_folders_have_the_permissions_that_the_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        folder = runs.save_run(tmp_path / "models", CONFIG, TENSORS, HISTORY, files={"a.txt": "a"})
        runs.write_atomically(tmp_path / "file", b"new")
        runs.write_atomically(tmp_path / "file", b"newer")
        results.append(tmp_path / "results.csv", [row()])
        write_shards(tmp_path / "shards", [torch.zeros(3, 2)])
        save_sae_lens(make_sae(SAEConfig(4, 8, encoder="linear")), tmp_path / "sae")
        with runs.temporary_path(tmp_path / "one.safetensors") as temporary:
            runs.files.save_tensors(temporary, TENSORS)
    finally:
        os.umask(before)
    written = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*")}
    assert {"models", folder.name, "config.json", "a.txt", "00000.safetensors"} < {
        path.name for path in written
    }
    for name, path in written.items():
        wanted = 0o777 & ~umask if path.is_dir() else mode
        assert path.stat().st_mode & 0o777 == wanted, name


# --- results ---


def row(**columns):
    told = {"measure": "m", "data": "d"}
    return {"run_id": "vanilla-1", "metric": "fvu", "seed": 0, "value": 0.5} | told | columns


def own(path):
    """The file that rows are written to."""
    return results.own_path(path)


def ship(path, rows):
    """Put rows into the shipped file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIP_RESULTS", "1")
        results.append(path, rows)


def test_rows_come_back_as_they_were_appended(tmp_path):
    path = tmp_path / "new_folder" / "results.csv"
    rows = [
        row(value=0.123456789, topk=8, task='a "quoted", thing'),
        row(seed=1, value=float("nan"), n_train=10),
        row(seed=2, value=1, element="true", n_latents=256),
    ]
    assert results.append(path, rows) == 3
    table = results.read(path)
    assert tuple(table.columns) == results.COLUMNS
    assert table["value"].tolist()[::2] == [0.123457, 1.0]
    assert pd.isna(table["value"][1])
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["topk"][0] == 8 and table["topk"].isna().tolist() == [False, True, True]
    assert table["n_train"].isna().tolist() == [True, False, True]
    assert table["n_latents"][2] == 256
    assert table["task"].tolist() == ['a "quoted", thing', "", ""]
    assert table["element"].tolist() == ["", "", "true"]
    assert (table["created_utc"] <= runs.now_utc()).all()
    assert (table["git_commit"] == runs.git_state()[0]).all()


def test_a_name_that_pandas_takes_for_missing_stays_a_name(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(element="none", task="NA", probe="null")])
    assert results.read(path)[["element", "task", "probe"]].iloc[0].tolist() == [
        "none",
        "NA",
        "null",
    ]
    assert results.missing(path, [row(element="none", task="NA", probe="null")]) == [False]


def test_commit_and_time_may_be_given(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(git_commit="abc", created_utc="2020-01-01T00:00:00Z")])
    table = results.read(path)
    assert table["git_commit"].tolist() == ["abc"]
    assert table["created_utc"].tolist() == ["2020-01-01T00:00:00Z"]


def test_rows_that_are_there_already_are_not_written_again(tmp_path):
    path = tmp_path / "results.csv"
    assert results.append(path, [row(), row(value=float("nan"), seed=1)]) == 2
    before = own(path).read_bytes()
    assert results.append(path, [row(value=0.7), row(seed=1, value=0.1)]) == 0
    assert own(path).read_bytes() == before
    assert results.append(path, [row(), row(seed=2)]) == 1
    assert own(path).read_bytes().startswith(before)
    assert results.read(path)["seed"].tolist() == [0, 1, 2]


def test_rows_that_repeat_within_one_call_are_written_once(tmp_path):
    path = tmp_path / "results.csv"
    assert results.append(path, [row(), row(value=0.7)]) == 1
    assert results.read(path)["value"].tolist() == [0.5]


def test_rows_that_are_asked_for_again_are_written_alike(tmp_path):
    path = tmp_path / "results.csv"
    rows = [row(value=1, seed=seed) for seed in range(3)]
    results.append(path, rows)
    before = own(path).read_bytes()
    results.take(path, rows[:1])
    results.take(path, rows[1:])
    assert own(path).read_bytes() == before


def test_nothing_to_append(tmp_path):
    path = tmp_path / "results.csv"
    assert results.append(path, []) == 0
    assert results.read(path).empty


@pytest.mark.parametrize("column", [*results.KEY, *columns.SAMPLES])
def test_rows_are_told_apart_by_every_column_but_what_came_out(tmp_path, column):
    path = tmp_path / "results.csv"
    value = 7 if column in columns.NUMERIC else "seven"
    assert results.missing(path, [row()]) == [True]
    results.append(path, [row()])
    rows = [row(), row(**{column: value}), row(value=0.9, git_commit="another")]
    assert results.missing(path, rows) == [False, True, False]
    assert results.append(path, rows) == 1
    assert results.missing(path, rows) == [False, False, False]


def test_several_files_are_read_as_one_table(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    results.append(first, [row()])
    results.append(second, [row(seed=1), row(seed=2)])
    table = results.read([first, tmp_path / "none.csv", str(second)])
    assert table["seed"].tolist() == [0, 1, 2]
    assert table.index.tolist() == [0, 1, 2]


def test_file_that_does_not_exist_has_no_rows(tmp_path):
    table = results.read(tmp_path / "none.csv")
    assert tuple(table.columns) == results.COLUMNS and table.empty


def test_own_rows_come_before_shipped_ones_of_the_same_key(tmp_path, capsys):
    path = tmp_path / "results.csv"
    ship(path, [row(), row(seed=1)])
    shipped = path.read_bytes()
    own(path).parent.mkdir()
    results.own_path(path).write_bytes(shipped.replace(b",0.5,", b",0.7,").replace(b",1,", b",2,"))
    capsys.readouterr()
    table = results.read(path)
    assert capsys.readouterr().out == "results: 2 own rows, 2 shipped\n"
    assert dict(zip(table["seed"], table["value"], strict=True)) == {0: 0.7, 1: 0.5, 2: 0.7}
    ship(tmp_path / "other.csv", [row(seed=9)])
    assert [name.name for name in results.tables(tmp_path)] == ["other.csv", "results.csv"]
    alone = results.read(results.tables(tmp_path), own_alone=True)
    assert alone["seed"].tolist() == [9, 0, 2]
    assert results.append(path, [row(), row(seed=1), row(seed=3)]) == 2
    assert path.read_bytes() == shipped


def test_what_ships_is_read_and_written_alone(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    results.append(path, [row()])
    monkeypatch.setenv("SHIP_RESULTS", "1")
    assert results.read(path).empty and results.missing(path, [row()]) == [True]
    assert results.append(path, [row(seed=1)]) == 1
    assert results.read(path)["seed"].tolist() == [1]
    monkeypatch.delenv("SHIP_RESULTS")
    assert results.read(path)["seed"].tolist() == [1, 0]


def test_compressed_table_is_read_as_any(tmp_path):
    path = tmp_path / "results.csv"
    ship(path, [row(), row(seed=1)])
    compressed = tmp_path / "results.csv.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert results.read(path)["seed"].tolist() == [0, 1]
    assert results.missing(path, [row(), row(seed=2)]) == [False, True]
    ship(path, [row(seed=2)])
    assert pd.read_csv(compressed)["seed"].tolist() == [0, 1, 2]
    assert not path.exists()


def test_rows_that_are_asked_for_stand_last(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(run_id=name, epochs=5) for name in ("a", "b")])
    ship(path, [row(run_id="c", epochs=5), row(run_id="d", epochs=5)])
    for name in "abcd":
        taken = results.take(path, [{"run_id": name, "epochs": 5}])
        assert taken["run_id"].tolist() == [name]
        assert results.latest(results.read(path))["run_id"].tolist() == [name]
    before = own(path).read_bytes()
    results.take(path, [{"run_id": "d"}])
    assert own(path).read_bytes() == before
    assert results.take(path, [{"run_id": "e"}]).empty


def test_descriptions_agree_in_the_columns_that_they_give(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=0), row(seed=1, topk=4), row(seed=1, topk=8)])
    assert results.missing(path, [{"seed": 1}, {"seed": 2}, {"topk": 8}]) == [False, True, False]
    table = results.take(path, [{"seed": 1, "topk": 4}, {"seed": 0}])
    assert table["seed"].tolist() == [0, 1]


@pytest.mark.parametrize("cause", columns.CAUSES)
def test_rows_measured_on_anything_else_are_other_rows(cause):
    given = {"measure": row, "data": torch.zeros(2), "weights": "w", "action": "a"}
    changed = {"measure": own, "data": torch.ones(2), "weights": "v", "action": "b"}
    before, after = results.causes(**given), results.causes(**given | {cause: changed[cause]})
    assert {name for name in before if before[name] != after[name]} == {cause}


def test_rows_say_what_they_were_measured_on(tmp_path):
    with pytest.raises(ValueError, match="does not say what it was measured on, and how"):
        results.append(tmp_path / "results.csv", [row(measure="")])


def test_file_of_the_older_format_is_converted(tmp_path):
    path = tmp_path / "results.csv"
    old = [name for name in results.COLUMNS if name not in (*columns.CAUSES, "base_seed")]
    results._table([row(created_utc="2020-01-01T00:00:00Z")])[old].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"results\.csv, line 2: .*older format, see .*convert"):
        results.read(path)
    results.convert(path)
    table = results.read(path)
    assert table["value"].tolist() == [0.5] and table["measure"].tolist() == [""]
    assert results.missing(path, [row()]) == [True]


def test_what_is_renewed_takes_the_place_of_rows_without_causes(tmp_path):
    path = tmp_path / "results.csv"
    old = [name for name in results.COLUMNS if name not in (*columns.CAUSES, "base_seed")]
    rows = [row(seed=seed, value=0.1, created_utc="2020-01-01T00:00:00Z") for seed in (0, 1)]
    results._table(rows)[old].to_csv(path, index=False)
    results.convert(path)
    ship(path, [row(run_id="vanilla-2", seed=1)])
    table = results.read(path)
    assert table[["run_id", "seed", "value"]].values.tolist() == [
        ["vanilla-1", 0, 0.1], ["vanilla-2", 1, 0.5],
    ]  # fmt: skip


def test_two_rows_of_one_key(tmp_path):
    path = tmp_path / "results.csv"
    ship(path, [row(), row(seed=1)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1].replace(",0.5,", ",0.7,")]))
    with pytest.raises(ValueError, match=r"results\.csv, line 4: a second row of one key"):
        results.read(path)


def test_unknown_column(tmp_path):
    with pytest.raises(ValueError, match="no such results column: colour, size"):
        results.append(tmp_path / "results.csv", [row(), row(size=1, colour="red")])
    assert not (tmp_path / "results.csv").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(",0.5,", ",half,"),
        lambda line: line.replace(",", "", 1),
        lambda line: line.rsplit(",", 1)[0] + "\n",
        lambda line: "x," + line,
        lambda line: re.sub(r"^((?:[^,]*,){8})[^,]*", r"\g<1>6e05316", line),
    ],
    ids=[
        "a word for a number",
        "a field lost",
        "the last field lost",
        "a field too many",
        "a commit for a number",
    ],
)
def test_broken_row_is_named_with_its_file_and_line(tmp_path, change):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=seed) for seed in range(5)])
    lines = own(path).read_text().splitlines(keepends=True)
    lines[3] = change(lines[3])
    own(path).write_text("".join(lines))
    with pytest.raises(ValueError, match=r"results\.csv, line 4: "):
        results.read(path)


def test_only_row_with_a_field_too_many(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row()])
    header, line = own(path).read_text().splitlines()
    own(path).write_text(f"{header}\nx,{line}\n")
    with pytest.raises(ValueError, match=r"results\.csv, line 2: a row has more than 30 fields"):
        results.read(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\n\n",
        lambda text: "\n" + text,
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("run_id", '"run_id"', 1),
    ],
    ids=["at the end", "at the start", "everywhere", "of Windows", "quotes"],
)
def test_what_editors_leave_in_a_file_is_read_and_appended_to(tmp_path, edit):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=seed) for seed in range(3)])
    own(path).write_text(edit(own(path).read_text()), newline="")
    assert results.read(path)["seed"].tolist() == [0, 1, 2]
    assert results.append(path, [row(seed=seed) for seed in (2, 3)]) == 1
    assert results.read(path)["seed"].tolist() == [0, 1, 2, 3]


def test_a_table_that_was_changed_is_refused_until_its_check_is_gone(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=seed, value=0.125) for seed in range(3)])
    text = own(path).read_text()
    for changed in (text.replace("0.125", "0.525", 1), "".join(text.splitlines(True)[:-1])):
        own(path).write_text(changed)
        for use in (results.read, lambda path: results.append(path, [row(seed=9)])):
            with pytest.raises(ValueError, match=r"results\.csv is not as it was written"):
                use(path)
    (tmp_path / "own" / ".results.csv.check").unlink()
    assert len(results.read(path)) == 2
    assert results.append(path, [row(seed=seed) for seed in (8, 9)]) == 2
    assert len(results.read(path)) == 4


def test_a_table_is_known_after_writers_were_killed_before_they_replaced_it(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=0)])
    whole = table_files.write_atomically

    def dies(target, data):
        if target.suffix == ".csv":
            raise KeyboardInterrupt
        whole(target, data)

    for seed in (1, 2, 3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(table_files, "write_atomically", dies)
            results.append(path, [row(seed=seed)])
        assert results.read(path)["seed"].tolist() == [0]


def test_shipped_tables_have_no_check_beside_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SHIP_RESULTS", "1")
    results.append(tmp_path / "results.csv", [row(seed=0)])
    assert not list(tmp_path.rglob("*.check"))  # a pull replaces the table alone


def test_blank_lines_are_not_taken_for_broken_ones(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=seed) for seed in range(3)])
    lines = own(path).read_text().splitlines(keepends=True)
    own(path).write_text("".join([lines[0], "\n", "   \n", "half" + lines[1], "1,2\n"]))
    for use in (results.read, lambda path: results.append(path, [row(seed=9)])):
        with pytest.raises(ValueError, match=r"results\.csv, line 5: a row has fewer than 30"):
            use(path)


@pytest.mark.parametrize("cut", [1, 20])
def test_last_line_cut_short(tmp_path, cut):
    path = tmp_path / "results.csv"
    results.append(path, [row(seed=seed) for seed in range(5)])
    own(path).write_text(own(path).read_text()[:-cut])
    before = own(path).read_bytes()
    for use in (results.read, lambda path: results.append(path, [row(seed=9)])):
        with pytest.raises(ValueError, match=r"results\.csv, line 6: the last line is cut short"):
            use(path)
    assert own(path).read_bytes() == before


def test_latest_keeps_one_run_of_those_that_differ_in_nothing_else(tmp_path):
    path = tmp_path / "results.csv"
    times = {"old": "2024-05-01T00:00:00Z", "new": "2024-05-03T00:00:00Z"}
    rows = [row(run_id=name, created_utc=time) for name, time in times.items()]
    rows.insert(0, row(run_id="old", seed=1, created_utc=times["old"]))
    results.append(path, rows)
    kept = results.latest(results.read(path))
    assert dict(zip(kept["seed"], kept["run_id"], strict=True)) == {1: "old", 0: "new"}


def test_runs_of_other_lengths_are_never_shown_as_one(tmp_path):
    path = tmp_path / "results.csv"
    lengths = {("C4", 8): [40, 500], ("D4", 8): [40], ("C4", 4): [40]}
    results.append(
        path,
        [
            row(run_id=f"{group}{k}{n}{seed}", group=group, topk=k, epochs=n, seed=seed)
            for (group, k), lengths in lengths.items()
            for n in lengths
            for seed in range(2 if n == 40 else 1)
        ]
        + [row(run_id="base", group="C4", method="base_model")],
    )
    table = results.latest(results.read(path))
    kept = results.trained_for(table)
    by_cell = kept.groupby(["group", "topk"]).epochs.agg(["unique", "size"])
    assert {cell: (*rows["unique"], rows["size"]) for cell, rows in by_cell.iterrows()} == {
        ("C4", 8): (500, 1), ("D4", 8): (40, 2), ("C4", 4): (40, 2),
    }  # fmt: skip
    assert "base" in set(kept.run_id)
    assert set(results.trained_for(table, 40).epochs.dropna()) == {40}
    with pytest.raises(ValueError, match=r"no SAE was trained for 41 epochs, but for \[40.*500"):
        results.trained_for(table, 41)


def test_file_with_other_columns(tmp_path):
    path = tmp_path / "results.csv"
    own(path).parent.mkdir()
    own(path).write_text("model,score\na,1\n")
    for use in (results.read, lambda path: results.append(path, [row()])):
        with pytest.raises(ValueError, match=r"results\.csv, line 2: the columns are model, score"):
            use(path)
    assert own(path).read_text() == "model,score\na,1\n"


def no_space(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    results.append(path, [row()])
    before = own(path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match=r"No space left on device.*nothing was changed") as error:
            results.append(path, [row(seed=seed) for seed in range(1, 10)])
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(own(path))
    assert own(path).read_bytes() == before
    assert results.append(path, [row(seed=1)]) == 1


def test_full_disk_at_the_first_row_leaves_no_file_in_the_way(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left on device"):
            results.append(path, [row()])
    assert results.read(path).empty
    assert results.append(path, [row()]) == 1
    assert results.read(path)["seed"].tolist() == [0]


def append_until_killed(path: Path) -> None:
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    results.append(path, [row(seed=seed) for seed in range(1, 200)])


def test_a_writer_that_is_killed_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row()])
    before = own(path).read_bytes()
    writer = multiprocessing.get_context("spawn").Process(target=append_until_killed, args=(path,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert own(path).read_bytes() == before
    assert results.append(path, [row(seed=1)]) == 1


def test_read_only_folder(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    results.append(path, [row()])
    before, open_file = own(path).read_bytes(), os.open

    def denied(name, flags, *arguments, **keywords):
        if flags & (os.O_WRONLY | os.O_RDWR) and Path(name).parent == own(path).parent:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return open_file(name, flags, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(PermissionError, match=r"cannot be written.*SAVE_PATH") as error:
            results.append(path, [row(seed=1)])
        assert results.append(path, [row()]) == 0  # what is there needs no lock
    assert error.value.filename == str(own(path))
    assert own(path).read_bytes() == before


def append_many(path: Path, together, own: str, n_rows: int) -> None:
    together.wait()
    for seed in range(n_rows):
        results.append(path, [row(seed=seed), row(seed=seed, run_id=own)])


def test_two_processes_lose_and_repeat_nothing(tmp_path):
    path, context = tmp_path / "results.csv", multiprocessing.get_context("spawn")
    together = context.Barrier(2, timeout=120)
    processes = [
        context.Process(target=append_many, args=(path, together, own, 25)) for own in ("a", "b")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    table = results.read(path)
    for run_id in ("vanilla-1", "a", "b"):
        assert sorted(table[table["run_id"] == run_id]["seed"]) == list(range(25))
    assert len(table) == 75


# --- config fields that were added later ---


def make_configs():
    """The same config before and after fields were added, on its own and nested."""

    def inner_before(width: int = 3):
        return dataclasses.make_dataclass("Inner", [("width", int)], frozen=True)(width)

    @dataclass(frozen=True)
    class Inner:
        width: int = 3
        sizes: tuple[int, ...] = runs.added_later(())

    @dataclass(frozen=True)
    class Before:
        inner: object
        name: str = "run"
        epochs: int = 5

    @dataclass(frozen=True)
    class After:
        inner: object
        name: str = "run"
        epochs: int = 5
        momentum: float = runs.added_later(0.9)
        note: str | None = runs.added_later(None)

    return Before(inner_before()), After(Inner())


BEFORE, AFTER = make_configs()


def test_a_field_added_later_changes_nothing_at_its_default(tmp_path):
    assert runs.settings(AFTER) == runs.settings(BEFORE)
    assert runs.settings(BEFORE) == {"inner": {"width": 3}, "name": "run", "epochs": 5}
    assert runs.config_hash(AFTER) == runs.config_hash(BEFORE)
    assert runs.run_id(AFTER) == runs.run_id(BEFORE)
    records = []
    for root, config in (("before", BEFORE), ("after", AFTER)):
        folder = runs.save_run(tmp_path / root, config, TENSORS, HISTORY)
        records.append(json.loads((folder / "config.json").read_text())["config"])
    assert records[0] == records[1] == runs.settings(BEFORE)


LATER_CHANGES = {
    "momentum": {"momentum": 0.5},
    "note": {"note": "x"},
    "nested": {"inner": dataclasses.replace(AFTER.inner, sizes=(1, 2))},
    "nested, an ordinary field": {"inner": dataclasses.replace(AFTER.inner, width=4)},
    "an ordinary field": {"epochs": 6},
}


def test_other_values_of_fields_added_later_give_other_hashes():
    changed = [dataclasses.replace(AFTER, **change) for change in LATER_CHANGES.values()]
    assert len({runs.config_hash(config) for config in [AFTER, *changed]}) == 1 + len(changed)
    assert runs.settings(changed[0])["momentum"] == 0.5
    assert "note" not in runs.settings(changed[0])
    assert runs.settings(changed[2])["inner"] == {"width": 3, "sizes": (1, 2)}


@pytest.mark.parametrize("change", LATER_CHANGES)
def test_runs_with_fields_added_later_come_back(tmp_path, change):
    config = dataclasses.replace(AFTER, **LATER_CHANGES[change])
    runs.save_run(tmp_path, config, TENSORS, HISTORY)
    assert runs.load_run(tmp_path, AFTER) is None
    tensors, history, record = runs.load_run(tmp_path, config)
    assert torch.equal(tensors["weight"], TENSORS["weight"])
    assert history.equals(HISTORY)
    assert record["config"] == json.loads(json.dumps(runs.settings(config)))


def test_a_run_from_before_a_field_was_added_is_found(tmp_path):
    runs.save_run(tmp_path, BEFORE, TENSORS, HISTORY)
    tensors, _, _ = runs.load_run(tmp_path, AFTER)
    assert torch.equal(tensors["weight"], TENSORS["weight"])


def test_a_later_field_that_was_changed_in_the_folder_is_noticed(tmp_path):
    config = dataclasses.replace(AFTER, momentum=0.5)
    path = runs.save_run(tmp_path, config, TENSORS, HISTORY) / "config.json"
    record = json.loads(path.read_text())
    del record["config"]["momentum"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="describes another run"):
        runs.load_run(tmp_path, config)


def test_sae_runs_without_later_settings_keep_their_names():
    config = SAERun("vanilla", "toy", SAEConfig(d=8, n_latents=12))
    fields = dataclasses.asdict(config)
    for name in ("prefixes", "n_heads", "topk_per_head", "initial_norm", "initial_threshold"):
        del fields["sae"][name]
    later = ("order_seed", "sparsity_warmup_steps", "lambda_multi_topk", "auxk", "lambda_auxk",
             "dead_after", "autocast", "compiled", "target_l0")  # fmt: skip
    for name in later:
        del fields[name]
    text = json.dumps({"version": folders.VERSION, **fields}, sort_keys=True)
    assert runs.config_hash(config) == hashlib.sha256(text.encode()).hexdigest()


def test_a_matryoshka_run_comes_back(tmp_path):
    nested = SAEConfig(d=8, n_latents=12, prefixes=(3, 12))
    config = SAERun("matryoshka", "toy", nested, "matryoshka")
    sae = make_sae(config.sae)
    runs.save_run(tmp_path, config, sae.state_dict(), HISTORY)
    other = dataclasses.replace(config, sae=dataclasses.replace(nested, prefixes=(4, 12)))
    assert runs.load_run(tmp_path, other) is None
    assert runs.load_run(tmp_path, config)[2]["config"]["sae"]["prefixes"] == [3, 12]
    assert torch.equal(load_sae(config, tmp_path).dictionary, sae.dictionary)


def test_fingerprints_tell_weights_apart_in_any_precision():
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    kinds = [{"w": weights}, {"w": weights.bfloat16()}, {"v": weights}, {"w": -weights}]
    assert len({runs.fingerprint(tensors) for tensors in kinds}) == 4
    assert runs.fingerprint({"w": weights.clone()}) == runs.fingerprint(kinds[0])
