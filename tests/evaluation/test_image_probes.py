"""Probes of images: classes from few latents, and what latents follow."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch.testing import assert_close

from saehelpers.evaluation import image_probes
from saehelpers.evaluation.image_probes import angle_dependence, correlations, separating_latents

N = 120
LABELS = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(N // 6)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def separable() -> torch.Tensor:
    """Latents 1 and 4 tell the three classes apart, 4 by more; the other three are noise."""
    latents = 0.1 * random(N, 5)
    latents[:, 1] = (LABELS == 0).float()
    latents[:, 4] = 4.0 * (LABELS == 2)
    return latents


def test_separating_latents_agree_with_a_loop():
    latents, variances = random(N, 6) + 0.3 * LABELS[:, None] * random(6, seed=1), []
    for column in latents.double().numpy().T:
        parts = [column[c == LABELS.numpy()] for c in range(3)]
        variances.append(sum(len(p) / N * (p.mean() - column.mean()) ** 2 for p in parts))
    expected = np.argsort(variances)[::-1].tolist()
    for m in (1, 4, 6):
        assert separating_latents(latents, LABELS, m).tolist() == expected[:m]


def test_separating_latents_of_a_constructed_case(separable):
    assert separating_latents(separable, LABELS, 2).tolist() == [4, 1]
    assert separating_latents(separable, 2 * LABELS, 2).tolist() == [4, 1]  # classes 0, 2, 4


@pytest.mark.parametrize("probe", image_probes.PROBES)
@pytest.mark.parametrize("truncation", [None, 2])
def test_separable_classes_are_all_found(probe, truncation, separable):
    fitted = image_probes.fit_class_probe(separable[:60], LABELS[:60], probe, truncation)
    assert fitted.predict(separable[60:]).tolist() == LABELS[60:].tolist()
    assert fitted.macro_f1(separable[60:], LABELS[60:]) == 1.0


def test_logistic_probe_agrees_with_scikit_learn():
    latents = 5 * random(N, 4) + 3 * LABELS[:, None] * random(4, seed=1) + 7
    fitted = image_probes.fit_class_probe(latents[:60], LABELS[:60], "logistic")
    scaled = ((latents - latents[:60].mean(0)) / latents[:60].std(0, correction=0)).numpy()
    reference = LogisticRegression(max_iter=3000).fit(scaled[:60], LABELS[:60].numpy())
    expected, truth = reference.predict(scaled[60:]), LABELS[60:].numpy()
    assert np.array_equal(fitted.predict(latents[60:]), expected)
    scores = [f1_score(truth == c, expected == c) for c in range(3)]
    assert fitted.macro_f1(latents[60:], LABELS[60:]) == pytest.approx(np.mean(scores))
    assert 0.3 < np.mean(scores) < 0.9


@pytest.mark.parametrize("probe", image_probes.PROBES)
def test_truncated_probes_read_the_kept_latents_alone(probe, separable):
    fitted = image_probes.fit_class_probe(separable, LABELS, probe, truncation=1)
    before, others = fitted.predict(separable), separable.clone()
    assert ((before == 2) == (LABELS == 2).numpy()).all()
    others[:, :4] = random(N, 4, seed=1)
    assert np.array_equal(fitted.predict(others), before)
    others[:, 4] = others[:, 4].flip(0)
    assert not np.array_equal(fitted.predict(others), before)


@pytest.mark.parametrize(
    "probe, truncation, message",
    [("forest", 1, "unknown probe 'forest'; known are logistic, xgboost")]
    + [("xgboost", m, f"cannot keep {m} of 5 latents") for m in (-1, 0, 6)],
)
def test_bad_probe_or_truncation(probe, truncation, message, separable):
    with pytest.raises(ValueError, match=message):
        image_probes.fit_class_probe(separable, LABELS, probe, truncation)


def test_dependence_on_the_angle_is_known():
    angles = torch.arange(400) * math.pi / 400
    waves = [torch.cos(2 * angles), torch.sin(2 * angles) + torch.cos(4 * angles)]
    latents = 3 * torch.stack([*waves, torch.cos(4 * angles)], dim=1) + 5
    expected = torch.tensor([1, 0.5, 0])
    assert_close(angle_dependence(latents, angles), expected, atol=1e-5, rtol=0)
    once = torch.cos(2 * angles)[:, None]  # in a turn, where an axis has come back twice
    assert angle_dependence(once, 2 * angles).item() == pytest.approx(0, abs=1e-5)


def test_dependence_of_noise_is_at_chance_and_half_a_turn_changes_nothing():
    angles = math.pi * torch.rand(200, generator=torch.Generator().manual_seed(1))
    found = angle_dependence(random(200, 2000), angles)
    assert found.mean().item() == pytest.approx(2 / 200, rel=0.1)
    turned = angle_dependence(random(200, 2000), angles + math.pi)
    assert_close(turned, found, atol=1e-5, rtol=0)


def test_correlations_agree_with_numpy():
    latents, values = random(50, 6) + 3, random(50, seed=1) - 2
    expected = np.corrcoef(np.vstack([values, latents.T]))[0, 1:]
    assert_close(correlations(latents, values), torch.tensor(expected).float())


@pytest.mark.parametrize("value", [0.0, 2.0, 0.1, -3333.3])
def test_latents_that_never_vary_follow_nothing(value):
    latents, values = random(77, 2), random(77)
    latents[:, 0] = value
    assert (angle_dependence(latents, values) == 0).tolist() == [True, False]
    assert (correlations(latents, values) == 0).tolist() == [True, False]
    assert not correlations(latents, torch.full((77,), 2.0)).any()
