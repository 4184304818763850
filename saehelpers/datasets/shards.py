"""Activations on disk, larger than memory: written in shards, read in a random order.

<folder>/00000.safetensors   a tensor "activations", (n, |G|, d) or (n, d)
<folder>/00001.safetensors   the next, of any length, and otherwise of the same shape
<folder>/.shards.fingerprint  of each, the checksums (CRC-32) of its blocks of 256 samples
"""

import json
import math
import operator
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saehelpers import runs
from saehelpers.runs.checking import checked
from saehelpers.runs.fingerprints import SIDECAR
from saehelpers.runs.wanted import Device, Positive, Seed

BLOCK_SAMPLES = 256  # neighbours on disk, which are read together
CHECKSUMS = f".shards{SIDECAR}"


@checked
def write_shards(
    folder: Path | str, parts: Tensor | Iterable[Tensor], overwrite: bool = False
) -> Path:
    """Write each part of some activations as a shard, and return the folder.

    The parts, (n, |G|, d) or (n, d), may be computed while they are asked for, so that one at
    a time is in memory; one tensor is one part. The folder is there with all of them or not at
    all; with `overwrite` they take the place of shards that are there already.

    Raises:
        FileExistsError: the folder is there already, or holds other files than shards.
        ValueError: there are no parts, one is no tensor, or differs from the first in more than
            its length.
        OSError: the disk is full; names the folder.
    """
    folder = Path(folder)
    runs.check_free(folder, overwrite, (".safetensors", SIDECAR))
    parts = [parts] if isinstance(parts, Tensor) else parts
    first, checksums = None, {}
    with runs.temporary_folder(folder, overwrite) as temporary:
        for number, part in enumerate(parts):
            if not isinstance(part, Tensor):
                raise ValueError(
                    f"part {number} is no tensor, but of {type(part)}: parts must be tensors"
                )
            name = f"{number:05d}.safetensors"
            first = part[:0] if first is None else first
            _check_alike("the first part", first, f"part {number}", part)
            part = part.detach().cpu().contiguous()
            runs.files.save_tensors(temporary / name, {"activations": part})
            checksums[name] = [_checksum(block) for block in part.split(BLOCK_SAMPLES)]
        if first is None:
            raise ValueError(f"parts has none: no activations to write to {folder}")
        record = json.dumps({"samples": BLOCK_SAMPLES, "blocks": checksums})
        (temporary / CHECKSUMS).write_text(record, encoding="utf-8")
    return folder


@checked
def map_shards(path: Path | str) -> list[Real[Tensor, "n order d"]]:
    """The shards of a folder, or a .npy file as one, as tensors that are read where touched.

    Raises:
        FileNotFoundError: there is no such folder or file, or no shard in it.
        ValueError: a shard is cut short, of a kind that is not read, has no activations, or
            differs from the first in width, group order or dtype.
    """
    paths = _shard_paths(Path(path))
    if not paths or not paths[0].exists():
        raise FileNotFoundError(f"no activations at {path}: neither *.safetensors nor a .npy file")
    shards = [map_activations(p) if p.suffix == ".npy" else _map_shard(p) for p in paths]
    for file, shard in zip(paths, shards, strict=True):
        _check_alike(str(paths[0]), shards[0], str(file), shard)
    return [shard if shard.ndim == 3 else shard[:, None] for shard in shards]


@checked
def read_shards(folder: Path | str) -> Real[Tensor, "n order d"]:
    """All samples of a folder in their order, in memory.

    Raises:
        FileNotFoundError, ValueError: see `map_shards`; or a block is not as it was written.
    """
    stream = ShardStream(folder, 1)
    for number, shard in enumerate(stream._shards):
        stream._check(number, 0, len(shard))
    return torch.cat(stream._shards)


def _shard_paths(path: Path) -> list[Path]:
    # without hidden files, which some systems leave beside each
    return sorted(path.glob("[!.]*.safetensors")) if path.is_dir() else [path]


