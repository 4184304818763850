import itertools

import pytest
import torch
from torch.testing import assert_close

from saehelpers.datasets.shapes import (
    SHAPES,
    TASK_TYPES,
    ProbeSamples,
    draw_templates,
    element_ceiling,
    list_tasks,
    make_shapes,
    orientations,
    probe_samples,
    quadrant_sources,
    share_unseen,
    split_shapes,
    task_labels,
)
from saehelpers.datasets.synthetic import make_features
from saehelpers.datasets.toy import make_action, make_toy
from saehelpers.runs.identities import identity
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, act_each, image_action, orbit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Shapes ---


def test_every_quadrant_shows_the_template_of_its_shape():
    data, templates = make_shapes(30, seed=0), draw_templates()
    assert data.images.shape == (30, 1, 64, 64)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    for image, shapes in zip(data.images[:, 0], data.shapes.tolist(), strict=True):
        for (top, left), shape in zip(corners, shapes, strict=True):
            assert torch.equal(image[top : top + 32, left : left + 32], templates[shape])


def test_seeds_decide_the_images():
    first, again, other = make_shapes(20, 0), make_shapes(20, 0), make_shapes(20, 1)
    assert torch.equal(first.images, again.images) and torch.equal(first.shapes, again.shapes)
    assert not torch.equal(first.shapes, other.shapes)


def test_no_image_of_a_composition_is_on_both_sides_of_a_split():
    train, test = make_shapes(20_000, 0, "train"), make_shapes(1024, 0, "test")
    assert 3072 - 12 < len(train.shapes.unique(dim=0)) <= 3072  # so many draws miss few
    assert len(test.shapes.unique(dim=0)) == 1024
    assert share_unseen(test.shapes, train.shapes) == 1
    images = [part.images.flatten(1).unique(dim=0) for part in (train, test)]
    turned = orbit(images[1].unflatten(1, (1, 64, 64)), Group.named("D4")).flatten(2).flatten(0, 1)
    both = torch.cat([images[0], turned.unique(dim=0)])
    assert len(both.unique(dim=0)) == len(both)


def test_images_drawn_without_a_split_have_mostly_been_seen():
    train, test = make_shapes(10_000, 0), make_shapes(4000, 1)
    assert share_unseen(test.shapes, train.shapes) == pytest.approx(1 - 0.914, abs=0.001)
    assert share_unseen(train.shapes[:9], train.shapes) == 0
    for part, own in zip(split_shapes(10_000, 4000, "images"), (train, test), strict=True):
        assert torch.equal(part.shapes, own.shapes)
    assert share_unseen(*[part.shapes for part in split_shapes(99, 99, "compositions")[::-1]]) == 1


def test_splits_are_told_apart():
    parts = [make_shapes(9, 0, split) for split in ("any", "train", "test")]
    assert len({identity(part.images) for part in parts}) == 3
    assert torch.equal(parts[1].shapes, make_shapes(9, 0, "train").shapes)
    assert not torch.equal(parts[2].shapes, make_shapes(9, 1, "test").shapes)


@pytest.mark.parametrize("by", ["images", "compositions"])
def test_samples_of_probes(by):
    train, test = split_shapes(50, 40, by)
    group = Group.named("C4")
    samples = probe_samples(train, test, 30, 20, group, by)
    turns = 4 if by == "compositions" else 1
    assert samples.turns == turns and len(samples.elements) == 30 + 20 * turns
    # activations that say which image and which element they are of
    orbits = [
        torch.stack([torch.arange(n) + start, torch.zeros(n)], -1)[:, None]
        + torch.stack([torch.zeros(4), torch.arange(4.0)], -1)
        for n, start in ((50, 0), (40, 1000))
    ]
    told = samples.orbits(*orbits)[torch.arange(len(samples.elements)), samples.elements]
    assert torch.equal(told[:, 1].long(), samples.elements)
    shown = [*range(30), *(1000 + samples.images).tolist()]
    assert told[:, 0].long().tolist() == shown
    shapes = torch.cat([train.shapes[:30], test.shapes[samples.images]])
    assert torch.equal(samples.shapes, shapes)
    if by == "compositions":  # each under every element, once
        pairs = set(zip(samples.images.tolist(), samples.elements[30:].tolist(), strict=True))
        assert pairs == {(image, g) for image in range(20) for g in range(4)}
    assert identity(samples.orbits(*orbits)) == identity(samples.orbits(*orbits))


