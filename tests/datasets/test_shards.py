"""Activations on disk: written whole, refused when damaged, and every sample read once a pass."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saehelpers import runs
from saehelpers.datasets.shards import (
    BLOCK_SAMPLES,
    ShardStream,
    map_activations,
    map_shards,
    write_shards,
)
from saehelpers.experiments import load_or_train_saes
from saehelpers.runs.identities import identity
from saehelpers.training import fitting, side_by_side as training
from saehelpers.training.methods import SAERun
from saehelpers.training.side_by_side import train_saes

LENGTHS = (700, 256, 3, 1100)
TOTAL = sum(LENGTHS)


def numbered(lengths=LENGTHS, order: int = 2, d: int = 4, dtype=torch.float32) -> list[Tensor]:
    """Parts whose samples are their own numbers."""
    numbers = torch.arange(sum(lengths), dtype=dtype)[:, None, None]
    return list(numbers.expand(-1, order, d).split(list(lengths)))


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", numbered())


def numbers_of(stream: ShardStream, epochs: range) -> list[int]:
    samples = torch.cat([stream(epoch) for epoch in epochs])
    assert (samples == samples[:, :1, :1]).all()
    return samples[:, 0, 0].int().tolist()


# --- writing and mapping ---


def test_what_is_written_is_mapped(folder):
    shards = map_shards(folder)
    assert [len(shard) for shard in shards] == list(LENGTHS)
    assert torch.equal(torch.cat(shards), torch.cat(numbered()))


def test_vectors_become_orbits_of_one_element(tmp_path):
    x = torch.randn(10, 4)
    (shard,) = map_shards(write_shards(tmp_path / "a", [x]))
    assert torch.equal(shard, x[:, None])
    np.save(tmp_path / "a.npy", x)
    assert torch.equal(map_shards(tmp_path / "a.npy")[0], x[:, None])


def test_parts_are_written_one_at_a_time(tmp_path):
    def parts():
        for number, part in enumerate(numbered()):
            written = list(tmp_path.glob(".shards-*/*.safetensors"))
            assert len(written) == number
            yield part

    write_shards(tmp_path / "shards", parts())
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def parts():
        yield numbered()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "shards", parts())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_to(folder):
    with pytest.raises(FileExistsError, match="shards is there already: pass overwrite=True"):
        write_shards(folder, numbered())
    with pytest.raises(ValueError, match="no activations to write"):
        write_shards(folder.parent / "other", [])
    assert [path.name for path in folder.parent.iterdir()] == ["shards"]


def test_shards_take_the_place_of_others(folder):
    before = map_shards(folder)
    write_shards(folder, (2 * shard for shard in before[:2]), overwrite=True)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".shards.fingerprint", "00000.safetensors", "00001.safetensors"]
    for shard, other in zip(map_shards(folder), before, strict=False):
        assert torch.equal(shard, 2 * other)
    assert [path.name for path in folder.parent.iterdir()] == ["shards"]


def test_a_folder_of_other_files_is_not_replaced(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"shards is not replaced: notes\.txt in it is no"):
        write_shards(folder, numbered(), overwrite=True)
    with pytest.raises(FileExistsError, match="is not replaced: shards in it is no file that"):
        write_shards(folder.parent, numbered(), overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(map_shards(folder)) > 1


def test_shards_that_are_there_stay_when_new_ones_fail(folder):
    before = map_shards(folder)
    with pytest.raises(ValueError, match="part 1 has activations"):
        write_shards(folder, [before[0], before[0][..., :1]], overwrite=True)
    assert all(torch.equal(*pair) for pair in zip(map_shards(folder), before, strict=True))


# --- the stream ---


@pytest.mark.parametrize("n_samples", [1, 10, 300, 1000, TOTAL])
def test_every_sample_is_read_once_a_pass(folder, n_samples, monkeypatch):
    if n_samples < 100:
        monkeypatch.setattr("saehelpers.datasets.shards.BLOCK_SAMPLES", 7)
    stream = ShardStream(folder, n_samples)
    assert stream.epochs_per_pass == -(-TOTAL // n_samples)
    read = numbers_of(stream, range(2 * stream.epochs_per_pass))
    first, second = read[:TOTAL], read[TOTAL : 2 * TOTAL]
    assert sorted(first) == list(range(TOTAL))
    assert first != second
    assert len(set(second)) == len(second)


def test_a_buffer_larger_than_the_data_is_the_data(folder):
    stream = ShardStream(folder, 10**6)
    assert stream.epochs_per_pass == 1
    assert stream(3).shape == (TOTAL, 2, 4)
    assert sorted(numbers_of(stream, range(1))) == list(range(TOTAL))


def test_a_buffer_holds_blocks_from_all_over_the_data(tmp_path):
    folder = write_shards(tmp_path / "shards", numbered([BLOCK_SAMPLES * 8] * 5, 1, 1))
    read = numbers_of(ShardStream(folder, BLOCK_SAMPLES * 20), range(1))
    assert len({number // (BLOCK_SAMPLES * 8) for number in read}) == 5


def test_samples_come_from_the_seed_and_the_epoch(folder):
    expected = [ShardStream(folder, 300)(epoch) for epoch in range(9)]
    stream = ShardStream(folder, 300)
    for epoch in (5, 5, 0, 8, 1, 2):
        assert torch.equal(stream(epoch), expected[epoch])
    assert not torch.equal(ShardStream(folder, 300, seed=1)(0), expected[0])


def test_a_file_is_read_like_a_shard(tmp_path):
    parts = numbered([TOTAL])
    np.save(tmp_path / "a.npy", parts[0])
    from_folder = ShardStream(write_shards(tmp_path / "shards", parts), 300)
    assert torch.equal(ShardStream(tmp_path / "a.npy", 300)(1), from_folder(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_samples_are_float32(tmp_path, dtype):
    folder = write_shards(tmp_path / "shards", numbered([100], dtype=dtype))
    read = ShardStream(folder, 50)(0)
    assert read.dtype == torch.float32
    assert map_shards(folder)[0].dtype == dtype


def test_the_next_epoch_is_read_ahead(folder, monkeypatch):
    read, original = [], ShardStream._samples

    def noting(self, epoch):
        read.append(epoch)
        return original(self, epoch)

    monkeypatch.setattr(ShardStream, "_samples", noting)
    stream = ShardStream(folder, 300)
    stream(0)
    stream._thread.shutdown()  # waits for what was begun
    assert read == [0, 1]


def test_a_stream_that_was_read_goes_to_other_processes_without_its_samples(folder):
    stream = ShardStream(folder, 300)
    expected = stream(1)
    sent = pickle.dumps(stream)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)(1), expected)
    assert torch.equal(stream.to("cpu")(1), expected)


# --- training from it ---


@pytest.fixture
def run(small_config) -> SAERun:
    return SAERun("test", "toy", small_config, epochs=5, batch_size=32, learning_rate=1e-2)


def test_training_from_shards_is_training_on_the_same_samples(toy, run, tmp_path):
    folder = write_shards(tmp_path / "shards", toy.activations.split(50))
    stream = ShardStream(folder, 100)
    (sae,), (history,) = train_saes([run], [stream], progress=False)
    epochs = [ShardStream(folder, 100)(epoch) for epoch in range(run.epochs)]
    (plain,), (expected,) = train_saes([run], [lambda epoch: epochs[epoch]], progress=False)
    assert runs.fingerprint(plain.state_dict()) == runs.fingerprint(sae.state_dict())
    assert history.equals(expected)


def test_an_interrupt_changes_nothing(toy, run, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    folder = write_shards(tmp_path / "shards", toy.activations.split(50))
    (expected,), (expected_history,) = train_saes([run], [ShardStream(folder, 100)], progress=False)
    calls, total_loss = [], training.total_loss

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 10:  # in the third epoch
            raise KeyboardInterrupt
        return total_loss(*arguments)

    checkpoint = tmp_path / "checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr(training, "total_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_saes([run], [ShardStream(folder, 100)], None, checkpoint, progress=False)
    assert checkpoint.exists()
    (sae,), (history,) = train_saes(
        [run], [ShardStream(folder, 100)], None, checkpoint, progress=False
    )
    assert runs.fingerprint(sae.state_dict()) == runs.fingerprint(expected.state_dict())
    assert history.equals(expected_history)


def test_load_or_train_from_shards(toy, run, tmp_path):
    stream = ShardStream(write_shards(tmp_path / "shards", toy.activations.split(50)), 100)
    run = dataclasses.replace(run, activations=identity(stream))
    configs = [dataclasses.replace(run, seed=seed) for seed in (0, 1)]
    with ThreadPoolExecutor(1) as executor:
        saes = load_or_train_saes(configs, [stream] * 2, tmp_path / "models", executor=executor)
    trained, _ = train_saes(configs, [stream] * 2, progress=False)
    for sae, other in zip(saes, trained, strict=True):
        assert runs.fingerprint(sae.state_dict()) == runs.fingerprint(other.state_dict())


# --- bad input ---


def test_no_shards(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing", tmp_path / "missing.npy"):
        with pytest.raises(FileNotFoundError, match=rf"no activations at .*{path.name}: neither"):
            ShardStream(path, 10)(0)


@pytest.mark.parametrize(
    "odd, message",
    [
        (torch.zeros(5, 2, 7), r"\(n, 2, 7\) of torch.float32, .* \(n, 2, 4\) of torch.float32"),
        (torch.zeros(5, 3, 4), r"\(n, 3, 4\) of torch.float32, .* \(n, 2, 4\) of torch.float32"),
        (torch.zeros(5, 4), r"\(n, 4\) of torch.float32, .* \(n, 2, 4\) of torch.float32"),
        (torch.zeros(5, 2, 4).half(), r"\(n, 2, 4\) of torch.float16, .* of torch.float32"),
        (torch.zeros(5), r"activations are \(n, \|G\|, d\) or \(n, d\), .* has \(5,\)"),
    ],
)
def test_shards_that_are_not_alike(folder, odd, message):
    with pytest.raises(ValueError, match=f"part 1 .*{message}" if odd.ndim > 1 else message):
        write_shards(folder.parent / "other", [numbered()[0], odd])
    save_file({"activations": odd}, folder / "00007.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        ShardStream(folder, 10)(0)
    assert "00007.safetensors" in str(error.value)


@pytest.mark.parametrize("length", [0, 5, 100, -4])
def test_a_shard_that_is_cut_short(folder, length):
    path = folder / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        ValueError, match=r"00001\.safetensors is cut short .*copy or write it once more"
    ):
        ShardStream(folder, 10)(0)


NOT_READ = {
    "big-endian": (np.zeros((3, 2), ">f4"), r">f4, the bytes of each number in the other order"),
    "structured": (np.zeros(3, [("a", "f4")]), r"holds \[\('a', '<f4'\)\]: .* real numbers"),
    "objects": (np.array([[1, None]]), "holds Python objects: activations are real numbers"),
    "bfloat16": (np.zeros((3, 2), "V2"), r"holds \|V2: activations are real numbers of up to 64"),
    "complex": (np.zeros((3, 2), complex), "holds complex128: activations are real numbers"),
    "words": (np.array([["a"]]), "holds <U1: activations are real numbers"),
    "flags": (np.zeros((3, 2), bool), "holds bool: activations are real numbers"),
    "quadruple": (np.zeros((3, 2), np.longdouble), "activations are real numbers of up to 64"),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_a_kind_of_array_that_is_not_read(kind, tmp_path):
    array, message = NOT_READ[kind]
    np.save(tmp_path / "a.npy", array)
    for read in (map_shards, map_activations):
        with pytest.raises(ValueError, match=rf"a\.npy .*{message}") as error:
            read(tmp_path / "a.npy")
        assert "delete" not in str(error.value) and "cut short" not in str(error.value)


def test_a_big_endian_array_is_read_once_it_is_converted_as_told(tmp_path):
    x, path = np.arange(6, dtype=">f4").reshape(3, 2), tmp_path / "a.npy"
    np.save(path, x)
    np.save(path, np.load(path).astype("float32"))
    assert np.array_equal(map_activations(path), x)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u2", "i8"])
@pytest.mark.parametrize("shape", [(5, 3), (0, 3)])
def test_real_numbers_of_this_machine_are_read(dtype, shape, tmp_path):
    x = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    np.save(tmp_path / "a.npy", x)
    assert np.array_equal(map_activations(tmp_path / "a.npy"), x)


def test_files_of_other_kinds(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros(3))
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    for source, message in (("a.npz", "an archive: .* by numpy.save"), ("a.pt", "an archive")):
        path = (tmp_path / source).rename(tmp_path / "a.npy")
        with pytest.raises(ValueError, match=f"a.npy is {message}"):
            map_activations(path)
    (tmp_path / "a.npy").write_text("1.0, 2.0, 3.0")
    (tmp_path / "a.csv").write_text("1.0, 2.0, 3.0")
    for name, message in (("a.npy", "no .npy file"), ("a.csv", "no .safetensors file")):
        with pytest.raises(ValueError, match=f"{name} is {message}$"):
            map_shards(tmp_path / name)


def test_hidden_files_beside_shards_are_left_alone(folder):
    (folder / "._00000.safetensors").write_bytes(b"what macOS keeps")
    assert [len(shard) for shard in map_shards(folder)] == list(LENGTHS)


def test_one_tensor_is_one_part(tmp_path):
    x = torch.randn(4, 2, 3)
    (shard,) = map_shards(write_shards(tmp_path / "a", x))
    assert torch.equal(shard, x)
    with pytest.raises(ValueError, match=r"part 0 is no tensor, but of .*numpy\.ndarray"):
        write_shards(tmp_path / "b", (part for part in x.numpy()))


def test_a_file_of_something_else(folder):
    save_file({"weights": torch.zeros(3)}, folder / "00002.safetensors")
    with pytest.raises(ValueError, match=r"00002.* has no tensor 'activations', but weights"):
        map_shards(folder)


def test_values_that_are_no_numbers(run, tmp_path):
    x = torch.randn(100, 1, 8)
    x[70, 0, 3] = torch.nan
    stream = ShardStream(write_shards(tmp_path / "shards", [x]), 100)
    with pytest.raises(
        ValueError, match=r"activations .*(contain|has) NaN or infinite|activations has NaN"
    ):
        train_saes([run], [stream], progress=False)


def test_an_empty_buffer(folder):
    with pytest.raises(ValueError, match="n_samples must be 1 or more, got 0"):
        ShardStream(folder, 0)


def test_shards_of_another_width_than_the_sae(folder, run):
    with pytest.raises(ValueError, match=r"sae\.d is 8, the activations are \(100, 2, 4\)"):
        train_saes([run], [ShardStream(folder, 100)], progress=False)
