"""Probes per second, beside the obvious loop, on the same truncated recons and tasks.

The loop fits one `XGBClassifier` with its defaults after another, on all cores. Ours fits
one per process on one thread, with fewer histogram bins. Prints the time per probe, the
ratio, and by how much the mean F1 differs.

    python benchmarks/probes.py [number of tasks]
"""

import sys
import time

import numpy as np
import torch
from sklearn.metrics import f1_score
from xgboost import XGBClassifier

from saehelpers.datasets.shapes import make_shapes, task_labels
from saehelpers.metrics import largest_differences
from saehelpers.probing import probe_inputs, probe_sweep
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training import SAERun, train_saes

N_TRAIN, N_TEST, TRUNCATION = 2000, 2000, 8


def main(n_tasks: int) -> None:
    group = Group(4)
    data = make_shapes(N_TRAIN + N_TEST, seed=0)
    # a fixed random map of the images stands in for a base model
    mixing = torch.randn(64 * 64, 256, generator=torch.Generator().manual_seed(0)) / 64
    orbits = (group.orbit(data.images).flatten(2) @ mixing).relu()
    config = SAERun("vanilla", "benchmark", SAEConfig(256, 32), epochs=20)
    (sae,), _ = train_saes([config], [orbits], progress=False)
    elements = torch.randint(4, (len(orbits),), generator=torch.Generator().manual_seed(1))
    given = probe_inputs(sae, orbits, elements)["none"]
    every = task_labels(data.shapes, elements, group)
    labels = every[:, torch.linspace(0, every.shape[1] - 1, n_tasks).long()]

    keep = largest_differences(given.latents[:N_TRAIN], labels[:N_TRAIN], TRUNCATION)
    start, loop = time.perf_counter(), []
    for task, y in enumerate(labels.T.numpy()):
        x = given.matrix(keep[task])
        probe = XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.3)
        predicted = probe.fit(x[:N_TRAIN], y[:N_TRAIN]).predict(x[N_TRAIN:])
        loop.append(f1_score(y[N_TRAIN:], predicted, zero_division=0))
    loop_seconds = (time.perf_counter() - start) / n_tasks

    job = {"probe": "xgboost", "truncation": TRUNCATION}
    warm = [(job, given, [0, 1])]
    list(probe_sweep(warm, labels, N_TRAIN))  # start the processes
    start = time.perf_counter()
    found = list(probe_sweep([(job, given, list(range(n_tasks)))], labels, N_TRAIN))
    ours_seconds = (time.perf_counter() - start) / n_tasks
    ours = [score for _, _, scores in found for score in scores]

    print(f"loop {loop_seconds:.3f} s a probe, ours {ours_seconds:.3f} s: "
          f"{loop_seconds / ours_seconds:.1f} times as fast")  # fmt: skip
    print(f"mean F1: loop {np.mean(loop):.4f}, ours {np.nanmean(ours):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 180)