def test_samples_that_are_more_than_there_are():
    train, test = split_shapes(9, 9, "images")
    with pytest.raises(ValueError, match="n_test must be 9 or less, got 10"):
        probe_samples(train, test, 9, 10, Group.named("C4"), "images")
    with pytest.raises(ValueError, match=r"must be of n_train .* = 3 samples, got 9 and 9"):
        ProbeSamples(1, 2, 1, train.shapes, torch.zeros(9, dtype=torch.long))


def test_shapes_are_drawn_uniformly_in_every_quadrant():
    counts = torch.stack([(make_shapes(4000, 0).shapes == s).float().mean(0) for s in range(8)])
    assert_close(counts, torch.full((8, 4), 1 / 8), atol=0.02, rtol=0)


def test_templates_differ_and_are_black_and_white():
    templates = draw_templates()
    assert len(templates) == len(SHAPES) == 8
    assert set(templates.unique().tolist()) == {0, 1}
    turned = orbit(templates, Group.named("D4"))
    for one, other in itertools.combinations(range(8), 2):
        assert not any(torch.equal(templates[one], image) for image in turned[other])


def test_exactly_rectangle_and_c_are_unchanged_by_the_vertical_flip():
    templates = draw_templates()
    unchanged = [
        name
        for name, image in zip(SHAPES, templates, strict=True)
        if torch.equal(image, image.flip(0))
    ]
    assert unchanged == ["rectangle", "c"]


def test_rectangle_and_diagonal_have_two_orientations_the_others_four():
    for name, image in zip(SHAPES, draw_templates(), strict=True):
        turned = {tuple(torch.rot90(image, q).flatten().tolist()) for q in range(4)}
        assert len(turned) == (2 if name in ("rectangle", "diagonal") else 4)
        mirrored = tuple(image.flip(0).flatten().tolist())
        assert mirrored in turned  # so that D4 adds no orientations


@pytest.mark.parametrize("name", ["C1", "C2", "C4", "D1", "D2", "D4"])
def test_orientations_are_numbers_of_quarter_turns(name):
    group, templates = Group.named(name), draw_templates()
    numbers = orientations(group)
    for shape in range(8):
        for element in range(group.order):
            made = image_action(group)(templates[shape], element)
            number = int(numbers[shape, element])
            assert torch.equal(made, torch.rot90(templates[shape], number))
            assert number < (2 if SHAPES[shape] in ("rectangle", "diagonal") else 4)


def test_quadrants_move_as_the_image_does():
    assert quadrant_sources(Group.named("D2")).tolist() == [
        [0, 1, 2, 3],
        [3, 2, 1, 0],
        [2, 3, 0, 1],  # the vertical flip exchanges the rows
        [1, 0, 3, 2],
    ]
    assert quadrant_sources(Group.named("C4"))[1].tolist() == [1, 3, 0, 2]


def test_counts_of_the_tasks():
    tasks = list_tasks()
    counts = tasks["task_type"].value_counts()
    assert counts.to_dict() == {"S": 8, "SO": 28, "SP": 32, "SPO": 112}
    assert not tasks.duplicated(["task_type", "task"]).any()
    assert tasks["task_type"].drop_duplicates().tolist() == list(TASK_TYPES)


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_labels_agree_with_what_is_seen_in_the_images(name):
    """Every quadrant of every transformed image is compared with every turned template."""
    group, data = Group.named(name), make_shapes(24, seed=3)
    elements = torch.arange(24) % group.order
    images = act_each(data.images, elements, group)[:, 0]
    turned = [[torch.rot90(template, q) for q in range(4)] for template in draw_templates()]
    labels, tasks = task_labels(data.shapes, elements, group), list_tasks()
    assert labels.shape == (24, 180)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    for image, of_image in zip(images, labels, strict=True):
        quadrants = [image[top : top + 32, left : left + 32] for top, left in corners]
        seen = [
            [[torch.equal(quadrant, one) for one in of_shape] for of_shape in turned]
            for quadrant in quadrants
        ]  # [quadrant][shape][quarter turns]
        for label, task in zip(of_image.tolist(), tasks.itertuples(), strict=True):
            places = range(4) if task.quadrant < 0 else [task.quadrant]
            turns = range(4) if task.orientation < 0 else [task.orientation]
            assert label == any(seen[p][task.shape][q] for p in places for q in turns)


