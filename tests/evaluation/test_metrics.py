import math
import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, mean_squared_error, r2_score
from torch import nn
from torch.testing import assert_close

from saehelpers.evaluation import dependence, language_metrics, metrics
from saehelpers.saes import SAE, EquivariantSAE, GroupCrosscoder, SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction

C4 = Group.named("C4")
BOTH = pytest.mark.parametrize("action", ["C4", "D4"], indirect=True)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fixed_latents(encode) -> SAE:
    """An SAE whose encoder is a plain function."""
    sae = make_sae(SAEConfig(d=8, n_latents=12))
    sae.encode = encode
    return sae


def exact_sae() -> SAE:
    """D(E(x)) = x: latents are the positive parts of x and of -x."""
    sae = make_sae(SAEConfig(d=8, n_latents=16, activation="relu", encoder="linear"))
    both = torch.cat([torch.eye(8), -torch.eye(8)])
    sae.decoder_weight.data = both
    sae.encoder_weights[0].data = both.T.contiguous()
    return sae.eval().requires_grad_(False)


# --- reconstruction and sparsity ---


def test_reconstruction_agrees_with_scikit_learn():
    target, recons = random(50, 6) + 2, random(50, 6, seed=1)
    y, guess = target.numpy(), recons.numpy()
    assert metrics.mse(target, recons) == pytest.approx(mean_squared_error(y, guess), rel=1e-5)
    r2 = r2_score(y, guess, multioutput="variance_weighted")
    assert metrics.explained_variance(target, recons) == pytest.approx(r2, rel=1e-4)
    assert metrics.fvu(target, recons) == pytest.approx(1 - r2, rel=1e-4)


def test_fvu_pools_leading_axes():
    target, recons = random(10, 4, 6) + 1, random(10, 4, 6, seed=1)
    pooled = metrics.fvu(target.flatten(0, 1), recons.flatten(0, 1))
    assert metrics.fvu(target, recons) == pytest.approx(pooled)


def test_fvu_of_the_mean_is_one_and_of_the_target_zero():
    target = random(50, 6)
    assert metrics.fvu(target, target.mean(0).expand(50, 6)) == pytest.approx(1)
    assert metrics.fvu(target, target) == 0


@pytest.mark.parametrize("metric", [metrics.mse, metrics.fvu, metrics.explained_variance])
@pytest.mark.parametrize("shapes", [((50, 1, 6), (50, 6)), ((50, 6), (6,)), ((50, 6), (1, 6))])
def test_shapes_that_would_broadcast(metric, shapes):
    target, recons = random(*shapes[0]), random(*shapes[1])
    message = re.escape(f"must have one shape, they are {shapes[0]} and {shapes[1]}")
    with pytest.raises(ValueError, match=message):
        metric(target, recons)


def test_predictions_that_would_broadcast():
    truth = np.array([True, False, True])
    with pytest.raises(ValueError, match=r"must have one shape, they are \(3,\) and \(3, 1\)"):
        metrics.f1(truth, truth[:, None])
    with pytest.raises(ValueError, match=r"must have one shape, they are \(3,\) and \(1,\)"):
        metrics.macro_f1(np.array([0, 1, 2]), np.array([0]))


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (3, 4), (15,)])
def test_tokens_of_another_shape_than_the_logits(shape):
    logits, tokens = random(3, 5, 7), torch.zeros(shape, dtype=torch.long)
    for metric in (metrics.next_token_loss, language_metrics.next_token_accuracy):
        with pytest.raises(ValueError, match=r"of tokens \(3, 5\), got \("):
            metric(logits, tokens)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint16, torch.int16, torch.uint8])
def test_tokens_of_any_type(dtype):
    logits, tokens = random(3, 5, 7), torch.arange(15).view(3, 5) % 7
    for metric in (metrics.next_token_loss, language_metrics.next_token_accuracy):
        assert metric(logits, tokens.to(dtype)) == metric(logits, tokens)


def test_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"one shape, they are \(3, 5, 7\) and \(15, 7\)"):
        language_metrics.kl_divergence(random(3, 5, 7), random(15, 7))


def test_sparsity_of_known_latents():
    latents = torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 0.5], [3, 0, 0, 1], [0, 0, 0, 0]])
    assert metrics.l0(latents) == 5 / 4
    assert metrics.firing_frequency(latents).tolist() == [0.5, 0, 0, 0.75]
    assert metrics.dead_latents(latents) == 2
    assert metrics.firing_frequency(latents.view(2, 2, 4)).tolist() == [0.5, 0, 0, 0.75]


# --- the frames a symmetric SAE is scored in ---


