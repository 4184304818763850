"""Cards of SAEs of networks whose tasks are known: a check that shares no assumption of the worlds.

    true(i) = max over tasks t of F1(t, probe of latent i alone) >= 0.9,    on held-out samples

The probe is that of notebooks 04 and 12 with one latent kept: a linear one, of what the latent
decodes to, by an equivariant SAE in the frame of the element that it infers.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saehelpers.datasets import go, probe_samples, split_shapes, task_labels
from saehelpers.datasets.shapes import SPLITS
from saehelpers.evaluation.inputs import ProbeInput, probe_inputs
from saehelpers.evaluation.latent_numbers import card_numbers
from saehelpers.evaluation.probing import probe_tasks
from saehelpers.evaluation.trust import LEAST_FIRINGS, NUMBERS
from saehelpers.experiments.base_models import shapes_base_run
from saehelpers.experiments.encoders import prepare_pixel_subject
from saehelpers.experiments.go_points import turned_samples
from saehelpers.experiments.measuring import measure_runs
from saehelpers.experiments.saes import as_read, load_or_train_methods
from saehelpers.experiments.subjects import Subject, prepare_subjects
from saehelpers.networks import drawn_pixels, load_go_network, make_go_network
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import (
    NOT_EMPTY,
    AnyExecutor,
    Count,
    Device,
    Name,
    Positive,
    Seed,
    one_of,
)
from saehelpers.saes import SAE, EquivariantSAE, SAEConfig
from saehelpers.symmetry import Group, LinearAction

SPLIT = "compositions"  # of Shapes
SHAPES_GROUP, GO_GROUP = Group.named("C4"), Group.named("D4")
GO_SIZE, KOMI = 9, 7.5
HIDDEN, TOPK = 128, 8  # of the SAEs of notebooks 02 and 12
SETTINGS = {"batch_size": 128, "learning_rate": 5e-4}
SAMPLED = 10  # latents of each SAE whose cards are kept
METRICS = ("firings", "consistency_null", *NUMBERS)
Methods = Annotated[Sequence[Name], NOT_EMPTY]
Seeds = Annotated[Sequence[Seed], NOT_EMPTY]


@checked
def shapes_trust_rows(
    path: Path | str,
    models: Path | str,
    base_models: Annotated[Sequence[Name], NOT_EMPTY] = ("mlp", "cnn"),
    methods: Methods = ("vanilla", "vanilla_wide", "canonical", "latent_inv", "output_inv"),
    seeds: Seeds = (0, 1, 2, 3, 4),
    n_latents: Positive = 32,
    epochs: Positive = 40,
    base_epochs: Positive = 100,
    n_train: Positive = 10_000,
    n_test: Positive = 1024,
    n_probe_train: Positive = 1500,
    n_probe_test: Positive = 1024,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
) -> pd.DataFrame:
    """Rows of the cards of SAEs of the autoencoders of Shapes, and what each latent tells alone.

    SAEs are those of notebook 02 with rotations, tasks the 180 of notebook 04. Of each SAE, 10 of
    the latents that fire are drawn. Trained and measured once. See `evaluation.task_table`.

    Args:
        path: of the results table.
        seeds: of the SAEs, two or more: each is compared with the others.
        n_latents: of narrow SAEs; wide ones have four times as many.

    Raises:
        ValueError: one seed, or more images for probes than there are.
    """
    train, test = split_shapes(n_train, n_test, SPLIT)
    samples = probe_samples(train, test, n_probe_train, n_probe_test, SHAPES_GROUP, SPLIT)
    labels = task_labels(samples.shapes, samples.elements, SHAPES_GROUP)
    base_runs = {
        name: shapes_base_run(name, train.images, SHAPES_GROUP.name, base_epochs)
        for name in base_models
    }
    subjects = prepare_subjects(
        base_runs, SHAPES_GROUP, train.images, test.images, models, device, executor
    )
    parts = []
    for name, subject in subjects.items():
        probed = samples.orbits(subject.train, subject.test), samples.elements, labels
        columns = {"dataset": "shapes", "data_source": SPLITS[SPLIT], "base_model": name}
        parts.append(_rows(path, models, subject, (*probed, n_probe_train), columns, methods, seeds,
                           n_latents, epochs, device, executor))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@checked
def go_trust_rows(
    path: Path | str,
    models: Path | str,
    data: Path | str,
    network: Annotated[str, one_of(("katago", "tiny"))] = "katago",
    layer: Count = 8,
    methods: Methods = ("vanilla", "canonical", "latent_inv", "output_inv"),
    seeds: Seeds = (0, 1, 2, 3, 4),
    n_latents: Positive = 128,
    epochs: Positive = 40,
    n_games: Positive = 60,
    n_train: Positive = 450,
    n_test: Positive = 250,
    points: Positive = 20,
    n_probe_train: Positive = 100,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
) -> pd.DataFrame:
    """The same of a Go network: SAEs of what enters a block, and the rule tasks of notebook 12.

    Args:
        data: the folder of games, and of activations.
        network: "katago", or "tiny", a network of the same kind with random weights.
        n_train, n_test: positions, of different games; points: of each.
        n_probe_train: positions of those to train on that probes are fitted to.

    Raises:
        ValueError: one seed.
        FileNotFoundError: KataGo's network is not installed.
    """
    model = make_go_network(layer + 1) if network == "tiny" else load_go_network()
    games = go.load_or_play_games(model.policy, n_games, Path(data) / "go", GO_SIZE, KOMI)
    first_test = max(1, 2 * n_games // 3)
    train = go.draw_positions(games, n_train, 0, 0, first_test)
    test = go.draw_positions(games, n_test, 0, first_test)
    planes = go.input_planes(train), go.input_planes(test)
    subject = prepare_pixel_subject(
        model, f"blocks.{layer}.input", GO_GROUP, *planes, models, Path(data) / "activations",
        points, device, method="whole_orbits",
    )  # fmt: skip
    some = torch.linspace(0, n_train - 1, min(n_probe_train, n_train)).long()
    drawn = [drawn_pixels(n, GO_SIZE**2, points) for n in (n_train, n_test)]
    samples = [
        turned_samples(games, train[some], planes[0][some], drawn[0][some], GO_GROUP, 2),
        turned_samples(games, test, planes[1], drawn[1], GO_GROUP, 3),
    ]
    own = subject.train.unflatten(0, (n_train, -1))[some].flatten(0, 1)
    probed = (
        torch.cat([own, subject.test]), torch.cat([one.elements for one in samples]),
        torch.cat([one.labels for one in samples]), len(own),
    )  # fmt: skip
    columns = {"dataset": "go", "data_source": network, "base_model": f"{network}, block {layer}"}
    return _rows(path, models, subject, probed, columns, methods, seeds, n_latents, epochs, device,
                 executor)  # fmt: skip


def measure_known_tasks(
    sae: SAE | EquivariantSAE,
    others: list[SAE | EquivariantSAE],
    action: LinearAction,
    orbits: Tensor,
    probed: tuple[Tensor, Tensor, Tensor, int],
    seed: int,
) -> list[dict]:
    """The cards of some latents, and the F1 of the task that each answers best, as rows.

    probed: orbits of the samples of probes, the element that each is seen under, the answers, and
    how many of the samples train.
    """
    table = card_numbers(sae, orbits, action, others)
    table = table[table["firings"] >= LEAST_FIRINGS]
    drawn = table.sample(min(SAMPLED, len(table)), random_state=seed)
    activations, elements, labels, n_train = probed
    if isinstance(sae, EquivariantSAE):
        given = probe_inputs(sae.sae, activations, elements, action, sae.search)["inferred"]
    else:
        given = probe_inputs(sae, activations, elements)["none"]
    rows = []
    for card in drawn.to_dict("records"):
        scores = probe_tasks(_alone(given, card["latent"]), labels, n_train, "logistic")
        found = {"f1": np.nanmax(scores)} | {name: card[name] for name in METRICS}
        rows += [
            {"task": str(card["latent"]), "metric": metric, "value": float(value)}
            for metric, value in found.items()
        ]
    return rows


def _alone(given: ProbeInput, latent: int) -> ProbeInput:
    """What a probe is given that knows one latent alone."""
    kept = [latent]
    return dataclasses.replace(given, latents=given.latents[:, kept], blocks=given.blocks[:, kept])


def _rows(
    path, models, subject: Subject, probed, columns, methods, seeds, n_latents, epochs, device,
    executor,
) -> pd.DataFrame:  # fmt: skip
    if len(seeds) < 2:
        raise ValueError(f"seeds must be two or more, to compare with each other, got {seeds}")
    group = subject.action.group
    sae = SAEConfig(subject.train.shape[-1], n_latents, topk=TOPK, encoder_hidden=HIDDEN)
    trained = load_or_train_methods(
        {"it": subject}, list(methods), [TOPK], list(seeds), sae, group, models, device, executor,
        epochs=epochs, **SETTINGS,
    )["it"]  # fmt: skip
    read = {config: as_read(config, own, subject.action) for config, own in trained.items()}
    columns = columns | {"experiment": "trust_tasks", "group": group.identifier, "base_seed": 0,
                         "split": "test", "n_train": probed[3],
                         "n_test": len(probed[2]) - probed[3]}  # fmt: skip
    jobs = []
    for config in trained:
        alike = [other for other in trained if other.shared_settings == config.shared_settings]
        others = [read[other] for other in alike if other != config]
        arguments = read[config], others, subject.action, subject.test, probed, config.seed
        jobs.append((config, columns, arguments))
    return measure_runs(measure_known_tasks, jobs, path, executor)
