"""Worlds: configs, what they make, and folders of SAELens."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from saehelpers.datasets import make_action
from saehelpers.datasets.synthetic import (
    SYNTH_SAE_BENCH,
    Correlation,
    Exponential,
    FoldedNormal,
    Hierarchy,
    HierarchyConfig,
    Linear,
    Node,
    SyntheticFeatures,
    World,
    firing_probabilities,
    load_world,
    low_rank_correlation,
    near_orthogonal,
    save_world,
    superposition,
)
from saehelpers.runs import identity

CONFIG, WEIGHTS, TREES = (
    "synthetic_model_config.json", "synthetic_model.safetensors", "hierarchy.json",
)  # fmt: skip
TREES_CONFIG = HierarchyConfig(8, (2, 4), 2, 1.0, compensation="first_order", scales=True)
SMALL = World(
    n_features=200, d=24, orthogonalisation_steps=20, bias_norm=0.5, largest_probability=0.4,
    smallest_probability=0.01, exponent=0.5, correlation_rank=5, hierarchy=TREES_CONFIG,
    magnitude_mean=Linear(5.0, 4.0), magnitude_std=FoldedNormal(0.5, 0.5), seed=3,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- dictionaries ---


def slow_interference(rows, turns):
    """The sum that `near_orthogonal` brings down, pair by pair."""
    total = 0.0
    for turn in turns:
        for i, row in enumerate(rows):
            for j, other in enumerate(rows):
                total = total + (row @ (turn @ other)) ** 2 * (i != j)
    return total + len(rows) * ((rows.square().sum(1) - 1) ** 2).sum()


@pytest.mark.parametrize("order", [1, 4])
def test_rows_are_brought_apart_by_the_gradient_of_all_pairs(order):
    action = None if order == 1 else make_action(order, 8, generator(), "shift")
    turns = [torch.eye(8)] if action is None else list(action.matrices)
    start = torch.randn(12, 8, generator=generator())
    rows = torch.nn.Parameter(torch.nn.functional.normalize(start, dim=1))
    optimiser = torch.optim.Adam([rows], 0.01)
    for _ in range(5):
        optimiser.zero_grad()
        slow_interference(rows, turns).backward()
        optimiser.step()
    expected = torch.nn.functional.normalize(rows.detach(), dim=1)
    found = near_orthogonal(start, 5, action=action)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    further = near_orthogonal(start, 100, action=action)
    assert_close(further.norm(dim=1), torch.ones(12))
    assert slow_interference(further, turns) < 0.9 * slow_interference(found, turns)


def test_superposition_is_that_of_a_plain_loop():
    rows = torch.randn(700, 6, generator=generator())  # in two blocks
    found = superposition(rows, (50, 95))
    unit = rows / rows.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).abs().double()
    others = torch.stack([torch.cat([row[:i], row[i + 1 :]]) for i, row in enumerate(cosines)])
    assert_close(found.largest.double(), others.max(1).values, atol=1e-6, rtol=0)
    assert found.mean_largest == pytest.approx(float(others.max(1).values.mean()), abs=1e-6)
    assert found.mean == pytest.approx(float(others.mean()), abs=1e-6)
    for percentile in (50, 95):
        expected = others.quantile(percentile / 100, dim=1)
        assert_close(found.percentiles[percentile].double(), expected, atol=1e-6, rtol=0)
        assert found.mean_percentiles[percentile] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert superposition(rows, ()).mean == found.mean


def test_correlations_of_a_copula_off_its_diagonal():
    correlation = low_rank_correlation(300, 4, 0.2, generator())
    matrix = correlation.matrix.double()
    pairs = matrix[~torch.eye(300, dtype=torch.bool)]
    expected = float(pairs.mean()), float(pairs.square().mean().sqrt())
    assert correlation.off_diagonal == pytest.approx(expected, rel=1e-4)
    assert Correlation(torch.zeros(5, 2)).off_diagonal == (0.0, 0.0)


# --- what a config makes ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (2.5, [2.5] * 5),
        (Linear(1.0, 3.0), [1.0, 1.5, 2.0, 2.5, 3.0]),
        (Exponential(1.0, 16.0), [1.0, 2.0, 4.0, 8.0, 16.0]),
        (FoldedNormal(-3.0, 1e-6), [3.0] * 5),
    ],
)
def test_magnitudes_of_each_feature(given, expected):
    world = World(5, 8, magnitude_mean=given, magnitude_std=given)
    assert world.features().magnitude_mean.tolist() == pytest.approx(expected, abs=1e-4)
    assert world.features().magnitude_std.tolist() == pytest.approx(expected, abs=1e-4)


def test_folded_normal_values_are_those_of_their_distribution():
    values = World(100_000, 2, magnitude_std=FoldedNormal(0.5, 0.5)).features().magnitude_std
    # E|e| of a normal of mean m and deviation s
    mean = 0.5 * math.sqrt(2 / math.pi) * math.exp(-0.5) + 0.5 * math.erf(1 / math.sqrt(2))
    assert values.min() >= 0
    assert float(values.mean()) == pytest.approx(mean, abs=0.01)
    bounded = World(1000, 2, magnitude_std=FoldedNormal(0.5, 0.5, 0.2, 0.9)).features()
    assert bounded.magnitude_std.min() == pytest.approx(0.2)
    assert bounded.magnitude_std.max() == pytest.approx(0.9)


def depth_of(feature, parents):
    return 0 if feature not in parents else 1 + depth_of(parents[feature], parents)


def exclusive_nodes(nodes, depth=0):
    found = {(node.feature, depth) for node in nodes if node.exclusive}
    return found.union(*(exclusive_nodes(node.children, depth + 1) for node in nodes))


def test_trees_have_their_numbers():
    hierarchy = HierarchyConfig(3, 4, 3, 1.0, scales=True).grow(300, 0)
    parents = hierarchy.parents()
    depths = [depth_of(feature, parents) for feature in range(3 * 85)]
    assert [depths.count(depth) for depth in range(5)] == [3, 12, 48, 192, 0]
    assert depths == sorted(depths)  # the most frequent features are the roots
    assert len(exclusive_nodes(hierarchy.roots)) == 3 * (1 + 4 + 16)
    assert hierarchy.scaling() == list(range(3 * 21))


def test_a_share_of_some_levels_is_exclusive_and_branching_is_drawn_from_its_range():
    config = HierarchyConfig(20, (2, 5), 2, 0.5, (1, 1))
    hierarchy = config.grow(2000, 7)
    parents = hierarchy.parents()
    children = [list(parents.values()).count(feature) for feature in set(parents.values())]
    assert set(children) == {2, 3, 4, 5}
    chosen = exclusive_nodes(hierarchy.roots)
    assert {depth for _, depth in chosen} == {1}
    at_depth_one = sum(depth_of(feature, parents) == 1 for feature in parents)
    assert len(chosen) == at_depth_one // 2
    assert str(config.grow(2000, 7)) == str(hierarchy) != str(config.grow(2000, 8))


def test_a_world_is_decided_by_its_config():
    made, again = SMALL.features(), dataclasses.replace(SMALL).features()
    assert identity(made) == identity(again)
    for name in ("dictionary", "probabilities", "magnitude_mean", "magnitude_std", "bias"):
        assert torch.equal(getattr(made, name), getattr(again, name))
    others = [
        dataclasses.replace(SMALL, **change)
        for change in (
            {"seed": 4},
            {"bias_norm": 0.4},
            {"exponent": 0.6},
            {"correlation_rank": 4},
            {"magnitude_std": 0.5},
            {"hierarchy": None},
            {"orthogonalisation_steps": 19},
        )
    ]
    told = {identity(world) for world in [SMALL, *others]}
    assert len(told) == 8
    assert len({identity(world.features()) for world in [SMALL, *others]}) == 8
    assert made.bias.norm().item() == pytest.approx(0.5)


def test_features_of_a_world_fire_as_often_as_its_hierarchy_lets_them():
    """Without correlations and magnitudes of 0, for which there is a closed form."""
    world = dataclasses.replace(SMALL, correlation_rank=0, magnitude_std=0.1)
    features, n = world.features(), 60_000
    rates = features.hierarchy.effective_probabilities(features.probabilities)
    fires = features.sparse_coefficients(n, generator())
    counted = fires.features.bincount(minlength=200) / n
    assert ((counted - rates).abs() <= 5 * (rates * (1 - rates) / n).sqrt()).all()  # 5 sigma


def test_compensation_exact_and_of_first_order():
    """Where there is the first, features fire as often as they are to; with the other nearly so."""
    trees = HierarchyConfig(4, 2, 2, 1.0, compensation="exact")
    world = World(60, 8, largest_probability=0.3, smallest_probability=0.0, exponent=2.0,
                  hierarchy=trees)  # fmt: skip
    wanted = firing_probabilities("zipfian", 60, 0.3, 0.0, 2.0)
    first_order = dataclasses.replace(trees, compensation="first_order")
    for compensation, tolerance in ((trees, 1e-5), (first_order, 0.15)):
        features = dataclasses.replace(world, hierarchy=compensation).features()
        rates = features.hierarchy.effective_probabilities(features.probabilities)
        assert_close(rates, wanted, atol=1e-7, rtol=tolerance)
    crowded = dataclasses.replace(world, firing="linear", largest_probability=0.5,
                                  smallest_probability=0.4)  # fmt: skip
    message = r"features \[.*\] cannot fire .* of its samples; nor can those below 11 other nodes"
    with pytest.raises(ValueError, match=message):
        crowded.features()


def test_the_benchmarks_world_is_the_published_one():
    """Its true L0, in all and of the most frequent features, without making its dictionary."""
    world = SYNTH_SAE_BENCH
    trees = world.hierarchy.grow(world.n_features, world.seed)
    assert len(trees.parents()) + 128 == 10_880
    rates = trees.effective_probabilities(world.probabilities(trees))
    assert float(rates.sum()) == pytest.approx(34, abs=1)
    assert float(rates[:4096].sum()) == pytest.approx(25, abs=0.5)


def test_a_world_in_orbits_is_the_same_world():
    """Of the action only the dictionary knows: in all orientations, features are apart."""
    world = dataclasses.replace(SMALL, orthogonalisation_steps=60)
    action = make_action(4, 24, generator(), "shift")
    plain, turning = world.features(), world.features(action)
    assert identity(plain) != identity(turning)
    assert torch.equal(plain.probabilities, turning.probabilities)
    same = [each.coefficients(100, generator()) for each in (plain, turning)]
    assert torch.equal(*same)

    def largest(rows):
        orbits = action.orbit(rows).flatten(0, 1)
        return superposition(orbits, ()).mean

    assert largest(turning.dictionary) < largest(plain.dictionary)


# --- folders of SAELens ---


def test_a_world_comes_back_from_its_folder(tmp_path):
    save_world(SMALL, tmp_path / "world")
    world, features = load_world(tmp_path / "world")
    assert world == SMALL
    made = SMALL.features()
    assert torch.equal(features.dictionary, made.dictionary)
    assert torch.equal(features.coefficients(500, generator()), made.coefficients(500, generator()))
    assert str(features.hierarchy) == str(made.hierarchy)
    save_world(world, tmp_path / "again", features)
    assert (
        load_file(tmp_path / "again" / WEIGHTS).keys()
        == load_file(tmp_path / "world" / WEIGHTS).keys()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"firing": "constant", "smallest_probability": 0.0, "exponent": 1.0},
        {"firing": "linear", "exponent": 1.0},
        {"firing": "random", "exponent": 1.0},
        {"hierarchy": None, "correlation_rank": 0, "correlation_scale": 0.1},
        {"magnitude_std": 0.0, "magnitude_mean": Exponential(4.0, 1.0), "bias_norm": 0.0},
        {"hierarchy": HierarchyConfig(4, 2, 1), "orthogonalisation_steps": 0},
        {"magnitude_std": FoldedNormal(0.5, 0.5, 0.1, 1.0)},
    ],
)
def test_every_setting_goes_through_a_folder(tmp_path, changes):
    world = dataclasses.replace(SMALL, **changes)
    save_world(world, tmp_path / "world")
    assert load_world(tmp_path / "world")[0] == world


@pytest.fixture
def folder(tmp_path):
    return save_world(SMALL, tmp_path / "world")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TREES])
def test_a_missing_part_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}: copy or download all of it"):
        load_world(folder)


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_scaling(node):
    del node["scale_children_by_parent"]
    for child in node["children"]:
        without_scaling(child)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (CONFIG, lambda c: c["hierarchy"].pop("scale_children_by_parent"),
         r"does not say whether children are scaled .* v1 is.*\(v2\)"),
        (TREES, lambda c: [*map(without_scaling, c["roots"])],
         r"does not say whether children are scaled .* v1 is.*\(v2\)"),
        (CONFIG, lambda c: c.update(noise=0.1), "settings of another version: noise"),
        (CONFIG, lambda c: c["firing_probability"].update(shift=1), "another version: shift"),
        (CONFIG, lambda c: c["hierarchy"].update(shape="star"), "another version: shape"),
        (CONFIG, lambda c: c.pop("num_features"), "cannot be used: KeyError"),
        (CONFIG, lambda c: c.update(hidden_dim=23), r"has .*feature_vectors.*200, 24.*expected"),
        (CONFIG, lambda c: c["std_firing_magnitudes"].update(generator_name="gamma"),
         "unknown distribution of magnitudes 'gamma'; known are constant, linear"),
        (TREES, lambda c: c["roots"].append(c["roots"][0]), "stands in the hierarchy twice"),
    ],
)  # fmt: skip
def test_worlds_of_other_versions_are_refused(folder, name, change, message):
    rewritten(folder / name, change)
    with pytest.raises(ValueError, match=message) as error:
        load_world(folder)
    assert str(folder) in str(error.value)


def test_a_correlation_that_is_none_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["correlation_diag"][7] += 0.5
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"the correlation is none: feature 7 has a variance of"):
        load_world(folder)


def test_what_saelens_cannot_sample_is_not_written(tmp_path):
    made = SMALL.features()
    doubled = dataclasses.replace(made, modifiers=(lambda coefficients: 2 * coefficients,))
    groups = Hierarchy([Node(0, [Node(1), Node(None, [Node(2)])], exclusive=True)], 200)
    chosen = dataclasses.replace(made, hierarchy=groups)
    often = dataclasses.replace(made, probabilities=made.probabilities / 2)
    for features, message in (
        (doubled, "has modifiers"),
        (chosen, "organisational nodes among exclusive children"),
        (often, "probabilities are not those that SAELens makes of the config"),
    ):
        with pytest.raises(ValueError, match=message):
            save_world(SMALL, tmp_path / "world", features)
    assert not (tmp_path / "world").exists()
    plain = dataclasses.replace(SMALL, correlation_rank=0)
    rarer = dataclasses.replace(plain.features(), probabilities=made.probabilities / 2)
    save_world(plain, tmp_path / "world", rarer)
    assert torch.equal(load_world(tmp_path / "world")[1].probabilities, rarer.probabilities)
    assert isinstance(rarer, SyntheticFeatures)


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HierarchyConfig(128, 4, 3).grow(10_000, 0),
         r"needs 10880 features \(128 roots, 4 children each, 3 levels below\), there are 10000"),
        (lambda: HierarchyConfig(4, 1, 2), "branching must be 2 or more, or two such"),
        (lambda: HierarchyConfig(4, (3, 2), 2), r"that rise, got \(3, 2\)"),
        (lambda: HierarchyConfig(4, 2, 2, exclusive_depths=(2, 1)), r"that rise, got \(2, 1\)"),
        (lambda: HierarchyConfig(4, 2, 2, compensation="all"), "one of 'none', 'exact', 'first_"),
        (lambda: dataclasses.replace(SMALL, correlation_scale=0.6).features(),
         "rank 5 and scale 0.6 is none"),
        (lambda: dataclasses.replace(SMALL, firing="flat"), "firing must be one of 'constant'"),
        (lambda: FoldedNormal(0.5, 0.5, 2.0, 1.0), "smallest must be at most largest, got 2 and 1"),
        (lambda: superposition(torch.ones(1, 4)), "two features or more, got 1"),
        (lambda: superposition(torch.ones(3, 4), (101,)), r"between 0 and 100, got \[101\]"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
