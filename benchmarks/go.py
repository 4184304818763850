"""Games that KataGo's network plays: positions a second, beside what the network alone takes.

    python benchmarks/go.py

128 games of 9 x 9 from one seed, on two threads: seconds of everything, of the network alone, and
of what rules, ladders and input planes take; then input planes of the same positions, with ladders
and without.
"""

import time

import torch

from saehelpers.datasets import go
from saehelpers.networks import load_go_network

N_GAMES, SIZE, THREADS = 128, 9, 2


class Timed:
    """A policy that counts the seconds it takes."""

    version = "timed"

    def __init__(self, policy):
        self.policy, self.seconds = policy, 0.0

    def __call__(self, planes: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        logits = self.policy(planes)
        self.seconds += time.perf_counter() - start
        return logits


def main() -> None:
    torch.set_num_threads(THREADS)
    policy = Timed(load_go_network().policy)
    start = time.perf_counter()
    games = go.play_games(policy, N_GAMES, SIZE, 7.5)
    whole = time.perf_counter() - start
    n = int(games.lengths.sum())
    print(f"{n} positions in {whole:.1f} s ({n / whole:.0f} a second), of which the network "
          f"{policy.seconds:.1f} s: {whole / policy.seconds:.2f} times its own time")  # fmt: skip
    positions = go.replay(games)
    for ladders in (False, True):
        start = time.perf_counter()
        go.input_planes(positions, ladders)
        seconds = time.perf_counter() - start
        print(f"input planes, ladders {ladders}: {n / seconds:.0f} boards a second")
    start = time.perf_counter()
    go.point_tasks(games, positions[:1000])
    print(f"answers to {len(go.list_point_tasks())} questions: "
          f"{1000 / (time.perf_counter() - start):.0f} boards a second")  # fmt: skip


if __name__ == "__main__":
    main()
