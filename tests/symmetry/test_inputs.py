"""How groups act on inputs: C_n and D_n on images, others by functions that are checked."""

import math

import pytest
import torch
from torch.testing import assert_close

from saehelpers.datasets.shapes import make_shapes
from saehelpers.symmetry import (
    Group,
    act_each,
    action_by_generators,
    check_input_action,
    image_action,
    input_action,
    orbit,
    restricted_action,
)
from tests.symmetry.examples import EXAMPLES, N_STEPS, cube, products, symmetric, time

EXACT = ["C1", "C2", "C4", "D1", "D2", "D4"]


def random_images(n: int, size: int = 6) -> torch.Tensor:
    return torch.rand(n, 2, size, size, generator=torch.Generator().manual_seed(0))


# --- cyclic and dihedral groups on images ---


@pytest.mark.parametrize("name", EXACT)
def test_compose_is_one_element_after_another_on_images(name):
    group, images = Group.named(name), random_images(3)
    act = image_action(group)
    assert torch.equal(act(images, 0), images)
    for a in range(group.order):
        assert torch.equal(act(act(images, a), group.inverse(a)), images)
        for b in range(group.order):
            once = act(images, group.compose(a, b))
            assert torch.equal(once, act(act(images, b), a))


@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D2", "D4"])
def test_different_elements_make_different_images(name):
    members = orbit(random_images(1), Group.named(name))[0]
    assert len({tuple(image.flatten().tolist()) for image in members}) == len(members)


def test_four_quarter_turns_are_the_identity():
    group, images = Group.named("C4"), random_images(3)
    act = image_action(group)
    turned = images
    for _ in range(3):
        turned = act(turned, 1)
        assert not torch.equal(turned, images)
    turned = act(turned, 1)
    assert torch.equal(turned, images)


def test_element_p_q_flips_then_rotates_counter_clockwise():
    act, image = image_action(Group.named("D4")), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert act(image, 1).tolist() == [[2, 4], [1, 3]]
    assert act(image, 4).tolist() == [[3, 4], [1, 2]]
    assert act(image, 5).tolist() == [[4, 2], [3, 1]]


def blob(size: int = 48) -> torch.Tensor:
    """A smooth image off centre that is zero near the border."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    return torch.exp(-((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2) / 0.04)[None]


@pytest.mark.parametrize("name", ["C8", "D8"])
def test_eighth_turns_of_a_smooth_image_compose_within_interpolation_error(name):
    group, image = Group.named(name), blob()
    act = image_action(group)
    for a in range(group.order):
        for b in range(group.order):
            twice = act(act(image, b), a)
            assert_close(twice, act(image, group.compose(a, b)), atol=0.06, rtol=0)


def test_eighth_turn_moves_the_centre_of_mass_counter_clockwise():
    image = torch.zeros(1, 41, 41)
    image[0, 19:22, 33:36] = 1.0  # right of the centre
    turned = image_action(Group.named("C8"))(image, 1)[0]
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    row, column = ((turned * axis).sum() / turned.sum() for axis in (rows, columns))
    assert row.item() == pytest.approx(20 - 14 * math.sqrt(0.5), abs=0.05)
    assert column.item() == pytest.approx(20 + 14 * math.sqrt(0.5), abs=0.05)


def test_interpolation_loses_part_of_a_shapes_image():
    group, images = Group.named("C8"), make_shapes(20, seed=0).images
    act = image_action(group)
    turned = images
    for _ in range(8):
        turned = act(turned, 1)
    lost = ((turned - images).pow(2).mean().sqrt() / images.std()).item()
    assert lost == pytest.approx(0.4, abs=0.1)  # as the docstring of image_action says


@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
def test_act_each_and_orbit_agree_with_act(name):
    group, images = Group.named(name), random_images(20)
    act = image_action(group)
    elements = torch.arange(20) % group.order
    each, turned = act_each(images, elements, group), orbit(images, group)
    for i, element in enumerate(elements.tolist()):
        assert_close(each[i], act(images[i], element))
        assert_close(turned[i, element], act(images[i], element))


def test_rotations_need_square_images():
    with pytest.raises(ValueError, match="C4 acts on square images, got 4 x 6"):
        image_action(Group.named("C4"))(torch.zeros(1, 4, 6), 1)


def test_half_turns_and_flips_need_no_square():
    images = torch.rand(2, 4, 6)
    assert torch.equal(image_action(Group.named("D2"))(images, 3), images.flip(-1))


def test_interpolated_rotations_of_elements_that_no_image_has():
    images = random_images(3)
    turned = act_each(images, torch.tensor([1, 1, 6]), Group.named("C8"))
    assert_close(turned[:2], image_action(Group.named("C8"))(images[:2], 1))


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (torch.tensor([0, 9, 1]), "C4 has elements 0 to 3, got 9 in a tensor"),
        (torch.tensor([0, -1, 1]), "C4 has elements 0 to 3, got -1 in a tensor"),
        (torch.tensor([0.0, 1.0, 2.0]), r"C4 has elements 0 to 3, got a tensor of torch\.float32"),
        ([0, 1, 2], r"C4 has elements 0 to 3, got \[0, 1, 2\]"),
        (torch.tensor([0, 1]), r"must be a tensor of shape \(3,\), got shape \(2,\)"),
        (1, r"must be a tensor of shape \(3,\), got 1"),
    ],
)
def test_acting_each_by_what_is_no_element(elements, message):
    with pytest.raises(ValueError, match=message):
        act_each(random_images(3), elements, Group.named("C4"))


@pytest.mark.parametrize("element", [-1, 9, 1.0, [1]])
def test_acting_on_images_by_what_is_no_element(element):
    with pytest.raises(ValueError, match="C4 has elements 0 to 3, got"):
        image_action(Group.named("C4"))(random_images(3), element)


# --- functions of one's own ---


def on_vectors(name: str):
    """An example's group, and how its matrices act on rows."""
    group, generators = EXAMPLES[name]()
    matrices = products(group, generators)
    return group, lambda vectors, element: vectors @ matrices[element].T


