"""Activations of any type: statistics, training and metrics are those of the same in float32."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers import EquivariantSAE, Group, SAEConfig, SAERun, fit_action
from saehelpers.datasets import ShardStream, write_shards
from saehelpers.datasets.shards import map_activations
from saehelpers.evaluation import (
    dependence,
    evaluate_spliced,
    fit_class_probe,
    matching,
    metrics,
    spliced,
)
from saehelpers.evaluation.consistency import linear_cka, svcca
from saehelpers.networks import make_gpt2, standardisation
from saehelpers.symmetry import canonical_direction, canonicalise, report_action
from saehelpers.training import train_saes

DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int16, torch.int64]
GROUP = Group.named("C4")


@pytest.fixture(params=DTYPES, ids=str)
def activations(request, toy) -> torch.Tensor:
    return (30 * toy.activations).to(request.param)


def explain(activations, config) -> tuple[torch.Tensor, list[float]]:
    """The README's first example, of orbit activations."""
    action = fit_action(activations, GROUP, epochs=1, progress=False)
    (sae,), (history,) = train_saes([config], [activations], progress=False)
    x = activations[:, 1]
    equivariant = EquivariantSAE(sae, action)
    values = [
        metrics.fvu(x, equivariant(x)),
        metrics.mse(x, equivariant.mapped(x, torch.arange(len(x)) % 4)),
        *metrics.symmetry_report(sae, action, activations).values(),
        *report_action(action, activations).value,
        *history.iloc[-1],
    ]
    return torch.cat([action.matrices.flatten(), sae.dictionary.flatten()]), values


def check_explanation(activations, config, expected=None) -> None:
    weights, values = explain(activations, config)
    expected_weights, expected_values = expected or explain(activations.float(), config)
    # mean and scale of float64 are better than those of float32
    tolerance = 1e-4 if activations.dtype == torch.float64 else 0
    assert_close(weights, expected_weights, atol=tolerance, rtol=0)
    assert values == pytest.approx(expected_values, rel=max(tolerance, 1e-6))


@pytest.mark.parametrize("search", [False, True])
def test_an_element_is_inferred_from_any_type(search, activations, c4_action, small_config):
    (sae,), _ = train_saes(
        [SAERun("x", "x", small_config, epochs=1)], [activations], progress=False
    )
    equivariant = EquivariantSAE(sae, c4_action, search)
    x = activations[:, 2]
    assert torch.equal(equivariant.infer_element(x), equivariant.infer_element(x.float()))
    assert equivariant(x).dtype == torch.float32
    assert torch.equal(equivariant(x), equivariant(x.float()))


@pytest.mark.parametrize("objective", ["latent_inv", "self_oriented"])
def test_training_on_any_type_is_training_in_float32(objective, activations, small_config):
    config = SAERun("x", "x", small_config, objective, epochs=2, batch_size=64)
    check_explanation(activations, config)


def test_archetypes_of_any_type(activations):
    # points of the toy model are as near to one centre as to another: rounding would decide
    apart = 30 * torch.randn(activations.shape, generator=torch.Generator().manual_seed(0))
    sae = SAEConfig(8, 12, topk=3, dictionary="archetypal", n_archetypes=8)
    config = SAERun("x", "x", sae, epochs=1)
    check_explanation(apart.to(activations.dtype), config)


def test_training_from_a_file_of_any_type(activations, small_config, tmp_path):
    config = SAERun("x", "x", small_config, epochs=2, batch_size=64)
    expected = explain(activations.float(), config)
    if activations.dtype != torch.bfloat16:  # numpy has none
        np.save(tmp_path / "x.npy", activations.numpy())
        mapped = map_activations(tmp_path / "x.npy")
        assert mapped.dtype == activations.dtype
        check_explanation(mapped, config, expected)
    stream = ShardStream(write_shards(tmp_path / "x", activations.split(100)), 256)
    (sae,), _ = train_saes([config], [stream], progress=False)
    floats = ShardStream(write_shards(tmp_path / "f", activations.float().split(100)), 256)
    (other,), _ = train_saes([config], [floats], progress=False)
    assert_close(sae.dictionary, other.dictionary, atol=0, rtol=0)


def test_frames_are_chosen_in_any_type(activations):
    direction = canonical_direction(activations.float())
    assert torch.equal(canonical_direction(activations), direction)
    chosen = canonicalise(activations, GROUP, direction)
    assert torch.equal(chosen.float(), canonicalise(activations.float(), GROUP, direction))


# --- statistics and metrics ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_scale_of_squares_beyond_float16(dtype):
    x = torch.tensor([[0.0, 300.0], [0.0, -300.0]])
    mean, scale = standardisation(x.to(dtype))
    assert mean.dtype == scale.dtype == torch.float32
    assert_close(mean, torch.zeros(2))
    assert_close(scale, torch.tensor(300 / 2**0.5))
    large = torch.tensor([[0.0, 60_000.0], [0.0, -60_000.0]], dtype=dtype)
    assert metrics.fvu(large, large / 2) == pytest.approx(0.25)
    assert metrics.explained_variance(large, large / 2) == pytest.approx(0.75)
    assert metrics.mse(large, large / 2) == pytest.approx(30_000**2 / 2, rel=0.01)