def test_share_of_negatives():
    data = make_shapes(4000, seed=0)
    elements = torch.randint(4, (4000,), generator=generator())
    negatives = 1 - task_labels(data.shapes, elements, Group.named("C4")).float().mean(0)
    types = list_tasks()["task_type"].to_numpy()
    shares = [negatives[torch.from_numpy(types == kind)].mean().item() for kind in TASK_TYPES]
    present = 1 - (7 / 8) ** 4
    oriented = (24 * present / 4 + 4 * present / 2) / 28  # two shapes have two orientations
    expected = [1 - present, 1 - oriented, 7 / 8, 1 - (96 / 32 + 16 / 16) / 112]
    assert expected == pytest.approx([0.58, 0.88, 0.87, 0.97], abs=0.01)  # the published shares
    assert shares == pytest.approx(expected, abs=0.01)


def test_bad_shapes_arguments():
    with pytest.raises(ValueError, match="n_samples must be 1 or more, got 0"):
        make_shapes(0, seed=0)
    with pytest.raises(ValueError, match=r"1024 compositions are held out, .* got 1025"):
        make_shapes(1025, 0, "test")
    with pytest.raises(ValueError, match="part must be one of 'any', 'train', 'test', got 'all'"):
        make_shapes(1, 0, "all")
    with pytest.raises(ValueError, match="orientations under C1, C2, C4, D1, D2 and D4"):
        orientations(Group.named("C8"))
    with pytest.raises(ValueError, match="C4 has elements 0 to 3, got -1"):
        task_labels(torch.zeros(2, 4).long(), torch.tensor([0, -1]), Group.named("C4"))


# --- toy data ---


def test_features_are_orthonormal_where_there_is_room():
    for n_features in (8, 16):
        features = make_features(n_features, 16, generator())
        assert_close(features @ features.T, torch.eye(n_features), atol=1e-5, rtol=0)


def test_more_features_than_dimensions_are_nearly_orthogonal():
    features = make_features(32, 16, generator())
    assert_close(features.norm(dim=1), torch.ones(32))
    cosines = (features @ features.T - torch.eye(32)).abs()
    rows = torch.randn(32, 16, generator=generator())
    rows = rows / rows.norm(dim=1, keepdim=True)
    assert cosines.max() < 0.35 < 0.6 < (rows @ rows.T - torch.eye(32)).abs().max()


@pytest.mark.parametrize("kind", ["rotation", "shift"])
@pytest.mark.parametrize("order", [4, 8, 16])
def test_actions_are_orthogonal_and_have_exactly_their_order(order, kind):
    for seed in range(3):
        action = make_action(order, 16, generator(seed), kind)
        rotation = action.matrices[1]
        assert action.group == Group.named(f"C{order}")
        assert_close(rotation @ rotation.T, torch.eye(16), atol=1e-5, rtol=0)
        power = torch.eye(16)
        for n in range(1, order + 1):
            power = rotation @ power
            is_identity = torch.allclose(power, torch.eye(16), atol=1e-3)
            assert is_identity == (n == order)


def test_orbits_are_those_of_the_sum_of_features():
    toy = make_toy(50, 8, 4, seed=0)
    assert toy.activations.shape == (50, 4, 16)
    for i in range(50):
        x = sum(toy.coefficients[i, j] * toy.features[j] for j in range(8))
        for p in range(4):
            expected = torch.linalg.matrix_power(toy.action.matrices[1], p) @ x
            assert_close(toy.activations[i, p], expected, atol=1e-5, rtol=1e-5)


