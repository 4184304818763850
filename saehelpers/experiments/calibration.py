"""Cards of SAEs of worlds whose features are known: what verdicts are fitted to, and tested on."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch

from saehelpers.datasets.synthetic import (
    Stream,
    SyntheticFeatures,
)
from saehelpers.evaluation import metrics
from saehelpers.evaluation.consistency import above_null
from saehelpers.evaluation.latent_numbers import card_numbers
from saehelpers.evaluation.matching import recovery
from saehelpers.evaluation.trust import (
    NUMBERS,
    OF_SEEDS,
    fit_trust,
    true_latents,
)
from saehelpers.evaluation.trust_tables import card_table
from saehelpers.experiments.known_tasks import go_trust_rows, shapes_trust_rows
from saehelpers.experiments.known_worlds import GROUP, KINDS, KnownWorld, known_world
from saehelpers.experiments.measuring import measure_runs
from saehelpers.experiments.saes import as_read, load_or_train_saes
from saehelpers.runs import results
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identity
from saehelpers.runs.wanted import (
    NOT_EMPTY,
    AnyExecutor,
    Device,
    Positive,
    Rate,
    Seed,
)
from saehelpers.saes import SAE, EquivariantSAE, SAEConfig
from saehelpers.symmetry import LinearAction
from saehelpers.training.methods import SAERun, method_run

SAES = {"topk": "topk", "batch_topk": "batch_topk", "relu": "relu"}  # of worlds without a group
L1 = 2.0  # weight of the sparsity term of ReLU SAEs
HIDDEN = 64  # units of the encoders of SAEs in which features turn
SAMPLED = 16  # latents of each SAE whose cards are kept
METRICS = ("true", "firings", "consistency_null", *NUMBERS)


@checked
def calibration_rows(
    path: Path | str,
    models: Path | str,
    kinds: Annotated[Sequence[str], NOT_EMPTY] = KINDS,
    widths: Annotated[Sequence[Rate], NOT_EMPTY] = (1.0, 2.0),
    topks: Annotated[Sequence[Positive], NOT_EMPTY] = (2, 4),
    methods: Annotated[Sequence[str], NOT_EMPTY] = ("vanilla", "canonical", "self_oriented"),
    world_seeds: Annotated[Sequence[Seed], NOT_EMPTY] = (0,),
    seeds: Annotated[Sequence[Seed], NOT_EMPTY] = (0, 1, 2, 3, 4),
    epochs: Positive = 20,
    samples_per_epoch: Positive = 8192,
    n_counted: Positive = 4000,
    device: Device = "cpu",
    executor: AnyExecutor | None = None,
) -> pd.DataFrame:
    """Rows of the cards of latents of SAEs of known worlds, and whether these are true.

    Of each SAE, 16 of the latents that fire are drawn: it is kinds of worlds, not latents, that
    say how far verdicts reach. Trained and measured once: stopped at any time, it goes on from
    there. See `card_table`.

    Args:
        path: of the results table.
        widths: latents for each true feature.
        topks: active latents; of ReLU SAEs, a sparsity term stands in their place.
        methods: of SAEs of worlds in which features turn; of the others they are TopK, BatchTopK
            and ReLU SAEs.
        world_seeds: of each kind; seeds: of the SAEs of each, two or more: each is compared with
            the others.
        n_counted: samples that cards are of.

    Raises:
        ValueError: one seed.
    """
    if len(seeds) < 2:
        raise ValueError(f"seeds must be two or more, to compare with each other, got {seeds}")
    jobs = []
    for kind in kinds:
        for world_seed in world_seeds:
            world = known_world(kind, world_seed)
            configs = [
                config
                for width in widths
                for topk in topks
                for seed in seeds
                for config in _configs(
                    world, width, topk, seed, methods, topk == topks[0],
                    epochs=epochs, samples=samples_per_epoch,
                )
            ]  # fmt: skip
            streams = [_stream(world, samples_per_epoch, config.seed) for config in configs]
            saes = load_or_train_saes(configs, streams, models, device=device, executor=executor)
            jobs += _jobs(world, configs, saes, n_counted)
    return measure_runs(measure_cards, jobs, path, executor)


def measure_cards(
    sae: SAE | EquivariantSAE,
    others: list[SAE | EquivariantSAE],
    features: SyntheticFeatures,
    action: LinearAction | None,
    seed: int,
    n_counted: int,
) -> list[dict]:
    """The card of every latent that fires, and what is known of the SAE, as rows of results."""
    generator = torch.Generator().manual_seed(500 + seed)
    order = 1 if action is None else action.group.order
    x, coefficients = features.sample(n_counted // order, generator)
    orbits = x[:, None] if action is None else action.orbit(x)
    table = card_numbers(sae, orbits, action, others)
    flat = orbits.flatten(0, 1)
    fires = sae.encode(flat) != 0
    present = (coefficients > 0).repeat_interleave(order, 0)
    true = true_latents(sae.dictionary, features.dictionary, fires, present, action)
    known = table.assign(true=true.float().tolist())
    known = known[known["firings"] > 0]
    drawn = known.sample(min(SAMPLED, len(known)), random_state=seed)
    rows = [
        {"task": str(int(row["latent"])), "metric": metric, "value": float(row[metric])}
        for row in drawn.to_dict("records")
        for metric in METRICS
    ]
    of_sae = {
        "recovery": recovery(sae.dictionary, features.dictionary, action, False),
        "fvu": metrics.fvu(flat, sae(flat)),
        "l0": float(fires.sum(1).float().mean()),
        "alive_latents": float((table["firings"] > 0).sum()),
        "consistency": _above_null(table),
        "dead_share": float((table["firings"] == 0).mean()),
        "invariance_error": metrics.invariance_error(sae, orbits) if order > 1 else 0.0,
        "share_true": float(true.float().mean()),
    }
    return rows + [{"task": "", "metric": name, "value": value} for name, value in of_sae.items()]


def _above_null(table: pd.DataFrame) -> float:
    return float(above_null(table["consistency"].mean(), table["consistency_null"].mean()))


def _stream(world: KnownWorld, n_samples: int, seed: int) -> Stream:
    return Stream(world.features, n_samples, seed, world.action)


def _configs(world, width, topk, seed, methods, first_topk, epochs, samples) -> list[SAERun]:
    n_features, d = world.features.dictionary.shape
    n_latents = max(topk, round(width * n_features))
    told = identity(_stream(world, samples, seed))
    settings = {"epochs": epochs, "batch_size": 256, "learning_rate": 3e-3, "schedule": "linear",
                "seed": seed}  # fmt: skip
    if world.action is not None:
        sae = SAEConfig(d, n_latents, topk=topk, encoder_hidden=HIDDEN)
        return [method_run(method, told, sae, GROUP, **settings) for method in methods]
    linear = {"encoder": "linear", "pre_encoder_bias": True, "unit_decoder": True}
    runs = []
    for name, activation in SAES.items():
        sae = SAEConfig(d, n_latents, activation, topk=topk, **linear)
        if activation != "relu":
            runs.append(SAERun(name, told, sae, **settings))
        elif first_topk:  # which it has none of
            runs.append(SAERun(name, told, sae, sparsity="l1", lambda_sparsity=L1, **settings))
    return runs


def _jobs(world: KnownWorld, configs: list[SAERun], saes: list[SAE], n_counted: int) -> list[tuple]:
    read = [as_read(config, sae, world.action) for config, sae in zip(configs, saes, strict=True)]
    together: dict[SAERun, list[int]] = {}
    for i, config in enumerate(configs):
        together.setdefault(config.shared_settings, []).append(i)
    columns = {
        "experiment": "trust", "dataset": "worlds", "data_source": world.kind,
        "base_seed": world.seed, "split": "test", "n_test": n_counted,
        "group": "" if world.action is None else GROUP.identifier,
    }  # fmt: skip
    return [
        (configs[i], columns, (read[i], [read[j] for j in alike if j != i], world.features,
                               world.action, configs[i].seed, n_counted))
        for alike in together.values()
        for i in alike
    ]  # fmt: skip


@checked
def write_trust(rows: results.Rows, path: Path | str) -> None:
    """Fit the regressions that ship, of cards of several seeds and of one, and write them.

    Raises:
        ValueError: the rows are of fewer than two kinds of worlds.
    """
    table = card_table(rows)
    alone = [name for name in NUMBERS if name not in OF_SEEDS]
    models = {"several_seeds": fit_trust(table), "one_seed": fit_trust(table, alone)}
    text = json.dumps({name: asdict(model) for name, model in models.items()}, indent=1)
    Path(path).write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    tables = root / "probe_results"
    write_trust(results.read(tables / "trust_worlds.csv"),
                root / "saehelpers" / "evaluation" / "trust.json")  # fmt: skip
    shapes_trust_rows(tables / "trust_shapes.csv", root / "models")
    go_trust_rows(tables / "trust_go.csv", root / "models", root / "data")
