"""Activations with known features: every rate is counted, every formula has a slow twin.

Statistical bounds are in standard deviations of what is counted. Seeds are fixed; over seeds,
a bound of 5 sigma fails a right answer with probability 6e-7 for each number that is compared.
"""

import itertools
import math
import random
from collections import Counter

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch.testing import assert_close

from saehelpers.datasets.synthetic import (
    Correlation,
    Hierarchy,
    Node,
    Stream,
    SyntheticFeatures,
    firing_probabilities,
    make_features,
    make_orbit_features,
    nearest_correlation,
    random_correlation,
)
from saehelpers.datasets.synthetic.features import CHUNK
from saehelpers.datasets.synthetic.firing import (
    correlated_firing,
    independent_firing,
    sparse_firing,
)
from saehelpers.datasets.toy import make_action

N = 200_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def unchecked(monkeypatch):
    """As users call it, without the type checks of the tests, which find wrong shapes first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def skipped_to(probabilities, n_samples, of):
    """`sparse_firing` in the form of the other two."""
    fires = torch.zeros(n_samples * len(probabilities), dtype=torch.bool)
    fires[sparse_firing(probabilities, n_samples, of)] = True
    return fires.view(n_samples, len(probabilities))


def assert_rates(fires, probabilities, sigmas=5.0):
    """Counted rates lie within some standard deviations of binomial counts; 0 and 1 exactly."""
    p = torch.as_tensor(probabilities).double()
    deviation = (p * (1 - p) / len(fires)).sqrt()
    distance = (fires.double().mean(0) - p).abs()
    assert (distance <= sigmas * deviation).all(), (distance / deviation).tolist()


def assert_independent(fires, sigmas=5.0):
    """No correlation between features, nor between any two of successive samples."""
    x = fires.double() - fires.double().mean(0)
    x = x / x.pow(2).mean(0).sqrt()
    n, n_features = x.shape
    bound = sigmas / math.sqrt(n)  # a correlation of independent samples has deviation 1 / sqrt(n)
    assert ((x.T @ x / n) - torch.eye(n_features)).abs().max() < bound
    for lag in (1, 2, 3):
        assert (x[:-lag].T @ x[lag:] / n).abs().max() < bound


# --- probabilities ---


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("constant", {}, [0.4, 0.4, 0.4, 0.4]),
        ("linear", {"smallest": 0.1}, [0.4, 0.3, 0.2, 0.1]),
        ("linear", {}, [0.4, 0.8 / 3, 0.4 / 3, 0.0]),
        ("zipfian", {}, [0.4, 0.4 / 3, 0.4 / 9, 0.0]),  # of 1, 1/2, 1/3, 1/4, moved and scaled
        ("zipfian", {"smallest": 0.1}, [0.4, 0.2, 0.1 + 0.3 / 9, 0.1]),
        (
            "zipfian",
            {"exponent": 2.0, "smallest": 0.1},
            [0.4, 0.1 + 0.3 * (1 / 4 - 1 / 16) / (15 / 16), 0.1 + 0.3 * 7 / 9 / 15, 0.1],
        ),
    ],
)
def test_probabilities_of_a_kind(kind, options, expected):
    assert firing_probabilities(kind, 4, 0.4, **options).tolist() == pytest.approx(
        expected, abs=1e-6
    )


def test_random_probabilities_are_uniform_between_their_ends():
    p = firing_probabilities("random", 100_000, 0.5, smallest=0.1, generator=generator())
    assert p.min() >= 0.1 and p.max() <= 0.5
    assert_rates(p[:, None] < torch.tensor([0.2, 0.3, 0.4]), [0.25, 0.5, 0.75])  # 5 sigma
    again = firing_probabilities("random", 100_000, 0.5, smallest=0.1, generator=generator())
    assert torch.equal(p, again)


@pytest.mark.parametrize("kind", ["constant", "linear", "zipfian"])
def test_a_single_feature_has_the_largest_probability(kind):
    assert firing_probabilities(kind, 1, 0.3).tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(("largest", "smallest"), [(1.1, 0.0), (0.5, -0.1), (0.2, 0.3)])
@pytest.mark.parametrize("kind", ["constant", "linear", "zipfian", "random"])
def test_probabilities_outside_their_range_are_refused(kind, largest, smallest):
    with pytest.raises(ValueError, match=f"0 <= smallest <= largest <= 1, got {smallest} and"):
        firing_probabilities(kind, 4, largest, smallest)


def test_unknown_kinds_of_probabilities_are_refused():
    message = "unknown kind 'flat'; known are constant, linear, zipfian, random"
    with pytest.raises(ValueError, match=message):
        firing_probabilities("flat", 4, 0.4)


# --- firing, independent ---


@pytest.mark.parametrize(
    "probabilities",
    [
        [0.07] * 12,
        [0.13, 0.15, 0.18, 0.2, 0.24],  # one class of like probabilities
        firing_probabilities("zipfian", 20, 0.4, 0.001).tolist(),
        [0.0, 0.3, 0.0, 0.001, 1.0, 0.26, 0.04, 0.0],
        [1.0, 1.0],
        [0.9, 0.55, 0.999],
        [0.2],
    ],
    ids=["equal", "one class", "zipfian", "zeros and a one", "ones", "large", "one feature"],
)
@pytest.mark.parametrize("draw", [independent_firing, skipped_to])
def test_independent_firing_has_its_probabilities(draw, probabilities):
    p = torch.tensor(probabilities)
    fires = draw(p, N, generator())
    assert fires.shape == (N, len(p)) and fires.dtype == torch.bool
    assert_rates(fires, p)  # 5 sigma for each feature
    random_ones = fires[:, (p > 0) & (p < 1)]
    if random_ones.shape[1]:
        assert_independent(random_ones)  # 5 sigma for each pair, at lags 0 to 3


@pytest.mark.parametrize(
    ("draw", "p"),
    [
        *itertools.product([independent_firing, skipped_to], [1e-5, 2.0**-17, 2.3e-5]),
        (independent_firing, 1 - 1e-5),
    ],
)
def test_tiny_probabilities_are_exact(draw, p):
    """Also between the multiples of 2^-16, among which sixteen random bits decide."""
    fires = draw(torch.full((20,), p), 1_000_000, generator())
    assert_rates(fires.view(-1, 1), [p])  # 5 sigma, of 150 to 460 (not) firing


@pytest.mark.parametrize("draw", [independent_firing, skipped_to])
def test_generators_decide_the_firing(draw):
    p = torch.tensor([0.1, 0.3, 0.02])
    of = generator(3)
    first, second = draw(p, 1000, of), draw(p, 1000, of)
    assert torch.equal(first, draw(p, 1000, generator(3)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, draw(p, 1000, generator(4)))


@pytest.mark.parametrize("n_samples", [0, 1, 2, 3])
@pytest.mark.parametrize("draw", [independent_firing, skipped_to])
def test_any_number_of_samples_can_be_drawn(draw, n_samples):
    fires = draw(torch.tensor([1.0, 0.0, 0.5]), n_samples, generator())
    assert fires.shape == (n_samples, 3)
    assert fires[:, 0].all() and not fires[:, 1].any()


@pytest.mark.parametrize(
    "probabilities",
    [[0.05] * 7, [0.13, 0.24, 0.2], [0.5, 0.01, 0.0, 0.2, 1.0], [0.0, 0.0], [1.0] * 3],
    ids=["equal", "one class", "classes", "zeros", "ones"],
)
def test_positions_of_firings_are_sorted_unique_and_inside(probabilities):
    positions = sparse_firing(torch.tensor(probabilities), 10_000, generator())
    assert positions.dtype == torch.int64
    assert (positions[1:] > positions[:-1]).all()
    if any(probabilities):
        assert positions[0] >= 0 and positions[-1] < 10_000 * len(probabilities)
    else:
        assert positions.numel() == 0


# --- firing, correlated ---


def both_fire(p, q, r):
    """Probability that two features of a Gaussian copula fire together."""
    return multivariate_normal([0, 0], [[1, r], [r, 1]]).cdf(norm.ppf([p, q]))


def assert_fire_together(fires, probabilities, matrix):
    """The firings' correlations are those of the bivariate normal distribution."""
    for i, j in itertools.combinations(range(len(probabilities)), 2):
        p, q = probabilities[i], probabilities[j]
        together = both_fire(p, q, float(matrix[i, j]))
        assert_rates(fires[:, i : i + 1] & fires[:, j : j + 1], [together])  # 5 sigma
        expected = (together - p * q) / math.sqrt(p * (1 - p) * q * (1 - q))
        counted = float(torch.corrcoef(fires[:, [i, j]].T.double())[0, 1])
        assert counted == pytest.approx(expected, abs=0.02)


