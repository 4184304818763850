"""Training from activations on disk, beside training from memory, in samples a second.

    python benchmarks/streaming.py

One pass over the same activations each, the whole of `train_saes`, in turns, buffer by buffer, with
what it measures after each; or in one go, measured once. Before every turn the files' pages are
dropped from the page cache; what was read from the disk is counted.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from saehelpers import SAEConfig, SAERun, train_saes
from saehelpers.datasets import ShardStream, map_activations, write_shards

D, N_LATENTS, TOPK, BATCH = 256, 4096, 32, 1024
N_SAMPLES, SHARD, BUFFER = 2**17, 2**14, 2**14  # 128 MiB, in 8 shards, through 16 MiB
REPEATS, THREADS = 5, 2


def drop_pages(folder: Path) -> None:
    """Let the files be read from the disk again."""
    for path in folder.rglob("*.*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def train(source, epochs: int) -> float:
    """Samples a second."""
    sae = SAEConfig(D, N_LATENTS, topk=TOPK, encoder="linear")
    config = SAERun("streaming", "random", sae, epochs=epochs, batch_size=BATCH)
    start = time.perf_counter()
    train_saes([config], [source], progress=False)
    return N_SAMPLES / (time.perf_counter() - start)


def measure(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(samples a second, MiB read) of every turn."""
    x = torch.randn(N_SAMPLES, 1, D, generator=torch.Generator().manual_seed(0))
    write_shards(folder / "shards", x.split(SHARD))
    np.save(folder / "activations.npy", x)
    n_buffers = N_SAMPLES // BUFFER
    buffers = x.split(BUFFER)
    cases = {
        "memory": lambda: train(lambda epoch: buffers[epoch], n_buffers),
        "memory, in one go": lambda: train(x, 1),
        "shards": lambda: train(ShardStream(folder / "shards", BUFFER), n_buffers),
        "one .npy file": lambda: train(ShardStream(folder / "activations.npy", BUFFER), n_buffers),
        "mapped .npy file, no buffer": lambda: train(
            map_activations(folder / "activations.npy"), 1
        ),
    }
    found = {name: [] for name in cases}
    for _ in range(REPEATS):
        for name, case in cases.items():
            drop_pages(folder)
            before = bytes_read()
            rate = case()
            found[name].append((rate, (bytes_read() - before) / 2**20))
    return found


def main() -> None:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        found = measure(Path(folder))
    rates = {name: [rate for rate, _ in turns] for name, turns in found.items()}
    print(f"{THREADS} threads; medians of {REPEATS} turns\n")
    print("| from | samples a second | of memory's, in the same turn (least) | MiB read |")
    print("|---|---|---|---|")
    for name, turns in found.items():
        ratios = [a / b for a, b in zip(rates[name], rates["memory"], strict=True)]
        read = statistics.median(mib for _, mib in turns)
        print(
            f"| {name} | {statistics.median(rates[name]):,.0f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}) | {read:.0f} |"
        )


if __name__ == "__main__":
    main()