def test_float64_stays(toy):
    x = toy.activations.double()
    assert {part.dtype for part in standardisation(x)} == {torch.float64}
    assert metrics.mse(x, x + 1e-12) == pytest.approx(1e-24, rel=1e-2)


def test_metrics_of_halves_are_those_of_the_same_numbers():
    generator = torch.Generator().manual_seed(0)
    half = (10 * torch.rand(3000, 6, generator=generator)).half()
    full = half.float()
    other = (full @ torch.rand(6, 6, generator=generator) + full.roll(1, 0)).half()
    tasks = full[:, :2] + full[:, 2:4] > 8
    labels = (full[:, 0] > 5).long()

    def values(x, y):
        return [
            matching.cosine_matrix(x[:9], y[:9]),
            metrics.separating_latents(x, tasks, 3),
            metrics.separating_latents(x, labels, 3),
            dependence.correlations(x, y[:, 0]),
            dependence.angle_dependence(x, y[:, 1] / 1000),
            metrics.detection(x, tasks, 2),
            svcca(x, y),
            linear_cka(x, y),
            torch.from_numpy(fit_class_probe(x, labels, "logistic", 2)(x[:20])),
        ]

    for found, expected in zip(values(half, other), values(full, other.float()), strict=True):
        assert_close(found, expected)


def test_the_cross_entropy_of_bfloat16_logits_is_not_rounded():
    tokens = torch.tensor([[0, 1, 2]])
    logits = torch.tensor([[[0.0, 3, 1], [1, 0, 4], [0, 0, 0]]]).bfloat16()
    expected = sum(
        torch.logsumexp(logits[0, i].double(), -1) - logits[0, i, i + 1].double() for i in range(2)
    )
    found = metrics.next_token_loss(logits, tokens)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item() / 2, abs=1e-6)


def test_the_increase_in_cross_entropy_of_a_bfloat16_model_is_not_rounded():
    """With a tenth of an activation lost, it has more digits than the logits."""
    model = make_gpt2(40, 8, 16, n_layers=2, n_heads=2).bfloat16().eval()
    tokens = torch.randint(40, (24, 8), generator=torch.Generator().manual_seed(0))

    class Shrinks(nn.Module):
        dictionary = torch.eye(16)

        def encode(self, x):
            return torch.cat([x.relu(), (-x).relu()], -1)

        def decode(self, latents):
            return 0.9 * (latents[..., :16] - latents[..., 16:])

    def cross_entropy() -> float:
        logits = model(tokens).logits.double()[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).item()

    with torch.no_grad():
        before = cross_entropy()
        with spliced(model, {"transformer.h.0": Shrinks()}):
            increase = cross_entropy() - before
    assert 0 < abs(increase) < 0.01  # bfloat16 has steps of 0.016 there
    table = evaluate_spliced(model, {"transformer.h.0": Shrinks()}, tokens, batch_size=24)
    values = table.set_index("metric").value
    assert values["ce_increase"] == pytest.approx(increase, abs=1e-6)
    assert values["ce_original"] == pytest.approx(before, abs=1e-6)


# --- scales that mean nothing, and rows that decide them ---


@pytest.mark.parametrize("value", [0.1, 1000.3, -7e-4])
@pytest.mark.parametrize("n", [5, 700])
def test_what_differs_by_rounding_is_all_the_same(value, n):
    with pytest.raises(ValueError, match=r"are all the same$"):
        standardisation(torch.full((n, 4, 3), value))
    near = torch.full((n, 4, 3), value)
    near[::2] += 1e-3 * value
    assert standardisation(near)[1] > 0


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
def test_a_scale_that_is_no_number(value):
    x = torch.randn(20, 4)
    x[3, 1] = value
    with pytest.raises(
        ValueError, match=r"activations.* (has NaN or infinite values|have the scale)"
    ):
        standardisation(x)


@pytest.mark.parametrize("shape", [(160, 4), (10, 16, 4)])
def test_a_few_heavy_rows_are_told_of_and_can_be_left_out(shape):
    """One token in sixteen is an attention sink."""
    light = 0.028 * torch.randn(160, 4, generator=torch.Generator().manual_seed(0))
    x = light.clone()
    x[::16] += torch.tensor([100.0, 20.0, 0.0, -3.0])
    with pytest.warns(UserWarning, match=r"10 of 160 rows carry 93\.7% of the variance") as found:
        _, scale = standardisation(x.view(shape))
    assert scale > 10
    line = str(found[0].message).partition("To leave out what is heavy: x = ")[2]
    kept = eval(line, {"x": x.view(shape) if len(shape) == 2 else x.view(10, 16, 4)})
    if len(shape) == 2:
        assert torch.equal(kept, x.view(10, 16, 4)[:, 1:].flatten(0, 1))
        assert standardisation(kept)[1].item() == pytest.approx(0.028, rel=0.1)
    else:
        assert len(kept) == 0  # every context has one: x[:, 1:] is for these
        assert standardisation(x.view(shape)[:, 1:])[1].item() == pytest.approx(0.028, rel=0.1)


def test_sparse_activations_have_no_heavy_rows(toy):
    standardisation(toy.activations)
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    x[:700] = 0
    standardisation(x)
