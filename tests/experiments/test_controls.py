"""SAEs that respect another group than the data have, and vanilla SAEs of equal parameters."""

import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

from saehelpers import runs
from saehelpers.datasets import ProbeSamples
from saehelpers.experiments import (
    ActionRun,
    Subject,
    matched_inputs,
    other_group,
    other_group_inputs,
    run_under,
    samples_under,
    shuffled_action,
    subject_under,
    untrained_inputs,
)
from saehelpers.networks.activations import orbit_activations
from saehelpers.runs.identities import identity
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group, act_each, fit_action, image_action, orbit
from saehelpers.training.methods import SAERun, method_runs
from saehelpers.training.sizes import matched_runs, n_parameters, runs_at_equal_cost

IMAGES = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def samples_of(group: Group) -> ProbeSamples:
    """Eight images to fit to, four to test on, under elements from the last to the first."""
    elements = torch.arange(12, 0, -1) % group.order
    return ProbeSamples(8, 4, 1, torch.zeros(12, 4).long(), elements)


def run_of(what: Subject, name: str, **changes) -> SAERun:
    sae = SAEConfig(64, 8, topk=2, encoder="linear")
    settings = {"epochs": 1, "batch_size": 10, **changes}
    return SAERun(name, identity(what.train), sae, **settings)


def explained(group: Group) -> Subject:
    """What there is to explain of a model that copies its images."""
    model = nn.Sequential()
    model.add_module("encoder", nn.Flatten())
    model.add_module("decoder", nn.Linear(64, 1))
    train, test = (orbit_activations(model, part, group) for part in IMAGES.split(20))
    run = ActionRun("action", identity(train), group.name, "least_squares")
    action = fit_action(train, group, "least_squares")
    return Subject(model, pd.DataFrame(), train, test, action, run)


@pytest.mark.parametrize(("name", "other"), [("C4", "D4"), ("D4", "C4"), ("C2", "D2")])
def test_other_group(name, other):
    assert other_group(Group.named(name)).name == other


def test_groups_without_rotations_and_flips_have_no_other():
    two = Group.named("C2")
    group = Group.product(two, two)
    what = explained(two)
    calls = (
        lambda: other_group(group),
        lambda: subject_under(group, what, IMAGES[:20], IMAGES[20:], "unused"),
        lambda: samples_under(group, torch.zeros(3, 8, 64), torch.zeros(3).long()),
    )
    for call, message in zip(
        calls, ("not C2xC2", "of C2 is D2, got C2xC2", "not C2xC2"), strict=True
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"those of D4 or C4, got shape \(3, 16, 64\)"):
        samples_under(Group.named("D4"), torch.zeros(3, 16, 64), torch.zeros(3).long())


def test_without_flips_an_orbit_falls_into_two():
    group, other = Group.named("D4"), Group.named("C4")
    what = explained(group)
    seen = subject_under(other, what, IMAGES[:20], IMAGES[20:], "unused")
    assert seen.train.shape == (40, 4, 64) and seen.test.shape == (20, 4, 64)
    for i in (0, 7):
        image, flipped = IMAGES[i], image_action(group)(IMAGES[i], 4)
        assert torch.equal(seen.train[2 * i], orbit(image[None], other).flatten(2)[0])
        assert torch.equal(seen.train[2 * i + 1], orbit(flipped[None], other).flatten(2)[0])
    for p in range(4):
        assert torch.equal(seen.action.matrices[p], what.action.matrices[p])


def test_with_flips_the_base_model_reads_flipped_images(tmp_path):
    other = Group.named("D4")
    what = explained(Group.named("C4"))
    seen = subject_under(other, what, IMAGES[:20], IMAGES[20:], tmp_path)
    assert torch.equal(seen.train, orbit(IMAGES[:20], other).flatten(2))
    assert torch.equal(seen.train[:, :4], what.train)
    assert seen.action.group == other
    assert seen.action_run.activations == identity(seen.train) != identity(what.train)


@pytest.mark.parametrize(("name", "other"), [("C4", "D4"), ("D4", "C4")])
def test_samples_are_found_in_the_other_groups_orbits(name, other):
    group, other = Group.named(name), Group.named(other)
    elements = torch.randint(group.order, (30,), generator=torch.Generator().manual_seed(1))
    shown = act_each(IMAGES, elements, group).flatten(1)
    seen_by = other if other.order > group.order else group
    orbits, members = samples_under(other, orbit(IMAGES, seen_by).flatten(2), elements)
    assert orbits.shape == (30, other.order, 64)
    assert torch.equal(orbits[torch.arange(30), members], shown)


def test_other_orbits_are_trained_on_in_as_many_steps(tmp_path):
    what = explained(Group.named("D4"))
    seen = subject_under(Group.named("C4"), what, IMAGES[:20], IMAGES[20:], tmp_path)
    config = SAERun("canonical", identity(what.train), SAEConfig(64, 8), "canonical", epochs=10)
    run = run_under(config, what, seen)
    assert run.activations == identity(seen.train)
    assert run.epochs * len(seen.train) == 10 * len(what.train)
    assert dataclasses.replace(run, activations=identity(what.train), epochs=10) == config


