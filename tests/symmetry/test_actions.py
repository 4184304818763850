"""Linear actions: given, fitted, reported, inferred, of C4 and D4."""

import math

import pytest
import torch
from torch.testing import assert_close

from saehelpers.symmetry import (
    FIT_METHODS,
    Group,
    LinearAction,
    canonical_direction,
    canonicalise,
    check_orbits,
    fit_action,
    infer_element,
    report_action,
)

BOTH = pytest.mark.parametrize("action", ["C4", "D4"], indirect=True)


def random_vectors(n: int, d: int = 8) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def value_of(report, metric: str) -> float:
    return report.query("metric == @metric and element == 'all'")["value"].item()


@BOTH
def test_matrices_are_powers_and_follow_compose(action):
    group = action.group
    rotation = action.matrices[1]
    assert_close(action.matrices[0], torch.eye(8))
    assert_close(torch.linalg.matrix_power(rotation, 4), torch.eye(8))
    for element in range(group.order):
        flip = action.matrices[4 * (element // 4)]
        assert_close(
            action.matrices[element], torch.linalg.matrix_power(rotation, element % 4) @ flip
        )
    for a in range(group.order):
        for b in range(group.order):
            product = action.matrices[a] @ action.matrices[b]
            assert_close(product, action.matrices[group.compose(a, b)], atol=1e-5, rtol=0)


@BOTH
def test_act_and_orbit_agree_with_a_loop_about_the_origin(action):
    origin = torch.linspace(-1, 1, 8)
    moved = LinearAction(action.group, action.matrices, origin)
    vectors = random_vectors(10)
    elements = torch.arange(10) % action.group.order
    orbit, each = moved.orbit(vectors), moved.act(vectors, elements)
    for i, vector in enumerate(vectors):
        for element in range(action.group.order):
            expected = origin + action.matrices[element] @ (vector - origin)
            assert_close(orbit[i, element], expected)
            assert_close(moved.act(vector, element), expected)
        assert_close(each[i], orbit[i, elements[i]])
    assert_close(moved.act(origin, 1), origin)


@BOTH
def test_orbits_of_directions_are_differences_of_orbits_wherever_the_origin_is(action):
    moved = LinearAction(action.group, action.matrices, torch.linspace(-1, 1, 8))
    a, b = random_vectors(10), random_vectors(10).flip(0)
    assert_close(moved.orbit_of_directions(a - b), moved.orbit(a) - moved.orbit(b))
    assert_close(moved.orbit_of_directions(a), action.orbit(a))


@BOTH
def test_decoder_blocks_are_the_action_after_decoding(action):
    action = LinearAction(action.group, action.matrices, torch.linspace(-1, 1, 8))
    latents, dictionary, bias = random_vectors(5, 12), random_vectors(12), random_vectors(1)[0]
    blocks, biases = action.decoder_blocks(dictionary, bias)
    for element in range(action.group.order):
        expected = action.act(latents @ dictionary + bias, element)
        assert_close(latents @ blocks[element] + biases[element], expected)


@BOTH
def test_report_of_the_true_action(action):
    orbits = action.orbit(random_vectors(200))
    report = report_action(action, orbits)
    r2 = report.query("metric == 'r2'")
    assert list(r2["element"]) == [str(e) for e in range(1, action.group.order)] + ["all"]
    assert r2["value"].to_numpy() == pytest.approx(1, abs=1e-5)
    for metric in ("order_error", "order_error_on_activations", "eigenvalue_distance"):
        rows = report[report.metric == metric]
        assert list(rows["element"]) == [*map(str, action.group.generators), "all"]
        assert rows["value"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert value_of(report, "homomorphism_error") == pytest.approx(0, abs=1e-5)
    if action.group.name == "D4":
        assert value_of(report, "relation_error") == pytest.approx(0, abs=1e-5)
    else:
        assert "relation_error" not in set(report["metric"])


@BOTH
def test_report_agrees_with_plain_loops(action):
    group = action.group
    wrong = LinearAction(group, action.matrices.clone(), random_vectors(1)[0])
    wrong.matrices.add_(0.1 * random_vectors(8))
    orbits = action.orbit(random_vectors(50) + 1) + 0.5
    report = report_action(wrong, orbits).set_index(["metric", "element"])["value"]
    sse, sse_identity = 0.0, 0.0
    for element in range(1, group.order):
        target = orbits[:, element]
        error = (target - wrong.act(orbits[:, 0], element)).pow(2).sum()
        around = (target - target.mean(0)).pow(2).sum()
        assert report["r2", str(element)] == pytest.approx(1 - (error / around).item(), abs=1e-4)
        sse, sse_identity = sse + error, sse_identity + (target - orbits[:, 0]).pow(2).sum()
    others = orbits[:, 1:].flatten(0, 1)
    sst = (others - others.mean(0)).pow(2).sum()
    assert report["r2", "all"] == pytest.approx(1 - (sse / sst).item(), abs=1e-4)
    assert report["r2_identity", "all"] == pytest.approx(1 - (sse_identity / sst).item(), abs=1e-4)
    pairs = [(s, g) for s in group.generators for g in range(group.order)]
    apart = [
        wrong.matrices[s] @ wrong.matrices[g] - wrong.matrices[group.compose(s, g)]
        for s, g in pairs
    ]
    wanted = [wrong.matrices[group.compose(s, g)] for s, g in pairs]
    assert report["homomorphism_error", "all"] == pytest.approx(
        (torch.stack(apart).norm() / torch.stack(wanted).norm()).item(), rel=1e-4
    )
    rotation = wrong.matrices[1]
    left = rotation @ rotation @ rotation @ rotation - torch.eye(8)
    assert report["order_error", "all"] == pytest.approx((left.norm() / 8**0.5).item(), rel=1e-4)
    centred = orbits[:, 0] - wrong.origin
    on_activations = (centred @ left.T).norm() / centred.norm()
    assert report["order_error_on_activations", "all"] == pytest.approx(
        on_activations.item(), rel=1e-4
    )
    distances = [
        min(abs(complex(value) - 1j**p) for p in range(4))
        for value in torch.linalg.eigvals(rotation)
    ]
    assert report["eigenvalue_distance", "all"] == pytest.approx(sum(distances) / 8, rel=1e-4)


def test_report_of_a_rotation_by_the_wrong_angle(c4_action):
    """Eighth turns are no action of C4: M^4 = -I, and every eigenvalue is off by 45 degrees."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    eighths = LinearAction.from_generators(Group.named("C4"), [torch.block_diag(*[turn] * 4)])
    report = report_action(eighths, c4_action.orbit(random_vectors(20)))
    assert value_of(report, "order_error") == pytest.approx(2, abs=1e-5)
    assert value_of(report, "eigenvalue_distance") == pytest.approx(
        2 * math.sin(math.pi / 8), abs=1e-5
    )


@BOTH
@pytest.mark.parametrize("method", FIT_METHODS)
def test_fit_recovers_a_known_action(action, method):
    origin = torch.linspace(-1, 1, 8)
    true = LinearAction(action.group, action.matrices, origin)
    orbits = true.orbit(2 * random_vectors(256) + origin)
    # some start where they should end, and Adam follows rounding errors at its full rate
    learning_rate = 1e-3 if method in ("refined", "orthogonal") else 5e-2
    fitted = fit_action(
        orbits, action.group, method, True, 250, learning_rate, batch_size=64, progress=False
    )
    assert_close(fitted.matrices[0], torch.eye(8))
    assert_close(fitted.matrices, action.matrices, atol=1e-2, rtol=0)
    held_out = true.orbit(2 * random_vectors(300)[256:])
    assert value_of(report_action(fitted, held_out), "r2") > 0.999


def test_orthogonal_fit_reaches_a_reflection_of_odd_dimension():
    """A flip of determinant -1: no path of orthogonal matrices leads there from the identity."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, -1.0]))
    true = LinearAction.from_generators(Group.named("D1"), [torch.eye(4), flip])
    orbits = true.orbit(random_vectors(64, 4))
    fitted = fit_action(orbits, true.group, "orthogonal", epochs=2, progress=False)
    assert_close(fitted.matrices, true.matrices, atol=1e-2, rtol=0)  # two of Adam's steps of 1e-3


def test_fit_on_generators_only_recovers_the_action(d4_action):
    orbits = d4_action.orbit(random_vectors(256))
    fitted = fit_action(
        orbits,
        d4_action.group,
        "adam",
        train_on_all_k=False,
        epochs=100,
        learning_rate=3e-2,
        progress=False,
    )
    assert_close(fitted.matrices, d4_action.matrices, atol=1e-3, rtol=0)


def test_orthogonal_fit_of_noisy_orbits_is_orthogonal(c4_action):
    orbits = c4_action.orbit(random_vectors(64))
    orbits = orbits + 0.3 * torch.randn(orbits.shape, generator=torch.Generator().manual_seed(3))
    arguments = {"epochs": 10, "learning_rate": 1e-2, "progress": False}
    rotation = fit_action(orbits, c4_action.group, "orthogonal", **arguments).matrices[1]
    assert_close(rotation @ rotation.T, torch.eye(8), atol=1e-5, rtol=0)
    free = fit_action(orbits, c4_action.group, "adam", **arguments).matrices[1]
    assert (free @ free.T - torch.eye(8)).abs().max() > 1e-2


def test_least_squares_fit_agrees_with_the_normal_equations(c4_action):
    orbits = c4_action.orbit(random_vectors(64))
    orbits = orbits + 0.3 * torch.randn(orbits.shape, generator=torch.Generator().manual_seed(3))
    centred = orbits - orbits.mean((0, 1))
    x = centred[:, 0]
    for method, elements in (("least_squares", [1]), ("per_element", [1, 2, 3])):
        fitted = fit_action(orbits, c4_action.group, method, progress=False)
        for element in elements:
            expected = torch.linalg.solve(x.T @ x, x.T @ centred[:, element]).T
            assert_close(fitted.matrices[element], expected, atol=1e-4, rtol=1e-4)


def test_fit_repeats_itself(c4_action):
    orbits = c4_action.orbit(random_vectors(64))
    first, second = (
        fit_action(orbits, c4_action.group, epochs=3, seed=5, progress=False) for _ in range(2)
    )
    assert torch.equal(first.matrices, second.matrices)


@BOTH
def test_the_element_is_inferred(action):
    canonical = random_vectors(64)
    elements = torch.arange(64) % action.group.order
    turned = action.act(canonical, elements)
    assert torch.equal(infer_element(action, turned, canonical), elements)
    # recons that are somewhat off still tell the elements apart
    noise = 0.05 * random_vectors(80)[16:]
    assert torch.equal(infer_element(action, turned, canonical + noise), elements)


def test_identity_action():
    action = LinearAction.identity(Group.named("D2"), 5)
    vectors = random_vectors(3, 5)
    for element in range(4):
        assert torch.equal(action.act(vectors, element), vectors)


def test_action_with_the_wrong_number_of_matrices(c4_action):
    with pytest.raises(ValueError, match="D4 has 8 elements, got 4 matrices"):
        LinearAction(Group.named("D4"), c4_action.matrices)
    with pytest.raises(ValueError, match=r"D4 has 2 generators, .* got 1 matrices"):
        LinearAction.from_generators(Group.named("D4"), [c4_action.matrices[1]])
    with pytest.raises(ValueError, match=r"C4 has 1 generators, .* got 2 matrices"):
        LinearAction.from_generators(Group.named("C4"), list(c4_action.matrices[:2]))


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (-1, "C4 has elements 0 to 3, got -1"),
        (9, "C4 has elements 0 to 3, got 9"),
        (1.0, r"C4 has elements 0 to 3, got 1\.0"),
        ([0, 1, 2], r"C4 has elements 0 to 3, got \[0, 1, 2\]"),
        (torch.tensor([0, 9, 1]), "C4 has elements 0 to 3, got 9 in a tensor"),
        (torch.tensor([0.0, 1.0, 2.0]), r"C4 has elements 0 to 3, got a tensor of torch\.float32"),
        (torch.tensor([0, 1]), r"must be a tensor of shape \(3,\), got shape \(2,\)"),
    ],
)
def test_acting_by_what_is_no_element(c4_action, element, message):
    with pytest.raises(ValueError, match=message):
        c4_action.act(random_vectors(3), element)


def test_unknown_fit_method(c4_action):
    with pytest.raises(ValueError, match=r"method must be one of 'adam', .*, got 'magic'"):
        fit_action(c4_action.orbit(random_vectors(4)), c4_action.group, "magic")


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        (torch.zeros(5, 8), r"shape \(n, \|G\|, d\), got \(5, 8\)"),
        (torch.zeros(0, 4, 8), r"activations is empty, of shape \(0, 4, 8\)"),
        (torch.zeros(5, 3, 8), r"C4 has orbits of 4 elements, got shape \(5, 3, 8\)"),
        (torch.full((5, 4, 8), math.nan), r"has NaN or infinite values, of shape \(5, 4, 8\)"),
        (torch.full((5, 4, 8), -math.inf), r"has NaN or infinite values, of shape \(5, 4, 8\)"),
    ],
)
def test_bad_orbit_activations(activations, message):
    with pytest.raises(ValueError, match=message):
        check_orbits(activations, Group.named("C4"))
    if activations.ndim == 3:
        with pytest.raises(ValueError, match=message):
            fit_action(activations, Group.named("C4"))


@BOTH
def test_chosen_frames_are_the_same_whichever_member_an_orbit_begins_with(action):
    group = action.group
    orbits = action.orbit(random_vectors(30))
    direction = canonical_direction(orbits)
    chosen = canonicalise(orbits, group, direction)
    projections = orbits @ direction
    assert_close(chosen[:, 0] @ direction, projections.amax(1))
    for element in range(group.order):
        begun_there = action.orbit(orbits[:, element])
        assert_close(canonicalise(begun_there, group, direction), chosen, atol=1e-4, rtol=0)
    assert_close(chosen, action.orbit(chosen[:, 0]), atol=1e-4, rtol=0)  # still orbits


def test_canonical_direction_sums_the_principal_axes_within_orbits():
    spread = torch.tensor([0.0, 3.0, 1.0, 0.5])
    orbits = (
        random_vectors(4000, 4).view(1000, 4, 4) * spread + 5 * random_vectors(1000, 4)[:, None]
    )
    expected = spread / spread.norm()
    assert_close(canonical_direction(orbits).abs(), expected, atol=0.03, rtol=0)