def low_rank_factor(n_features, rank, seed=0):
    factor = torch.randn(n_features, rank, generator=generator(seed))
    norms = torch.linspace(0.3, 0.95, n_features)
    return factor / factor.norm(dim=1, keepdim=True) * norms[:, None]


def test_dense_correlation_keeps_rates_and_correlates_as_the_bivariate_normal():
    matrix = torch.tensor(
        [[1, 0.5, -0.4, 0], [0.5, 1, 0.2, 0.7], [-0.4, 0.2, 1, 0], [0, 0.7, 0, 1]]
    )
    p = [0.3, 0.05, 0.6, 0.1]
    fires = correlated_firing(torch.tensor(p), Correlation.dense(matrix), N, generator())
    assert_rates(fires, p)  # 5 sigma
    assert_fire_together(fires, p, matrix)
    x = fires.double() - fires.double().mean(0)
    x = x / x.pow(2).mean(0).sqrt()
    assert (x[:-1].T @ x[1:] / N).abs().max() < 5 / math.sqrt(N)  # samples are independent


def test_low_rank_correlation_keeps_rates_and_correlates_as_the_bivariate_normal():
    correlation = Correlation(low_rank_factor(5, 2))
    p = [0.3, 0.02, 0.5, 0.1, 0.85]
    fires = correlated_firing(torch.tensor(p), correlation, N, generator())
    assert_rates(fires, p)  # 5 sigma
    assert_fire_together(fires, p, correlation.matrix)


@pytest.mark.parametrize("low_rank", [False, True])
def test_correlated_features_of_probability_zero_one_and_tiny(low_rank):
    factor = low_rank_factor(20, 3)
    correlation = Correlation(factor)
    if not low_rank:
        correlation = Correlation.dense(correlation.matrix)
    p = torch.tensor([0.0, 1.0, *[1e-4] * 18])
    assert_rates(correlated_firing(p, correlation, N, generator()), p, 6)  # 6 sigma of 20 firings


@pytest.mark.parametrize(("n_features", "rank"), [(6, 1), (40, 5), (3, 8)])
def test_matrix_of_a_factor_has_unit_diagonal(n_features, rank):
    factor = low_rank_factor(n_features, rank)
    matrix = Correlation(factor).matrix
    expected = factor @ factor.T
    expected.fill_diagonal_(1.0)
    assert_close(matrix, expected, atol=1e-5, rtol=0)
    whole = factor / factor.norm(dim=1, keepdim=True)  # nothing left for noise of their own
    assert_close(Correlation(whole).matrix.diagonal(), torch.ones(n_features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_features", [2, 8, 60])
def test_dense_reproduces_its_matrix(n_features):
    matrix, _ = random_correlation(n_features, 0.5, (0.2, 0.9), generator(), negative=0.5)
    made = Correlation.dense(matrix)
    assert made.n_features == n_features
    assert_close(made.matrix, matrix, atol=1e-5, rtol=0)


def test_normals_have_the_covariance_of_the_matrix():
    correlation = Correlation(low_rank_factor(6, 2))
    g = correlation.normals(N, generator()).double()
    # a covariance of unit normals has a variance of (1 + r^2) / n at most 2 / n: 5 sigma
    bound = 5 * math.sqrt(2 / N)
    assert_close(g.T @ g / N, correlation.matrix.double(), atol=bound, rtol=0)
    assert g.mean(0).abs().max() < 5 / math.sqrt(N)


def test_duplicate_features_of_a_singular_matrix_fire_together():
    matrix = torch.tensor(
        [[1, 1, 0.5, -1], [1, 1, 0.5, -1], [0.5, 0.5, 1, -0.5], [-1, -1, -0.5, 1]]
    )
    p = torch.tensor([0.3, 0.3, 0.3, 0.7])
    correlation = Correlation.dense(matrix)
    assert_close(correlation.matrix, matrix, atol=1e-5, rtol=0)
    fires = correlated_firing(p, correlation, 100_000, generator())
    assert_rates(fires, p)  # 5 sigma
    # rounding parts them where g is within 1e-6 of the threshold: 0.1 samples expected
    assert (fires[:, 0] != fires[:, 1]).sum() <= 3
    assert (fires[:, 0] == fires[:, 3]).sum() <= 3  # the opposite feature
    assert_fire_together(fires[:, 1:3], p[1:3].tolist(), matrix[1:3, 1:3])


def test_a_correlation_of_one_nests_firings():
    correlation = Correlation(torch.ones(3, 1))
    fires = correlated_firing(torch.tensor([0.1, 0.5, 0.2]), correlation, 100_000, generator())
    assert not (fires[:, 0] & ~fires[:, 2]).any() and not (fires[:, 2] & ~fires[:, 1]).any()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"a correlation matrix is square, got \(2, 3\)"),
        (torch.ones(3), r"a correlation matrix is square, got \(3,\)"),
        (torch.tensor([[1, 0.5], [0.4, 1]]), "is symmetric, this one is not"),
        (torch.tensor([[1, 0.5], [0.5, 1.1]]), "has a diagonal of ones, this one has not"),
        (torch.zeros(2, 2), "has a diagonal of ones"),
        (
            torch.tensor([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]),
            r"has an eigenvalue of -0\.8: .*nearest_correlation",
        ),
        (torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]), "correlation matrix"),
    ],
    ids=["wide", "a vector", "not symmetric", "diagonal", "zeros", "eigenvalue", "nan"],
)
def test_bad_correlation_matrices(unchecked, matrix, message):
    with pytest.raises(ValueError, match=message):
        Correlation.dense(matrix)


def test_factors_with_rows_longer_than_one_are_refused():
    with pytest.raises(ValueError, match=r"norms up to 1, row 1 has 1\.2728"):
        Correlation(torch.tensor([[0.6, 0.6], [0.9, 0.9]]))