@pytest.mark.parametrize(("name", "generators"), [("C4", 1), ("D4", 2)])
def test_matched_runs_have_equal_parameters(name, generators):
    sae = SAEConfig(24, 16, topk=4, encoder_hidden=32)
    config = SAERun("vanilla", "copies", sae, seed=2)
    more_latents, more_hidden = matched_runs(config, Group.named(name))
    wide = dataclasses.replace(sae, n_latents=64)
    latents, hidden = more_latents.sae, more_hidden.sae
    wanted = n_parameters(sae) + generators * 24**2
    one_more = dataclasses.replace(latents, n_latents=latents.n_latents + 1)
    assert abs(n_parameters(latents) - wanted) <= n_parameters(one_more) - n_parameters(latents)
    assert abs(n_parameters(hidden) - n_parameters(wide)) <= 24 + 16 + 1
    assert (latents.encoder_hidden, hidden.n_latents) == (32, 16)
    assert {run.seed for run in (more_latents, more_hidden)} == {2}
    assert [run.name for run in (more_latents, more_hidden)] == [
        "vanilla_matched",
        "vanilla_hidden",
    ]


def test_a_linear_encoder_has_no_hidden_units_to_widen():
    config = SAERun("vanilla", "copies", SAEConfig(24, 16, topk=4, encoder="linear"))
    assert [run.name for run in matched_runs(config, Group.named("C4"))] == ["vanilla_matched"]


def test_vanilla_saes_stand_beside_methods_at_equal_cost():
    sae, group, names = SAEConfig(24, 16, topk=4), Group.named("C4"), ["vanilla_wide", "oriented"]
    plan = runs_at_equal_cost(names, [1, 2], "a", sae, group, epochs=3, batch_size=8)
    assert plan[:4] == method_runs(names, [4], [1, 2], "a", sae, group, epochs=3, batch_size=8)
    vanilla = method_runs(["vanilla"], [4], [1, 2], "a", sae, group, epochs=3, batch_size=8)
    assert plan[4:6] == [matched_runs(run, group)[0] for run in vanilla]
    assert plan[6:] == [
        dataclasses.replace(run, name="vanilla_compute", epochs=12) for run in vanilla
    ]


def test_a_shuffled_action_is_a_wrong_one(toy, tmp_path):
    train, test = runs.part(toy.activations, 0, 200), runs.part(toy.activations, 200)
    run = ActionRun("action", identity(train), "C4", "least_squares")
    subject = Subject(nn.Identity(), pd.DataFrame(), train, test, toy.action, run)
    wrong = shuffled_action(subject, tmp_path)
    right, shuffled = (
        (action.act(test[:, 0], 1) - test[:, 1]).square().mean() for action in (toy.action, wrong)
    )
    assert shuffled > 10 * right
    assert torch.equal(shuffled_action(subject, tmp_path).matrices, wrong.matrices)


def test_vanilla_saes_of_equal_parameters_are_told_no_element(tmp_path):
    what, samples = explained(Group.named("C4")), samples_of(Group.named("C4"))
    run = run_of(what, "vanilla")
    ((matched, given),) = matched_inputs([run], what, samples, tmp_path)
    assert matched == matched_runs(run, Group.named("C4"))[0]
    assert (given.features, given.element) == ("recons", "none")
    assert given.latents.shape == (12, matched.sae.n_latents)
    assert matched_inputs([], what, samples, tmp_path) == []


@pytest.mark.parametrize(("name", "other"), [("C4", "D4"), ("D4", "C4")])
def test_saes_of_the_other_group_are_given_its_elements(name, other, tmp_path):
    what, samples = explained(Group.named(name)), samples_of(Group.named(name))
    seen = subject_under(Group.named(other), what, IMAGES[:20], IMAGES[20:], tmp_path)
    run = run_of(what, "canonical", objective="canonical", epochs=2)
    found = other_group_inputs([run], what, seen, samples, tmp_path)
    assert [given.element for _, given in found] == [f"true_{other}", f"inferred_{other}"]
    assert {own for own, _ in found} == {run_under(run, what, seen)}
    true = found[0][1]
    assert len(true.blocks) == Group.named(other).order
    expected = samples.elements if other == "D4" else samples.elements % 4
    assert torch.equal(true.blocks_used, expected)


def test_what_needs_no_trained_sae():
    what, samples = explained(Group.named("C4")), samples_of(Group.named("C4"))
    found = untrained_inputs(what, samples, SAEConfig(8, 16, topk=2))
    orbits = torch.cat([what.train[:8], what.test[:4]])
    x = orbits[torch.arange(12), samples.elements]
    activations, random = found["base_model"], found["random"]
    assert torch.equal(activations.latents, x) and activations.features == "activations"
    assert random.latents.shape == (12, 16) and random.blocks.shape == (1, 16, 64)