@BOTH
def test_frames_agree_with_a_plain_loop(action):
    action = LinearAction(action.group, action.matrices, torch.linspace(-1, 1, 8))
    sae = make_sae(SAEConfig(d=8, n_latents=12, topk=3)).eval().requires_grad_(False)
    orbits = action.orbit(random(5, 8)) + 0.1 * random(5, action.group.order, 8, seed=1)
    frames = metrics.frame_recons(sae, action, orbits)
    assert set(frames) == {"canonical", "mapped", "raw", "inferred"}
    for i in range(5):
        for g in range(action.group.order):
            x = orbits[i, g]
            recons = sae(x[None])[0]
            mapped = [action.act(recons, h) for h in range(action.group.order)]
            errors = [(x - candidate).pow(2).sum().item() for candidate in mapped]
            expected = {
                "canonical": (orbits[i, 0], recons),
                "mapped": (x, mapped[g]),
                "raw": (x, recons),
                "inferred": (x, mapped[errors.index(min(errors))]),
            }
            for name, (target, made) in expected.items():
                assert_close(frames[name][0][i, g], target)
                assert_close(frames[name][1][i, g], made)


class CanonicalSAE(SAE):
    """Equivariant by construction: finds the canonical vector of any orbit that it knows."""

    def set_orbits(self, orbits: torch.Tensor) -> None:
        self.orbits = orbits

    def forward(self, x):
        distances = torch.cdist(x, self.orbits.flatten(0, 1))
        return self.orbits[distances.argmin(1) // self.orbits.shape[1], 0]


@BOTH
def test_frames_of_an_equivariant_sae(action):
    orbits = action.orbit(random(20, 8))
    sae = CanonicalSAE(SAEConfig(d=8, n_latents=12, topk=3))
    sae.set_orbits(orbits)
    errors = {
        name: metrics.fvu(target, recons)
        for name, (target, recons) in metrics.frame_recons(sae, action, orbits).items()
    }
    for name in ("canonical", "mapped", "inferred"):
        assert errors[name] == pytest.approx(0, abs=1e-8)
    assert errors["raw"] > 0.5  # the frame that makes it look bad
    assert metrics.equivariance_error(sae, action, orbits) == pytest.approx(0, abs=1e-8)


def test_frames_of_an_exact_crosscoder(c4_action):
    config = SAEConfig(
        d=8, n_latents=16, activation="relu", encoder="linear", dictionary="blocks", group_order=4
    )
    sae = make_sae(config).requires_grad_(False)
    assert isinstance(sae, GroupCrosscoder)
    both = torch.cat([torch.eye(8), -torch.eye(8)])
    sae.encoder_weights[0].data = both.T.contiguous()
    sae.decoder_weight.data = torch.stack([both @ matrix.T for matrix in c4_action.matrices])
    orbits = c4_action.orbit(random(6, 8))
    frames = metrics.frame_recons(sae, c4_action, orbits)
    for name in ("canonical", "mapped", "inferred"):
        assert_close(frames[name][1], frames[name][0].contiguous(), atol=1e-5, rtol=1e-5)
    for g in range(4):
        assert_close(frames["raw"][1][:, g], orbits[:, 0], atol=1e-5, rtol=1e-5)
    assert torch.equal(frames["raw"][0], orbits)


@BOTH
def test_equivariance_error_agrees_with_a_loop(action):
    sae = make_sae(SAEConfig(d=8, n_latents=12, topk=3)).requires_grad_(False)
    orbits = action.orbit(random(10, 8)) + 1
    recons, error = sae(orbits[:, 0]), 0.0
    for g in range(action.group.order):
        error += (action.act(recons, g) - orbits[:, g]).pow(2).sum().item()
    variance = (orbits - orbits.mean((0, 1))).pow(2).sum().item()
    found = metrics.equivariance_error(sae, action, orbits)
    assert found == pytest.approx(error / variance, rel=1e-5)


def test_spliced_loss():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3))
    inputs = random(5, 3)
    mse = nn.functional.mse_loss
    unchanged = metrics.spliced_loss(model, inputs, "0", lambda x: x, mse)
    assert unchanged == pytest.approx(mse(model(inputs), inputs).item())
    zeroed = metrics.spliced_loss(model, inputs, "0", torch.zeros_like, mse)
    assert zeroed == pytest.approx(mse(model[2].bias.expand(5, 3), inputs).item())
    assert zeroed != pytest.approx(unchanged)


# --- detection ---


def test_latents_that_separate_tasks_have_the_largest_differences_in_mean():
    latents = random(40, 7).relu()
    labels = random(40, 3, seed=1) > 0.3
    chosen = metrics.separating_latents(latents, labels, 4)
    for task in range(3):
        of_class = [latents[labels[:, task] == present].mean(0) for present in (True, False)]
        differences = (of_class[0] - of_class[1]).abs()
        assert chosen[task].tolist() == differences.sort(descending=True).indices[:4].tolist()
        as_classes = metrics.separating_latents(latents, labels[:, task].long(), 4)
        assert as_classes.tolist() == chosen[task].tolist()


