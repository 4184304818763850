from itertools import combinations

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from scipy import stats
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.metrics.pairwise import cosine_distances

from saehelpers.evaluation import consistency, matching
from saehelpers.symmetry import Group, LinearAction


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(random(d, d, seed=5)).Q


@pytest.fixture
def unchecked(monkeypatch):
    """As users call it, without the type checks of the tests, which find wrong shapes first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# --- shared latents ---


@pytest.mark.parametrize("limit", [4, 16_384])
def test_shared_latents(monkeypatch, limit):
    monkeypatch.setattr(matching, "HUNGARIAN_LIMIT", limit)
    basis, order = rotation(16), torch.tensor([3, 0, 5, 1, 2, 4])
    encoder, dictionary = 3 * basis[:6], basis[6:12] + 0.1 * random(6, 16)
    spoiled = encoder.clone()
    spoiled[2] = basis[15]  # orthogonal to all
    spoiled[4] = 0.8 * basis[4] + 0.6 * basis[14]
    for other, dictionary_order, expected in (
        (encoder[order], order, [1] * 6),
        (encoder[order], order.roll(1), [0] * 6),
        (spoiled[order], order, [1, 1, 0, 1, 0.8, 1]),
        (encoder[order[:3]], order[:3], [1, 0, 0, 1, 0, 1]),  # fewer latents in the second
    ):
        strength = consistency.shared_strength(
            (encoder, other), (dictionary, 2 * dictionary[dictionary_order])
        )
        assert strength.tolist() == pytest.approx(expected, abs=1e-5)
        reached = [value > 0.5 for value in expected]
        assert consistency.shared_fraction(strength, 0.5) == pytest.approx(np.mean(reached))
    assert consistency.shared_fraction(torch.tensor([0.7, 0.69, 0.71, 0])) == 0.5


# --- representations ---


MEASURES = pytest.mark.parametrize("name", ["svcca", "rsa", "linear_cka"])


@MEASURES
def test_rotation_and_scale_leave_a_representation_the_same(name):
    score, x = getattr(consistency, name), random(60, 5) * torch.linspace(1, 3, 5)
    shift = 0 if name == "rsa" else 4  # its cosines are about the origin
    assert score(x, x) == pytest.approx(1, abs=1e-5)
    assert score(x, 3 * x @ rotation(5) + shift) == pytest.approx(1, abs=1e-4)


@MEASURES
def test_independent_representations_score_low(name):
    assert abs(getattr(consistency, name)(random(1000, 5), random(1000, 5, seed=1))) < 0.12


def test_svcca_agrees_with_scikit_learn():
    shared, noise = random(300, 3), random(300, 3, seed=1)
    y = (shared + torch.tensor([0.1, 0.3, 0.6]) * noise) @ random(3, 3, seed=2)
    x = torch.cat([shared @ random(3, 3, seed=3), 1e-3 * random(300, 2, seed=4)], dim=1)
    u, v = CCA(3, max_iter=5000, tol=1e-12).fit_transform(x[:, :3].numpy(), y.numpy())
    expected = np.mean([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(3)])
    # 0.9999 of the variance keeps what is shared, and not two directions of small noise
    assert consistency.svcca(x, y, 0.9999) == pytest.approx(expected, abs=1e-3)


def test_rsa_agrees_with_scikit_learn():
    x = random(20, 6)
    y = x[:, :4] + random(20, 4, seed=1)
    plain = [cosine_distances(z.double().numpy())[np.triu_indices(20, 1)] for z in (x, y)]
    assert consistency.rsa(x, y) == pytest.approx(spearmanr(*plain).statistic)


def test_linear_cka_agrees_with_gram_matrices():
    x = random(30, 6) + 1
    y = x[:, :4] + random(30, 4, seed=1) - 3
    centring = np.eye(30) - 1 / 30
    k, m = (centring @ (z @ z.T).double().numpy() @ centring for z in (x, y))
    expected = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    assert consistency.linear_cka(x, y) == pytest.approx(expected, rel=1e-5)


# --- nulls, filters, intervals ---


@pytest.mark.parametrize("observed, expected", [(0.2, 0), (1.0, 1), (0.6, 0.5), (0.0, -0.25)])
def test_above_null(observed, expected):
    assert consistency.above_null(observed, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize("draws, p", [([1.0, 2.0, 3.0], 3 / 4), ([0.0] * 99, 1 / 100), ([], 1)])
def test_permutation_p_value(draws, p):
    assert consistency.permutation_p_value(2.0, iter(draws)) == p


def test_permuted_pairings_shuffle_the_partners_alone():
    x, y = random(10, 2), torch.arange(10.0)[:, None]

    def seen(seed: int) -> list[list[float]]:
        orders = []

        def score(left, right):
            assert torch.equal(left, x)
            orders.append(right.flatten().tolist())
            return float(len(orders))

        generator = torch.Generator().manual_seed(seed)
        assert consistency.permuted_pairings(score, x, y, 5, generator) == [1, 2, 3, 4, 5]
        return orders

    assert all(sorted(order) == list(range(10)) for order in seen(0))
    assert len({tuple(order) for order in seen(0)}) == 5
    assert seen(0) == seen(0) != seen(1)


def test_frequent_latents():
    frequency = torch.tensor([0.0, 0.01, 0.5])
    assert consistency.frequent(frequency).tolist() == [False, True, True]
    assert consistency.frequent(frequency, 0.01).tolist() == [False, False, True]
    with pytest.raises(ValueError, match=r"no latent fires more often than 0\.5"):
        consistency.frequent(frequency, 0.5)


def test_frequency_bins_agree_with_pandas():
    values, frequency = random(200), random(200, seed=1).abs() / 3
    frequency[:4] = torch.tensor([0.0, 0.25, 0.5, 8.0])  # on edges, and above the last
    edges = [0.0, 0.25, 0.5, 2.0, 4.0]
    table = pd.DataFrame({"value": values.numpy(), "f": frequency.numpy()})
    bins = table.groupby(pd.cut(table.f, edges, right=False), observed=False).value
    found = consistency.frequency_bins(values, frequency, edges)
    low, high, mean, number = zip(*found, strict=True)
    assert (list(low), list(high)) == (edges[:-1], edges[1:])
    assert mean == pytest.approx(tuple(bins.mean()), rel=1e-4, nan_ok=True)
    assert list(number) == bins.count().tolist()
    always = consistency.frequency_bins(values[:3], torch.tensor([0.5, 1.0, 1.0]), [0.0, 0.5, 1.0])
    assert [number for *_, number in always] == [0, 3]


def of_seeds(n: int) -> dict[tuple[int, int], float]:
    """Scores that are sums of what each seed brings, 1 or -1."""
    return {(i, j): 5.0 + (-1.0) ** i + (-1.0) ** j for i, j in combinations(range(n), 2)}


@pytest.mark.parametrize("n", [4, 5, 10])
@pytest.mark.parametrize(("of_runs", "of_pairs"), [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_intervals_over_runs_hold_the_truth_as_often_as_they_say(n, of_runs, of_pairs):
    generator = np.random.default_rng(0)
    held = []
    for _ in range(200):
        run = of_runs * generator.normal(size=n)
        pairs = {
            (i, j): run[i] + run[j] + of_pairs * generator.normal()
            for i, j in combinations(range(n), 2)
        }
        low, high = consistency.interval_over_runs(pairs)
        held.append(low < 0 < high)
    assert np.mean(held) > 0.9


def test_intervals_of_sums_are_those_of_what_is_summed():
    brought = np.array([0.3, -1.0, 2.0, 0.7])
    pairs = {(i, j): brought[i] + brought[j] for i, j in combinations(range(4), 2)}
    expected = 2 * np.array(stats.ttest_1samp(brought, 0).confidence_interval(0.9))
    assert consistency.interval_over_runs(pairs, 0.9) == pytest.approx(tuple(expected))


def test_two_runs_have_no_interval():
    assert np.isnan(consistency.interval_over_runs({(0, 1): 0.5})).all()


def test_means_over_the_pairs_of_each_plan():
    rows = [("a", *pair, value) for pair, value in of_seeds(6).items()]
    rows += [(("topk", 8), 0, 1, 0.25)]
    pairs = pd.DataFrame(rows, columns=["plan", "first", "second", "value"])
    found = consistency.over_runs(pairs)
    assert [*found.index] == ["a", ("topk", 8)] and found.pairs.tolist() == [15, 1]
    mean, low, high = found.iloc[0][["mean", "low", "high"]]
    assert mean == np.mean([*of_seeds(6).values()])
    assert (low, high) == consistency.interval_over_runs(of_seeds(6))
    assert found.iloc[1]["mean"] == 0.25 and found.iloc[1][["low", "high"]].isna().all()
    with pytest.raises(ValueError, match="one value for each plan"):
        consistency.over_runs(pd.concat([pairs, pairs]))


# --- of single latents, and of every two dictionaries ---


def test_latents_that_others_have():
    dictionary = torch.eye(4)[:3]
    others = [2 * dictionary[[2, 0]], -dictionary[[1, 2]]]  # without the second; the first
    found = consistency.latent_consistency(dictionary, others)
    assert found.tolist() == [0.5, 0.5, 1]


def test_every_two_dictionaries():
    dictionaries = [random(5, 8, seed=seed) for seed in range(3)]
    found = consistency.pw_mcc_matrix(dictionaries)
    assert torch.equal(found, found.T) and found.diagonal().tolist() == [1, 1, 1]
    expected = matching.pw_mcc(*dictionaries[1:], absolute=True)
    assert float(found[1, 2]) == pytest.approx(expected)


def test_activations_in_few_directions_are_alike():
    plane = torch.cat([random(200, 2), torch.zeros(200, 14)], dim=1)

    def null(x: torch.Tensor) -> float:
        generator = torch.Generator().manual_seed(0)
        return consistency.null_of_activations(
            x, 20, lambda a, b: matching.pw_mcc(a, b, True), generator
        )

    assert null(plane) > 0.95 > 0.8 > null(random(200, 16))
    assert null(plane) == null(plane)
    one = consistency.null_of_activations(
        torch.ones(3, 2), 7, lambda a, b: float(len(a) + len(b)), torch.Generator(), 2
    )
    assert one == 14  # rows of each draw


# --- bad input ---


def test_subspaces_by_their_principal_angles():
    a, b = random(5, 12), random(4, 12, seed=1)
    angles = scipy.linalg.subspace_angles(a.T.double().numpy(), b.T.double().numpy())
    expected = (np.cos(angles) ** 2).mean()
    assert consistency.subspace_overlap(a, b) == pytest.approx(expected)
    mixed = random(7, 5, seed=2) @ a  # other latents of the same span
    assert consistency.subspace_overlap(a, mixed) == pytest.approx(1)
    assert consistency.subspace_overlap(a[:2], mixed) == pytest.approx(1)
    many = [consistency.subspace_overlap(random(3, 40, seed=i), random(5, 40, seed=-i - 1))
            for i in range(50)]  # fmt: skip
    assert np.mean(many) == pytest.approx(5 / 40, abs=0.02)
    with pytest.raises(ValueError, match="rows other than 0"):
        consistency.subspace_overlap(torch.zeros(2, 3), random(2, 3))


def test_subspaces_modulo_a_group():
    turns = LinearAction.from_generators(Group.named("C4"), [torch.eye(8).roll(2, 0)])
    a = torch.eye(8)[:1]
    assert consistency.subspace_overlap(a, a.roll(4, 1)) == 0
    assert consistency.subspace_overlap(a, a.roll(4, 1), turns) == pytest.approx(1)
    assert consistency.subspace_overlap(a, a.roll(1, 1), turns) == pytest.approx(0)


@pytest.mark.parametrize("name", ["svcca", "linear_cka"])
def test_samples_that_are_missing_or_all_the_same(unchecked, name):
    score = getattr(consistency, name)
    with pytest.raises(ValueError, match=r"y must have the shape .*: its samples is 4, as x has 5"):
        score(random(5, 3), random(4, 3))
    with pytest.raises(ValueError, match=r"shape \(5, 3\) are all the same"):
        score(random(5, 3), torch.ones(5, 3))


def test_svcca_of_too_few_samples():
    with pytest.raises(ValueError, match="4 and 6 columns needs more samples than 6"):
        consistency.svcca(random(6, 4), random(6, 6))
