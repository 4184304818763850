"""Activations with known features: every rate is counted, every formula has a slow twin.

Statistical bounds are in standard deviations of what is counted. Seeds are fixed; over seeds,
a bound of 5 sigma fails a right answer with probability 6e-7 for each number that is compared.
"""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

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
    firing,
    firing_probabilities,
    low_rank_correlation,
    make_features,
    make_orbit_features,
    nearest_correlation,
    random_correlation,
)
from saehelpers.datasets.synthetic.features import CHUNK
from saehelpers.datasets.toy import make_action
from saehelpers.runs import identity

N = 200_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_rates(fires, probabilities, sigmas=5.0):
    """Counted rates lie within some standard deviations of binomial counts; 0 and 1 exactly."""
    p = torch.as_tensor(probabilities).double()
    deviation = (p * (1 - p) / len(fires)).sqrt()
    distance = (fires.double().mean(0) - p).abs()
    assert (distance <= sigmas * deviation).all(), (distance / deviation).tolist()


def assert_independent(values, lags=(0, 1, 2, 3), sigmas=5.0):
    """No correlation between features, nor between any two of successive samples."""
    x = values.double() - values.double().mean(0)
    x = x / x.pow(2).mean(0).sqrt()
    for lag in lags:  # a correlation of independent samples has deviation 1 / sqrt(n)
        found = x[: len(x) - lag].T @ x[lag:] / len(x) - (lag == 0) * torch.eye(x.shape[1])
        assert found.abs().max() < sigmas / math.sqrt(len(x))


def assert_fire_together(fires, probabilities, matrix, sigmas=5.0):
    """The firings' correlations are those of the bivariate normal distribution."""
    for i, j in itertools.combinations(range(len(probabilities)), 2):
        p, q, r = probabilities[i], probabilities[j], float(matrix[i, j])
        together = multivariate_normal([0, 0], [[1, r], [r, 1]]).cdf(norm.ppf([p, q]))
        spread = math.sqrt(p * (1 - p) * q * (1 - q))
        products = (fires[:, i].double() - p) * (fires[:, j].double() - q) / spread
        bound = sigmas * float(products.std()) / math.sqrt(len(fires))
        assert abs(float(products.mean()) - (together - p * q) / spread) < bound


# --- probabilities, firing and correlations ---


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("constant", {}, [0.4, 0.4, 0.4, 0.4]),
        ("linear", {"smallest": 0.1}, [0.4, 0.3, 0.2, 0.1]),
        ("zipfian", {}, [0.4, 0.4 / 3, 0.4 / 9, 0.0]),  # of 1, 1/2, 1/3, 1/4, moved and scaled
        ("zipfian", {"exponent": 2.0, "smallest": 0.1}, [0.4, 0.16, 0.1 + 0.7 / 45, 0.1]),
        *[(kind, {"smallest": 0.1}, [0.4]) for kind in ("constant", "linear", "zipfian")],
    ],
)
def test_probabilities_of_a_kind(kind, options, expected):
    p = firing_probabilities(kind, len(expected), 0.4, **options)
    assert p.tolist() == pytest.approx(expected, abs=1e-6)


def test_random_probabilities_are_uniform_between_their_ends():
    p = firing_probabilities("random", 100_000, 0.5, 0.1, generator=generator())
    assert p.min() >= 0.1 and p.max() <= 0.5
    assert_rates(p[:, None] < torch.tensor([0.2, 0.3, 0.4]), [0.25, 0.5, 0.75])  # 5 sigma
    assert torch.equal(p, firing_probabilities("random", 100_000, 0.5, 0.1, 1.0, generator()))


def skipped_to(probabilities, n_samples, of):
    """`sparse_firing` in the form of the other two; its positions are sorted and unique."""
    positions = firing.sparse_firing(probabilities, n_samples, of)
    fires = torch.zeros(n_samples * len(probabilities), dtype=torch.bool)
    assert positions.dtype == torch.int64 and (positions[1:] > positions[:-1]).all()
    assert ((positions >= 0) & (positions < len(fires))).all()
    fires[positions] = True
    return fires.view(n_samples, len(probabilities))


@pytest.mark.parametrize("draw", [firing.independent_firing, skipped_to])
@pytest.mark.parametrize(
    "probabilities",
    [
        [0.07] * 12,
        [0.13, 0.15, 0.18, 0.2, 0.24],  # one class of like probabilities
        [0.0, 1.0, 0.999, 0.0, *firing_probabilities("zipfian", 20, 0.4, 0.001).tolist()],
        [0.0, 0.0],
        [1.0],
    ],
)
def test_independent_firing_has_its_probabilities(draw, probabilities):
    p = torch.tensor(probabilities)
    fires = draw(p, N, generator())
    assert fires.shape == (N, len(p)) and fires.dtype == torch.bool
    assert_rates(fires, p)  # 5 sigma for each feature
    undecided = (p > 0) & (p < 1)
    if undecided.any():
        assert_independent(fires[:, undecided])  # 5 sigma for each pair, at lags 0 to 3
    for n_samples in range(4):
        assert draw(p, n_samples, generator()).shape == (n_samples, len(p))


@pytest.mark.parametrize("draw", [firing.independent_firing, skipped_to])
@pytest.mark.parametrize("p", [1e-5, 2.0**-17, 2.3e-5])
def test_tiny_probabilities_are_exact(draw, p):
    """Also between the multiples of 2^-16, among which sixteen random bits decide."""
    for q in (p, 1 - p) if draw is firing.independent_firing else (p,):
        fires = draw(torch.full((20,), q), 1_000_000, generator())
        assert_rates(fires.view(-1, 1), [q])  # 5 sigma, of 150 to 460 (not) firing


def low_rank_factor(n_features, rank):
    factor = torch.randn(n_features, rank, generator=generator())
    norms = torch.linspace(0.3, 0.95, n_features)
    return factor / factor.norm(dim=1, keepdim=True) * norms[:, None]


def on_top(drawing, n, n_samples=N):
    """Firings of n features, drawn together."""
    fires, of = torch.zeros(n_samples * n, dtype=torch.bool), generator()
    fires[drawing.begin(n_samples, of).on_top(n_samples, of)] = True
    return fires.view(n_samples, n)