# --- the nearest correlation matrix ---


def indefinite(n, seed=0):
    """Symmetric, of unit diagonal, and no correlation matrix."""
    of, matrix = generator(seed), torch.eye(n)
    while torch.linalg.eigvalsh(matrix)[0] > -0.1:
        upper = (1.8 * torch.rand(n, n, generator=of) - 0.9).triu(1)
        upper[torch.rand(n, n, generator=of) < 0.3] = 0
        matrix = upper + upper.T + torch.eye(n)
    return matrix


def is_correlation(matrix):
    """Symmetric, of unit diagonal, and without negative eigenvalues."""
    return (
        torch.equal(matrix.diagonal(), torch.ones(len(matrix)))
        and torch.allclose(matrix, matrix.T, atol=1e-6, rtol=0)
        and bool(torch.linalg.eigvalsh(matrix.double())[0] >= 0)
    )


@pytest.mark.parametrize(("n", "density"), [(8, 0.9), (64, 0.6), (300, 0.5)])
def test_random_correlations_are_valid_also_where_too_much_is_asked(n, density):
    matrix, report = random_correlation(n, density, (0.4, 0.9), generator(), negative=0.3)
    assert is_correlation(matrix)
    assert report.smallest_eigenvalue < -0.1
    assert 0 < report.made_strength < report.asked_strength
    assert 0 < report.mean_change < report.largest_change
    n_pairs = n * (n - 1) // 2
    deviation = math.sqrt(density * (1 - density) / n_pairs)
    assert abs(report.asked_density - density) < 5 * deviation  # 5 sigma
    deviation = 0.5 / math.sqrt(12 * density * n_pairs)
    assert abs(report.asked_strength - 0.65) < 6 * deviation  # 6 sigma, for a drawn density
    Correlation.dense(matrix)


def test_random_correlations_have_density_strength_and_signs_as_asked():
    matrix, report = random_correlation(300, 0.3, (0.02, 0.03), generator(), negative=0.25)
    assert report.largest_change == report.mean_change == 0
    assert report.asked_strength == report.made_strength
    pairs = matrix[tuple(torch.triu_indices(300, 300, 1))]
    chosen = pairs[pairs != 0]
    assert_rates((pairs != 0)[:, None], [0.3])  # 5 sigma
    assert_rates((chosen < 0)[:, None], [0.25])  # 5 sigma
    assert chosen.abs().min() >= 0.02 and chosen.abs().max() <= 0.03
    assert_rates((chosen.abs() < 0.025)[:, None], [0.5])  # 5 sigma


def test_valid_matrices_stay_as_they_are():
    matrix = Correlation(low_rank_factor(12, 4)).matrix.fill_diagonal_(1.0)
    made, report = nearest_correlation(matrix)
    assert torch.equal(made, matrix)
    assert report.largest_change == report.mean_change == 0
    assert report.made_density == report.asked_density


@pytest.mark.parametrize("n", [8, 64])
def test_reports_agree_with_plain_loops(n):
    asked = indefinite(n)
    made, report = nearest_correlation(asked)
    a, m = asked.double().numpy(), made.double().numpy()
    pairs = list(itertools.combinations(range(n), 2))
    wanted = [pair for pair in pairs if a[pair] != 0]
    changes = [abs(a[pair] - m[pair]) for pair in pairs]
    assert 0 < len(wanted) < len(pairs)
    expected = {
        "asked_strength": np.mean([abs(a[pair]) for pair in wanted]),
        "made_strength": np.mean([abs(m[pair]) for pair in wanted]),
        "asked_density": np.mean([abs(a[pair]) > 0.01 for pair in pairs]),
        "made_density": np.mean([abs(m[pair]) > 0.01 for pair in pairs]),
        "largest_change": max(changes),
        "mean_change": np.mean(changes),
        "smallest_eigenvalue": np.linalg.eigvalsh(a)[0],
    }
    assert vars(report) == pytest.approx(expected, abs=1e-6)


def slow_nearest(matrix, smallest, iterations):
    """Alternating projections (Higham 2002, algorithm 3.3) in numpy, many of them."""
    y, correction = matrix.copy(), np.zeros_like(matrix)
    for _ in range(iterations):
        r = y - correction
        values, vectors = np.linalg.eigh(r)
        x = sum(
            max(value, smallest) * np.outer(vector, vector)
            for value, vector in zip(values, vectors.T, strict=True)
        )
        correction, y = x - r, x.copy()
        np.fill_diagonal(y, 1.0)
    return y


def clipped(matrix):
    """Eigenvalues clipped, then rescaled to a diagonal of ones."""
    values, vectors = np.linalg.eigh(matrix)
    made = (vectors * values.clip(min=1e-4)) @ vectors.T
    return made / np.sqrt(np.outer(made.diagonal(), made.diagonal()))


def test_nearest_correlation_of_highams_example():
    """The worked example of Higham (2002), section 4: distance 0.5278."""
    asked = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    made, report = nearest_correlation(asked, smallest_eigenvalue=1e-8)
    near, far = 0.7607, 0.1573
    expected = torch.tensor([[1, near, far], [near, 1, near], [far, near, 1]])
    assert_close(made, expected, atol=1e-3, rtol=0)
    assert float((made - asked).norm()) == pytest.approx(0.5278, abs=1e-3)
    assert report.smallest_eigenvalue == pytest.approx(1 - math.sqrt(2))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [4, 7])
def test_nearest_correlation_is_as_near_as_many_slow_iterations_bring_it(n, seed):
    asked = indefinite(n, seed)
    made = nearest_correlation(asked)[0].double().numpy()
    asked = asked.double().numpy()
    slow = slow_nearest(asked, 1e-4, 500)
    assert np.linalg.norm(made - asked) <= 1.001 * np.linalg.norm(slow - asked)
    assert np.abs(made - slow).max() < 1e-3


@pytest.mark.parametrize("n", [4, 8, 32, 100])
def test_nearest_correlation_is_nearer_than_clipped_eigenvalues(n):
    asked = indefinite(n)
    made = nearest_correlation(asked)[0].double().numpy()
    asked = asked.double().numpy()
    assert np.linalg.norm(made - asked) < np.linalg.norm(clipped(asked) - asked)


@pytest.mark.parametrize("max_iterations", [0, 1, 3])
def test_nearest_correlation_is_valid_before_it_has_converged(max_iterations):
    assert is_correlation(nearest_correlation(indefinite(20), max_iterations=max_iterations)[0])


def test_nearest_correlation_of_a_matrix_without_unit_diagonal_is_a_correlation():
    made, _ = nearest_correlation(torch.tensor([[2.0, 0.5], [0.5, 2.0]]))
    assert is_correlation(made)


def test_one_feature_alone_can_have_a_correlation_matrix():
    made, report = nearest_correlation(torch.ones(1, 1))
    assert made.tolist() == [[1.0]]
    assert report.largest_change == report.mean_change == 0


# --- hierarchies ---


def slow_hierarchy(roots, own, of):
    """Features that fire in one sample, by the words of the docstring: `own` is what would."""
    fires = set()

    def would(node):
        if node.feature is not None:
            return own[node.feature]
        return any(would(child) for child in node.children)

    def descend(nodes, exclusive):
        candidates = [node for node in nodes if would(node)]
        if exclusive and candidates:
            candidates = [of.choice(candidates)]
        for node in candidates:
            if node.feature is not None:
                fires.add(node.feature)
            descend(node.children, node.exclusive)

    descend(roots, False)
    return fires


