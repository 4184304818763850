"""Probes per second, beside the obvious loop, on the same truncated recons and tasks.

The loop fits one `XGBClassifier` with its defaults after another, on all cores. Ours fits
one per process on one thread, with fewer histogram bins. Both take the same tasks in turns,
block by block. Prints, for probes of one latent and of eight, the time per probe of each, the
ratio in every block and its median, and both mean F1.

    python benchmarks/probes.py [number of tasks]
"""

import sys
import time

import numpy as np
import torch
from xgboost import XGBClassifier

from saehelpers.datasets import make_shapes, task_labels
from saehelpers.evaluation import (
    f1,
    probe_inputs,
    probe_sweep,
    separating_latents,
    task_scores,
)
from saehelpers.runs import n_cores
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group, orbit
from saehelpers.training import SAERun, train_saes

N_TRAIN, N_TEST, BLOCKS = 2000, 2000, 6
TRUNCATIONS = (1, 8)


def main(n_tasks: int) -> None:
    given, labels = setting(n_tasks)
    list(ours(given, labels, [0, 1], TRUNCATIONS[0]))  # start the processes
    for truncation in TRUNCATIONS:
        compare(given, labels, truncation)


def compare(given, labels, truncation: int) -> None:
    n_tasks = labels.shape[1]
    scores, seconds = np.empty((2, n_tasks)), np.empty((2, BLOCKS))
    for block in range(BLOCKS):
        tasks = list(range(block, n_tasks, BLOCKS))
        for i, probe in enumerate([loop, ours]):
            start = time.perf_counter()
            for task, score in probe(given, labels, tasks, truncation):
                scores[i, task] = score
            seconds[i, block] = (time.perf_counter() - start) / len(tasks)
    ratios = seconds[0] / seconds[1]
    print(f"{truncation} latents: loop {seconds[0].mean():.3f} s a probe, ours "
          f"{seconds[1].mean():.3f} s")  # fmt: skip
    print(
        f"times as fast, by block: {np.round(ratios, 1).tolist()}, median {np.median(ratios):.1f}"
    )
    loop_f1, ours_f1 = np.nanmean(scores, axis=1)
    print(f"mean F1 of {n_tasks} tasks: loop {loop_f1:.4f}, ours {ours_f1:.4f}")


def setting(n_tasks: int):
    """What is probed, and labels of so many of the tasks."""
    group = Group.named("C4")
    data = make_shapes(N_TRAIN + N_TEST, seed=0)
    # a fixed random map of the images stands in for a base model
    mixing = torch.randn(64 * 64, 256, generator=torch.Generator().manual_seed(0)) / 64
    orbits = (orbit(data.images, group).flatten(2) @ mixing).relu()
    config = SAERun("vanilla", "benchmark", SAEConfig(256, 32), epochs=20)
    (sae,), _ = train_saes([config], [orbits], progress=False)
    elements = torch.randint(4, (len(orbits),), generator=torch.Generator().manual_seed(1))
    every = task_labels(data.shapes, elements, group)
    labels = every[:, torch.linspace(0, every.shape[1] - 1, n_tasks).long()]
    return probe_inputs(sae, orbits, elements)["none"], labels


def loop(given, labels, tasks, truncation):
    keep = separating_latents(given.latents[:N_TRAIN], labels[:N_TRAIN, tasks], truncation)
    for task, kept in zip(tasks, keep, strict=True):
        x, y = given.matrix(kept), labels[:, task].numpy()
        probe = XGBClassifier().fit(x[:N_TRAIN], y[:N_TRAIN])
        yield task, f1(y[N_TRAIN:], probe.predict(x[N_TRAIN:]) > 0)


def ours(given, labels, tasks, truncation):
    job = {"probe": "xgboost", "truncation": truncation}
    parts = [tasks[i :: n_cores()] for i in range(n_cores())]  # a job for each process
    jobs = [(job, given, part) for part in parts]
    for _, done, predictions in probe_sweep(jobs, labels, N_TRAIN):
        yield from zip(done, task_scores(labels[N_TRAIN:, done], predictions), strict=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 180)