def one_by_one(drawing, n):
    """Firings of n features, asked for in an order of their own."""
    of = generator()
    order = torch.randperm(N * n, generator=of)
    fires = torch.zeros(N * n, dtype=torch.bool)
    fires[order] = drawing.begin(N, of).at(order // n, order % n, of)
    return fires.view(N, n)


@pytest.mark.parametrize("draw", [on_top, one_by_one])
@pytest.mark.parametrize("kind", [firing.CorrelatedFiring, firing.LowRankFiring])
@pytest.mark.parametrize("dense", [False, True])
def test_correlated_firing_keeps_rates_and_correlates_as_the_bivariate_normal(dense, kind, draw):
    factor = low_rank_factor(8, 2)
    matrix = (factor @ factor.T).fill_diagonal_(1.0)
    correlation = Correlation.dense(matrix) if dense else Correlation(factor)
    assert_close(correlation.matrix, matrix, atol=1e-5, rtol=0)
    p = [0.3, 0.05, 0.6, 0.1, 0.85, 0.001, 0.0, 1.0]
    fires = draw(kind(torch.tensor(p), torch.arange(8), correlation), 8)
    assert_rates(fires, p)  # 5 sigma
    assert_fire_together(fires, p[:5], matrix)  # 5 sigma
    assert_independent(fires[:, :5], lags=(1, 2, 3))  # 5 sigma
    g = correlation.normals(N, generator())
    # a covariance of unit normals has a variance of (1 + r^2) / n, at most 2 / n: 5 sigma
    assert_close(g.T @ g / N, matrix, atol=5 * math.sqrt(2 / N), rtol=0)


@pytest.mark.parametrize("dense", [False, True])
def test_duplicate_features_of_a_singular_matrix_fire_together(dense):
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])
    matrix, p = rows @ rows.T, torch.tensor([0.3, 0.3, 0.7, 0.3])
    correlation = Correlation.dense(matrix) if dense else Correlation(rows)
    assert_close(correlation.matrix, matrix, atol=1e-5, rtol=0)
    fires = on_top(firing.CorrelatedFiring(p, torch.arange(4), correlation), 4)
    assert_rates(fires, p)  # 5 sigma
    # rounding parts them where g is within 1e-6 of the threshold: 0.1 samples expected
    assert (fires[:, 0] != fires[:, 1]).sum() <= 3
    assert (fires[:, 0] == fires[:, 2]).sum() <= 3  # the opposite feature
    assert_fire_together(fires[:, 2:], p[2:].tolist(), matrix[2:, 2:])  # 5 sigma


def test_low_ranks_are_drawn_one_by_one_in_samples_that_share_what_they_share():
    """Also of many features whose probabilities lie far apart, in blocks of samples."""
    correlation, n = low_rank_correlation(600, 5, 0.15, generator()), 40_000
    p = firing_probabilities("zipfian", 600, 0.4, 0.002, 0.5)
    drawing = firing.LowRankFiring(p, torch.arange(600), correlation)
    fires = on_top(drawing, 600, n)
    assert_rates(fires, p)  # 5 sigma
    assert_fire_together(fires[:, :6], p[:6].tolist(), correlation.matrix[:6, :6])  # 5 sigma
    assert_independent(fires[:, :40], lags=(1, 2, 3))  # 5 sigma
    # what is asked for one by one is correlated with what is drawn together
    of = generator()
    begun, first = drawing.begin(n, of), torch.zeros(n * 600, dtype=torch.bool)
    first[begun.on_top(n, of)] = True
    second = begun.at(torch.arange(n), torch.ones(n, dtype=torch.long), of)
    both = torch.stack([first.view(n, 600)[:, 0], second], 1)
    assert_fire_together(both, p[:2].tolist(), correlation.matrix[:2, :2])  # 5 sigma


def test_random_low_rank_correlations_have_their_scale():
    correlation = low_rank_correlation(2000, 25, 0.1, generator())
    pairs = correlation.matrix[tuple(torch.triu_indices(2000, 2000, 1))]
    assert abs(pairs.std() / (0.1**2 * 5) - 1) < 0.02
    assert_close(correlation.matrix.diagonal(), torch.ones(2000))


def indefinite(n, seed=0):
    """Symmetric, of unit diagonal, and no correlation matrix."""
    of, matrix = generator(seed), torch.eye(n)
    while torch.linalg.eigvalsh(matrix)[0] > -0.1:
        upper = (1.8 * torch.rand(n, n, generator=of) - 0.9).triu(1)
        upper[torch.rand(n, n, generator=of) < 0.3] = 0
        matrix = upper + upper.T + torch.eye(n)
    return matrix


def assert_correlation(matrix):
    """Symmetric, of unit diagonal, and without negative eigenvalues."""
    assert torch.equal(matrix.diagonal(), torch.ones(len(matrix)))
    assert_close(matrix, matrix.T, atol=1e-6, rtol=0)
    assert torch.linalg.eigvalsh(matrix.double())[0] >= 0


def test_random_correlations_are_valid_also_where_too_much_is_asked():
    matrix, report = random_correlation(300, 0.5, (0.4, 0.9), generator(), negative=0.3)
    assert_correlation(matrix)
    assert_close(Correlation.dense(matrix).matrix, matrix, atol=1e-5, rtol=0)
    assert report.smallest_eigenvalue < -0.1
    assert 0 < report.made_strength < report.asked_strength
    assert 0 < report.mean_change < report.largest_change


def test_random_correlations_have_density_strength_and_signs_as_asked():
    matrix, report = random_correlation(300, 0.3, (0.02, 0.03), generator(), negative=0.25)
    assert report.largest_change == report.mean_change == 0  # valid, and left as it is
    pairs = matrix[tuple(torch.triu_indices(300, 300, 1))]
    chosen = pairs[pairs != 0]
    assert_rates((pairs != 0)[:, None], [0.3])  # 5 sigma
    assert_rates((chosen < 0)[:, None], [0.25])  # 5 sigma
    assert chosen.abs().min() >= 0.02 and chosen.abs().max() <= 0.03
    assert_rates((chosen.abs() < 0.025)[:, None], [0.5])  # 5 sigma