def nested_roots():
    """Exclusive groups of two sizes and organisational nodes at several depths; no feature 12."""
    inner = Node(children=[Node(3), Node(4, [Node(7)])], exclusive=True, name="inner")
    pair = Node(children=[Node(9), Node(10)], name="pair")
    return [
        Node(0, [Node(1, [Node(5), Node(6)], exclusive=True), Node(2), inner], exclusive=True),
        Node(children=[Node(8), pair, Node(11)], exclusive=True, name="outer"),
    ]


NESTED_PROBABILITIES = torch.tensor(
    [0.7, 0.5, 0.4, 0.3, 0.6, 0.5, 0.7, 0.5, 0.4, 0.3, 0.2, 0.5, 0.25]
)


def drawn(hierarchy, probabilities, n_samples=N, seed=0):
    of = generator(seed)
    return hierarchy(independent_firing(probabilities, n_samples, of), of)


def random_roots(n_features, seed):
    """Random trees that hold every feature, some of them in organisational nodes."""
    of = random.Random(seed)
    roots: list[dict] = []
    places = [roots]
    for feature in of.sample(range(n_features), n_features):
        node = {"feature": feature, "children": []}
        place = of.choice(places)
        places.append(node["children"])
        if of.random() < 0.4:
            node = {"children": [node]}
            places.append(node["children"])
        place.append(node)

    def finished(node):
        children = [finished(child) for child in node["children"]]
        return Node(node.get("feature"), children, len(children) > 1 and of.random() < 0.7)

    return [finished(root) for root in roots]


def test_children_fire_only_where_their_parents_do():
    hierarchy = Hierarchy(nested_roots(), 13)
    fires = drawn(hierarchy, NESTED_PROBABILITIES)
    parents = hierarchy.parents()
    assert parents == {1: 0, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 4}
    for child, parent in parents.items():
        assert not (fires[:, child] & ~fires[:, parent]).any()
        assert (fires[:, parent] & ~fires[:, child]).any()


def test_exclusive_children_never_fire_together():
    fires = drawn(Hierarchy(nested_roots(), 13), NESTED_PROBABILITIES)
    inner, pair = fires[:, 3] | fires[:, 4], fires[:, 9] | fires[:, 10]
    for group in (
        [fires[:, 1], fires[:, 2], inner],
        [fires[:, 3], fires[:, 4]],
        [fires[:, 5], fires[:, 6]],
        [fires[:, 8], pair, fires[:, 11]],
    ):
        assert torch.stack(group, 1).sum(1).max() == 1
    assert (fires[:, 9] & fires[:, 10]).any()  # the pair only holds them together


def test_firing_is_only_ever_taken_away_and_in_place():
    of = generator()
    before = independent_firing(NESTED_PROBABILITIES, 10_000, of)
    fires = before.clone()
    after = Hierarchy(nested_roots(), 13)(fires, of)
    assert after is fires
    assert not (after & ~before).any()
    # some child of every exclusive group fires where one would and its parent does
    assert torch.equal(before[:, [8, 9, 10, 11]].any(1), after[:, [8, 9, 10, 11]].any(1))
    would = before[:, [1, 2, 3, 4]].any(1) & before[:, 0]
    assert torch.equal(would, after[:, [1, 2, 3, 4]].any(1))


def test_chains_fire_as_the_product_of_their_coins():
    before = independent_firing(torch.full((4,), 0.7), 1000, generator())
    chain = Hierarchy([Node(2, [Node(0, [Node(3, [Node(1)])])])], 4)
    after = chain(before.clone(), generator())
    for below, above in zip([0, 3, 1], [[2], [2, 0], [2, 0, 3]], strict=True):
        assert torch.equal(after[:, below], before[:, [below, *above]].all(1))


@pytest.mark.parametrize("of_feature", [True, False])
def test_the_choice_is_uniform_among_the_exclusive_children_that_would_fire(of_feature):
    children = [Node(f) for f in (1, 2, 3, 4)]
    root = Node(0 if of_feature else None, children, exclusive=True)
    p = torch.tensor([1.0, 0.3, 0.5, 0.6, 0.8])
    of = generator()
    before = independent_firing(p, N, of)
    after = Hierarchy([root], 5)(before.clone(), of)[:, 1:]
    before = before[:, 1:]
    for pattern in itertools.product([False, True], repeat=4):
        same = after[(before == torch.tensor(pattern)).all(1)]
        k = sum(pattern)
        assert len(same) > 1000
        assert_rates(same, [would / max(k, 1) for would in pattern])  # 5 sigma


def test_choices_of_different_groups_are_independent():
    groups = [Node(children=[Node(2 * i), Node(2 * i + 1)], exclusive=True) for i in range(4)]
    fires = drawn(Hierarchy(groups, 8), torch.ones(8))
    assert_rates(fires, [1 / 2] * 8)  # 5 sigma
    assert_independent(fires[:, ::2])  # 5 sigma


def test_exclusive_groups_of_different_sizes_can_stand_side_by_side():
    groups, first = [], 0
    for size in (2, 3, 4, 3):
        groups.append(Node(children=[Node(first + i) for i in range(size)], exclusive=True))
        first += size
    for _ in range(20):  # beartype looks at one entry of a list, drawn by chance
        hierarchy = Hierarchy(groups, 12)
    fires = drawn(hierarchy, torch.ones(12))
    expected = [1 / size for size in (2, 3, 4, 3) for _ in range(size)]
    assert_rates(fires, expected)  # 5 sigma
    assert_independent(fires[:, [0, 2, 5, 9]])  # 5 sigma


@pytest.mark.parametrize("which", ["nested", 0, 1])
def test_hierarchies_agree_with_a_slow_simulation(which):
    """How often every pattern of firings occurs, in samples drawn by plain Python."""
    n_samples = 100_000 if which == "nested" else 20_000
    if which == "nested":
        roots, p = nested_roots(), NESTED_PROBABILITIES
    else:
        roots, p = random_roots(7, which), torch.full((7,), 0.6)
    fires = drawn(Hierarchy(roots, len(p)), p, n_samples)
    counts = Counter((fires.long() @ 2 ** torch.arange(len(p))).tolist())
    of, chances = random.Random(0), p.tolist()
    slow = Counter()
    in_tree = set(range(12 if which == "nested" else 7))
    for _ in range(n_samples):
        own = [of.random() < chance for chance in chances]
        kept = slow_hierarchy(roots, own, of)
        kept |= {f for f, fired in enumerate(own) if fired and f not in in_tree}
        slow[sum(2**f for f in kept)] += 1
    assert len(slow) > 10
    for pattern in counts | slow:
        one, other = counts[pattern], slow[pattern]
        assert abs(one - other) <= 6 * math.sqrt(one + other)  # by Hoeffding 3e-8, also for few


