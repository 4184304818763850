"""Known worlds, the cards of small SAEs of them, and what ships of the large run."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from saehelpers.datasets.synthetic import superposition
from saehelpers.evaluation import NUMBERS
from saehelpers.experiments import (
    KINDS,
    calibration_rows,
    card_table,
    known_world,
    sae_table,
)

SMALL = {"widths": [1.0], "topks": [2], "methods": ["self_oriented"], "seeds": [0, 1],
         "epochs": 25, "samples_per_epoch": 2048, "n_counted": 800}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("calibration")


@pytest.fixture(scope="module")
def run(folder):
    def run(**changes):
        with ThreadPoolExecutor(1) as threads:
            settings = SMALL | {"kinds": ["toy", "independent"]} | changes
            return calibration_rows(folder / "t.csv", folder / "models", executor=threads,
                                    **settings)  # fmt: skip

    return run


@pytest.fixture(scope="module")
def rows(run):
    return run()


@pytest.mark.parametrize("kind", KINDS)
def test_worlds_are_of_their_kinds(kind):
    world, other = known_world(kind, 0), known_world(kind, 1)
    assert not torch.equal(world.features.dictionary, other.features.dictionary)
    assert (world.action is not None) == (kind in ("toy", "orbits", "orbits in trees"))
    rates, correlations = world.features.firing_rates(20_000, torch.Generator().manual_seed(0))
    assert rates.min() > 0.01
    apart = correlations.fill_diagonal_(0).abs().max() < 0.05
    assert apart == (kind in ("independent", "superposition", "toy", "orbits"))
    largest = superposition(world.features.dictionary, ()).mean_largest
    assert (largest > 0.3) == (kind == "superposition")


def test_every_latent_that_fires_has_a_row_of_each_number(rows):
    table = card_table(rows)
    assert set(table["kind"]) == {"toy", "independent"}
    assert table[list(NUMBERS)].notna().all(axis=None)
    assert set(table["method"]) == {"self_oriented", "topk", "batch_topk", "relu"}
    assert not table.duplicated(["run", "latent"]).any()
    assert table["true"].any() and not table["true"].all()


def test_a_run_goes_on_where_it_was_and_measures_nothing_twice(run, rows, folder, capsys):
    before = (folder / "own" / "t.csv").read_text()
    run()
    assert "SAEs measured: 8 of 8 done" in capsys.readouterr().out
    assert sorted((folder / "own" / "t.csv").read_text().splitlines()) == sorted(
        before.splitlines()
    )


def test_saes_that_recover_more_have_more_true_latents(rows):
    saes = sae_table(rows)
    assert len(saes) == 8 and saes["recovery"].between(0, 1).all()
    true = card_table(rows).groupby("run")["true"].mean()
    best, worst = (saes.loc[saes["recovery"].agg(how), "run"] for how in ("idxmax", "idxmin"))
    assert true[best] > true[worst]


def test_one_seed_cannot_be_compared(run):
    with pytest.raises(ValueError, match="seeds must be two or more"):
        run(seeds=[0])
