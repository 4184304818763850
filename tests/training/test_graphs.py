"""Whether a recorded update is what it should be, is found out before it is used."""

import dataclasses
import math

import pytest
import torch

from saehelpers.saes import SAEConfig, make_sae
from saehelpers.saes.sparse import choice
from saehelpers.training import objective
from saehelpers.training.graphs import tried
from saehelpers.training.methods import SAERun
from saehelpers.training.side_by_side import _is_of_fixed_shape

SAE = SAEConfig(8, 16, topk=4, encoder="linear")
RUN = SAERun("vanilla", "x", SAE)


@pytest.mark.parametrize(("replayed", "apart"), [(0.1, 0.0), (0.11, 0.1), (0.0, 1.0)])
def test_a_recorded_update_is_held_against_a_launched_one(replayed, apart):
    weight, large = torch.ones(2, 3, requires_grad=True), torch.zeros(3)

    def move(by: float) -> dict[str, torch.Tensor]:
        large.add_(1000)  # of which the weight would be a small part
        with torch.no_grad():
            weight.add_(by)
        return {"loss": weight.detach().sum()}

    terms, found = tried(lambda: move(0.1), lambda: move(replayed), [weight, large])
    assert found == pytest.approx(apart, abs=1e-5)
    assert terms["loss"].item() == pytest.approx(6.6)
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), 1.1))  # moved once
    assert large.tolist() == [1000] * 3


def test_an_update_that_moves_nothing_may_do_so_recorded():
    weight = torch.ones(2)
    assert tried(dict, dict, [weight]) == ({}, 0.0)
    assert tried(dict, lambda: weight.add_(1), [weight]) == ({}, math.inf)


def run_of(objective: str = "reconstruction", **changes) -> SAERun:
    fields = {field.name for field in dataclasses.fields(SAEConfig)}
    sae = dataclasses.replace(SAE, **{k: v for k, v in changes.items() if k in fields})
    others = {k: v for k, v in changes.items() if k not in fields}
    return dataclasses.replace(RUN, sae=sae, objective=objective, **others)


@pytest.mark.parametrize(
    ("run", "dense", "sparse"),
    [
        (run_of(), True, True),
        (run_of("canonical"), True, True),
        (run_of("latent_inv"), True, False),
        (run_of("matryoshka", prefixes=(4, 16)), True, False),
        (run_of(activation="batch_topk"), True, False),
        (run_of(auxk=4), False, False),
        (run_of(activation="relu", sparsity="l1", lambda_sparsity=0.1, sparsity_warmup_steps=2),
         False, False),
        (run_of(dictionary="block_diagonal", n_heads=2), False, False),
    ],
)  # fmt: skip
def test_what_is_recorded(run, dense, sparse, monkeypatch):
    model = make_sae(run.sae, 0)
    assert _is_of_fixed_shape(run, model) == dense
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", choice.Bounds(0, 1, 1))
    assert _is_of_fixed_shape(run, model) == sparse


def test_what_was_added_is_not_recorded():
    @objective("annealed, for this test")
    def annealed(sae, batch): ...

    run = run_of("annealed, for this test")
    assert not _is_of_fixed_shape(run, make_sae(run.sae, 0))