def test_an_exclusive_organisational_root_lets_one_of_its_features_fire():
    root = Node(children=[Node(0), Node(1), Node(2)], exclusive=True, name="one of three")
    p = torch.tensor([0.3, 0.5, 0.8])
    fires = drawn(Hierarchy([root], 3), p)
    assert fires.sum(1).max() == 1
    assert_rates(fires.any(1, keepdim=True), [1 - 0.7 * 0.5 * 0.2])  # 5 sigma


def test_an_organisational_root_changes_nothing_by_itself():
    root = Node(children=[Node(0), Node(children=[Node(1), Node(2)])])
    before = independent_firing(torch.tensor([0.3, 0.5, 0.8]), 1000, generator())
    assert torch.equal(Hierarchy([root], 3)(before.clone(), generator()), before)


def test_nested_organisational_groups_choose_among_groups():
    """Two groups of two features: only features of one group fire together."""
    groups = [Node(children=[Node(0), Node(1)]), Node(children=[Node(2), Node(3)])]
    fires = drawn(Hierarchy([Node(children=groups, exclusive=True)], 4), torch.full((4,), 0.5))
    assert not (fires[:, :2].any(1) & fires[:, 2:].any(1)).any()
    # a group would fire with 3/4, the other with 3/4: chosen with 3/4 (1/4 + 3/8); 5 sigma
    assert_rates(fires[:, :2].any(1, keepdim=True), [15 / 32])
    assert_rates((fires[:, 0] & fires[:, 1])[:, None], [15 / 32 / 3])


@pytest.mark.parametrize(
    "roots",
    [[], [Node(name="empty")], [Node(0), Node(name="empty")], [Node(1, [Node(name="empty")])]],
    ids=["no tree", "an empty group", "a tree and an empty group", "an empty group below"],
)
def test_trees_without_features_change_nothing(roots):
    before = independent_firing(torch.tensor([0.3, 0.5, 0.8]), 100, generator())
    assert torch.equal(Hierarchy(roots, 3)(before.clone(), generator()), before)
    p = torch.tensor([0.3, 0.5, 0.8])
    assert_close(Hierarchy(roots, 3).effective_probabilities(p), p)


def test_features_outside_the_forest_fire_as_they_would():
    hierarchy = Hierarchy([Node(3, [Node(1), Node(4)], exclusive=True)], 6)
    before = independent_firing(torch.full((6,), 0.5), 10_000, generator())
    after = hierarchy(before.clone(), generator(1))
    outside = [0, 2, 5]
    assert torch.equal(after[:, outside], before[:, outside])
    p = torch.linspace(0.1, 0.6, 6)
    assert torch.equal(hierarchy.effective_probabilities(p)[outside], p[outside])
    small = 0.2 * p * torch.tensor([1, 1, 1, 5, 1, 1])
    assert torch.equal(hierarchy.compensated_probabilities(small)[outside], small[outside])


def test_effective_probabilities_of_small_trees():
    p = torch.tensor([0.5, 0.4, 0.2])
    chain = Hierarchy([Node(0, [Node(1, [Node(2)])])], 3)
    assert chain.effective_probabilities(p).tolist() == pytest.approx([0.5, 0.2, 0.04])
    pair = Hierarchy([Node(0, [Node(1), Node(2)], exclusive=True)], 3)
    expected = [0.5, 0.5 * 0.4 * (1 - 0.1), 0.5 * 0.2 * (1 - 0.2)]
    assert pair.effective_probabilities(p).tolist() == pytest.approx(expected)


def test_effective_probabilities_are_those_counted():
    hierarchy = Hierarchy(nested_roots(), 13)
    expected = hierarchy.effective_probabilities(NESTED_PROBABILITIES)
    assert (expected < NESTED_PROBABILITIES).sum() == 11  # all but the root 0 and the free 12
    assert_rates(drawn(hierarchy, NESTED_PROBABILITIES), expected)  # 5 sigma


@pytest.mark.parametrize("seed", range(6))
def test_effective_probabilities_of_random_forests_are_those_counted(seed):
    hierarchy = Hierarchy(random_roots(12, seed), 12)
    p = firing_probabilities("random", 12, 1.0, 0.3, generator=generator(seed))
    expected = hierarchy.effective_probabilities(p)
    assert_rates(drawn(hierarchy, p, 100_000, seed), expected)  # 5 sigma


def compensable():
    """Roots, and what their features can be made to fire with."""
    roots = [
        Node(0, [Node(1), Node(2, [Node(3)]), Node(7)], exclusive=True),
        Node(children=[Node(4), Node(5, [Node(8), Node(9)])], exclusive=True),
        Node(children=[Node(10), Node(11)]),
    ]
    targets = [0.5, 0.2, 0.15, 0.1, 0.3, 0.65, 0.05, 0.1, 0.6, 0.2, 0.9, 0.3]
    return Hierarchy(roots, 12), torch.tensor(targets)


def test_compensated_probabilities_are_undone_by_the_hierarchy():
    hierarchy, targets = compensable()
    p = hierarchy.compensated_probabilities(targets)
    assert ((p >= targets) & (p <= 1)).all()
    assert_close(hierarchy.effective_probabilities(p), targets, atol=1e-6, rtol=1e-5)
    assert_rates(drawn(hierarchy, p), targets)  # 5 sigma


@pytest.mark.parametrize(
    "targets", [[0.5, 0.499], [0.9, 0.0999], [0.99] + [0.003] * 3, [0.0, 0.5, 0.4]]
)
def test_compensation_reaches_targets_close_to_the_limit(targets):
    nodes = [Node(i) for i in range(len(targets))]
    hierarchy = Hierarchy([Node(children=nodes, exclusive=True)], len(targets))
    p = hierarchy.compensated_probabilities(torch.tensor(targets))
    assert (p <= 1).all()
    assert hierarchy.effective_probabilities(p).tolist() == pytest.approx(targets, abs=1e-6)


def test_children_can_fire_as_often_as_their_parent():
    hierarchy = Hierarchy([Node(0, [Node(1)])], 2)
    p = hierarchy.compensated_probabilities(torch.tensor([0.3, 0.3]))
    assert p.tolist() == pytest.approx([0.3, 1.0])


@pytest.mark.parametrize(
    ("roots", "targets", "message"),
    [
        ([Node(0, [Node(1)])], [0.3, 0.4, 0.1], r"\[1\] cannot fire .* 0\.4 .* with 0\.3"),
        ([Node(0, [Node(children=[Node(1)])])], [0.3, 0.4, 0.1], r"\[1\] cannot fire"),
        ([Node(0, [Node(1)])], [0.0, 0.1, 0.1], r"\[1\] cannot fire"),
        (
            [Node(0, [Node(1), Node(2)], exclusive=True)],
            [0.5, 0.25, 0.25],
            r"\[1, 2\] cannot fire with probabilities 0\.25, 0\.25 below .* with 0\.5",
        ),
        ([Node(children=[Node(0), Node(1)], exclusive=True)], [0.6, 0.5, 0], "cannot fire"),
        (
            [Node(0, [Node(1), Node(children=[Node(2)])], exclusive=True, name="top")],
            [0.5, 0.1, 0.1],
            "node 0 top has organisational nodes among its exclusive children",
        ),
    ],
    ids=["child", "below a group", "silent parent", "exclusive", "exclusive root", "group"],
)
def test_targets_that_cannot_be_reached_are_refused(roots, targets, message):
    with pytest.raises(ValueError, match=message):
        Hierarchy(roots, 3).compensated_probabilities(torch.tensor(targets))


