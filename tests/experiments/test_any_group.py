"""Runs of a group without a name: trained, fitted, kept, and read back."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from saehelpers import runs
from saehelpers.experiments import (
    ActionRun,
    BaseModelRun,
    EncoderRun,
    acted_on,
    load,
    load_or_fit_action,
    load_or_train_base_model,
    load_or_train_encoder,
    prepare_pixel_subject,
    prepare_subjects,
    save_equivariant,
)
from saehelpers.runs.identities import identity
from saehelpers.saes import EquivariantSAE, SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction, fit_action, orbit

TWO = Group.named("C2")
GROUP = Group.product(TWO, TWO)
BASE = BaseModelRun(
    "base",
    "",
    "mlp",
    latent_dim=8,
    hidden_dim=16,
    group=GROUP.identifier,
    epochs=1,
    batch_size=8,
)


def half_shifts(images: torch.Tensor, element: int) -> torch.Tensor:
    """Columns, rows, or both move on by half the image, in a circle."""
    rows, columns = divmod(element, 2)
    half = images.shape[-1] // 2
    return images.roll((rows * half, columns * half), (-2, -1))


def flips(images: torch.Tensor, element: int) -> torch.Tensor:
    return images.flip([-1] * (element % 2) + [-2] * (element // 2))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def orbits(images) -> torch.Tensor:
    return orbit(images[..., :2, :2], GROUP, flips).flatten(2)  # (40, 4, 4)


@pytest.fixture
def run(orbits):
    def run(method: str = "least_squares", **settings) -> ActionRun:
        return ActionRun("action", identity(orbits), GROUP.identifier, method, **settings)

    return run


def base(images: torch.Tensor, act) -> BaseModelRun:
    """The base model of images under an action of one's own."""
    return dataclasses.replace(BASE, data=identity(images) + acted_on(images, GROUP, act))


def test_an_action_is_fitted_once_and_read_back_from_its_folder(run, orbits, tmp_path, monkeypatch):
    action = load_or_fit_action(run(), orbits, tmp_path, group=GROUP)
    assert torch.equal(action.matrices, fit_action(orbits, GROUP, "least_squares").matrices)
    monkeypatch.delattr("saehelpers.experiments.subjects.fit_action")
    again = load_or_fit_action(run(), orbits, tmp_path)  # no group: its folder tells
    folder = tmp_path / runs.run_id(run())
    config = json.loads((folder / "config.json").read_text())["config"]
    alone = LinearAction.from_state(config["group"], load_file(folder / "weights.safetensors"))
    for read in (again, alone, load(folder)):
        assert read.group == GROUP
        assert torch.equal(read.matrices, action.matrices)
        assert torch.equal(read.origin, action.origin)


def test_an_equivariant_sae_is_saved_with_its_group(orbits, tmp_path):
    action = fit_action(orbits, GROUP, "least_squares")
    sae = EquivariantSAE(make_sae(SAEConfig(4, 6, topk=2, encoder_hidden=8)).eval(), action)
    found = load(save_equivariant(tmp_path / "both", sae))
    assert found.action.group == GROUP
    assert torch.equal(found(orbits[:, 2]), sae(orbits[:, 2]))


def test_the_group_decides_the_run(run, orbits, tmp_path):
    other = Group(GROUP.name, GROUP.table, (1, 3))
    assert runs.run_id(run()) != runs.run_id(dataclasses.replace(run(), group=other.identifier))
    with pytest.raises(ValueError, match=r"the config's group is 'C2xC2-\w+', the group given is"):
        load_or_fit_action(run(), orbits, tmp_path, group=other)
    with pytest.raises(ValueError, match=r"unknown group 'C2xC2-\w+'; .* must be given itself"):
        load_or_fit_action(run(), orbits, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_the_state_of_another_group_is_named(run, orbits, tmp_path):
    load_or_fit_action(run(), orbits, tmp_path, group=GROUP)
    other = LinearAction.identity(Group("other", Group.named("C4").table), 4)
    stored = runs.load_run(tmp_path, run())
    runs.save_run(tmp_path, run(), other.state_dict(), stored[1], overwrite=True)
    with pytest.raises(ValueError, match=r"cannot be used: the state is one of C2xC2-\w+, not of"):
        load_or_fit_action(run(), orbits, tmp_path)
    with pytest.raises(ValueError, match=r"acts on R\^4, the activations have shape \(40, 4, 5\)"):
        zeros = torch.zeros(40, 4, 5)
        config = dataclasses.replace(run(), activations=identity(zeros))
        runs.save_run(tmp_path, config, LinearAction.identity(GROUP, 4).state_dict(), stored[1])
        load_or_fit_action(config, zeros, tmp_path)


def test_subjects_of_an_action_of_ones_own(images, tmp_path):
    train, test = images[:30], images[30:]
    with ThreadPoolExecutor(1) as executor:

        def prepare(act):
            told = dataclasses.replace(BASE, data=identity(train))
            return prepare_subjects(
                {"base": base(train, act) if act else told}, GROUP, train, test, tmp_path,
                executor=executor, act=act, method="least_squares",
            )["base"]  # fmt: skip

        subject, other = prepare(half_shifts), prepare(flips)
        with pytest.raises(RuntimeError) as raised:
            prepare(None)
    assert "how C2xC2 acts on inputs must be given" in str(raised.value.__cause__)
    for found, act in ((subject, half_shifts), (other, flips)):
        expected = torch.stack([found.base_model.encoder(act(train, g)) for g in range(4)], 1)
        assert_close(found.train, expected)
        fitted = fit_action(found.train, GROUP, "least_squares")
        assert torch.equal(found.action.matrices, fitted.matrices)
    assert runs.run_id(subject.action_run) != runs.run_id(other.action_run)


def test_base_models_and_encoders_see_images_under_the_action(images, tmp_path):
    seen = []

    def watched(x, element):
        seen.append(element)
        return half_shifts(x, element)

    config = base(images, half_shifts)
    load_or_train_base_model(config, images, tmp_path, group=GROUP, act=watched)
    assert set(seen) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r"unknown group 'C2xC2-\w+'; .* must be given itself"):
        own = dataclasses.replace(BASE, data=identity(images))
        load_or_train_base_model(own, images, tmp_path, force=True)
    with pytest.raises(ValueError, match="under element 0 of C2xC2"):
        wrong = {"group": GROUP, "act": lambda x, g: x + 1}
        own = base(images, wrong["act"])
        load_or_train_base_model(own, images, tmp_path, force=True, **wrong)
    colours, labels = (255 * images.expand(-1, 3, -1, -1)).to(torch.uint8), torch.arange(40) % 2
    told = identity((colours, labels)) + acted_on(colours, GROUP, half_shifts)
    config = EncoderRun(
        "encoder", told, (4, 8), (1, 1), 2, 2, GROUP.identifier, epochs=1, batch_size=8
    )
    seen.clear()
    model, _ = load_or_train_encoder(
        config, colours, labels, (colours, labels), tmp_path, group=GROUP, act=watched
    )
    assert set(seen) == {0, 1, 2, 3}
    given = (model, "convnext.encoder.stages.0", GROUP, colours[:6], colours[6:9], tmp_path)
    what, other = (
        prepare_pixel_subject(*given, tmp_path / "pixels", 5, act=act, method="least_squares")
        for act in (half_shifts, flips)
    )
    assert what.train.shape == other.train.shape == (30, 4, 4)
    assert identity(what.train) != identity(other.train)
    assert what.action_run.group == GROUP.identifier