def test_random_representatives_stay_in_the_orbit_one_for_each_pattern():
    fixed = make_toy(400, 4, 4, seed=0)
    moved = make_toy(400, 4, 4, seed=0, representatives="random")
    assert torch.equal(fixed.coefficients, moved.coefficients)
    turns = {}
    for i in range(400):
        distances = (fixed.activations[i] - moved.activations[i, 0]).norm(dim=-1)
        assert distances.min() < 1e-5
        if fixed.coefficients[i].any():
            pattern = tuple(fixed.coefficients[i].tolist())
            turns.setdefault(pattern, set()).add(int(distances.argmin()))
    assert all(len(of_pattern) == 1 for of_pattern in turns.values())
    assert len(set.union(*turns.values())) > 1
    # what follows the representative is still its orbit, in order
    expected = moved.action.orbit(moved.activations[:, 0])
    assert_close(moved.activations, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_features", [8, 16, 32])
def test_each_feature_is_present_with_probability_one_in_n(n_features):
    coefficients = make_toy(4000, n_features, 4, seed=0).coefficients
    assert set(coefficients.unique().tolist()) == {0, 1}
    assert_close(coefficients.mean(0), torch.full((n_features,), 1 / n_features), atol=0.02, rtol=0)
    independent = torch.corrcoef(coefficients.T) - torch.eye(n_features)
    assert independent.abs().max() < 0.1


def test_toy_seeds():
    first, again, other = (make_toy(20, 8, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.activations, again.activations)
    assert not torch.equal(first.features, other.features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"representatives": "some"}, r"representatives must be one of .*, got 'some'"),
        ({"action_kind": "dance"}, "action_kind must be one of 'rotation', 'shift', got 'dance'"),
        ({"d": 7}, "need an even d, got 7"),
        ({"d": 10, "action_kind": "shift"}, "shifts of order 4 need it to divide d = 10"),
    ],
)
def test_bad_toy_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make_toy(10, 4, 4, seed=0, **options)


def test_a_fresh_sae_of_the_same_seed_does_not_know_the_features():
    for seed in range(5):
        features = make_toy(4, 16, 4, seed).features
        dictionary = make_sae(SAEConfig(16, 16, topk=3), seed).dictionary.detach()
        assert (dictionary @ features.T).abs().max() < 0.95
        assert (dictionary[0] @ features[0]).abs() < 0.8


@pytest.mark.parametrize(
    ("names", "c4", "d4"),
    [
        (("rectangle",) * 4, 1 / 2, 1 / 4),
        (("diagonal",) * 4, 1 / 2, 1 / 4),
        (("t", "arrow", "triangle", "semicircle"), 1, 1 / 2),  # the left-right mirror image
        (("t", "arrow", "triangle", "l"), 1, 1),
        (("rectangle", "t", "rectangle", "c"), 1, 1),
    ],
)
def test_how_often_an_element_can_be_told(names, c4, d4):
    shapes = torch.tensor([[SHAPES.index(name) for name in names]])
    assert element_ceiling(shapes, Group.named("C4")) == pytest.approx(c4)
    assert element_ceiling(shapes, Group.named("D4")) == pytest.approx(d4)
    canonical = {tuple(tile.flatten().tolist()) for tile in draw_templates()}
    image = draw_templates()[shapes[0]].unflatten(0, (2, 2)).permute(0, 2, 1, 3).reshape(64, 64)
    turned = orbit(image[None], Group.named("D4"))
    turned = turned.reshape(8, 2, 32, 2, 32).transpose(2, 3).flatten(1, 2)
    upright = [all(tuple(t.flatten().tolist()) in canonical for t in tiles) for tiles in turned]
    assert 1 / sum(upright) == pytest.approx(d4)


def test_toy_samples_are_told_by_their_cause():
    def told(n_samples, start, stop, **settings):
        toy = make_toy(n_samples, 3, 4, seed=0, d=8, **settings)
        return identity(toy.part(start, stop).activations)

    assert told(20, 0, 10) == told(30, 0, 10) == identity(make_toy(10, 3, 4, 0, 8).activations)
    assert len({told(20, 0, 10), told(20, 10, 20), told(20, 0, 20)}) == 3
    assert told(20, 0, 10) != told(20, 0, 10, action_kind="shift")
    random = [told(n, 0, 10, representatives="random") for n in (20, 30)]
    assert random[0] != random[1]  # the rows differ


def test_shapes_are_told_by_their_cause():
    told = [identity(make_shapes(n, seed).images) for n, seed in ((5, 0), (5, 1), (6, 0), (5, 0))]
    assert told[0] == told[3] and len(set(told)) == 3