def test_trees_are_printed():
    animal = Node(0, [Node(1, [Node(2)]), Node(3, name="dog")], exclusive=True, name="animal")
    rest = Node(children=[Node(children=[Node(5), Node(6)], exclusive=True), Node(4)])
    assert str(Hierarchy([animal, rest], 7)) == "\n".join(
        [
            "0 animal (one of)",
            "├── 1",
            "│   └── 2",
            "└── 3 dog",
            "group",
            "├── group (one of)",
            "│   ├── 5",
            "│   └── 6",
            "└── 4",
        ]
    )


def test_hierarchies_from_dicts_are_those_from_nodes():
    dicts = [
        {
            "feature": 0,
            "exclusive": True,
            "children": [
                {"feature": 1, "name": "one"},
                {"children": [{"feature": 2}, Node(3)], "name": "mixed"},
            ],
        },
        {"feature": 4},
    ]
    mixed = Node(children=(Node(2), Node(3)), name="mixed")
    nodes = [Node(0, (Node(1, name="one"), mixed), exclusive=True), Node(4)]
    of_dicts, of_nodes = Hierarchy(dicts, 5), Hierarchy(nodes, 5)
    assert of_dicts.roots == of_nodes.roots
    assert str(of_dicts) == str(of_nodes)
    assert of_dicts.parents() == of_nodes.parents() == {1: 0, 2: 0, 3: 0}
    p = torch.full((5,), 0.6)
    assert torch.equal(drawn(of_dicts, p, 1000), drawn(of_nodes, p, 1000))


def test_trees_may_come_one_by_one():
    hierarchy = Hierarchy(
        ({"feature": f, "children": [{"feature": f + 50}]} for f in range(50)), 100
    )
    assert hierarchy.parents() == {f + 50: f for f in range(50)}
    Hierarchy((Node(children=[Node(f)]) for f in range(50)), 50)


def looped(as_dict):
    children = []
    node = {"feature": 0, "children": children} if as_dict else Node(0, children)
    children.append({"feature": 1, "children": [node]} if as_dict else Node(1, [node]))
    return [node]


def own_child(as_dict):
    children = []
    node = {"children": children} if as_dict else Node(children=children)
    children.append(node)
    return [node]


def shared(as_dict, in_one_tree):
    child = {"feature": 2} if as_dict else Node(2)
    nodes = [Node(0, [child]), Node(1, [child])]
    return [Node(children=nodes)] if in_one_tree else nodes


def twice(node, in_one_tree):
    return [Node(0, [node, node])] if in_one_tree else [node, node]


def both_root_and_child():
    node = Node(1)
    return [Node(0, [node]), node]


BAD_HIERARCHIES = {
    "own child": (own_child(False), "is its own ancestor"),
    "own child, dict": (own_child(True), "is its own ancestor"),
    "loop": (looped(False), "is its own ancestor"),
    "loop, dict": (looped(True), "is its own ancestor"),
    "shared": (shared(False, True), "hangs below two parents"),
    "shared, dict": (shared(True, True), "hangs below two parents"),
    "shared by trees": (shared(False, False), "hangs below two parents"),
    "shared by trees, dict": (shared(True, False), "hangs below two parents"),
    "child twice": (twice(Node(1), True), "hangs below two parents"),
    "group twice": (twice(Node(children=[Node(1)]), True), "hangs below two parents"),
    "root twice": (twice(Node(1), False), "hangs below two parents"),
    "root and child": (both_root_and_child(), "hangs below two parents"),
    "index twice": ([Node(0, [Node(1), Node(2, [Node(1)])])], "feature 1 stands in .* twice"),
    "index in two trees": (
        [Node(0, [Node(1)]), Node(2, [Node(1)])],
        "feature 1 stands in .* twice",
    ),
    "index of its parent": ([Node(0, [Node(0)])], "feature 0 stands in the hierarchy twice"),
    "one exclusive": ([Node(0, [Node(1)], True)], "node 0 has fewer than two children"),
    "no exclusive": ([Node(exclusive=True, name="none")], "node none has fewer than two children"),
    "index too large": ([Node(0, [Node(4)])], "feature 4 is not one of 0 to 3"),
    "index negative": ([Node(-1)], "feature -1 is not one of 0 to 3"),
    "unknown fields": ([{"feature": 0, "kids": [], "age": 3}], "fields of a node: age, kids"),
    "unknown field below": ([Node(0, [{"features": 1}])], "fields of a node: features"),
}


@pytest.mark.parametrize("which", BAD_HIERARCHIES)
def test_bad_hierarchies(which):
    roots, message = BAD_HIERARCHIES[which]
    with pytest.raises(ValueError, match=message):
        Hierarchy(roots, 4)


def test_a_node_can_stand_in_two_hierarchies():
    node = Node(0, [Node(1)])
    assert Hierarchy([node], 4).parents() == Hierarchy([node], 4).parents() == {1: 0}


# --- features ---


def make_synthetic(n_features=6, d=8, probabilities=0.1, **options) -> SyntheticFeatures:
    return SyntheticFeatures(
        make_features(n_features, d, generator(), steps=5), probabilities, **options
    )


def kinds_of_features(n_features=6):
    """Options by which firing is drawn in each of the ways there are."""
    trees = [Node(0, [Node(1), Node(2)], exclusive=True)]
    correlation = Correlation(low_rank_factor(n_features, 2))
    return {
        "sparse": {"probabilities": 0.1},
        "independent": {"probabilities": 0.4},
        "correlated": {"probabilities": 0.1, "correlation": correlation},
        "hierarchy": {"probabilities": 0.3, "hierarchy": Hierarchy(trees, n_features)},
        "sparse hierarchy": {"probabilities": 0.1, "hierarchy": Hierarchy(trees, n_features)},
        "both": {
            "probabilities": 0.3,
            "correlation": correlation,
            "hierarchy": Hierarchy(trees, n_features),
        },
    }


KINDS = list(kinds_of_features())


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_fire_with_their_probabilities(kind):
    options = kinds_of_features()[kind]
    synthetic = make_synthetic(**options)
    coefficients = synthetic.coefficients(N, generator())
    assert set(coefficients.unique().tolist()) == {0.0, 1.0}
    expected = synthetic.probabilities
    if "hierarchy" in options:
        assert not (coefficients[:, 1] * coefficients[:, 2]).any()
        assert (coefficients[:, [1, 2]] <= coefficients[:, [0]]).all()
        expected = synthetic.hierarchy.effective_probabilities(expected)
    counted = [0, 3, 4, 5] if kind == "both" else [0, 1, 2, 3, 4, 5]
    assert_rates(coefficients[:, counted], expected[counted])  # 5 sigma
    if kind == "correlated":
        assert_fire_together(coefficients > 0, [0.1] * 6, synthetic.correlation.matrix)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide_the_samples(kind):
    synthetic = make_synthetic(magnitude_std=0.3, **kinds_of_features()[kind])
    x, coefficients = synthetic.sample(500, generator(5))
    again = synthetic.sample(500, generator(5))
    assert torch.equal(x, again[0]) and torch.equal(coefficients, again[1])
    assert not torch.equal(coefficients, synthetic.sample(500, generator(6))[1])
    of = generator(5)
    synthetic.sample(500, of)
    assert not torch.equal(coefficients, synthetic.sample(500, of)[1])


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_sums_of_their_features(kind, with_bias):
    bias = torch.linspace(-1, 1, 8) if with_bias else None
    synthetic = make_synthetic(magnitude_std=0.5, bias=bias, **kinds_of_features()[kind])
    x, coefficients = synthetic.sample(60, generator())
    assert x.shape == (60, 8) and coefficients.shape == (60, 6)
    assert coefficients.any()
    for i in range(60):
        expected = torch.zeros(8) if bias is None else bias.clone()
        for j in range(6):
            expected = expected + coefficients[i, j] * synthetic.dictionary[j]
        assert_close(x[i], expected, atol=1e-6, rtol=1e-5)