def vectors(d: int) -> torch.Tensor:
    return torch.randn(5, d, generator=torch.Generator().manual_seed(0))


def reversed_and_shifted(sequences: torch.Tensor, element: int) -> torch.Tensor:
    """Element p + 6 q: run backwards q times, then shifted by p."""
    q, p = divmod(element, N_STEPS)
    return (sequences.flip(1) if q else sequences).roll(p, 1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_matrices_on_vectors_are_an_action(name):
    group, act = on_vectors(name)
    d = EXAMPLES[name]()[1][0].shape[0]
    check_input_action(group, act, vectors(d))
    members = orbit(vectors(d), group, act)
    elements = torch.arange(5) % group.order
    each = act_each(vectors(d), elements, group, act)
    for i in range(5):
        assert torch.equal(each[i], members[i, elements[i]])
        for g in range(group.order):
            assert_close(members[i, g], act(vectors(d)[i], g))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_time_reversal_and_circular_shift_are_an_action_on_sequences(dtype):
    group = time()[0]
    sequences = torch.arange(5 * N_STEPS * 2).view(5, N_STEPS, 2).to(dtype)
    check_input_action(group, reversed_and_shifted, sequences)
    by_steps = action_by_generators(group, [lambda x: x.roll(1, 1), lambda x: x.flip(1)])
    for element in range(group.order):
        expected = reversed_and_shifted(sequences, element)
        assert torch.equal(by_steps(sequences, element), expected)


def test_an_action_by_generators_is_that_of_products():
    group, matrices = cube()
    act = action_by_generators(group, [lambda x, m=m: x @ m.T for m in matrices])
    for element, matrix in enumerate(products(group, matrices)):
        assert torch.equal(act(vectors(3), element), vectors(3) @ matrix.T)
    with pytest.raises(ValueError, match=r"cube has 2 generators, .* got 1 functions"):
        action_by_generators(group, [lambda x: x])
    with pytest.raises(ValueError, match="cube has elements 0 to 23, got 24"):
        act(vectors(3), 24)


@pytest.mark.parametrize("name", ["C3", "C4", "D4", "C5", "C8", "D8", "C16"])
@pytest.mark.parametrize("bright", [0.0, 1.0])
def test_rotations_that_interpolate_are_not_rejected(name, bright):
    noise = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    group = Group.named(name)
    for images in (make_shapes(4, seed=0).images, noise, blob()[None]):
        check_input_action(group, image_action(group), images + bright)


def test_an_action_that_is_given_is_checked_and_used():
    group, act = on_vectors("cube")
    assert input_action(group, act, vectors(3)) is act
    assert input_action(Group.named("C4"), None, random_images(1)).args == (Group.named("C4"),)
    with pytest.raises(ValueError, match=r"how cube acts on inputs must be given, as a function"):
        input_action(group, None, vectors(3))
    with pytest.raises(ValueError, match=r"how cube acts on inputs must be given, as a function"):
        orbit(vectors(3), group)


def test_functions_that_act_in_the_wrong_order_are_named():
    group, matrices = symmetric()
    inverse = [matrix.T for matrix in products(group, matrices)]
    with pytest.raises(
        ValueError,
        match=r"no action of S3: to act by 3 and then by 1 must be to act by 4, and is off by "
        r"1\d\d\.\d% of the inputs' norm: it does what element 5 does",
    ):
        check_input_action(group, lambda x, g: x @ inverse[g].T, vectors(3))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda x, g: x.roll(g + 1, -1), "under element 0 of C6"),
        (lambda x, g: x[:, :3], r"keep the shape of inputs \(4, 6\), element 0 makes it \(4, 3\)"),
        (lambda x, g: x.roll(g * g, -1), "by 1 and then by 1 must be to act by 2"),
        (lambda x, g: x.roll(min(g, 4), -1), "by 4 and then by 1 must be to act by 5"),
        (lambda x, g: torch.nn.functional.pad(x, (g, 0))[:, :6], "by 5 and then by 1 must be to"),
        (lambda x, g: 2.0**g * x, "by 5 and then by 1 must be to act by 0"),
        (lambda x, g: x + g, "by 5 and then by 1 must be to act by 0"),
    ],
)
def test_functions_that_are_no_actions(act, message):
    """Shifts in a circle of six steps, numbered wrong, cut short, or something else."""
    with pytest.raises(ValueError, match=message):
        check_input_action(Group.named("C6"), act, vectors(6))


def test_a_subgroup_acts_as_its_elements_do():
    d4, images = Group.named("D4"), torch.rand(2, 1, 5, 5)
    act = restricted_action(image_action(d4), [0, 2, 4, 6])
    check_input_action(Group.named("D2"), act, images)
    assert torch.equal(act(images, 3), image_action(d4)(images, 6))
