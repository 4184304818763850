"""Rows that belong together are found, one to one, also where a group has turned them."""

import itertools
import math

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import beta
from torch.testing import assert_close

from saehelpers.evaluation import matching
from saehelpers.evaluation.consistency import null_pw_mcc, random_rows
from saehelpers.evaluation.matching import (
    cosine_matrix,
    latent_order,
    match,
    mean_max_similarity,
    pw_mcc,
    recovery,
)
from saehelpers.symmetry import LinearAction

ABSOLUTE = pytest.mark.parametrize("absolute", [True, False])
FEATURES = torch.eye(8)[[3, 0, 6, 1, 4]]
UNUSED = torch.eye(8)[[2, 5, 7]]  # orthogonal to all features


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def symmetry(request, c4_action, d4_action) -> LinearAction | None:
    """Actions about a point that is not the origin, which directions do not depend on."""
    action = {"none": None, "C4": c4_action, "D4": d4_action}[request.param]
    return action and LinearAction(action.group, action.matrices, torch.linspace(-1, 2, 8))


@pytest.fixture(params=[4, 16_384])
def way(request, monkeypatch):
    """Mutual nearest neighbours (of more than 4 rows), and Hungarian."""
    monkeypatch.setattr(matching, "HUNGARIAN_LIMIT", request.param)


def scores(*args, **options) -> np.ndarray:
    """PW-MCC, and the MCS both ways."""
    return np.array([pw_mcc(*args, **options), *mean_max_similarity(*args, **options)])


def plain_cosines(a, b, absolute, action) -> np.ndarray:
    """By scipy, one group element after the other."""
    turned = [b] if action is None else [b @ matrix.T for matrix in action.matrices]
    each = np.stack([1 - cdist(a.numpy(), rows.numpy(), "cosine") for rows in turned])
    return (np.abs(each) if absolute else each).max(0)


def test_cosines_agree_with_a_loop():
    a, b = random(4, 6), random(5, 6, seed=1)
    b[2] = 0
    cosines = cosine_matrix(a, b)
    for i in range(4):
        for j in range(5):
            expected = 0 if j == 2 else (a[i] @ b[j] / a[i].norm() / b[j].norm()).item()
            assert cosines[i, j].item() == pytest.approx(expected, abs=1e-6)


# --- the same dictionary, and random ones ---


@ABSOLUTE
def test_a_permuted_and_scaled_dictionary_scores_one(way, absolute):
    a, order = random(12, 8), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    b = (a * torch.linspace(0.5, 2, 12)[:, None])[order]
    assert scores(a, b, absolute) == pytest.approx(1, abs=1e-5)
    assert recovery(b, a, absolute=absolute) == pytest.approx(1, abs=1e-5)
    assert match(a, b, absolute).b.tolist() == order.argsort().tolist()


def test_flipped_signs_score_one_absolute_and_less_signed():
    a = random(12, 8)
    b = a * torch.tensor([1.0, -1]).repeat(6)[:, None]
    assert scores(a, b, absolute=True) == pytest.approx(1, abs=1e-5)
    assert recovery(b, a) == pytest.approx(1, abs=1e-5)
    assert (scores(a, b, absolute=False) < 0.9).all()
    assert pw_mcc(a, b) == pw_mcc(a, b, absolute=False)  # as published
    assert recovery(b, a, absolute=False) < 0.9


@pytest.mark.parametrize("symmetry", ["C4", "D4"], indirect=True)
def test_rows_turned_by_group_elements_score_one_modulo_the_group(way, symmetry):
    a = random(12, 8)
    elements = 1 + torch.arange(12) % (symmetry.group.order - 1)
    b = torch.einsum("nd, ned -> ne", a, symmetry.matrices[elements]).flip(0)
    assert scores(a, b, absolute=False, action=symmetry) == pytest.approx(1, abs=1e-5)
    assert recovery(b, a, symmetry, absolute=False) == pytest.approx(1, abs=1e-5)
    assert match(a, b, False, symmetry).b.tolist() == list(range(11, -1, -1))
    assert (scores(a, b, absolute=False) < 0.9).all()
    assert recovery(b, a) < 0.95


@ABSOLUTE
def test_random_dictionaries_score_as_theory_says(absolute):
    d, n, m = 512, 512, 4096
    generator = torch.Generator().manual_seed(0)
    a, b = (random_rows(torch.zeros(k, d), generator) for k in (n, m))
    assert_close(b.norm(dim=1), torch.ones(m))

    def expected(k: int) -> float:
        """The mean of the largest of k cosines: (1 + cos) / 2 has a beta distribution."""
        t = np.linspace(-1, 1, 20_001)
        below = beta.cdf((1 + t) / 2, (d - 1) / 2, (d - 1) / 2)
        below = np.clip(2 * below - 1, 0, 1) if absolute else below
        return 1 - np.trapezoid(below**k, t)

    found = mean_max_similarity(a, b, absolute)
    assert found == pytest.approx((expected(m), expected(n)), rel=0.02)
    assert found[0] == pytest.approx(math.sqrt(2 * math.log(m) / d), rel=0.15)
    assert found[0] == pytest.approx(0.15, abs=0.025)


# --- one to one ---


