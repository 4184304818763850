"""Probes are measured once: what results files have already is not made again."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

from saehelpers import runs
from saehelpers.evaluation import (
    ProbeInput,
    predict_tasks,
    probe_inputs,
    probe_tasks,
    resampled_scores,
)
from saehelpers.evaluation.probing import RESAMPLES
from saehelpers.experiments import (
    ActionRun,
    load_or_fit_action,
    load_or_train_saes,
    measure_pairs,
    measure_probes,
)
from saehelpers.runs import results
from saehelpers.runs.identities import identity
from saehelpers.saes import make_sae
from saehelpers.training.methods import SAERun, run_columns

TASKS = pd.DataFrame({"task_type": ["S", "S", "SO"], "task": ["a", "b", "c"]}, index=[7, 3, 5])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LABELS = random(40, 3, seed=1) > 0
GIVEN = ProbeInput("latents", "none", random(40, 5).relu() + LABELS[:, :1])


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def measured(small_config, toy, tmp_path, executor):
    """An SAE and an action that are on disk, and what measures a plan of them."""
    config = SAERun("test", identity(toy.activations), small_config, epochs=1)
    load_or_train_saes([config], toy.activations, tmp_path, executor=executor)
    told = identity(toy.activations)
    action_run = ActionRun("action", told, "C4", method="least_squares")
    load_or_fit_action(action_run, toy.activations, tmp_path)

    def path_of(columns):
        return tmp_path / f"{columns['probe']}.csv"

    def measure(plan, tasks=(0, 1, 2), units=None):
        part = LABELS[:, list(tasks)], TASKS.iloc[list(tasks)]
        return measure_probes(plan, *part, 20, path_of, executor, units)

    return config, action_run, measure


def test_rows_are_the_scores_of_the_probes(measured):
    config, action_run, measure = measured
    named = {"experiment": "e", "method": "base_model"}
    everything = dataclasses.replace(GIVEN, features="activations", element="true")
    table = measure(
        [(config, {}, "logistic", 2, GIVEN), (action_run, named, "xgboost", None, everything)]
    )
    first, second = (rows for _, rows in table.groupby("probe"))
    for rows, probe, m in ((first, "logistic", 2), (second, "xgboost", None)):
        expected = probe_tasks(GIVEN, LABELS, 20, probe, m)
        assert rows.value.tolist() == pytest.approx(expected, abs=1e-5)
        assert rows[["task_type", "task"]].values.tolist() == TASKS.values.tolist()
        assert set(rows.metric) == {"f1"} and set(rows.split) == {"test"}
        assert set(rows.n_train) == set(rows.n_test) == {20}
    shown = ["run_id", "method", "seed", "features", "element", "experiment"]
    own = run_columns(config)
    assert first[shown].drop_duplicates().values.tolist() == [
        [own["run_id"], "test", 0, "latents", "none", ""]
    ]
    assert second[shown].drop_duplicates().values.tolist() == [
        [runs.run_id(action_run), "base_model", 0, "activations", "true", "e"]
    ]


def test_what_is_there_is_not_measured_again(measured, tmp_path, monkeypatch, capsys):
    config, _, measure = measured
    plan = [(config, {}, "logistic", m, GIVEN) for m in (1, 2)]
    measure(plan[:1], tasks=[0, 2])
    assert "logistic: 0 of 2 done, 2 left" in capsys.readouterr().out
    before = results.read(tmp_path / "logistic.csv")
    table = measure(plan)
    assert "logistic: 2 of 6 done, 4 left" in capsys.readouterr().out
    assert table.iloc[:2].equals(before) and len(table) == 6
    monkeypatch.setattr("saehelpers.evaluation.probing.predict_tasks", None)
    assert measure(plan).equals(table)
    assert "logistic: 6 of 6 done" in capsys.readouterr().out


def test_held_out_samples_are_drawn_anew_by_their_units(measured, monkeypatch):
    config, _, measure = measured
    plan, units = [(config, {}, "logistic", 2, GIVEN)], torch.arange(20) // 2
    measure(plan)
    table = measure(plan, units=units)  # the tasks are probed again for the resamples' sake
    of_tasks, resampled = (rows for _, rows in table.groupby("metric"))
    assert len(of_tasks) == 3 and len(resampled) == 2 * RESAMPLES
    predictions = predict_tasks(GIVEN, LABELS, 20, "logistic", 2)
    expected = resampled_scores(LABELS[20:], predictions, units)
    told = resampled.set_index(["task_type", "task"]).value
    for n in (1, RESAMPLES):
        assert told["S", f"resample {n}"] == pytest.approx(expected[n - 1, :2].mean(), abs=1e-5)
        assert told["SO", f"resample {n}"] == pytest.approx(expected[n - 1, 2], abs=1e-5)
    monkeypatch.setattr("saehelpers.evaluation.probing.predict_tasks", None)
    assert measure(plan, units=units).equals(table)
    with pytest.raises(ValueError, match="units must be 20, one for each held-out sample, got 7"):
        measure(plan, units=torch.arange(7))


def test_what_was_made_of_anything_else_is_measured_anew(measured, tmp_path):
    config, _, measure = measured
    measure([(config, {}, "logistic", 1, GIVEN)])
    other = dataclasses.replace(GIVEN, latents=GIVEN.latents + 1)
    table = measure([(config, {}, "logistic", 1, other)])
    assert table.value.tolist() == pytest.approx(probe_tasks(other, LABELS, 20, "logistic", 1))
    assert len(results.read(tmp_path / "logistic.csv")) == 6


def test_inputs_of_an_sae_are_told_by_their_causes(toy, small_config):
    sae, elements = make_sae(small_config), torch.arange(256) % 4
    told = [
        probe_inputs(one, toy.activations, seen, toy.action)["true"].causes
        for one, seen in (
            (sae, elements), (make_sae(small_config, 1), elements), (sae, elements.flip(0)),
        )
    ]  # fmt: skip
    names = [{name for name in told[0] if told[0][name] != other[name]} for other in told[1:]]
    assert names == [{"weights"}, {"data"}]
    assert told[0]["action"] == identity(toy.action)


def test_every_two_runs_of_a_plan_are_measured(small_config, toy, tmp_path, executor):
    told = identity(toy.activations)
    configs = [SAERun("test", told, small_config, epochs=1, seed=seed) for seed in range(3)]
    configs.append(dataclasses.replace(configs[0], order_seed=7))
    trained = load_or_train_saes(configs, toy.activations, tmp_path, executor=executor)
    saes = dict(zip(configs, trained, strict=True))
    plans = {"seeds": configs[:3], ("order", 1): [configs[0], configs[3]]}
    columns = {"experiment": "pairs", "dataset": "toy", "task_type": "of {plan}"}

    def distance(a, b, scale):
        return {"distance": scale * float((a.dictionary - b.dictionary).norm()), "scale": scale}

    def measure():
        return measure_pairs(distance, plans, saes, columns, tmp_path / "rows.csv", 2.0)

    found = measure()
    assert [*found.columns] == ["plan", "first", "second", "metric", "value"]
    of_distance = found[found.metric == "distance"].set_index(["plan", "first", "second"]).value
    assert [*of_distance.index] == [
        ("seeds", 0, 1), ("seeds", 0, 2), ("seeds", 1, 2), (("order", 1), 0, 1)
    ]  # fmt: skip
    expected = 2 * float((saes[configs[1]].dictionary - saes[configs[2]].dictionary).norm())
    assert of_distance["seeds", 1, 2] == pytest.approx(expected)
    rows = results.read(tmp_path / "rows.csv")
    assert sorted(rows.task.unique()) == ["0/0 with 0/7", "0/0 with 1/1", "0/0 with 2/2",
                                          "1/1 with 2/2"]  # fmt: skip
    assert sorted(rows.task_type.unique()) == ["of ('order', 1)", "of seeds"]
    assert measure().equals(found) and len(results.read(tmp_path / "rows.csv")) == len(rows)
