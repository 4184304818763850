"""One-to-one matching of two large dictionaries: seconds and memory.

    python benchmarks/matching.py

Each case in a process of its own: rows found again with noise, as between two seeds, and
random rows, which share nothing and are the hardest to assign.
"""

import resource
import subprocess
import sys
import time

import torch

from saehelpers.evaluation import match

D = 512
SIZES = (1024, 4096, 16_384, 32_768)  # above 16,384: mutual nearest neighbours
NOISES = {"found again": 1.0, "random": None}  # norm of the noise beside rows of norm 1


def measure(size: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.nn.functional.normalize(torch.randn(size, D, generator=generator), dim=-1)
    b = torch.randn(size, D, generator=generator)
    if NOISES[kind] is not None:
        b = a[torch.randperm(size, generator=generator)] + b * NOISES[kind] / D**0.5
    start = time.perf_counter()
    pairs = match(a, b)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{seconds:.1f} | {peak:.1f} | {len(pairs.a)} | {pairs.cosines.mean():.3f}")


def main() -> None:
    print("| rows | kind | seconds | GiB in all | pairs | mean cosine |\n|---|---|---|---|---|---|")
    for size in SIZES:
        for kind in NOISES:
            done = subprocess.run(
                [sys.executable, __file__, str(size), kind],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            print(f"| {size} | {kind} | {done.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    match_arguments = sys.argv[1:]
    if match_arguments:
        measure(int(match_arguments[0]), match_arguments[1])
    else:
        main()
