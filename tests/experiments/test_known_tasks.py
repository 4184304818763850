"""Cards of small SAEs of networks whose tasks are known, and what ships of the large runs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saehelpers.evaluation import NUMBERS, task_table, verdict_scores
from saehelpers.experiments import go_trust_rows, shapes_trust_rows
from saehelpers.runs import results

ROOT = Path(__file__).parent.parent.parent
SHAPES = {"base_models": ["mlp"], "methods": ["vanilla", "canonical"], "seeds": [0, 1],
          "n_latents": 16, "epochs": 3, "base_epochs": 1, "n_train": 200, "n_test": 100,
          "n_probe_train": 120, "n_probe_test": 60}  # fmt: skip
GO = {"network": "tiny", "layer": 1, "methods": ["vanilla", "canonical"], "seeds": [0, 1],
      "n_latents": 16, "epochs": 3, "n_games": 3, "n_train": 12, "n_test": 6, "points": 10,
      "n_probe_train": 8}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("known_tasks")


@pytest.fixture(scope="module")
def run(folder):
    def run(dataset, **changes):
        with ThreadPoolExecutor(1) as threads:
            shared = {"models": folder / "models", "executor": threads}
            if dataset == "shapes":
                return shapes_trust_rows(folder / "s.csv", **shared, **SHAPES | changes)
            return go_trust_rows(folder / "g.csv", **shared, data=folder / "data", **GO | changes)

    return run


@pytest.mark.parametrize("dataset", ["shapes", "go"])
def test_every_latent_that_is_drawn_has_its_card_and_the_f1_of_a_task(run, dataset):
    rows = run(dataset)
    table = task_table(rows)
    assert set(table["method"]) == {"vanilla", "canonical"} and set(table["dataset"]) == {dataset}
    assert table[list(NUMBERS)].notna().all(axis=None)
    assert (table.groupby("run").size() <= 10).all() and (table["firings"] >= 10).all()
    assert table["f1"].between(0, 1).all() and table["f1"].nunique() > 5
    assert (table["true"] == (table["f1"] >= 0.9)).all()
    assert not table.duplicated(["run", "latent"]).any()


def test_what_is_measured_is_not_measured_twice(run, capsys):
    run("shapes")
    capsys.readouterr()
    run("shapes")
    assert "SAEs measured: 4 of 4 done" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["shapes", "go"])
def test_one_seed_cannot_be_compared(run, dataset):
    with pytest.raises(ValueError, match="seeds must be two or more"):
        run(dataset, seeds=[0])


# --- what ships ---


def test_shipped_rows_are_of_both_base_models_and_five_seeds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIP_RESULTS", "1")
        table = task_table(results.read(ROOT / "probe_results" / "trust_shapes.csv"))
    assert set(table["base_model"]) == {"mlp", "cnn"} and table["seed"].nunique() == 5
    assert set(table["method"]) == {"vanilla", "vanilla_wide", "canonical", "latent_inv",
                                    "output_inv"}  # fmt: skip
    scores = verdict_scores(table).set_index(["method", "metric"])
    assert (scores["latents"] <= len(table)).all()
    known = scores.dropna()
    assert (known["low"] <= known["value"]).all() and (known["value"] <= known["high"]).all()
