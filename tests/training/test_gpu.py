"""On a GPU, where there is one: what it trains is what the CPU trains, launched or as a graph."""

import dataclasses

import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training import fitting
from saehelpers.training.graphs import Replayed
from saehelpers.training.methods import METHODS, SAERun, method_run
from saehelpers.training.side_by_side import train_saes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

SAE_CONFIG = SAEConfig(d=8, n_latents=12, topk=3, encoder_hidden=16, n_archetypes=16)
SETTINGS = {"epochs": 4, "batch_size": 48, "learning_rate": 1e-2, "schedule": "cosine"}
RUN = SAERun("vanilla", "toy", SAE_CONFIG, **SETTINGS)
JUMPRELU = dataclasses.replace(SAE_CONFIG, activation="jumprelu")
KINDS = {
    "batch_topk": dataclasses.replace(
        RUN, sae=dataclasses.replace(SAE_CONFIG, activation="batch_topk", unit_decoder=True)
    ),
    "jumprelu": dataclasses.replace(
        RUN, sae=JUMPRELU, sparsity="l0", lambda_sparsity=0.01, target_l0=3
    ),
    "warmed_up": dataclasses.replace(RUN, warmup_steps=5, auxk=4, dead_after=10),
    **{
        method: method_run(method, "toy", SAE_CONFIG, Group.named("C4"), **SETTINGS)
        for method in METHODS
        if method != "pca"
    },
}


@pytest.fixture
def recorded(monkeypatch):
    """The updates that were to be replayed."""
    made = []
    monkeypatch.setattr(
        fitting, "Replayed", lambda *arguments: made.append(Replayed(*arguments)) or made[-1]
    )
    return made


def seeds(run: SAERun) -> list[SAERun]:
    return [dataclasses.replace(run, seed=seed) for seed in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_trains_as_launching_does(toy, kind, recorded, monkeypatch):
    x = [toy.activations.cuda()]
    found, histories = train_saes(seeds(KINDS[kind]), x, progress=False)
    assert [update.graph is not None for update in recorded] == ([] if KINDS[kind].auxk else [True])
    monkeypatch.setattr(fitting, "Replayed", lambda update, state: update)
    expected, expected_histories = train_saes(seeds(KINDS[kind]), x, progress=False)
    for history, reference in zip(histories, expected_histories, strict=True):
        assert_allclose(history.loss, reference.loss, rtol=1e-3)
    for ours, reference in zip(found, expected, strict=True):
        assert_close(ours.state_dict(), reference.state_dict(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_trains_as_the_cpu_does(toy, kind):
    _, histories = train_saes(seeds(KINDS[kind]), [toy.activations.cuda()], progress=False)
    _, expected = train_saes(seeds(KINDS[kind]), [toy.activations], progress=False)
    for history, reference in zip(histories, expected, strict=True):
        assert_allclose(history.loss, reference.loss, rtol=1e-2)


def test_an_interrupt_changes_nothing_in_the_end(toy, tmp_path, monkeypatch):
    x, path = [toy.activations.cuda()], tmp_path / "checkpoint"
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    (expected,), _ = train_saes([RUN], x, progress=False)

    def stop(epoch, sae):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_saes([RUN], x, checkpoint=path, progress=False, after_epoch=stop)
    (found,), _ = train_saes([RUN], x, checkpoint=path, progress=False)
    assert_close(found.state_dict(), expected.state_dict(), atol=1e-3, rtol=1e-3)


def test_a_loss_that_is_not_finite_stops_and_names_its_step(toy):
    run = dataclasses.replace(RUN, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"is (nan|inf) at step \d+ \(epoch 0\)"):
        train_saes([run], [toy.activations.cuda()], progress=False)


def test_an_update_that_copies_a_value_is_launched():
    weight, index, uniform = (torch.ones(1, 4, device="cuda") for _ in range(3))

    def update(index, uniform):
        if weight.sum() > 0:
            weight.mul_(2)
        return {"loss": weight.sum(-1)}

    replayed = Replayed(update, lambda: [weight])
    here = torch.cuda.current_stream()
    for _ in range(3):
        replayed(index, uniform)
    with pytest.warns(UserWarning, match="updates are launched kernel by kernel"):
        replayed(index, uniform)
    assert replayed(index, uniform)["loss"].item() == 4 * 2**5
    assert torch.cuda.current_stream() == here
    again = Replayed(lambda index, uniform: {"loss": weight.mul_(2).sum(-1)}, lambda: [weight])
    for n in range(6, 12):
        assert again(index, uniform)["loss"].item() == 4 * 2**n
    assert again.graph is not None


def test_an_update_that_changes_with_python_is_launched():
    weight, index, uniform = (torch.ones(1, 4, device="cuda") for _ in range(3))
    calls = []

    def update(index, uniform):
        calls.append(None)
        return {"loss": weight.add_(len(calls)).sum(-1)}

    replayed = Replayed(update, lambda: [weight])
    with pytest.warns(UserWarning, match="a recorded one differs by"):
        for _ in range(6):
            replayed(index, uniform)
    assert replayed.graph is None