SEVERAL_MEANS = torch.tensor([3.0, 4.0, 5.0, 6.0, 8.0, 2.0])
SEVERAL_DEVIATIONS = torch.tensor([0.3, 0.5, 0.0, 0.8, 1.0, 0.1])


@pytest.mark.parametrize("probability", [0.1, 0.5])
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (torch.full((6,), 5.0), torch.full((6,), 0.5)),
        (SEVERAL_MEANS, torch.full((6,), 0.2)),
        (torch.full((6,), 9.0), SEVERAL_DEVIATIONS),
        (SEVERAL_MEANS, SEVERAL_DEVIATIONS),
        (SEVERAL_MEANS, torch.zeros(6)),
    ],
    ids=["equal", "means", "deviations", "both", "fixed"],
)
def test_magnitudes_have_their_means_and_deviations(mean, std, probability):
    synthetic = make_synthetic(probabilities=probability, magnitude_mean=mean, magnitude_std=std)
    coefficients = synthetic.coefficients(N, generator())
    assert_rates(coefficients > 0, [probability] * 6)  # 5 sigma
    for j in range(6):
        fired = coefficients[:, j][coefficients[:, j] > 0].double()
        spread, count = float(std[j]), len(fired)
        # 5 sigma of a mean and of a standard deviation of normals, and the rounding of float32
        assert abs(fired.mean() - mean[j]) < 5 * spread / math.sqrt(count) + 1e-5
        assert abs(fired.std() - spread) < 5 * spread / math.sqrt(2 * count) + 1e-5


def test_magnitudes_are_rectified():
    mean, std, p = torch.tensor([0.5, -0.2, -1.0]), torch.tensor([1.0, 0.7, 0.0]), 0.4
    synthetic = make_synthetic(3, probabilities=p, magnitude_mean=mean, magnitude_std=std)
    coefficients = synthetic.coefficients(N, generator())
    assert coefficients.min() == 0
    assert not coefficients[:, 2].any()
    for j in range(2):
        m, s = float(mean[j]), float(std[j])
        assert_rates(coefficients[:, [j]] > 0, [p * norm.cdf(m / s)])  # 5 sigma
        expected = p * (m * norm.cdf(m / s) + s * norm.pdf(m / s))
        of_one = float(coefficients[:, j].std()) / math.sqrt(N)
        assert abs(float(coefficients[:, j].double().mean()) - expected) < 5 * of_one


@pytest.mark.parametrize("mean", [-1.0, torch.tensor([-1.0, -2.0, 3.0])])
def test_features_of_negative_magnitude_never_fire(mean):
    synthetic = make_synthetic(3, probabilities=1.0, magnitude_mean=mean)
    expected = torch.as_tensor(mean).clamp(min=0).expand(20, 3)
    assert torch.equal(synthetic.coefficients(20, generator()), expected)


def test_magnitudes_are_independent_of_each_other():
    synthetic = make_synthetic(5, probabilities=1.0, magnitude_mean=8.0, magnitude_std=1.0)
    assert_independent(synthetic.coefficients(100_000, generator()))  # 5 sigma


def test_one_number_serves_all_features():
    several = torch.full((6,), 0.2)
    one = make_synthetic(probabilities=0.2, magnitude_mean=2.0, magnitude_std=0.2)
    all_ = make_synthetic(probabilities=several, magnitude_mean=10 * several, magnitude_std=several)
    assert one.n_features == 6
    assert torch.equal(one.probabilities, several)
    assert torch.equal(one.coefficients(100, generator()), all_.coefficients(100, generator()))


def test_modifiers_are_applied_in_their_order():
    def double(coefficients):
        return 2 * coefficients

    def add_one(coefficients):
        return coefficients + 1

    plain = make_synthetic().coefficients(100, generator())
    synthetic = make_synthetic(modifiers=(double, add_one))
    x, coefficients = synthetic.sample(100, generator())
    assert torch.equal(coefficients, 2 * plain + 1)
    assert_close(x, coefficients @ synthetic.dictionary)
    other = make_synthetic(modifiers=(add_one, double))
    assert torch.equal(other.coefficients(100, generator()), 2 * (plain + 1))


def test_bad_modifiers_are_named():
    def cut(coefficients):
        return coefficients[:, :-1]

    def break_one(coefficients):
        coefficients[3, 2] = float("nan")
        return coefficients

    def explode(coefficients):
        return coefficients + float("inf")

    with pytest.raises(ValueError, match=r"modifier cut made \(10, 5\) of \(10, 6\)"):
        make_synthetic(modifiers=(cut,)).coefficients(10, generator())
    for bad in (break_one, explode):
        with pytest.raises(ValueError, match=f"modifier {bad.__name__} returned NaN or infinite"):
            make_synthetic(modifiers=(torch.relu, bad)).sample(10, generator())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": 1.2}, r"probabilities must lie in \[0, 1\], got values from 1\.2"),
        ({"probabilities": -0.1}, r"probabilities must lie in \[0, 1\]"),
        ({"probabilities": float("nan")}, r"probabilities must lie in \[0, 1\]"),
        ({"probabilities": torch.tensor([0.1] * 5 + [2.0])}, "got values from 0.1 to 2"),
        ({"probabilities": torch.ones(5)}, r"probabilities must be one number or \(6,\), got"),
        ({"magnitude_mean": torch.ones(7)}, r"magnitude_mean must be .* got \(7,\)"),
        ({"magnitude_std": torch.ones(6, 1)}, r"magnitude_std must be .* got \(6, 1\)"),
        ({"magnitude_std": -1.0}, "magnitude_std must be >= 0, got values from -1 to -1"),
        ({"bias": torch.zeros(6)}, r"bias must be \(8,\), got \(6,\)"),
        (
            {"correlation": Correlation(torch.zeros(5, 2))},
            "the correlation is made for 5 features, the dictionary has 6",
        ),
        (
            {"hierarchy": Hierarchy([Node(0)], 7)},
            "the hierarchy is made for 7 features, the dictionary has 6",
        ),
    ],
)
def test_bad_features(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        make_synthetic(**options)


@pytest.mark.parametrize("kind", ["sparse", "correlated", "hierarchy"])
def test_firing_rates_are_those_of_all_samples_together(kind):
    synthetic = make_synthetic(magnitude_std=0.1, **kinds_of_features()[kind])
    n_samples = 2 * CHUNK + 1000
    rates, correlations = synthetic.firing_rates(n_samples, generator(2))
    of = generator(2)
    fires = torch.cat([synthetic.coefficients(n, of) > 0 for n in (CHUNK, CHUNK, 1000)])
    assert_close(rates, fires.float().mean(0))
    assert_close(correlations, torch.corrcoef(fires.T.double()).float(), atol=1e-5, rtol=0)


def test_firing_rates_are_the_probabilities():
    p = torch.tensor([0.0, 1.0, 0.1, 0.3, 0.02, 0.5])
    rates, correlations = make_synthetic(probabilities=p).firing_rates(100_000, generator())
    deviation = (p * (1 - p) / 100_000).sqrt()
    assert ((rates - p).abs() <= 5 * deviation).all()  # 5 sigma
    assert torch.isfinite(correlations).all()
    off_diagonal = correlations[2:, 2:] - torch.eye(4)
    assert off_diagonal.abs().max() < 5 / math.sqrt(100_000)  # 5 sigma
    assert not correlations[:2].any()  # what never changes is correlated with nothing


# --- features that turn ---


def interference(vectors, action):
    """Sum of fourth powers of the cosines between different orbits, and the largest cosine."""
    fourth, largest = 0.0, 0.0
    for element in range(action.group.order):
        cosines = action.act(vectors, element) @ vectors.T
        cosines.fill_diagonal_(0)
        fourth += float(cosines.pow(4).sum())
        largest = max(largest, float(cosines.abs().max()))
    return fourth, largest


def random_unit(n, d, seed):
    rows = torch.randn(n, d, generator=generator(seed))
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["rotation", "shift"])
def test_orbits_interfere_less_than_random_ones(kind):
    action = make_action(4, 16, generator(), kind)
    features = make_orbit_features(8, action, generator())
    assert features.shape == (8, 16) and not features.requires_grad
    assert_close(features.norm(dim=1), torch.ones(8))
    fourth, largest = interference(features, action)
    drawn_ones = [interference(random_unit(8, 16, seed), action) for seed in range(20)]
    assert fourth < 0.5 * min(each for each, _ in drawn_ones)
    assert largest < min(each for _, each in drawn_ones)