def test_reports_agree_with_what_numpy_counts():
    asked = indefinite(256)
    made, report = nearest_correlation(asked)
    upper = np.triu_indices(256, 1)
    a, m = asked.double().numpy()[upper], made.double().numpy()[upper]
    expected = {
        "asked_strength": np.abs(a[a != 0]).mean(),
        "made_strength": np.abs(m[a != 0]).mean(),
        "asked_density": (np.abs(a) > 0.01).mean(),
        "made_density": (np.abs(m) > 0.01).mean(),
        "largest_change": np.abs(a - m).max(),
        "mean_change": np.abs(a - m).mean(),
        "smallest_eigenvalue": np.linalg.eigvalsh(asked.double().numpy())[0],
    }
    assert vars(report) == pytest.approx(expected, abs=1e-6)


def test_nearest_correlation_of_highams_example():
    """The worked example of Higham (2002), section 4."""
    asked = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    made, _ = nearest_correlation(asked, smallest_eigenvalue=1e-8)
    near, far = 0.7607, 0.1573
    expected = torch.tensor([[1, near, far], [near, 1, near], [far, near, 1]])
    assert_close(made, expected, atol=1e-3, rtol=0)
    assert (made - asked).norm().item() == pytest.approx(0.5278, abs=1e-3)


def raised(matrix):
    """The nearest matrix in numpy whose eigenvalues are 1e-4 or more."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values.clip(min=1e-4)) @ vectors.T


@pytest.mark.parametrize("seed", range(4))
def test_nearest_correlation_is_as_near_as_many_slow_iterations_bring_it(seed):
    """Alternating projections (Higham 2002, algorithm 3.3), many of them."""
    slow = asked = indefinite(4 + seed, seed).double().numpy()
    correction = np.zeros_like(asked)
    for _ in range(500):
        x = raised(slow - correction)
        correction, slow = x - (slow - correction), x.copy()
        np.fill_diagonal(slow, 1.0)
    made = nearest_correlation(indefinite(4 + seed, seed))[0].double().numpy()
    assert np.linalg.norm(made - asked) <= 1.001 * np.linalg.norm(slow - asked)
    assert np.abs(made - slow).max() < 1e-3


@pytest.mark.parametrize("n", [8, 256])
def test_nearest_correlation_is_valid_and_nearer_than_rescaled_eigenvalues(n):
    asked = indefinite(n)
    made, _ = nearest_correlation(asked)
    assert_correlation(made)
    made, asked = made.double().numpy(), asked.double().numpy()
    clipped = raised(asked)
    clipped /= np.sqrt(np.outer(clipped.diagonal(), clipped.diagonal()))
    assert np.linalg.norm(made - asked) < np.linalg.norm(clipped - asked)


def test_nearest_correlation_is_valid_also_of_odd_matrices():
    """Unconverged, from another diagonal, and of one feature alone."""
    for iterations in (0, 1, 3):
        assert_correlation(nearest_correlation(indefinite(20), max_iterations=iterations)[0])
    assert_correlation(nearest_correlation(torch.tensor([[2.0, 0.5], [0.5, 2.0]]))[0])
    assert_correlation(nearest_correlation(torch.ones(1, 1))[0])


# --- hierarchies ---


def leaves(*features):
    return [Node(feature) for feature in features]


def one_of(*features):
    return Node(children=leaves(*features), exclusive=True)


def nested_roots():
    """Exclusive groups of two sizes and organisational nodes at several depths."""
    inner = Node(children=[Node(3), Node(4, leaves(7))], exclusive=True, name="inner")
    pair = Node(children=leaves(9, 10), name="pair")
    return [
        Node(0, [Node(1, leaves(5, 6), exclusive=True), Node(2), inner], exclusive=True),
        Node(children=[Node(8), pair, Node(11)], exclusive=True, name="outer"),
    ]


NESTED = Hierarchy(nested_roots(), 13)  # no tree holds feature 12
NESTED_P = torch.full((13,), 0.5)


def random_roots(features, of):
    """Random trees that hold every feature, some of them in organisational nodes."""
    roots = []
    while features:
        size, grouped = of.randint(1, len(features)), of.random() < 0.3
        children = random_roots(features[:size] if grouped else features[1:size], of)
        exclusive = len(children) > 1 and of.random() < 0.7
        roots.append(Node(None if grouped else features[0], children, exclusive))
        features = features[size:]
    return roots


def drawn(hierarchy, probabilities):
    """Firings before and after the hierarchy, which asks for none of the first twice."""
    of = generator()
    before = firing.independent_firing(probabilities, N, of)
    asked = torch.zeros(before.shape, dtype=torch.int8)

    def draw(samples, features):
        asked[samples, features] += 1
        return before[samples, features].float()

    samples, features = before[:, hierarchy.top].nonzero(as_tuple=True)
    top = samples, hierarchy.top[features], torch.ones(len(samples))
    found = hierarchy.descend(N, top, draw, torch.ones(hierarchy.n_features), of)
    assert asked.max() <= 1 and not asked[:, hierarchy.top].any()
    fires = torch.zeros_like(before)
    fires[found[:2]] = True
    assert fires.sum() == len(found[0])  # no firing is named twice
    return before, fires


def outcomes(nodes, exclusive, own):
    """Sets of features that may fire, and how likely, by the docstring: `own` is what would."""

    def would(node):
        return any(map(would, node.children)) if node.feature is None else own[node.feature]

    candidates = [node for node in nodes if would(node)]
    choices = [[node] for node in candidates] if exclusive and candidates else [candidates]
    found = Counter()
    for choice in choices:
        below = [outcomes(node.children, node.exclusive, own).items() for node in choice]
        features = {node.feature for node in choice} - {None}
        for parts in itertools.product(*below):
            fires = frozenset(features.union(*[part for part, _ in parts]))
            found[fires] += math.prod(chance for _, chance in parts) / len(choices)
    return found


FORESTS = {  # trees, the features that no tree holds, and the number of all features
    "nested": (nested_roots(), [12], 13),
    "no tree": ([], [0, 1], 2),
    "empty groups": ([Node(0, [Node(name="empty")]), Node(name="empty")], [1], 2),
    "groups": ([Node(children=[Node(0), Node(children=leaves(1))])], [], 2),
    **{str(seed): (random_roots(range(9), random.Random(seed)), [], 9) for seed in range(6)},
}


@pytest.mark.parametrize("which", FORESTS)
def test_firing_and_effective_probabilities_are_those_of_brute_force(which):
    roots, free, n = FORESTS[which]
    hierarchy, roots = Hierarchy(roots, n), [*roots, *leaves(*free)]
    p = firing_probabilities("random", n, 0.9, 0.2, generator=generator(n))
    chances = torch.zeros(2**n, dtype=torch.float64)  # of every pattern of firings
    for own in itertools.product([False, True], repeat=n):
        chance = math.prod(q if fires else 1 - q for q, fires in zip(p.tolist(), own, strict=True))
        for features, share in outcomes(roots, False, own).items():
            chances[sum(2**feature for feature in features)] += chance * share
    powers = torch.arange(n)
    rates = chances @ (torch.arange(2**n)[:, None] >> powers & 1).double()
    assert_close(hierarchy.effective_probabilities(p).double(), rates, atol=1e-6, rtol=0)
    _, fires = drawn(hierarchy, p)
    assert_rates(fires, rates)  # 5 sigma
    counts = torch.bincount(fires.long() @ 2**powers, minlength=2**n)
    assert not counts[chances == 0].any()
    # 6 sigma, and 12 for the skewed counts of rare patterns: by Bernstein 3e-8
    assert ((counts - N * chances).abs() <= 6 * (N * chances).sqrt() + 12).all()


def test_children_fire_only_where_their_parents_do():
    before, fires = drawn(NESTED, NESTED_P)
    assert not (fires & ~before).any()
    assert torch.equal(fires[:, 12], before[:, 12])
    assert NESTED.parents() == {1: 0, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 4}
    for child, parent in NESTED.parents().items():
        assert not (fires[:, child] & ~fires[:, parent]).any()
        assert (fires[:, parent] & ~fires[:, child]).any()


def test_exclusive_children_never_fire_together_but_one_does_where_any_would():
    before, fires = drawn(NESTED, NESTED_P)
    for group in ([[1], [2], [3, 4]], [[3], [4]], [[5], [6]], [[8], [9, 10], [11]]):
        assert torch.stack([fires[:, member].any(1) for member in group]).sum(0).max() == 1
    assert (fires[:, 9] & fires[:, 10]).any()  # the pair only holds them together
    assert torch.equal(before[:, 8:12].any(1), fires[:, 8:12].any(1))
    assert torch.equal(before[:, 1:5].any(1) & before[:, 0], fires[:, 1:5].any(1))


@pytest.mark.parametrize("feature", [0, None])
def test_the_choice_is_uniform_among_the_exclusive_children_that_would_fire(feature):
    hierarchy = Hierarchy([Node(feature, leaves(1, 2, 3, 4), exclusive=True)], 5)
    before, fires = drawn(hierarchy, torch.tensor([1.0, 0.3, 0.5, 0.6, 0.8]))
    for pattern in itertools.product([False, True], repeat=4):
        same = fires[(before[:, 1:] == torch.tensor(pattern)).all(1), 1:]
        assert len(same) > 1000
        assert_rates(same, [would / max(sum(pattern), 1) for would in pattern])  # 5 sigma


def test_exclusive_groups_of_different_sizes_choose_independently():
    groups = [one_of(0, 1), one_of(2, 3, 4), one_of(5, 6, 7, 8), one_of(9, 10, 11)]
    for _ in range(20):  # beartype looks at one entry of a list, drawn by chance
        hierarchy = Hierarchy(groups, 12)
    _, fires = drawn(hierarchy, torch.ones(12))
    assert_rates(fires, [1 / size for size in (2, 3, 4, 3) for _ in range(size)])  # 5 sigma
    assert_independent(fires[:, [0, 2, 5, 9]])  # 5 sigma


def test_compensated_probabilities_are_undone_by_the_hierarchy():
    roots = [
        Node(0, [Node(1), Node(2, leaves(3)), Node(7)], exclusive=True),
        Node(children=[Node(4), Node(5, leaves(8, 9))], exclusive=True),
        Node(children=leaves(10, 11)),
        Node(12, leaves(13)),  # which fires as often as its parent
        one_of(14, 15),  # of which almost always one fires
        one_of(16, 17, 18, 19),
        one_of(20, 21, 22),
    ]
    targets = [0.5, 0.2, 0.15, 0.1, 0.3, 0.65, 0.05, 0.1, 0.6, 0.2, 0.9, 0.3, 0.3, 0.3]
    targets = torch.tensor([*targets, 0.5, 0.499, 0.99, 0.003, 0.003, 0.003, 0.0, 0.5, 0.4])
    hierarchy = Hierarchy(roots, len(targets))
    p = hierarchy.compensated_probabilities(targets)
    assert ((p >= targets) & (p <= 1)).all()
    assert_close(hierarchy.effective_probabilities(p), targets, atol=1e-6, rtol=1e-5)
    assert_rates(drawn(hierarchy, p)[1], targets)  # 5 sigma


def test_rough_compensation_is_that_of_its_equation():
    """By a plain loop, with one probability that is cut at 1."""
    roots = [Node(0, [Node(1), Node(2, leaves(3, 4))], exclusive=True), Node(None, leaves(5))]
    targets = torch.tensor([0.5, 0.2, 0.1, 0.09, 0.04, 0.3, 0.0])
    expected = [0.5, 0.4 * 1.2, 0.2 * 1.4, 0.9, 0.4, 0.3, 0.0]
    found = Hierarchy(roots, 7).roughly_compensated(targets)
    assert_close(found, torch.tensor(expected))
    crowded = Hierarchy([Node(0, leaves(1, 2, 3), exclusive=True)], 4)
    found = crowded.roughly_compensated(torch.tensor([0.5, 0.4, 0.3, 0.0]))
    assert_close(found, torch.tensor([0.5, 1.0, 1.0, 0.0]))


def test_trees_are_printed():
    animal = Node(0, [Node(1, leaves(2)), Node(3, name="dog")], exclusive=True, name="animal")
    rest = Node(children=[one_of(5, 6), Node(4)])
    lines = ["0 animal (one of)", "├── 1", "│   └── 2", "└── 3 dog"]
    lines += ["group", "├── group (one of)", "│   ├── 5", "│   └── 6", "└── 4"]
    assert str(Hierarchy([animal, rest], 7)).split("\n") == lines


def test_trees_may_be_dicts_and_come_one_by_one():
    mixed = {"children": [{"feature": 1}, Node(2)], "name": "mixed"}
    of_dicts = Hierarchy([{"feature": 0, "exclusive": True, "children": [mixed, Node(3)]}], 4)
    group = Node(children=(Node(1), Node(2)), name="mixed")
    assert of_dicts.roots == [Node(0, (group, Node(3)), exclusive=True)]
    assert of_dicts.parents() == {1: 0, 2: 0, 3: 0}
    # nodes are told apart by their id, which a node that is gone leaves to another
    trees = ({"feature": f, "children": [{"feature": f + 50}]} for f in range(50))
    assert Hierarchy(trees, 100).parents() == {f + 50: f for f in range(50)}


# --- features ---


def make_synthetic(n_features=6, d=8, probabilities=0.1, **options) -> SyntheticFeatures:
    return SyntheticFeatures(make_features(n_features, d, generator()), probabilities, **options)


TREE = {"hierarchy": Hierarchy([Node(0, leaves(1, 2), exclusive=True)], 6)}
COPULA = {"correlation": Correlation(low_rank_factor(6, 2))}
KINDS = {  # firing is drawn in each of the ways there are
    "sparse": {"probabilities": 0.1},
    "independent": {"probabilities": 0.4},
    "correlated": {"probabilities": 0.1, **COPULA},
    "hierarchy": {"probabilities": 0.3, **TREE},
    "sparse hierarchy": {"probabilities": 0.1, **TREE},
    "both": {"probabilities": 0.3, **COPULA, **TREE},
}
MEANS = torch.tensor([3.0, 4.0, 5.0, 6.0, 8.0, 2.0])
DEVIATIONS = torch.tensor([0.3, 0.5, 0.0, 0.8, 1.0, 0.1])


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_fire_with_their_probabilities(kind):
    synthetic = make_synthetic(**KINDS[kind])
    coefficients = synthetic.coefficients(N, generator())
    assert set(coefficients.unique().tolist()) == {0.0, 1.0}
    expected = synthetic.probabilities
    if synthetic.hierarchy is not None:
        assert not (coefficients[:, 1] * coefficients[:, 2]).any()
        assert (coefficients[:, [1, 2]] <= coefficients[:, [0]]).all()
        expected = synthetic.hierarchy.effective_probabilities(expected)
    counted = [0, 3, 4, 5] if kind == "both" else list(range(6))  # 1 and 2 have no closed form
    assert_rates(coefficients[:, counted], expected[counted])  # 5 sigma
    if synthetic.correlation is not None:
        p, matrix = synthetic.probabilities[3:].tolist(), synthetic.correlation.matrix[3:, 3:]
        assert_fire_together(coefficients[:, 3:], p, matrix)  # 5 sigma


def test_samples_are_sums_of_their_features_and_the_bias():
    bias = torch.linspace(-1, 1, 8)
    synthetic = make_synthetic(probabilities=0.4, magnitude_std=0.5, bias=bias)
    x, coefficients = synthetic.sample(60, generator())
    assert x.shape == (60, 8) and coefficients.shape == (60, 6)
    for point, row in zip(x, coefficients, strict=True):
        parts = [c * feature for c, feature in zip(row, synthetic.dictionary, strict=True)]
        assert_close(point, sum(parts, bias), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("probability", [0.1, 1.0])
@pytest.mark.parametrize(
    ("mean", "std"),
    [(5.0, 0.5), (MEANS, 0.2), (9.0, DEVIATIONS), (MEANS, 0.0)],
    ids=["equal", "means", "deviations", "fixed"],
)
def test_magnitudes_have_their_means_and_deviations(mean, std, probability):
    synthetic = make_synthetic(probabilities=probability, magnitude_mean=mean, magnitude_std=std)
    coefficients = synthetic.coefficients(N, generator())
    assert_rates(coefficients > 0, [probability] * 6)  # 5 sigma
    means, deviations = torch.as_tensor(mean).expand(6), torch.as_tensor(std).expand(6)
    for column, centre, spread in zip(coefficients.T, means, deviations, strict=True):
        fired = column[column > 0].double()
        # 5 sigma of a mean and of a standard deviation of normals, and the rounding of float32
        assert abs(fired.mean() - centre) < 5 * spread / math.sqrt(len(fired)) + 1e-5
        assert abs(fired.std() - spread) < 5 * spread / math.sqrt(2 * len(fired)) + 1e-5
    if probability == 1 and deviations.all():
        assert_independent(coefficients)  # 5 sigma


def test_magnitudes_are_rectified():
    mean, std, p = torch.tensor([0.5, -0.2, -1.0]), torch.tensor([1.0, 0.7, 0.0]), 0.4
    synthetic = make_synthetic(3, probabilities=p, magnitude_mean=mean, magnitude_std=std)
    coefficients = synthetic.coefficients(N, generator()).double()
    assert coefficients.min() == 0 and not coefficients[:, 2].any()
    for column, m, s in zip(coefficients.T[:2], mean.tolist(), std.tolist(), strict=False):
        assert_rates(column[:, None] > 0, [p * norm.cdf(m / s)])  # 5 sigma
        expected = p * (m * norm.cdf(m / s) + s * norm.pdf(m / s))
        assert abs(column.mean() - expected) < 5 * column.std() / math.sqrt(N)
    never = make_synthetic(probabilities=1.0, magnitude_mean=-1.0)
    assert not never.coefficients(20, generator()).any()


def family_tree(n_features=7) -> Hierarchy:
    """Feature 0 above 1 and 2, exclusive; 1 above 3; 6 above a group with 4; 4 above 5."""
    group = Node(None, [Node(4, leaves(5))])
    first = Node(0, [Node(1, leaves(3)), *leaves(2)], exclusive=True)
    return Hierarchy([first, Node(6, [group])], n_features)


@pytest.mark.parametrize("correlation", [None, Correlation(low_rank_factor(7, 2))])
def test_a_child_is_silent_where_its_parents_magnitude_is_zero(correlation):
    """Without it, one in six of all parents that fire would leave children behind."""
    tree = family_tree()
    synthetic = make_synthetic(
        7, probabilities=0.7, magnitude_std=1.0, hierarchy=tree, correlation=correlation
    )
    n_orphans, of = 0, generator()
    for _ in range(10):
        fires = synthetic.coefficients(100_000, of) > 0
        n_orphans += sum(int((fires[:, c] & ~fires[:, p]).sum()) for c, p in tree.parents().items())
        assert fires.any(0).all()
    assert tree.parents() == {1: 0, 2: 0, 3: 1, 4: 6, 5: 4}
    assert n_orphans == 0


def test_features_are_told_from_those_of_releases_that_drew_them_otherwise():
    """Those below others, and those of a low rank."""
    of_low_rank = Correlation(low_rank_factor(7, 1))
    told = {}
    for tree, correlation in itertools.product((None, family_tree()), (None, of_low_rank)):
        synthetic = make_synthetic(7, hierarchy=tree, correlation=correlation)
        now = identity(synthetic)
        object.__setattr__(synthetic, "drawing", 1)
        told[tree is not None, correlation is not None] = now == identity(synthetic)
    assert told == {(False, False): True, (True, False): False, (False, True): False,
                    (True, True): False}  # fmt: skip


@pytest.mark.parametrize("correlation", [None, Correlation(low_rank_factor(7, 1))])
def test_exclusion_chooses_among_what_fires_with_a_magnitude(correlation):
    """A sibling whose magnitude is 0 keeps no other from firing."""
    tree = Hierarchy([Node(0, leaves(1, 2), exclusive=True)], 7)
    synthetic = make_synthetic(
        7, probabilities=1.0, hierarchy=tree, correlation=correlation,
        magnitude_mean=torch.tensor([1.0, -1, 1, 1, 1, 1, 1]),
    )  # fmt: skip
    fires = synthetic.coefficients(500, generator()) > 0
    assert fires[:, 2].all() and not fires[:, 1].any()


def test_children_are_scaled_by_their_parents_over_their_means():
    """By the nearest feature above, level by level, and by a plain loop over the samples."""
    group = Node(None, [Node(3)], scales=True)
    tree = Node(0, [Node(1, [Node(2)], scales=True), group], scales=True)
    means = torch.tensor([2.0, 3.0, 4.0, 5.0, 1.0, 1.0])
    settings = {"probabilities": 0.8, "magnitude_mean": means, "magnitude_std": 0.5}
    scaled = make_synthetic(**settings, hierarchy=Hierarchy([tree, Node(4, leaves(5))], 6))
    unscaled = [Node(0, [Node(1, [Node(2)]), Node(None, [Node(3)])]), Node(4, leaves(5))]
    plain = make_synthetic(**settings, hierarchy=Hierarchy(unscaled, 6))
    found, before = (each.coefficients(2000, generator()) for each in (scaled, plain))
    expected = before.clone()
    for row in expected:
        row[1] *= row[0] / 2
        row[3] *= row[0] / 2
        row[2] *= row[1] / 3
    assert_close(found, expected)
    assert scaled.hierarchy.scaling() == [0, 1]


def test_what_is_not_zero_is_what_coefficients_are():
    synthetic = make_synthetic(7, probabilities=0.7, magnitude_std=1.0, hierarchy=family_tree())
    for n_samples in (1, 500):
        sparse = synthetic.sparse_coefficients(n_samples, generator())
        assert (sparse.magnitudes > 0).all()
        dense = synthetic.coefficients(n_samples, generator())
        assert torch.equal(sparse.dense(), dense)
        places = torch.stack(dense.nonzero(as_tuple=True))
        assert torch.equal(torch.stack([sparse.samples, sparse.features]), places)
        assert_close(sparse.times(synthetic.dictionary), dense @ synthetic.dictionary)
    never = make_synthetic(probabilities=0.0)
    x, coefficients = never.sample(3, generator())
    assert not x.any() and not coefficients.any()


def test_modifiers_are_applied_in_their_order():
    plain = make_synthetic().coefficients(100, generator())
    synthetic = make_synthetic(modifiers=(torch.exp, torch.neg))
    x, coefficients = synthetic.sample(100, generator())
    assert torch.equal(coefficients, -plain.exp())
    assert_close(x, coefficients @ synthetic.dictionary)


def test_modifiers_may_ask_for_the_features_and_the_generator():
    def noisy(coefficients, features, generator):
        return coefficients + features.n_features * torch.rand(1, generator=generator)

    def doubled(coefficients, features):
        return coefficients * len(features.dictionary) / 3

    of = generator()
    plain = make_synthetic().coefficients(50, of)
    expected = (plain + 6 * torch.rand(1, generator=of)) * 2
    found = make_synthetic(modifiers=(noisy, doubled)).coefficients(50, generator())
    assert_close(found, expected)


def test_firing_rates_are_those_of_all_samples_together():
    p = torch.tensor([0.0, 1.0, 0.1, 0.3, 0.02, 0.5])
    synthetic = make_synthetic(probabilities=p, **COPULA)
    rates, correlations = synthetic.firing_rates(6 * CHUNK + 3000, generator())
    of = generator()
    fires = torch.cat([synthetic.coefficients(n, of) > 0 for n in (*[CHUNK] * 6, 3000)])
    assert_rates(fires, p)  # 5 sigma
    assert_close(rates, fires.float().mean(0))
    expected = torch.corrcoef(fires[:, 2:].T.double()).float()
    assert_close(correlations[2:, 2:], expected, atol=1e-5, rtol=0)
    assert not correlations[:2].any()  # what never changes is correlated with nothing


# --- orbits and streams ---


def interference(vectors, action):
    """Sum of fourth powers of the cosines between different orbits, and the largest cosine."""
    turned = [action.act(vectors, element) for element in range(action.group.order)]
    cosines = torch.stack([(each @ vectors.T).fill_diagonal_(0) for each in turned])
    return float(cosines.pow(4).sum()), float(cosines.abs().max())


@pytest.mark.parametrize("kind", ["rotation", "shift"])
def test_orbits_interfere_less_than_those_of_random_and_of_orthonormal_features(kind):
    action = make_action(4, 16, generator(), kind)
    features = make_orbit_features(8, action, generator())
    assert features.shape == (8, 16) and not features.requires_grad
    assert_close(features.norm(dim=1), torch.ones(8))
    fourth, largest = interference(features, action)
    rows = [torch.randn(8, 16, generator=generator(seed)) for seed in range(20)]
    others = [interference(each / each.norm(dim=1, keepdim=True), action) for each in rows]
    assert largest < min(each for _, each in others)
    plain = make_features(8, 16, generator())
    assert_close(plain @ plain.T, torch.eye(8), atol=1e-5, rtol=0)  # but not to other orbits
    assert fourth < 0.5 * min(each for each, _ in [*others, interference(plain, action)])


@pytest.mark.parametrize(
    ("order", "kind", "stabilisers"),
    [(4, "shift", [0, 2, 1, 3, 2, 0]), (8, "rotation", [0, 4, 0, 4, 4, 0])],
)
def test_stabilisers_leave_their_features_as_they_are(order, kind, stabilisers):
    action = make_action(order, 16, generator(), kind)
    features = make_orbit_features(6, action, generator(), stabilisers, steps=100)
    assert_close(features.norm(dim=1), torch.ones(6))
    for feature, element in zip(features, stabilisers, strict=True):
        assert_close(action.act(feature, element), feature, atol=1e-5, rtol=0)
        orbit = action.orbit(feature)
        n_points = len({tuple(row) for row in (torch.cdist(orbit, orbit) < 1e-3).tolist()})
        assert n_points == math.gcd(order, element)
    # within what is left as it is, features are still kept apart
    unspread = make_orbit_features(6, action, generator(), stabilisers, steps=0)
    assert interference(features, action)[0] < interference(unspread, action)[0]


def test_seeds_decide_orbit_features_and_mirrors_leave_them_as_they_are(d4_action):
    features = make_orbit_features(3, d4_action, generator(), [4, 5, 0], 50)
    assert torch.equal(features, make_orbit_features(3, d4_action, generator(), [4, 5, 0], 50))
    for feature, element in zip(features, [4, 5, 0], strict=True):
        assert_close(d4_action.act(feature, element), feature, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_never_repeat_a_draw_but_can_be_resumed(kind):
    synthetic = make_synthetic(magnitude_std=0.2, **KINDS[kind])
    seeds_and_epochs = itertools.product(range(10), range(20))
    found = {str(Stream(synthetic, 20, seed)(epoch).tolist()) for seed, epoch in seeds_and_epochs}
    assert len(found) == 200
    stream, resumed = Stream(synthetic, 200, seed=3), Stream(synthetic, 200, seed=3).to("cpu")
    first, second = stream(1), stream(2)
    assert first.shape == (200, 1, 8) and first.dtype == torch.float32
    assert torch.equal(resumed(2), second) and torch.equal(stream(1), first)


def test_epochs_that_were_drawn_are_read_again_where_they_are_kept(tmp_path, monkeypatch):
    synthetic = make_synthetic(magnitude_std=0.2)
    action = make_action(2, 8, generator(), "shift")
    streams = {
        (seed, order): Stream(synthetic, 50, seed, action if order == 2 else None)
        for seed in (0, 1)
        for order in (1, 2)
    }
    for stream in streams.values():
        kept = replace(stream, kept=tmp_path / "kept")
        assert identity(kept) == identity(stream)
        for epoch in (0, 3):
            assert torch.equal(kept(epoch), stream(epoch))  # drawn, and written
    assert len([*(tmp_path / "kept").iterdir()]) == 8  # none stands for another
    monkeypatch.setattr(SyntheticFeatures, "sample_sparse", None)  # nothing is drawn any more
    for stream in streams.values():
        assert replace(stream, kept=tmp_path / "kept")(3).shape[0] == 50
    monkeypatch.undo()
    stream = streams[0, 1]
    kept = replace(stream, kept=tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob(f"{identity(stream)}-00003/*.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        assert torch.equal(kept(3), stream(3))  # drawn again
        assert path.read_bytes() == whole


@pytest.mark.parametrize(("order", "kind"), [(4, "rotation"), (2, "shift"), (1, "rotation")])
def test_streams_of_orbits_are_what_the_action_makes_of_the_samples(order, kind):
    synthetic = make_synthetic(probabilities=torch.linspace(0.05, 0.3, 6), bias=torch.arange(8.0))
    action = make_action(order, 8, generator(), kind)
    orbits = Stream(synthetic, 100_000, 3, action)(1)
    assert orbits.shape == (100_000, order, 8)
    points = Stream(synthetic, 100_000, 3)(1)[:, 0]
    for element in range(order):
        assert_close(orbits[:, element], action.act(points, element), atol=1e-5, rtol=1e-5)
    coefficients = (points - synthetic.bias) @ synthetic.dictionary.T  # which is orthonormal
    assert_close(coefficients, coefficients.round(), atol=1e-5, rtol=0)
    assert_rates(coefficients.round(), synthetic.probabilities)  # 5 sigma


# --- bad input ---


def dense(*rows):
    return Correlation.dense(torch.tensor(rows))


def looped(as_dict):
    children = []
    node = {"feature": 0, "children": children} if as_dict else Node(0, children)
    children.append(Node(1, [node]))
    return Hierarchy([node], 4)


def compensated(root, *targets):
    return Hierarchy([root], 3).compensated_probabilities(torch.tensor(targets))


def modified(modifier):
    return make_synthetic(modifiers=(torch.relu, modifier)).coefficients(10, generator())


def stabilised(*stabilisers):
    return make_orbit_features(3, make_action(4, 8, generator()), generator(), list(stabilisers))


LEAF, LEAF_DICT = Node(2), {"feature": 2}
TWO = Node(0, leaves(1, 2), exclusive=True)
ABOVE_GROUP = Node(0, [Node(1), Node(children=leaves(2))], exclusive=True, name="top")
BAD = [
    (lambda: firing_probabilities("linear", 4, 1.1), "0 <= smallest <= largest <= 1, got 0.0 and"),
    (lambda: firing_probabilities("linear", 4, 0.5, -0.1), "smallest must be 0 or more, got -0.1"),
    (lambda: firing_probabilities("linear", 4, 0.2, 0.3), "<= largest <= 1, got 0.3 and 0.2"),
    (lambda: firing_probabilities("zipfian", 4, 0.2, 0.1, 0.0), "Zipfian exponent is positive"),
    (lambda: firing_probabilities("flat", 4, 0.4), "unknown kind 'flat'; known are constant"),
    (
        lambda: dense([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
        r"matrix must have the shape .*, got \(2, 3\)",
    ),
    (lambda: dense(1.0, 1.0, 1.0), r"matrix must have the shape .*, got \(3,\)"),
    (lambda: dense([1, 0.5], [0.4, 1]), "is symmetric, this one is not"),
    (lambda: dense([1, math.nan], [math.nan, 1]), "matrix has NaN or infinite values"),
    (lambda: dense([1, 0.5], [0.5, 1.1]), "has a diagonal of ones, this one has not"),
    (lambda: dense([1, 1, 0], [1, 1, 1], [0, 1, 1]), r"eigenvalue of -0\.414: .*nearest_corr"),
    (lambda: Correlation(torch.tensor([[0.6], [1.2]])), r"norms up to 1, row 1 has 1\.2000"),
    (
        lambda: low_rank_correlation(50, 25, 0.4, generator()),
        r"rank 25 and scale 0.4 is none: .* which can be 1 at most. On average .* here 4;",
    ),
    (lambda: looped(False), "is its own ancestor"),
    (lambda: looped(True), "is its own ancestor"),
    (lambda: Hierarchy([Node(0, [LEAF]), LEAF], 4), "hangs below two parents"),
    (lambda: Hierarchy([Node(3, [Node(0, [LEAF]), Node(1, [LEAF])])], 4), "below two parents"),
    (lambda: Hierarchy([Node(0, [LEAF_DICT, LEAF_DICT])], 4), "hangs below two parents"),
    (lambda: Hierarchy([Node(0, leaves(1)), Node(1)], 4), "feature 1 stands in .* twice"),
    (lambda: Hierarchy([Node(0, leaves(1), True)], 4), "node 0 has fewer than two children"),
    (lambda: Hierarchy([Node(0, leaves(4))], 4), "feature 4 is not one of 0 to 3"),
    (lambda: Hierarchy([Node(-1)], 4), "feature -1 is not one of 0 to 3"),
    (lambda: Hierarchy([Node(0, [{"kids": (), "age": 3}])], 4), "fields of a node: age, kids"),
    (lambda: compensated(Node(0, leaves(1)), 0.3, 0.4, 0.1), r"\[1\] cannot .* 0\.4 .* with 0\.3"),
    (lambda: compensated(Node(0, [Node(children=leaves(1))]), 0.3, 0.4, 0.1), r"\[1\] cannot fire"),
    (lambda: compensated(Node(0, leaves(1)), 0.0, 0.1, 0.1), r"\[1\] cannot fire"),
    (lambda: compensated(TWO, 0.5, 0.25, 0.25), r"\[1, 2\] cannot .* 0\.25, 0\.25 .* with 0\.5"),
    (
        lambda: Hierarchy([Node(0, leaves(1)), Node(2, leaves(3))], 4).compensated_probabilities(
            torch.tensor([0.2, 0.3, 0.1, 0.4])
        ),
        r"\[3\] cannot fire .* would need 4 of its samples; nor can those below 1 other nodes",
    ),
    (
        lambda: make_synthetic(
            magnitude_mean=0.0, hierarchy=Hierarchy([Node(0, leaves(1), scales=True)], 6)
        ),
        "feature 0 scales its children .* magnitude_mean must be above 0, got 0",
    ),
    (lambda: compensated(one_of(0, 1), 0.6, 0.5, 0.1), "cannot fire"),
    (lambda: compensated(ABOVE_GROUP, 0.5, 0.1, 0.1), "node 0 top has organisational nodes among"),
    (lambda: make_synthetic(probabilities=-0.1), r"must lie in \[0, 1\], got values from -0\.1 to"),
    (lambda: make_synthetic(probabilities=math.nan), "probabilities must be a finite number"),
    (lambda: make_synthetic(probabilities=torch.arange(6.0)), "got values from 0 to 5"),
    (
        lambda: make_synthetic(probabilities=torch.ones(5)),
        r"its n_features is 5, as dictionary has 6",
    ),
    (lambda: make_synthetic(magnitude_mean=torch.ones(7)), r"magnitude_mean must .* got \(7,\)"),
    (lambda: make_synthetic(magnitude_std=-1.0), "must be >= 0, got values from -1 to -1"),
    (lambda: make_synthetic(bias=torch.zeros(6)), r"bias must have the shape \(d\), got \(6,\)"),
    (lambda: make_synthetic(5, **COPULA), "correlation is made for 6 .* has 5"),
    (lambda: make_synthetic(5, **TREE), "hierarchy is made for 6 .* has 5"),
    (lambda: modified(torch.sum), r"modifier sum made \(\) of \(10, 6\)"),
    (lambda: modified(torch.acosh), "modifier acosh returned NaN or infinite"),  # NaN of 0
    (lambda: modified(torch.log), "modifier log returned NaN or infinite"),
    (lambda: stabilised(0, 0), "3 features need as many stabilisers, got 2"),
    (lambda: stabilised(0, 1, 0), r"element 1 leaves no direction of R\^8 as it is"),
    (lambda: stabilised(0, 0, 4), "C4 has elements 0 to 3, got 4"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(monkeypatch, call, message):
    # as users call it: the type checks of the tests would find wrong shapes first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call()