def test_latents_that_separate_classes_have_the_largest_variance_between_them():
    labels, variances = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(20), []
    latents = random(120, 6) + 0.3 * labels[:, None] * random(6, seed=1)
    for column in latents.double().numpy().T:
        parts = [column[c == labels.numpy()] for c in range(3)]
        variances.append(sum(len(p) / 120 * (p.mean() - column.mean()) ** 2 for p in parts))
    expected = np.argsort(variances)[::-1].tolist()
    for m in (1, 4, 6):
        assert metrics.separating_latents(latents, labels, m).tolist() == expected[:m]
        # a class that never occurs
        assert metrics.separating_latents(latents, 2 * labels, m).tolist() == expected[:m]


@pytest.mark.parametrize("m", [0, 8])
def test_more_latents_than_there_are(m):
    with pytest.raises(
        ValueError, match=f"cannot keep {m} of 7 latents|m must be 1 or more, got {m}"
    ):
        metrics.separating_latents(random(5, 7), torch.ones(5, 1, dtype=torch.bool), m)


def test_detection_is_perfect_where_a_latent_is_the_feature():
    presence = random(200, 3, seed=1) > 0.5
    latents = torch.cat([0.1 * random(200, 4).relu(), 3 * presence.float()], dim=1)
    assert metrics.detection(latents, presence, 1) == 1
    noise = 0.1 * random(200, 4).relu()
    assert metrics.detection(noise, presence, 1) < 0.5


def test_detection_needs_two_latents_for_a_feature_split_between_two():
    first, second = random(2, 400, seed=1) > 0.5
    first, second = first & ~second, second & ~first
    latents = 5 * torch.stack([first, second, torch.zeros(400, dtype=torch.bool)], 1).float()
    presence = (first | second)[:, None]
    assert metrics.detection(latents, presence, 2) == 1
    assert metrics.detection(latents, presence, 1) < 0.8


def test_detection_agrees_with_scikit_learn_in_a_loop():
    presence = random(100, 4, seed=1) > 0.4
    presence[:, 2] = False  # a feature that never appears is left out
    presence[50:, 3] = False  # and so is one that is not held out
    latents = (random(100, 6) + presence.float() @ random(4, 6, seed=2)).relu()
    scores = []
    for feature in (0, 1):
        y = presence[:, feature].numpy()
        means = [latents[:50][presence[:50, feature] == p].mean(0) for p in (True, False)]
        keep = (means[0] - means[1]).abs().sort(descending=True).indices[:2]
        x = latents[:, keep].numpy()
        probe = LogisticRegression().fit(x[:50], y[:50])
        scores.append(f1_score(y[50:], probe.predict(x[50:])))
    found = metrics.detection(latents, presence, 2)
    assert found == pytest.approx(np.mean(scores))
    assert 0 < found < 1


def test_detection_of_nothing_is_nan():
    nothing = torch.zeros(20, 2, dtype=torch.bool)
    assert math.isnan(metrics.detection(random(20, 3), nothing, 1))


# --- symmetry ---


def test_invariance_of_known_latents():
    """Latents are the first two coordinates, of which the second changes over the orbit."""
    orbits = torch.zeros(3, 4, 8)
    orbits[:, :, 0] = torch.tensor([3.0, 6, 9])[:, None]
    orbits[:, 1, 1] = 3
    sae = fixed_latents(lambda x: x[:, :2])
    change, size = 3 * 3**2, 3 * (9 + 36 + 81)
    expected = math.sqrt(change / size)
    assert metrics.invariance_error(sae, orbits) == pytest.approx(expected)
    assert metrics.orbit_jaccard(sae, orbits) == pytest.approx((0.5 + 1 + 1) / 3)
    invariant = fixed_latents(lambda x: x[:, :1])
    assert metrics.invariance_error(invariant, orbits) == 0
    assert metrics.orbit_jaccard(invariant, orbits) == 1


@BOTH
def test_invariance_agrees_with_a_loop(action):
    sae = make_sae(SAEConfig(d=8, n_latents=12, topk=3)).requires_grad_(False)
    orbits = action.orbit(random(10, 8))
    canonical = sae.encode(orbits[:, 0])
    change, size, overlaps = 0.0, 0.0, []
    for g in range(1, action.group.order):
        latents = sae.encode(orbits[:, g])
        change += (latents - canonical).pow(2).sum().item()
        size += canonical.pow(2).sum().item()
        for one, other in zip(latents, canonical, strict=True):
            a, b = set(one.nonzero().flatten().tolist()), set(other.nonzero().flatten().tolist())
            overlaps.append(len(a & b) / len(a | b))
    assert metrics.invariance_error(sae, orbits) == pytest.approx(
        math.sqrt(change / size), rel=1e-5
    )
    assert metrics.orbit_jaccard(sae, orbits) == pytest.approx(np.mean(overlaps), rel=1e-5)


