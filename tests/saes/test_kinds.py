"""Newer kinds of SAE, each beside a plain loop over its equations."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import SAEConfig, load_sae_lens, make_sae, save_sae_lens, stack
from saehelpers.saes.sparse import AbsTopK
from saehelpers.symmetry import Group, LinearAction
from saehelpers.training import (
    OBJECTIVES,
    SPARSITY_TERMS,
    OrbitBatch,
    SAERun,
    squared_error,
    train_sae,
    train_saes,
)

D, N = 6, 10


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(x: torch.Tensor) -> OrbitBatch:
    starts = torch.arange(len(x))
    return OrbitBatch(x, starts, 0 * starts, 1, torch.zeros(1, x.shape[1]), torch.ones(1, 1))


def moved(config: SAEConfig, seed: int = 0):
    """An SAE none of whose parameters is where it starts."""
    sae = make_sae(config, seed)
    with torch.no_grad():
        for i, parameter in enumerate(sae.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=seed + i)
        sae.constrain()
    return sae


# --- AbsTopK ---


def test_abs_topk_keeps_the_largest_with_their_signs():
    x = random(30, 64)
    found = AbsTopK(5)(x)
    for row, kept in zip(x, found, strict=True):
        largest = row.abs().argsort(descending=True)[:5]
        expected = torch.zeros(64)
        expected[largest] = row[largest]
        assert torch.equal(kept, expected)
    assert (found < 0).any() and (found > 0).any()


def test_one_signed_latent_stands_for_a_half_turn_and_takes_no_two():
    """Features that come with their opposites: half the latents do, of TopK all are needed."""
    half_turn = LinearAction.from_generators(Group.named("C2"), [-torch.eye(16)])
    rows = torch.linalg.qr(random(16, 16)).Q[:8]
    fires = torch.rand(4000, 8, generator=torch.Generator().manual_seed(1)) < 0.15
    orbits = half_turn.orbit(fires.float() @ rows)
    explained = {}
    for kind, n_latents in (("abs_topk", 8), ("topk", 8), ("topk", 16)):
        sae = SAEConfig(16, n_latents, kind, 3, "linear", unit_decoder=True)
        run = SAERun(kind, "x", sae, epochs=40, batch_size=100, learning_rate=5e-3)
        _, history = train_sae(run, orbits, progress=False)
        explained[kind, n_latents] = history.explained_variance.iloc[-1]
    assert explained["abs_topk", 8] > 0.9
    assert explained["abs_topk", 8] > explained["topk", 8] + 0.2


# --- gated ---


GATED = SAEConfig(D, N, "gated", encoder="linear", pre_encoder_bias=True)


def test_gated_latents_and_loss_are_those_of_a_plain_loop():
    sae, x = moved(GATED), random(40, D, seed=3)
    sae.set_standardisation(random(D, seed=4), torch.tensor(1.7))
    terms, latents = OBJECTIVES["gated"](sae, batch_of(x))
    weight, bias = sae.encoder_weights[0], sae.encoder_biases[0]
    scale, offset = sae.activation.log_scale.exp(), sae.activation.offset
    recons, through_gates, l1 = 0.0, 0.0, 0.0
    for i, point in enumerate(x):
        z = (point - sae.mean) / sae.scale - sae.decoder_bias
        gates = z @ weight + bias
        magnitudes = (scale * gates + offset).clamp(min=0)
        expected = torch.where(gates > 0, magnitudes, 0.0)
        assert_close(latents[i], expected, atol=1e-5, rtol=1e-5)
        for name, active in (("recons", expected), ("gates", gates.clamp(min=0))):
            found = sae.scale * (active @ sae.dictionary + sae.decoder_bias) + sae.mean
            error = (point - found).square().sum() / len(x)
            recons, through_gates = (
                (recons + error, through_gates) if name == "recons"
                else (recons, through_gates + error)
            )  # fmt: skip
        l1 = l1 + gates.clamp(min=0).sum() / len(x)
    assert_close(terms["reconstruction"], recons)
    assert_close(terms["gate"], through_gates)
    assert_close(SPARSITY_TERMS["gate_l1"](latents, sae, 1.0, x), l1)


def test_what_goes_through_the_gates_leaves_the_decoder_alone():
    sae, x = moved(GATED), random(40, D, seed=3)
    terms, _ = OBJECTIVES["gated"](sae, batch_of(x))
    parameters = dict(sae.named_parameters())
    gradients = torch.autograd.grad(terms["gate"], parameters.values(), allow_unused=True)
    reached = {
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and gradient.any()
    }
    # with a pre-encoder bias the decoder's bias is a part of the encoder, too
    assert reached == {"encoder_weights.0", "encoder_biases.0", "decoder_bias"}


def test_gated_saes_train_side_by_side_as_alone():
    x = random(300, 1, D)
    run = SAERun("gated", "x", GATED, "gated", sparsity="gate_l1", lambda_sparsity=0.3, epochs=4)
    alone, _ = train_sae(run, x, progress=False)
    other = dataclasses.replace(run, seed=1)
    (first, second), _ = train_saes([run, other], [x], progress=False)
    assert_close(first.state_dict(), alone.state_dict(), atol=1e-5, rtol=1e-4)
    assert not torch.equal(second.dictionary, first.dictionary)


# --- matching pursuit ---


PURSUIT = SAEConfig(D, N, "topk", 4, "linear", dictionary="matching_pursuit")


@pytest.mark.parametrize("pre_encoder_bias", [False, True])
def test_matching_pursuit_is_that_of_a_plain_loop(pre_encoder_bias):
    config = dataclasses.replace(PURSUIT, pre_encoder_bias=pre_encoder_bias, topk=N)
    sae, x = moved(config), random(60, D, seed=3)
    sae.set_standardisation(random(D, seed=4), torch.tensor(1.7))
    n_again = 0
    for point, found in zip(x, sae.encode(x), strict=True):
        rest = (point - sae.mean) / sae.scale - sae.decoder_bias
        expected = torch.zeros(N)
        for _ in range(N):
            fits = sae.dictionary @ rest
            best = int(fits.argmax())
            value = fits[best].clamp(min=0)
            again = bool(expected[best])
            expected[best] += value
            rest = rest - value * sae.dictionary[best]
            if again:
                n_again += 1
                break
        assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert n_again > 10
    assert_close(sae.dictionary.norm(dim=1), torch.ones(N))


def test_matching_pursuit_learns_alone_and_side_by_side():
    rows = torch.linalg.qr(random(D, D)).Q
    fires = torch.rand(2000, D, generator=torch.Generator().manual_seed(1)) < 0.25
    x = (fires.float() @ rows)[:, None]
    config = dataclasses.replace(PURSUIT, n_latents=8, topk=3)
    run = SAERun("pursuit", "x", config, epochs=15, learning_rate=5e-3)
    sae, history = train_sae(run, x, progress=False)
    assert history.explained_variance.iloc[-1] > 0.9 > history.explained_variance.iloc[0]
    assert_close(sae.dictionary.norm(dim=1), torch.ones(8))
    two = stack([moved(config, seed) for seed in (0, 1)])
    expected = torch.stack([moved(config, seed).encode(x[:50, 0]) for seed in (0, 1)])
    assert_close(two.encode(x[:50, 0].expand(2, -1, -1)), expected)


def test_gradients_of_matching_pursuit_go_through_all_steps():
    sae, x = moved(dataclasses.replace(PURSUIT, topk=2)).double(), random(1, D, seed=3).double()
    squared_error(x, sae(x)).backward()
    rows = sae.decoder_weight.detach().clone().requires_grad_()
    bias = sae.decoder_bias.detach().clone().requires_grad_()
    rest, recons = x[0] - bias, bias
    for _ in range(2):
        best = int((rows @ rest).argmax())
        value = (rows[best] @ rest).clamp(min=0)
        rest, recons = rest - value * rows[best], recons + value * rows[best]
    (x[0] - recons).square().sum().backward()
    assert_close(sae.decoder_weight.grad, rows.grad)
    assert_close(sae.decoder_bias.grad, bias.grad)


def test_matching_pursuit_goes_through_a_folder_of_saelens(tmp_path):
    sae, x = moved(PURSUIT).eval(), random(50, D, seed=3)
    sae.set_standardisation(random(D, seed=4), torch.tensor(1.7))
    back, cfg = load_sae_lens(save_sae_lens(sae, tmp_path / "sae"))
    assert cfg["architecture"] == "matching_pursuit" and cfg["max_iterations"] == 4
    assert_close(back(x), sae(x), atol=1e-5, rtol=1e-5)
    assert_close(back.encode(x), 1.7 * sae.encode(x), atol=1e-5, rtol=1e-5)


# --- what does not go together ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dataclasses.replace(PURSUIT, activation="relu"), "with the activation 'topk'"),
        (lambda: dataclasses.replace(PURSUIT, encoder="two_layer"), "the encoder 'linear', got"),
        (lambda: dataclasses.replace(PURSUIT, unit_decoder=True), "unit_decoder has no effect"),
        (lambda: SAERun("x", "x", GATED), "SAE with the activation 'gated' sparse"),
        (lambda: SAERun("x", "x", SAEConfig(D, N), "gated"), "objective 'gated' is of gates"),
        (lambda: SAERun("x", "x", SAEConfig(D, N, "relu"), sparsity="gate_l1", lambda_sparsity=1.0),
         "'gate_l1' is of the gates of the activation 'gated', got 'relu'"),
        (lambda: SAERun("x", "x", SAEConfig(D, N, "abs_topk"), sparsity="l1", lambda_sparsity=1.0),
         "latents without signs, 'abs_topk' has them"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(call, message):
    with pytest.raises(ValueError, match=message):
        call()