def test_orbits_interfere_less_than_those_of_plain_features():
    action = make_action(4, 16, generator())
    of_orbits = make_orbit_features(8, action, generator())
    plain = make_features(8, 16, generator())  # orthonormal, but not to each other's orbits
    assert interference(of_orbits, action)[0] < 0.5 * interference(plain, action)[0]


def test_stabilisers_leave_their_features_as_they_are():
    action = make_action(4, 16, generator(), "shift")
    stabilisers = [0, 2, 1, 3, 2, 0]
    features = make_orbit_features(6, action, generator(), stabilisers, steps=100)
    assert_close(features.norm(dim=1), torch.ones(6))
    for feature, element in zip(features, stabilisers, strict=True):
        assert_close(action.act(feature, element), feature, atol=1e-5, rtol=0)
        orbit = action.orbit(feature)
        distances = torch.cdist(orbit, orbit)
        n_points = len({tuple((row < 1e-3).tolist()) for row in distances})
        assert n_points == math.gcd(4, element)
    # within what is left as it is, features are still kept apart
    fourth, _ = interference(features, action)
    unspread = make_orbit_features(6, action, generator(), stabilisers, steps=0)
    assert fourth < interference(unspread, action)[0]


def test_stabilisers_of_a_rotation_and_of_a_dihedral_group(d4_action):
    action = make_action(8, 16, generator(1))
    (feature,) = make_orbit_features(1, action, generator(), [4], steps=10)
    assert_close(action.act(feature, 4), feature, atol=1e-5, rtol=0)
    assert (action.act(feature, 1) - feature).norm() > 0.1
    features = make_orbit_features(3, d4_action, generator(), [4, 5, 0], steps=50)
    for feature, element in zip(features, [4, 5, 0], strict=True):
        assert_close(d4_action.act(feature, element), feature, atol=1e-5, rtol=0)
        assert feature.norm() == pytest.approx(1, abs=1e-5)


def test_seeds_decide_the_orbit_features():
    action = make_action(4, 8, generator())
    first, again, other = (make_orbit_features(3, action, generator(s), steps=5) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("stabilisers", "message"),
    [
        ([0, 0], "3 features need as many stabilisers, got 2"),
        ([0, 1, 0], r"element 1 leaves no direction of R\^8 as it is"),
        ([0, 0, 4], "C4 has elements 0 to 3, got 4"),
        ([0, 0, -1], "C4 has elements 0 to 3, got -1"),
    ],
)
def test_bad_stabilisers(stabilisers, message):
    with pytest.raises(ValueError, match=message):
        make_orbit_features(3, make_action(4, 8, generator()), generator(), stabilisers)


# --- streams ---


@pytest.mark.parametrize("kind", ["sparse", "independent", "both"])
def test_streams_draw_new_samples_in_every_epoch_and_the_same_ones_again(kind):
    synthetic = make_synthetic(magnitude_std=0.2, **kinds_of_features()[kind])
    stream = Stream(synthetic, 200, seed=3)
    epochs = [stream(epoch) for epoch in range(4)]
    assert all(epoch.shape == (200, 1, 8) and epoch.dtype == torch.float32 for epoch in epochs)
    others = [Stream(synthetic, 200, seed)(0) for seed in (2, 4)]
    for one, other in itertools.combinations([*epochs, *others], 2):
        assert not torch.equal(one, other)
        assert not torch.equal(one[:10], other[:10])
    resumed = Stream(synthetic, 200, seed=3)
    assert torch.equal(resumed(2), epochs[2]) and torch.equal(stream(2), epochs[2])
    assert torch.equal(stream.to("cpu")(1), epochs[1])


def test_seeds_and_epochs_of_streams_do_not_repeat_each_other():
    synthetic = make_synthetic(probabilities=0.5, magnitude_std=1.0)
    first = {
        tuple(Stream(synthetic, 2, seed)(epoch).flatten().tolist())
        for seed in range(10)
        for epoch in range(20)
    }
    assert len(first) == 200


@pytest.mark.parametrize(("order", "kind"), [(4, "rotation"), (2, "shift"), (1, "rotation")])
def test_streams_of_orbits_are_what_the_action_makes_of_the_samples(order, kind):
    synthetic = make_synthetic(magnitude_std=0.2, bias=torch.linspace(-1, 1, 8))
    action = make_action(order, 8, generator(), kind)
    orbits = Stream(synthetic, 100, 3, action)(1)
    assert orbits.shape == (100, order, 8)
    points = Stream(synthetic, 100, 3)(1)[:, 0]
    assert_close(orbits, action.orbit(points))
    for element in range(order):
        assert_close(orbits[:, element], action.act(points, element), atol=1e-6, rtol=1e-5)


def test_samples_of_a_stream_are_sums_of_features_that_fire_with_their_probabilities():
    synthetic = make_synthetic(probabilities=torch.linspace(0.05, 0.3, 6))
    x = Stream(synthetic, 100_000, seed=0)(0)[:, 0]
    coefficients = x @ synthetic.dictionary.T  # the dictionary is orthonormal
    assert_close(coefficients, coefficients.round(), atol=1e-5, rtol=0)
    assert_rates(coefficients.round(), synthetic.probabilities)  # 5 sigma
