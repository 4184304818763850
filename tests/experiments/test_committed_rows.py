"""Rows of probe_results/ come out again, measured at the parameters that they were made with.

To the two decimals that README gives: processors differ in the last digits of a product, and
training lets these grow. With constraints.txt, on the machine they were made on, all six are equal.
"""

from pathlib import Path

import pytest

from saehelpers import runs
from saehelpers.datasets import (
    SPLITS,
    list_tasks,
    make_toy,
    probe_samples,
    split_shapes,
    task_labels,
)
from saehelpers.evaluation import metrics, probe_inputs, probe_tasks, recovery
from saehelpers.experiments import load_or_train_base_model, shapes_base_run
from saehelpers.networks import orbit_activations
from saehelpers.runs import results
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group, LinearAction, report_action
from saehelpers.training import method_run, train_saes

ROOT = Path(__file__).parent.parent.parent
N_TRAIN = 1500  # images that probes are fitted to
SPLIT = "compositions"
OF_MLP = {"base_model": "mlp", "base_seed": 0, "group": "C4", "data_source": SPLITS[SPLIT]}
C4 = Group.named("C4")


def committed(file: str, index: str, **columns) -> dict:
    """Value by `index` of the rows of a results file in which the columns have these values."""
    table = results.read(ROOT / "probe_results" / file)
    for name, value in columns.items():
        table = table[table[name] == value]
    assert table[index].is_unique
    return dict(zip(table[index], table["value"], strict=True))


def nearly(values: dict) -> dict:
    return pytest.approx(values, abs=0.005)


@pytest.fixture(autouse=True)
def shipped_rows_alone(monkeypatch):
    """Not those that a user measured."""
    monkeypatch.setenv("SHIP_RESULTS", "1")


@pytest.fixture(scope="module")
def shapes():
    return split_shapes(10_000, 1024, SPLIT)


@pytest.fixture(scope="module")
def orbits(shapes):
    """Of the committed MLP, on training and on test images: (n, 4, 256)."""
    train, test = (part.images for part in shapes)
    run = shapes_base_run("mlp", train, "C4", 100)
    assert (ROOT / "models" / runs.run_id(run)).is_dir()
    model, _ = load_or_train_base_model(run, train, ROOT / "models", test)
    return [orbit_activations(model, part, C4) for part in (train, test)]


def test_what_a_turn_does_to_the_activations_of_the_mlp(orbits):
    rows = committed(
        "shapes_action.csv", "element", metric="r2_identity", experiment="shapes_action", **OF_MLP
    )
    report = report_action(LinearAction.identity(C4, 256), orbits[1])
    report = report[report["metric"] == "r2_identity"]
    assert dict(zip(report["element"], report["value"], strict=True)) == nearly(rows)


@pytest.mark.parametrize("probe", ["logistic", "xgboost"])
def test_probes_of_principal_components_of_the_mlp(shapes, orbits, probe):
    rows = committed(
        f"shapes_probes_{probe}_mlp_C4.csv", "task", method="pca", seed=0, metric="f1", **OF_MLP
    )
    config = method_run("pca", runs.identity(orbits[0]), SAEConfig(256, 32, topk=8), C4, epochs=1)
    (pca,), _ = train_saes([config], [orbits[0]], progress=False)
    samples = probe_samples(*shapes, N_TRAIN, 1024, C4, SPLIT)
    given = probe_inputs(pca, samples.orbits(*orbits), samples.elements)["none"]
    labels, tasks = task_labels(samples.shapes, samples.elements, C4), list_tasks()["task"]
    chosen = list(range(0, len(tasks), 30))
    scores = probe_tasks(given, labels[:, chosen], N_TRAIN, probe, truncation=8)
    names = tasks.iloc[chosen]
    assert dict(zip(names, scores, strict=True)) == nearly({name: rows[name] for name in names})


def test_a_canonical_sae_on_the_toy_model():
    toy = make_toy(4096 + 2000, 8, 4, seed=0, d=16)
    sae = SAEConfig(16, 8, topk=3, encoder_hidden=64, n_archetypes=256)
    source = "toy-rotation-8-4-fixed-4096-0"
    config = method_run("canonical", source, sae, C4, epochs=80, learning_rate=5e-4, seed=0)
    rows = committed("toy.csv", "metric", run_id=runs.run_id(config))
    (trained,), _ = train_saes([config], [toy.activations[:4096]], progress=False)
    frames = metrics.frame_recons(trained, toy.action, toy.activations[4096:])
    found = {
        "recovery": recovery(trained.dictionary, toy.features),
        "recovery_modulo_group": recovery(trained.dictionary, toy.features, toy.action),
        **{f"mse_{frame}": metrics.mse(*pair) for frame, pair in frames.items()},
    }
    assert found == nearly({metric: rows[metric] for metric in found})