def _checksum(block: Tensor) -> int:
    kind = f"{block.dtype} {tuple(block.shape)}".encode()
    return zlib.crc32(block.flatten().view(torch.uint8).numpy(), zlib.crc32(kind))


def _read_checksums(path: Path) -> tuple[int, dict[str, list[int]]]:
    """How many samples a block has, and the checksums of shards by name; of others there are none.

    Raises:
        ValueError: they are damaged.
    """
    kept = path / CHECKSUMS
    if not kept.is_file():
        return BLOCK_SAMPLES, {}
    try:
        record = runs.files.read_json(kept)
        return operator.index(record["samples"]), {k: [*v] for k, v in record["blocks"].items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{kept} holds no checksums of shards: delete it") from error


@checked
def map_activations(path: Path | str) -> Real[Tensor, "..."]:
    """Activations of a .npy file, as a tensor that is read from disk where it is touched.

    Raises:
        ValueError: the file is cut short, or of a kind that is not read: not one array of real
            numbers in this machine's order of bytes.
    """
    try:
        array = np.load(path, mmap_mode="c")
    except (ValueError, EOFError) as error:
        raise _unread(path, b"\x93NUMPY", ".npy", error) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive: write one array alone, by numpy.save")
    if not array.dtype.isnative:
        raise ValueError(
            f"{path} holds {array.dtype.str}, the bytes of each number in the other order: convert "
            "it, numpy.save(path, numpy.load(path).astype('float32'))"
        )
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise ValueError(
            f"{path} holds {array.dtype}: activations are real numbers of up to 64 bits"
        )
    return torch.from_numpy(array)


def _map_shard(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if "activations" in names:
                return file.get_tensor("activations")
    except SafetensorError as error:
        raise _unread(path, b"{", ".safetensors", error) from error
    raise ValueError(f"{path} has no tensor 'activations', but {', '.join(names) or 'none'}")


def _unread(path: Path | str, magic: bytes, kind: str, error: Exception) -> ValueError:
    """Says whether a file is cut short, or of another kind: by the bytes that such files have."""
    with Path(path).open("rb") as file:
        file.seek(0 if kind == ".npy" else 8)  # after the length of the header
        found = file.read(len(magic))
    if not magic.startswith(found):
        return ValueError(f"{path} is no {kind} file")
    if "Python objects" in str(error):
        return ValueError(f"{path} holds Python objects: activations are real numbers")
    return ValueError(f"{path} is cut short ({error}): copy or write it once more")


def _check_alike(first_name: str, first: Tensor, name: str, shard: Tensor) -> None:
    if shard.ndim not in (2, 3):
        raise ValueError(f"activations are (n, |G|, d) or (n, d), {name} has {tuple(shard.shape)}")
    if (first.shape[1:], first.dtype) != (shard.shape[1:], shard.dtype):
        raise ValueError(
            f"{name} has activations (n, {', '.join(map(str, shard.shape[1:]))}) of "
            f"{shard.dtype}, {first_name} (n, {', '.join(map(str, first.shape[1:]))}) of "
            f"{first.dtype}: activations that are read together must be alike"
        )


@checked
@dataclass(frozen=True)
class ShardStream:
    """Training samples from disk: `stream(epoch)` reads those of one epoch, (n_samples, |G|, d).

    A pass over the activations reads blocks of 256 neighbouring samples in a random order; an
    epoch takes the next `n_samples` of it, or of the next pass, and training shuffles these.
    So every sample is seen once a pass, together with others from all over the data. What is
    read comes from (seed, epoch), so that training can be resumed. A thread reads the next
    epoch while this one is trained on; memory holds the two, in float32 (and the first, where
    the history has no validation to be measured on).

    Raises, when it is read: ValueError, a block of what `write_shards` wrote is not as it was
    written. Each is checked when it is read for the first time.

    Args:
        path: of a folder of shards, or of a .npy file (see `map_shards`).
        n_samples: of an epoch, the buffer that is shuffled; at most all there are.
        device: that the samples are moved to.
    """

    path: Path | str
    n_samples: Positive
    seed: Seed = 0
    device: Device = "cpu"
    _reading: dict[int, Future] = field(default_factory=dict, init=False, repr=False, compare=False)
    _checked: set[tuple[int, int]] = field(
        default_factory=set, init=False, repr=False, compare=False
    )

    def __reduce__(self):
        return type(self), (self.path, self.n_samples, self.seed, self.device)

    @checked
    def to(self, device: Device) -> "ShardStream":
        return replace(self, device=device)

    @property
    def epochs_per_pass(self) -> int:
        """Epochs in which every sample is seen at least once."""
        return math.ceil(self._total / self.n_samples)

    def __call__(self, epoch: int) -> Float[Tensor, "n order d"]:
        for number in [number for number in self._reading if number not in (epoch, epoch + 1)]:
            del self._reading[number]
        for number in (epoch, epoch + 1):
            if number not in self._reading:
                self._reading[number] = self._thread.submit(self._samples, number)
        return self._reading[epoch].result()

    @cached_property
    def _shards(self) -> list[Tensor]:
        return map_shards(self.path)

    @cached_property
    def _blocks(self) -> Int[Tensor, "n_blocks 3"]:
        """Of each block: its shard, its first sample there, and how many it has."""
        blocks = []
        for number, shard in enumerate(self._shards):
            starts = torch.arange(0, len(shard), BLOCK_SAMPLES)
            lengths = (len(shard) - starts).clamp(max=BLOCK_SAMPLES)
            blocks.append(torch.stack([torch.full_like(starts, number), starts, lengths], dim=1))
        return torch.cat(blocks)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        # copying by more threads would take the cores from training
        return ThreadPoolExecutor(1, "shards", torch.set_num_threads, (1,))

    @property
    def _total(self) -> int:
        return sum(len(shard) for shard in self._shards)

    def _samples(self, epoch: int) -> Tensor:
        n_samples = min(self.n_samples, self._total)
        samples = torch.empty(n_samples, *self._shards[0].shape[1:])
        filled = 0
        for shard, start, stop in self._pieces(epoch * n_samples, n_samples):
            self._check(shard, start, stop)
            samples[filled : filled + stop - start] = self._shards[shard][start:stop]
            filled += stop - start
        return samples.to(self.device)

    @cached_property
    def _checksums(self) -> tuple[int, dict[str, list[int]]]:
        return _read_checksums(Path(self.path))

    def _check(self, number: int, start: int, stop: int) -> None:
        """Raise a ValueError if samples start .. stop of a shard are not as they were written."""
        path = _shard_paths(Path(self.path))[number]
        n_samples, checksums = self._checksums
        for block in range(start // n_samples, math.ceil(stop / n_samples)):
            if path.name not in checksums or (number, block) in self._checked:
                continue
            found = _checksum(self._shards[number][block * n_samples : (block + 1) * n_samples])
            if checksums[path.name][block : block + 1] != [found]:
                raise ValueError(
                    f"{path} is damaged: it is not as it was written. Write it once more"
                )
            self._checked.add((number, block))

    def _pieces(self, first: int, n_samples: int) -> Iterator[tuple[int, int, int]]:
        """(shard, start, stop) of samples first .. first + n_samples of pass upon pass."""
        while n_samples:
            number, skipped = divmod(first, self._total)
            taken = min(n_samples, self._total - skipped)
            seed = (self.seed * 1_000_003 + 7_919 * number + 0x5A4D5) % 2**32
            order = torch.randperm(len(self._blocks), generator=torch.Generator().manual_seed(seed))
            shard, start, length = self._blocks[order].T
            before = length.cumsum(0) - length  # samples of the pass before each block
            lower = (skipped - before).clamp(min=0)
            upper = (skipped + taken - before).minimum(length)
            pieces = torch.stack([shard, start + lower, start + upper], dim=1)
            yield from pieces[upper > lower].tolist()
            first, n_samples = first + taken, n_samples - taken