@pytest.mark.parametrize("symmetry", ["none", "C4", "D4"], indirect=True)
@ABSOLUTE
@pytest.mark.parametrize("chunk", [3, 4096])
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("n, m", [(10, 10), (10, 7), (7, 10), (1, 5)])
def test_matches_agree_with_scipy(monkeypatch, n, m, mutual, chunk, absolute, symmetry):
    """Hungarian up to the limit, mutual nearest neighbours above it; chunks change nothing."""
    monkeypatch.setattr(matching, "HUNGARIAN_LIMIT", max(n, m) - mutual)
    monkeypatch.setattr(matching, "CHUNK", chunk)
    a, b = random(n, 8), random(m, 8, seed=1)
    cosines = plain_cosines(a, b, absolute, symmetry)
    expected = list(zip(*linear_sum_assignment(-cosines), strict=True))
    if mutual:
        nearest = [(i, int(cosines[i].argmax())) for i in range(n)]
        expected = [(i, j) for i, j in nearest if cosines[:, j].argmax() == i]
    pairs = match(a, b, absolute, symmetry)
    assert list(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)) == expected
    matched = [cosines[pair] for pair in expected]
    assert pairs.cosines.numpy() == pytest.approx(matched, abs=1e-5)
    means = [np.mean(matched), cosines.max(1).mean(), cosines.max(0).mean()]
    assert scores(a, b, absolute, symmetry) == pytest.approx(means, abs=1e-5)
    assert recovery(a, b, symmetry, absolute) == pytest.approx(np.sum(matched) / m, abs=1e-5)


@ABSOLUTE
@pytest.mark.parametrize("n, m", [(3, 5), (4, 4), (5, 3)])
def test_pw_mcc_is_that_of_the_best_of_all_matchings(n, m, absolute):
    for seed in range(5):
        a, b = random(n, 3, seed=seed), random(m, 3, seed=seed + 10)
        cosines = cosine_matrix(a, b).abs() if absolute else cosine_matrix(a, b)
        fewer = cosines if n <= m else cosines.T
        best = max(
            sum(fewer[i, j].item() for i, j in enumerate(order)) / len(fewer)
            for order in itertools.permutations(range(fewer.shape[1]), len(fewer))
        )
        assert pw_mcc(a, b, absolute) == pytest.approx(best, abs=1e-6)


def test_only_one_row_may_have_a_feature():
    """Both features are closest to the first row."""
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    assert recovery(torch.eye(2), features) == pytest.approx((1 + 0.6) / 2)
    best = ((1 + 0.8) / 2, (1 + 0.6) / 2)
    assert mean_max_similarity(features, torch.eye(2)) == pytest.approx(best)


@pytest.mark.parametrize("symmetry", ["none", "C4"], indirect=True)
@ABSOLUTE
def test_null_of_pw_mcc_is_that_of_random_unit_vectors(absolute, symmetry):
    a, b = random(20, 8), random(15, 8, seed=1)
    found = null_pw_mcc(a, b, torch.Generator().manual_seed(3), absolute, symmetry, n_draws=20)
    draws = [(random(20, 8, seed=2 * i + 50), random(15, 8, seed=2 * i + 51)) for i in range(20)]
    values = np.array([pw_mcc(*rows, absolute, symmetry) for rows in draws])
    assert found == pytest.approx(values.mean(), abs=5 * values.std() / math.sqrt(10))
    signed, unsigned = (
        null_pw_mcc(a, b, torch.Generator().manual_seed(3), either) for either in (False, True)
    )
    assert signed + 0.02 < unsigned  # by chance, absolute cosines are larger


def test_pw_mcc_counts_pairs_and_recovery_counts_features():
    assert pw_mcc(FEATURES, FEATURES[:2]) == pytest.approx(1)
    assert recovery(FEATURES[:2], FEATURES) == pytest.approx(2 / len(FEATURES))


def test_dictionaries_may_be_double(way):
    a, b = random(6, 8), random(5, 8, seed=1)
    assert scores(a.double(), b.double()) == pytest.approx(scores(a, b), abs=1e-5)


def test_latent_order_puts_each_features_match_into_its_place():
    rows = torch.cat([UNUSED[:1], -FEATURES[[2, 0, 4, 1, 3]], UNUSED[1:]])
    order = latent_order(rows, FEATURES)
    assert order.tolist() == [2, 4, 1, 5, 3, 0, 6, 7]
    assert_close(rows[order][: len(FEATURES)], -FEATURES)


def test_latent_order_of_fewer_latents_skips_features():
    assert latent_order(FEATURES[[4, 1]], FEATURES).tolist() == [1, 0]


# --- bad input ---


@pytest.mark.parametrize("function", [match, pw_mcc, mean_max_similarity, recovery])
@pytest.mark.parametrize(
    "a, b, message",
    [
        ((3, 8), (4, 6), r"must have the shape .*, got \(4, 6\): its d is 6, as \w+ has 8"),
        ((0, 8), (4, 8), r"(a|dictionary) is empty, of shape \(0, 8\)"),
        ((3, 8), (0, 8), r"(b|features) is empty, of shape \(0, 8\)"),
        ((3, 6), (4, 6), r"action is one of R\^8, the dictionaries have width 6"),
    ],
)
def test_dictionaries_that_do_not_fit(monkeypatch, c4_action, function, a, b, message):
    # as users call it, without the type checks of the tests, which find wrong shapes first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        function(random(*a), random(*b), action=c4_action)