def test_orbit_closure():
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    action = LinearAction.from_generators(C4, [torch.block_diag(quarter, torch.eye(1))])
    corners = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 2]])
    assert metrics.orbit_closure(corners, action) == pytest.approx(1)
    # of (1, 0) and (0, 1), the second turns into (-1, 0), to which (0, 1) is closest
    assert metrics.orbit_closure(corners[:2], action) == pytest.approx(0.5)


def test_symmetry_spectrum():
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    action = LinearAction.from_generators(C4, [torch.block_diag(quarter, torch.eye(1))])
    dictionary = torch.tensor([[2.0, 0, 0], [0, 0, 3], [1, 0, 1]])
    spectrum = metrics.symmetry_spectrum(dictionary, action)
    expected = torch.tensor([[1.0, 0, -1, 0], [1, 1, 1, 1], [1, 0.5, 0, 0.5]])
    assert_close(spectrum, expected)


def test_an_exact_sae_explains_everything():
    x = random(20, 8)
    assert metrics.explained_variance(x, exact_sae()(x)) == pytest.approx(1, abs=1e-6)


# --- what latents follow ---


def test_dependence_on_the_angle_is_known():
    angles = torch.arange(400) * math.pi / 400
    waves = [torch.cos(2 * angles), torch.sin(2 * angles) + torch.cos(4 * angles)]
    latents = 3 * torch.stack([*waves, torch.cos(4 * angles)], dim=1) + 5
    expected = torch.tensor([1, 0.5, 0])
    assert_close(dependence.angle_dependence(latents, angles), expected, atol=1e-5, rtol=0)
    once = torch.cos(2 * angles)[:, None]  # in a turn, where an axis has come back twice
    assert dependence.angle_dependence(once, 2 * angles).item() == pytest.approx(0, abs=1e-5)


def test_dependence_of_noise_is_at_chance_and_half_a_turn_changes_nothing():
    angles = math.pi * torch.rand(200, generator=torch.Generator().manual_seed(1))
    found = dependence.angle_dependence(random(200, 2000), angles)
    assert found.mean().item() == pytest.approx(2 / 200, rel=0.1)
    turned = dependence.angle_dependence(random(200, 2000), angles + math.pi)
    assert_close(turned, found, atol=1e-5, rtol=0)


def test_correlations_agree_with_numpy():
    latents, values = random(50, 6) + 3, random(50, seed=1) - 2
    expected = np.corrcoef(np.vstack([values, latents.T]))[0, 1:]
    assert_close(dependence.correlations(latents, values), torch.tensor(expected).float())


@pytest.mark.parametrize("value", [0.0, 2.0, 0.1, -3333.3])
def test_latents_that_never_vary_follow_nothing(value):
    latents, values = random(77, 2), random(77)
    latents[:, 0] = value
    assert (dependence.angle_dependence(latents, values) == 0).tolist() == [True, False]
    assert (dependence.correlations(latents, values) == 0).tolist() == [True, False]
    assert not dependence.correlations(latents, torch.full((77,), 2.0)).any()


def test_an_sae_that_searches_is_scored_searching(toy, c4_action):
    """Of canonical activations alone it is perfect: so it is of the others, turned back."""
    config = SAEConfig(8, 8, "relu", encoder="linear")
    sae = make_sae(config).eval()
    with torch.no_grad():
        for weight, rows in ((sae.decoder_weight, torch.eye(8)), (sae.encoder_weights[0], None)):
            weight.copy_(torch.eye(8) if rows is None else rows)
        sae.encoder_biases[0].fill_(9.0)
        sae.decoder_bias.fill_(-9.0)  # latents x + 9, recons x
        sae.encoder_weights[0].copy_(torch.eye(8))
    orbits = c4_action.orbit(toy.activations[:20, 0])
    frames = metrics.frame_recons(sae, c4_action, orbits, search=True)
    assert metrics.fvu(*frames["canonical"]) < 1e-8
    assert metrics.fvu(*frames["mapped"]) < 1e-8 and metrics.fvu(*frames["inferred"]) < 1e-8
    turned = EquivariantSAE(sae, c4_action, search=True)
    report = metrics.symmetry_report(sae, c4_action, orbits, search=True)
    assert report["fvu_canonical"] < 1e-8
    expected = metrics.l0(turned.encode(orbits.flatten(0, 1)))
    assert report["l0"] == pytest.approx(expected)
