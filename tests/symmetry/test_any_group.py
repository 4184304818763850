"""Linear actions of groups without names: fitted, inferred, reported, and used."""

import pytest
import torch
from torch.testing import assert_close

from saehelpers.evaluation import ProbeInput, match, metrics, orbit_averaged, probe_inputs
from saehelpers.saes import EquivariantSAE, SAEConfig, make_sae
from saehelpers.symmetry import (
    FIT_METHODS,
    Group,
    LinearAction,
    canonical_direction,
    canonicalise,
    fit_action,
    infer_element,
    report_action,
    usual_fit,
)
from saehelpers.training import method_run, train_saes
from saehelpers.training.sizes import matched_runs, n_parameters
from tests.symmetry.examples import EXAMPLES, linear_action, products

EACH = pytest.mark.parametrize("name", EXAMPLES)
# Adam follows rounding errors at its full rate from where a fit should end already
SETTINGS = {
    "adam": {"epochs": 120, "learning_rate": 3e-2, "batch_size": 32},
    "refined": {"epochs": 1, "learning_rate": 1e-6},
    "orthogonal": {"epochs": 1, "learning_rate": 1e-6},
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def values(action: LinearAction, orbits: torch.Tensor):
    return report_action(action, orbits).set_index(["metric", "element"])["value"]


def regular(group: Group) -> LinearAction:
    """The group on R^|G|, every element a permutation of coordinates: h to g h."""
    return LinearAction(group, torch.eye(group.order)[group.multiplication].mT.contiguous())


@EACH
def test_matrices_of_generators_are_multiplied_out(name):
    group, generators = EXAMPLES[name]()
    action = LinearAction.from_generators(group, generators)
    assert torch.equal(action.matrices, torch.stack(products(group, generators)))


@EACH
@pytest.mark.parametrize("method", FIT_METHODS)
def test_fits_recover_a_known_action(name, method):
    action = linear_action(name)
    d = action.matrices.shape[-1]
    origin = torch.linspace(-1, 1, d)
    true = LinearAction(action.group, action.matrices, origin)
    orbits = true.orbit(random(128, d) + origin)
    settings = SETTINGS.get(method, {})
    fitted = fit_action(orbits, action.group, method, progress=False, **settings)
    assert_close(fitted.matrices, action.matrices, atol=1e-4, rtol=0)
    assert_close(fitted.orbit(orbits[:, 0]), orbits, atol=1e-3, rtol=0)


@EACH
def test_relations_are_fitted_where_canonical_activations_take_one_direction_alone(name):
    """Generators' own images say nothing of what their products do; all elements' do."""
    action = regular(EXAMPLES[name]()[0])
    canonical = torch.zeros(64, action.group.order)
    canonical[:, 0] = 1 + random(64).abs()
    orbits = action.orbit(canonical)
    settings = {"epochs": 150, "learning_rate": 2e-2, "batch_size": 64, "progress": False}
    found, generators_alone = (
        values(fit_action(orbits, action.group, "refined", all_k, **settings), orbits)
        for all_k in (True, False)
    )
    assert found["r2", "all"] > 0.9 > 0.8 > generators_alone["r2", "all"]
    assert found["homomorphism_error", "all"] < generators_alone["homomorphism_error", "all"]
    assert found["order_error_on_activations", "all"] < 0.3
    assert generators_alone["order_error_on_activations", "all"] > 0.8


@EACH
def test_what_is_turned_is_turned_back_though_canonical_activations_take_one_direction(name):
    """The matrices are fitted to every member of an orbit as what is turned."""
    action = regular(EXAMPLES[name]()[0])
    group = action.group
    canonical = torch.zeros(64, group.order)
    canonical[:, 0] = 1 + random(64).abs()
    orbits = action.orbit(canonical)
    fitted = fit_action(orbits, group, "whole_orbits")
    for g in range(group.order):
        assert_close(fitted.act(orbits[:, g], group.inverse(g)), canonical, atol=1e-3, rtol=0)
    forgetful = fit_action(orbits, group, "least_squares")
    back = forgetful.act(orbits[:, 1], group.inverse(1))
    assert (back - canonical).abs().max() > 0.5


def test_whole_orbits_agree_with_the_normal_equations():
    group = Group.named("D4")
    orbits = regular(group).orbit(random(256, 8)) + 0.3 * random(256, 8, 8, seed=1)
    centred = orbits - orbits.mean((0, 1))
    x = centred.flatten(0, 1)
    fitted = fit_action(orbits, group, "whole_orbits")
    for generator in group.generators:
        turned = torch.stack(
            [centred[:, group.compose(generator, g)] for g in range(group.order)], dim=1
        ).flatten(0, 1)
        expected = torch.linalg.solve(x.T @ x, x.T @ turned).T
        assert_close(fitted.matrices[generator], expected, atol=1e-4, rtol=1e-4)


def test_the_usual_fit_of_what_is_not_rotations_alone_reads_whole_orbits():
    assert usual_fit(EXAMPLES["cube"]()[0]) == "whole_orbits" == usual_fit(Group.named("D4"))
    assert usual_fit(Group.named("C4")) == "adam"


@EACH
def test_the_element_is_inferred(name):
    action = linear_action(name)
    canonical = random(100, action.matrices.shape[-1])
    elements = torch.arange(100) % action.group.order
    turned = action.act(canonical, elements)
    assert torch.equal(infer_element(action, turned, canonical), elements)
    assert_close(action.act(turned, action.group.inverse(elements)), canonical)


@EACH
def test_chosen_frames_are_the_same_whichever_member_an_orbit_begins_with(name):
    action = linear_action(name)
    orbits = action.orbit(random(30, action.matrices.shape[-1]))
    direction = canonical_direction(orbits)
    chosen = canonicalise(orbits, action.group, direction)
    for element in range(action.group.order):
        begun_there = action.orbit(orbits[:, element])
        again = canonicalise(begun_there, action.group, direction)
        assert_close(again, chosen, atol=1e-4, rtol=0)


@EACH
def test_report_of_the_true_action_and_of_the_identity(name):
    action = linear_action(name)
    group, d = action.group, action.matrices.shape[-1]
    orbits = action.orbit(random(50, d))
    true, none = values(action, orbits), values(LinearAction.identity(group, d), orbits)
    assert true["r2", "all"] == pytest.approx(1, abs=1e-5)
    assert none["r2", "all"] == none["r2_identity", "all"] == true["r2_identity", "all"] < 0.6
    rows = [*map(str, group.generators), "all"]
    for report in (true, none):
        for metric in ("order_error", "order_error_on_activations", "eigenvalue_distance"):
            assert list(report[metric].index) == rows
            assert report[metric].to_numpy() == pytest.approx(0, abs=1e-5)
        assert report["homomorphism_error", "all"] == pytest.approx(0, abs=1e-5)
        assert "relation_error" not in report


def test_report_of_generators_that_do_not_belong_together():
    """Either generator has its order, and one is turned against the other."""
    group, (turn, exchange) = EXAMPLES["symmetric"]()
    basis = torch.linalg.qr(random(3, 3)).Q
    wrong = LinearAction.from_generators(group, [turn, basis @ exchange @ basis.T])
    report = values(wrong, linear_action("symmetric", 1).orbit(random(20, 3)))
    assert report["order_error", "all"] == pytest.approx(0, abs=1e-5)
    assert report["homomorphism_error", "all"] > 0.1
    half = LinearAction.from_generators(group, [turn, 0.5 * exchange])
    report = values(half, linear_action("symmetric", 1).orbit(random(20, 3)))
    assert report["order_error", "1"] == pytest.approx(0, abs=1e-5)
    assert report["order_error", "3"] == report["order_error", "all"] == pytest.approx(0.75)
    assert report["eigenvalue_distance", "all"] == pytest.approx(0.5)


@EACH
def test_saes_probes_and_metrics_take_any_group(name):
    action = linear_action(name)
    group, d = action.group, action.matrices.shape[-1]
    orbits = action.orbit(random(60, d))
    elements = torch.arange(60) % group.order
    x = orbits[torch.arange(60), elements]
    config = SAEConfig(d, 8, topk=3, encoder_hidden=16)
    for method in ("canonical", "crosscoder", "self_oriented"):
        run = method_run(method, "x", config, group, epochs=1)
        (sae,), _ = train_saes([run], [orbits], progress=False)
        assert sae.decoder_blocks()[0].shape[0] == (group.order if method == "crosscoder" else 1)
        assert metrics.symmetry_report(sae, action, orbits)["fvu_mapped"] > 0
        inputs = probe_inputs(sae, orbits, elements, action, search=method == "self_oriented")
        assert torch.equal(inputs["true"].blocks_used, elements)
    averaged = orbit_averaged(make_sae(config).eval(), orbits, elements, action)
    assert averaged.matrix(torch.arange(8)).shape == (60, d)
    sae = EquivariantSAE(make_sae(config).eval(), action, search=True)
    back = torch.stack([action.act(x[i], group.inverse(int(elements[i]))) for i in range(60)])
    assert_close(sae.encode_given(x, elements), sae.sae.encode(back), atol=1e-4, rtol=1e-4)


@EACH
def test_an_orbit_averaged_sae_is_equivariant(name):
    """mean over h of rho(h)^-1 D(E(rho(h) y)), for y any member of an orbit, by a plain loop."""
    action = linear_action(name)
    group, d = action.group, action.matrices.shape[-1]
    orbits = action.orbit(random(5, d))
    elements = torch.arange(5) % group.order
    sae = make_sae(SAEConfig(d, 8, topk=3, encoder_hidden=16)).eval().requires_grad_(False)
    made = torch.from_numpy(orbit_averaged(sae, orbits, elements, action).matrix(torch.arange(8)))
    for i in range(5):
        expected = torch.zeros(d)
        for h in range(group.order):
            turned = action.act(orbits[i, elements[i]], h)
            recons = sae(turned[None])[0]
            expected += action.act(recons, group.inverse(h)) / group.order
        assert_close(made[i], expected, atol=1e-4, rtol=1e-4)


@EACH
def test_dictionaries_closed_under_every_generator(name):
    action = linear_action(name)
    d, generators = action.matrices.shape[-1], action.group.generators
    feature = random(1, d)
    orbit = action.orbit(feature)[0]
    assert metrics.orbit_closure(orbit, action) == pytest.approx(1, abs=1e-5)
    # a dictionary of one row: the mean over generators of its cosine with what they make of it
    turned = torch.stack([feature[0] @ action.matrices[g].T for g in generators])
    cosines = torch.nn.functional.cosine_similarity(turned, feature)
    assert metrics.orbit_closure(feature, action) == pytest.approx(cosines.mean().item(), abs=1e-5)


@EACH
def test_dictionaries_are_matched_modulo_any_group(name):
    action = linear_action(name)
    group, features = action.group, random(6, action.matrices.shape[-1])
    elements = torch.arange(6) * 5 % group.order
    turned = action.act(features, elements)[[3, 1, 5, 0, 2, 4]]
    pairs = match(features, turned, absolute=False, action=action)
    assert pairs.b.tolist() == [3, 1, 4, 0, 5, 2]
    assert_close(pairs.cosines, torch.ones(6))


@pytest.mark.parametrize("wrong", [[0, -1, 2], [0, 9, 2]])
def test_samples_under_what_is_no_element(wrong):
    action, elements = linear_action("four"), torch.tensor(wrong)
    orbits, sae = action.orbit(random(3, 4)), make_sae(SAEConfig(4, 8, topk=3, encoder_hidden=16))
    for function in (orbit_averaged, probe_inputs, lambda *given: probe_inputs(*given[:3])):
        with pytest.raises(
            ValueError, match=r"elements (0 to 3, got (-1|9)|must be of numbers from 0 up)"
        ):
            function(sae, orbits, elements, action)
    with pytest.raises(
        ValueError, match=r"elements (0 to 3, got (-1|9)|must be of numbers from 0 up)"
    ):
        ProbeInput(
            "recons", "true", random(3, 8), torch.zeros(4, 8, 4), torch.zeros(4, 4), elements
        )


def test_matched_runs_count_a_matrix_for_each_generator():
    three = Group.product(Group.product(*[Group.named("C2")] * 2), Group.named("C2"))
    run = method_run("vanilla", "x", SAEConfig(24, 16, topk=4, encoder_hidden=32), three)
    matched = matched_runs(run, three)[0].sae
    assert abs(n_parameters(matched) - n_parameters(run.sae) - 3 * 24**2) <= 24 + 32 + 1


# --- saved and made again ---


@EACH
def test_an_action_is_made_again_from_its_state(name):
    action = linear_action(name)
    action.origin += 1
    again = LinearAction.from_state(action.group.identifier, action.state_dict())
    assert again.group == action.group
    assert torch.equal(again.matrices, action.matrices)
    assert torch.equal(again.origin, action.origin)


def test_states_that_are_no_actions():
    action, other = linear_action("symmetric"), linear_action("cube")
    with pytest.raises(ValueError, match=r"the state is one of S3-\w+, not of S3-12345678"):
        LinearAction.from_state("S3-12345678", action.state_dict())
    with pytest.raises(ValueError, match="unknown group 'S3-"):
        state = LinearAction.identity(Group.named("D3"), 4).state_dict()
        LinearAction.from_state(action.group.identifier, state)
    with pytest.raises(ValueError, match=r"lacks \['matrices'\]"):
        LinearAction.from_state(other.group.identifier, {"origin": other.origin})
