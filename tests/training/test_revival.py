"""Dead latents and the auxiliary loss that revives them, AuxK."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import SAEConfig, make_sae, stack
from saehelpers.saes.sparse import choice
from saehelpers.training.loss import Loss, total_loss
from saehelpers.training.methods import SAERun
from saehelpers.training.objectives import OrbitBatch
from saehelpers.training.revival import Revival
from saehelpers.training.side_by_side import train_saes

D, N_LATENTS, BATCH = 6, 16, 10
CONFIG = SAEConfig(D, N_LATENTS, "topk", 2, encoder="linear")
RUN = SAERun("any", "random", CONFIG, epochs=4, batch_size=50, auxk=3, dead_after=100)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["dense", "sparse"])
def path(request, monkeypatch) -> str:
    if request.param == "sparse":
        monkeypatch.setitem(choice.FASTER_FROM, "cpu", choice.Bounds(0, 1, 1))
    return request.param


def batch_of(instances: int) -> OrbitBatch:
    starts = 2 * torch.arange(BATCH).expand(instances, -1)
    elements = torch.ones(instances, BATCH, dtype=torch.long)
    return OrbitBatch(
        random(2 * BATCH, D), starts, elements, 2, torch.zeros(1, D), torch.ones(1, 1)
    )


def with_dead_latents(*dead: list[int]):
    """A stack of SAEs, and a revival of these latents of each."""
    sae = stack([make_sae(CONFIG, seed) for seed in range(len(dead))]).train()
    for i, bias in enumerate(sae.encoder_biases[0].data):
        bias.copy_(random(N_LATENTS, seed=i))
    revival = Revival(sae, 3, 100, 0.5)
    for idle, latents in zip(revival.idle, dead, strict=True):
        idle[latents] = 100
    return sae, revival


@pytest.mark.parametrize("objective", ["reconstruction", "canonical", "latent_inv", "output_inv"])
def test_the_term_agrees_with_a_plain_loop(objective, path):
    dead = [[1, 4, 5, 9, 12], [3]]
    sae, revival = with_dead_latents(*dead)
    batch = batch_of(2)
    terms = total_loss(sae, batch, Loss(objective), revival)
    x = batch.canonical if "inv" in objective else batch.transformed
    target = batch.transformed if objective == "reconstruction" else batch.canonical
    for i, latents in enumerate(dead):
        total = 0.0
        for own, wanted in zip(x[i], target[i], strict=True):
            before = own @ sae.encoder_weights[0][i] + sae.encoder_biases[0][i]
            kept = before.argsort(descending=True)[:2]
            error = wanted - sae.decoder_bias[i] - before[kept].relu() @ sae.dictionary[i][kept]
            top = sorted(latents, key=lambda j: -before[j].item())[:3]
            total += (error - before[top].relu() @ sae.dictionary[i][top]).square().sum()
        assert_close(terms["auxk"][i], total / BATCH)
    parts = terms["reconstruction"] + terms.get("symmetry", 0.0)
    assert_close(terms["loss"], parts + 0.5 * terms["auxk"])


@pytest.mark.parametrize("encoder", ["linear", "two_layer"])
def test_its_gradient_reaches_dead_latents_alone(path, encoder):
    config = dataclasses.replace(CONFIG, encoder=encoder, pre_encoder_bias=True)
    sae = stack([make_sae(config)]).train()
    revival = Revival(sae, 3, 100, 1.0)
    revival.idle[0, [2, 7]] = 100
    sae.encoder_biases[-1].data[0, [2, 7]] = 5.0  # they are positive
    total_loss(sae, batch_of(1), Loss("reconstruction"), revival)["auxk"].sum().backward()
    moved = sae.decoder_weight.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert moved == [2, 7]
    assert sae.encoder_weights[-1].grad[0].abs().sum(0).nonzero().flatten().tolist() == [2, 7]
    others = [sae.decoder_bias, *sae.encoder_weights[:-1], *sae.encoder_biases[:-1]]
    assert all(p.grad is None or not p.grad.any() for p in others)


def test_nobody_dead_adds_nothing(path):
    sae, revival = with_dead_latents([], [3])
    terms = total_loss(sae, batch_of(2), Loss("reconstruction"), revival)
    assert terms["auxk"][0] == 0 < terms["auxk"][1]


def test_latents_are_dead_after_so_many_samples_without_them(path):
    sae, revival = with_dead_latents([])
    sae.encoder_biases[0].data.fill_(-100.0)[0, 5] = 100.0  # latent 5 is always active
    for n_batches in range(1, 12):
        total_loss(sae, batch_of(1), Loss("reconstruction"), revival)
        assert revival.idle[0, 5] == 0
        assert (revival.idle[0, :5] == n_batches * BATCH).all()
        assert revival.dead.sum() == (N_LATENTS - 1 if n_batches >= 10 else 0)


def faint_latents_that_come_back(weight: float) -> int:
    """Of eight latents too faint to be chosen, how many are chosen after 200 steps of Adam."""
    sae, faint = stack([make_sae(CONFIG)]).train(), slice(8, 16)
    sae.encoder_weights[0].data[..., faint] *= 0.05
    revival = Revival(sae, 3, 100, weight)
    revival.idle[:, faint] = 100
    optimiser = torch.optim.Adam(sae.parameters(), 1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        total_loss(sae, batch_of(1), Loss("reconstruction"), revival)["loss"].sum().backward()
        optimiser.step()
    return int((~revival.dead)[:, faint].sum())


def test_dead_latents_come_back(path):
    assert faint_latents_that_come_back(1 / 4) > faint_latents_that_come_back(0.0)


@pytest.mark.parametrize("activation", ["batch_topk", "relu", "jumprelu"])
def test_other_activations_have_it_too(activation):
    sae = make_sae(dataclasses.replace(CONFIG, activation=activation))
    sae.encoder_biases[0].data += 0.5
    revival = Revival(sae, 3, 100, 1.0)
    revival.idle[4] = 100
    batch = batch_of(1)
    x = batch.transformed[0]
    batch = dataclasses.replace(batch, starts=batch.starts[0], elements=batch.elements[0])
    found = total_loss(sae, batch, Loss("reconstruction"), revival)["auxk"]
    z = (x @ sae.encoder_weights[0][:, 4] + 0.5).relu()
    expected = x - sae(x) - torch.outer(z, sae.dictionary[4])
    assert_close(found, expected.square().sum(-1).mean())


def test_an_interrupt_changes_nothing(path, train_interrupted):
    configs = [dataclasses.replace(RUN, seed=seed, dead_after=50) for seed in (0, 1)]
    activations = [random(200, 1, D)]
    whole, _ = train_saes(configs, activations, progress=False)
    plain, _ = train_saes(
        [dataclasses.replace(c, auxk=0) for c in configs], activations, progress=False
    )
    assert not torch.equal(whole[0].decoder_weight, plain[0].decoder_weight)
    resumed = train_interrupted(configs, activations)
    for ours, reference in zip(resumed, whole, strict=True):
        for name, tensor in reference.state_dict().items():
            assert torch.equal(tensor, ours.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auxk": -1}, r"auxk must be 0 or more, got -1"),
        ({"auxk": 17}, r"got 17"),
        ({"dead_after": 0}, r"dead_after must be 1 or more, got 0"),
        ({"sae": dataclasses.replace(CONFIG, dictionary="archetypal")}, r"not of 'archetypal'"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **changes)
