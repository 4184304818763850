"""Weights of sparsity terms that are moved until a number of latents is active."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import SAEConfig, make_sae, stack
from saehelpers.training.methods import SAERun, run_columns
from saehelpers.training.side_by_side import train_saes
from saehelpers.training.sparsity import SparsityController

D, N_LATENTS = 6, 16
CONFIG = SAEConfig(D, N_LATENTS, "relu", encoder="linear", unit_decoder=True)
RUN = SAERun(
    "any", "random", CONFIG, sparsity="l1", lambda_sparsity=0.1, target_l0=2, epochs=3,
    batch_size=50,
)  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_weight_agrees_with_a_plain_loop():
    controller = SparsityController(stack([make_sae(CONFIG, seed) for seed in (0, 1)]), 2.0)
    integrals = [0.0, 0.0]
    for step in range(5):
        latents = random(2, 10, N_LATENTS, seed=step).relu()
        latents[1, :, 1 + step :] = 0
        factors = controller(latents)
        for i in range(2):
            active = sum(float(value != 0) for value in latents[i].flatten()) / 10
            excess = max(-1.0, min(1.0, math.log(active / 2.0)))
            assert_close(factors[i].item(), math.exp(integrals[i] + 0.5 * excess))
            integrals[i] += 0.003 * excess


def test_no_latent_left_makes_the_weight_fall():
    controller = SparsityController(stack([make_sae(CONFIG)]), 2.0)
    first, second = (controller(torch.zeros(1, 10, N_LATENTS)).item() for _ in range(2))
    assert_close(first, math.exp(-0.5))
    assert second < first


@pytest.mark.parametrize(
    ("activation", "sparsity", "objective", "start"),
    [("relu", "l1", "reconstruction", 0.2), ("relu", "l1", "reconstruction", 5.0),
     ("jumprelu", "l0", "reconstruction", 5.0), ("gated", "gate_l1", "gated", 0.2)],
)  # fmt: skip
def test_latents_come_nearer_to_the_target(activation, sparsity, objective, start):
    """From a weight that is too small, and from one that is too large."""
    sae = dataclasses.replace(CONFIG, activation=activation)
    if activation == "jumprelu":
        sae = dataclasses.replace(sae, initial_threshold=1.0)
    run = dataclasses.replace(
        RUN, sae=sae, sparsity=sparsity, objective=objective, lambda_sparsity=start, epochs=100,
        learning_rate=1e-2,
    )  # fmt: skip
    off = []
    for target in (2, None):
        run = dataclasses.replace(run, target_l0=target)
        _, (history,) = train_saes([run], [random(500, 1, D)], progress=False)
        off.append(abs(history["l0"].tail(10).mean() - 2))
    assert off[0] < 0.8 * off[1]


def test_an_interrupt_changes_nothing(train_interrupted):
    configs = [dataclasses.replace(RUN, seed=seed) for seed in (0, 1)]
    activations = [random(200, 1, D)]
    whole, _ = train_saes(configs, activations, progress=False)
    constant, _ = train_saes(
        [dataclasses.replace(config, target_l0=None) for config in configs], activations,
        progress=False,
    )  # fmt: skip
    assert not torch.equal(whole[0].decoder_weight, constant[0].decoder_weight)
    resumed = train_interrupted(configs, activations)
    for ours, reference in zip(resumed, whole, strict=True):
        for name, tensor in reference.state_dict().items():
            assert torch.equal(tensor, ours.state_dict()[name]), name


def test_rows_name_the_target_as_topk():
    assert run_columns(RUN)["topk"] == 2
    assert run_columns(dataclasses.replace(RUN, target_l0=None))["topk"] is None


def test_the_first_threshold_of_jumprelu():
    sae = make_sae(dataclasses.replace(CONFIG, activation="jumprelu", initial_threshold=2.0))
    assert_close(sae.activation.log_threshold.exp(), torch.full((N_LATENTS,), 2.0))
    assert sae.activation.bandwidth == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_l0": 0}, r"target_l0 must be above 0, got 0"),
        ({"target_l0": 16}, r"target_l0 must be below n_latents = 16, got 16"),
        ({"sparsity": None, "lambda_sparsity": 0.0,
          "sae": dataclasses.replace(CONFIG, activation="topk")}, r"target_l0.*there is none"),
        ({"sparsity_warmup_steps": 5}, r"sparsity_warmup_steps must be 0"),
        ({"sae": dataclasses.replace(CONFIG, activation="topk")}, r"got .*'topk': set topk"),
        ({"sparsity_warmup_steps": 5}, r"sparsity_warmup_steps must be 0"),
        ({"sae": dataclasses.replace(CONFIG, activation="topk")}, r"got .*'topk': set topk"),
        ({"sae": dataclasses.replace(CONFIG, dictionary="block_diagonal", n_heads=2)},
         r"target_l0 is of one SAE"),
    ],
)  # fmt: skip
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **changes)


def test_a_threshold_of_another_activation():
    with pytest.raises(ValueError, match="initial_threshold is of the activation 'jumprelu'"):
        dataclasses.replace(CONFIG, initial_threshold=2.0)
