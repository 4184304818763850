import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from saehelpers import runs
from saehelpers.datasets import ImageSet
from saehelpers.datasets.galaxies import load_galaxies
from saehelpers.datasets.shapes import make_shapes
from saehelpers.experiments import (
    ActionRun,
    BaseModelRun,
    EncoderRun,
    Subject,
    as_read,
    galaxy_encoder,
    load_or_fit_action,
    load_or_train_base_model,
    load_or_train_encoder,
    load_or_train_methods,
    load_or_train_saes,
    load_sae,
    measure_runs,
    other_fits,
    prepare_pixel_subject,
    prepare_subjects,
    shapes_base_run,
)
from saehelpers.experiments.once import checkpoint_path
from saehelpers.networks import load_encoder, make_autoencoder
from saehelpers.networks.activations import orbit_activations
from saehelpers.runs import results
from saehelpers.runs.identities import identity, part
from saehelpers.saes import EquivariantSAE, SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction, fit_action
from saehelpers.training import fitting, side_by_side as training
from saehelpers.training.methods import METHODS, SAERun, method_run, method_runs, run_columns
from saehelpers.training.side_by_side import train_saes

GROUP = Group.named("C4")


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def run(small_config, toy) -> SAERun:
    return SAERun("test", identity(toy.activations), small_config, epochs=2)


@pytest.fixture
def no_training(monkeypatch):
    """From when it is called on, training is an error."""

    def forbid():
        def fail(*arguments, **options):
            raise AssertionError("trained again")

        for module, name in (
            ("saes", "train_saes"),
            ("once", "fit"),
            ("subjects", "fit_action"),
        ):
            monkeypatch.setattr(f"saehelpers.experiments.{module}.{name}", fail)

    return forbid


def states(saes):
    return [{name: t.clone() for name, t in sae.state_dict().items()} for sae in saes]


def assert_equal_states(first, second):
    for one, other in zip(first, second, strict=True):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


# --- methods ---


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_trained(method, toy):
    sae = SAEConfig(d=8, n_latents=12, topk=3, unit_decoder=True, n_archetypes=16)
    run = method_run(method, "toy", sae, GROUP, epochs=1, lambda_mse=0.1)
    assert run.name == method
    wide = method.endswith("wide") or method == "block_topk"
    assert run.sae.n_latents == (48 if wide else 12)
    (trained,), (history,) = train_saes([run], [toy.activations], progress=False)
    assert trained.dictionary.shape == (run.sae.n_latents, 8)
    assert history["loss"].notna().all()


def test_methods_that_reconstruct_another_frame_are_called_symmetric():
    symmetric = {name for name, method in METHODS.items() if method.symmetric}
    oriented = {"oriented", "self_oriented"}
    assert symmetric == {"crosscoder", "canonical", "latent_inv", "output_inv"} | oriented
    assert oriented == {name for name, method in METHODS.items() if method.search}


def test_method_runs_nest_method_topk_seed(small_config):
    made = method_runs(
        ["vanilla", "canonical"], [2, 4], [0, 1], "toy", small_config, GROUP, epochs=7
    )
    assert [(r.name, r.sae.topk, r.seed) for r in made] == [
        (method, topk, seed)
        for method in ("vanilla", "canonical")
        for topk in (2, 4)
        for seed in (0, 1)
    ]
    assert {r.epochs for r in made} == {7}
    assert len({runs.run_id(r) for r in made}) == 8


def test_unknown_method(small_config):
    with pytest.raises(ValueError, match="unknown method 'magic'; known are vanilla"):
        method_run("magic", "toy", small_config, GROUP)


def test_run_columns_are_results_columns(run):
    columns = run_columns(run)
    assert set(columns) <= set(results.KEY)
    assert columns["run_id"] == runs.run_id(run)
    assert (columns["n_latents"], columns["topk"], columns["seed"]) == (12, 3, 0)
    relu = dataclasses.replace(
        run,
        sae=dataclasses.replace(run.sae, activation="relu"),
        sparsity="l1",
        lambda_sparsity=0.1,
    )
    assert run_columns(relu)["topk"] is None


def test_order_of_the_data_has_a_seed_of_its_own(small_config):
    run = SAERun("test", "toy", small_config, seed=3)
    assert run.draws == 3
    assert dataclasses.replace(run, order_seed=5).draws == 5
    assert runs.run_id(dataclasses.replace(run, order_seed=None)) == runs.run_id(run)
    assert runs.run_id(dataclasses.replace(run, order_seed=3)) != runs.run_id(run)


# --- SAEs ---


def test_saes_are_trained_once_then_loaded(run, toy, tmp_path, executor, no_training, capsys):
    configs = [run, dataclasses.replace(run, seed=1), dataclasses.replace(run, epochs=3)]
    first = states(load_or_train_saes(configs, toy.activations, tmp_path, executor=executor))
    assert "SAEs trained: 0 of 3 done, 3 left" in capsys.readouterr().out
    expected, _ = train_saes(configs[:2], [toy.activations], progress=False)
    assert_equal_states(first[:2], states(expected))

    no_training()
    loaded = load_or_train_saes(configs[::-1], toy.activations, tmp_path, executor=executor)
    assert_equal_states(states(loaded), first[::-1])
    assert "SAEs trained: 3 of 3 done\n" in capsys.readouterr().out
    assert not any(p.requires_grad for sae in loaded for p in sae.parameters())
    assert not any(sae.training for sae in loaded)


def test_only_missing_saes_are_trained(run, toy, tmp_path, executor, capsys):
    load_or_train_saes([run], toy.activations, tmp_path, executor=executor)
    written = (tmp_path / runs.run_id(run) / "weights.safetensors").stat().st_mtime_ns
    other = dataclasses.replace(run, seed=1)
    load_or_train_saes([run, other], toy.activations, tmp_path, executor=executor)
    assert "SAEs trained: 1 of 2 done, 1 left" in capsys.readouterr().out
    assert (tmp_path / runs.run_id(run) / "weights.safetensors").stat().st_mtime_ns == written


def test_force_trains_again(run, toy, tmp_path, executor):
    first = states(load_or_train_saes([run], toy.activations, tmp_path, executor=executor))
    written = (tmp_path / runs.run_id(run) / "weights.safetensors").stat().st_mtime_ns
    forced = load_or_train_saes([run], toy.activations, tmp_path, executor=executor, force=True)
    assert_equal_states(states(forced), first)
    assert (tmp_path / runs.run_id(run) / "weights.safetensors").stat().st_mtime_ns > written


def test_other_activations_under_the_same_name_are_refused(run, toy, tmp_path, executor):
    load_or_train_saes([run], toy.activations, tmp_path, executor=executor)
    with pytest.raises(
        ValueError, match=r"activations of 'test': the config has .*, what is given has"
    ):
        load_or_train_saes([run], toy.activations + 1, tmp_path, executor=executor)


def test_force_begins_anew(run, toy, tmp_path, executor):
    (expected,), _ = train_saes([run], [toy.activations], progress=False)
    path = checkpoint_path(tmp_path, [run])
    path.parent.mkdir()
    path.write_bytes(b"left over")
    (sae,) = load_or_train_saes([run], toy.activations, tmp_path, executor=executor, force=True)
    assert_equal_states(states([sae]), states([expected]))


def test_each_sae_gets_the_activations_that_stand_beside_it(run, toy, tmp_path, executor):
    sources = [toy.activations, 3 * toy.activations + 1]
    configs = [dataclasses.replace(run, activations=identity(source)) for source in sources]
    saes = load_or_train_saes(configs, sources, tmp_path, executor=executor)
    for sae, source in zip(saes, sources, strict=True):
        assert_close(sae.mean, source.mean((0, 1)))


def test_held_out_activations_make_the_history(run, toy, tmp_path, executor):
    load_or_train_saes(
        [run], toy.activations, tmp_path, validation=5 * toy.activations, executor=executor
    )
    _, history, _ = runs.load_run(tmp_path, run)
    assert history["fvu"].iloc[-1] > 5  # of the training activations' variance


def test_saes_come_in_the_order_of_their_configs(run, toy, tmp_path, executor):
    wide = dataclasses.replace(run, sae=dataclasses.replace(run.sae, n_latents=20))
    configs = [dataclasses.replace(run, seed=1), wide, run, dataclasses.replace(wide, seed=1)]
    saes = load_or_train_saes(configs, toy.activations, tmp_path, executor=executor)
    for config, sae in zip(configs, saes, strict=True):
        (alone,), _ = train_saes([config], [toy.activations], progress=False)
        assert sae.config == config.sae
        assert_close(sae.dictionary, alone.dictionary.detach(), rtol=1e-4, atol=1e-5)


def test_interrupted_training_goes_on_from_its_checkpoint(
    run, toy, tmp_path, executor, monkeypatch
):
    config = dataclasses.replace(run, epochs=4)  # of 2 steps
    (expected,), _ = train_saes([config], [toy.activations], progress=False)
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    total_loss, calls = training.total_loss, []

    def nan_once(*arguments):
        calls.append(None)
        terms = total_loss(*arguments)
        return {"loss": terms["loss"] * torch.nan} if len(calls) == 5 else terms

    monkeypatch.setattr(training, "total_loss", nan_once)
    with pytest.raises(RuntimeError, match="1 of 1 jobs failed") as raised:
        load_or_train_saes([config], toy.activations, tmp_path, executor=executor)
    assert isinstance(raised.value.__cause__, FloatingPointError)
    assert len(list((tmp_path / ".unfinished").iterdir())) == 1
    resumed = load_or_train_saes([config], toy.activations, tmp_path, executor=executor)
    assert len(calls) == 5 + 4
    assert_equal_states(states(resumed), states([expected]))
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_a_single_sae_shows_its_progress_and_has_the_same_weights(run, toy, tmp_path, capfd):
    """Three seeds are one job, trained side by side."""
    configs = [dataclasses.replace(run, seed=seed) for seed in range(3)]
    alone = load_or_train_saes(configs, toy.activations, tmp_path / "alone")
    assert f"{run.name}:" in capfd.readouterr().err  # the bar of the epochs
    others = [dataclasses.replace(run, epochs=run.epochs + 1)]
    together = load_or_train_saes([*configs, *others], toy.activations, tmp_path / "together")
    assert f"{run.name}:" not in capfd.readouterr().err
    assert_equal_states(states(alone), states(together[:3]))


def test_saes_are_read_as_their_methods_mean_them(small_config, c4_action):
    sae = make_sae(small_config)

    def read(name, action=c4_action):
        return as_read(SAERun(name, "toy", small_config), sae, action)

    assert read("vanilla") is sae and read("vanilla_matched") is sae
    assert read("canonical", None) is sae
    told, searching = read("canonical"), read("self_oriented")
    assert isinstance(told, EquivariantSAE) and told.sae is sae and told.action is c4_action
    assert (told.search, searching.search) == (False, True)


def test_an_sae_that_was_not_trained(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run {runs.run_id(run)} in .*train it first"):
        load_sae(run, tmp_path)


def test_weights_of_another_architecture_are_named(run, toy, tmp_path, executor):
    (sae,) = load_or_train_saes([run], toy.activations, tmp_path, executor=executor)
    tensors = sae.state_dict()
    del tensors["decoder_weight"]
    runs.save_run(tmp_path, run, tensors, pd.DataFrame({"loss": [0.0]}), overwrite=True)
    with pytest.raises(
        ValueError, match=rf"(?s){runs.run_id(run)} cannot be used.*decoder_weight.*force=True"
    ):
        load_sae(run, tmp_path)


def test_failed_training_is_raised_with_its_cause(run, toy, tmp_path, executor):
    with pytest.raises(RuntimeError, match="1 of 1 jobs failed") as failure:
        narrow = toy.activations[..., :5]
        run = dataclasses.replace(run, activations=identity(narrow))
        load_or_train_saes([run], narrow, tmp_path, executor=executor)
    assert "sae.d is 8, the activations are (256, 4, 5)" in str(failure.value.__cause__)
    assert not (tmp_path / runs.run_id(run)).exists()


# --- base models and actions ---


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return make_shapes(40, seed=0).images


BASE = BaseModelRun(
    "base", identity(make_shapes(40, seed=0).images), "mlp", latent_dim=8, hidden_dim=16, epochs=2,
    batch_size=8,
)  # fmt: skip


def test_base_model_is_trained_once_then_loaded(images, tmp_path, no_training):
    model, history = load_or_train_base_model(BASE, images, tmp_path)
    assert history["epoch"].tolist() == [0, 1]
    assert history["loss"].iloc[1] < history["loss"].iloc[0]
    no_training()
    again, again_history = load_or_train_base_model(BASE, images, tmp_path)
    assert torch.equal(again(images), model(images))
    assert again_history.equals(history)
    with pytest.raises(AssertionError, match="trained again"):
        load_or_train_base_model(BASE, images, tmp_path, force=True)


@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_base_model_is_kept_in_half_precision(images, tmp_path, architecture):
    images = images[..., ::4, ::4]
    config = dataclasses.replace(BASE, data=identity(images), architecture=architecture, epochs=1)
    model, _ = load_or_train_base_model(config, images, tmp_path)
    stored = load_file(tmp_path / runs.run_id(config) / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and not tensor.requires_grad
        assert torch.equal(tensor, stored[name].float())


def test_unknown_group(images, tmp_path):
    with pytest.raises(ValueError, match="unknown group 'S4'"):
        load_or_train_base_model(dataclasses.replace(BASE, group="S4"), images, tmp_path)
    with pytest.raises(ValueError, match="unknown group 'S4'"):
        ones = torch.ones(2, 4, 8)
        load_or_fit_action(ActionRun("action", identity(ones), "S4"), ones, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_base_model_without_augmentation_learns_something_else(images, tmp_path):
    model, _ = load_or_train_base_model(BASE, images, tmp_path)
    plain = dataclasses.replace(BASE, augment=False)
    other, _ = load_or_train_base_model(plain, images, tmp_path)
    assert not torch.equal(model(images), other(images))


def test_validation_loss_is_that_of_transformed_held_out_images(images, tmp_path):
    model, history = load_or_train_base_model(BASE, images, tmp_path, validation=images[:7])
    turned = torch.stack([torch.rot90(images[i], i % 4, (-2, -1)) for i in range(7)])
    expected = (model(turned) - turned).pow(2).mean().item()
    assert history["validation_loss"].iloc[-1] == pytest.approx(
        expected, rel=1e-2
    )  # half precision


def test_action_is_fitted_once_then_loaded(toy, tmp_path, no_training):
    config = ActionRun("action", identity(toy.activations), "C4", method="least_squares")
    action = load_or_fit_action(config, toy.activations, tmp_path)
    expected = fit_action(toy.activations, GROUP, "least_squares")
    assert torch.equal(action.matrices, expected.matrices)
    assert torch.equal(action.origin, expected.origin)
    no_training()
    again = load_or_fit_action(config, toy.activations, tmp_path)
    assert torch.equal(again.matrices, action.matrices)


def test_action_fitted_to_shuffled_elements_is_wrong(toy, tmp_path):
    right = ActionRun("action", identity(toy.activations), "C4", method="per_element")
    wrong = dataclasses.replace(right, shuffled=True)
    errors = []
    for config in (right, wrong):
        action = load_or_fit_action(config, toy.activations, tmp_path)
        errors.append((action.orbit(toy.activations[:, 0]) - toy.activations).pow(2).mean())
    assert errors[0] < 1e-8 < 0.05 < errors[1]


def test_tensors_that_are_no_action_are_named(toy, tmp_path):
    config = ActionRun("action", identity(toy.activations), "C4", method="least_squares")
    runs.save_run(
        tmp_path, config, {"matrices": torch.zeros(4, 8, 8)}, pd.DataFrame({"value": [0.0]})
    )
    with pytest.raises(ValueError, match=rf"(?s){runs.run_id(config)} cannot be used.*origin"):
        load_or_fit_action(config, toy.activations, tmp_path)


def test_explain_reads_orbits_and_fits_the_action(images, tmp_path, executor):
    base = dataclasses.replace(BASE, data=identity(images[:30]))
    other = dataclasses.replace(base, seed=1)
    both = prepare_subjects(
        {"b": base, "a": other}, GROUP, images[:30], images[30:], tmp_path,
        executor=executor, method="least_squares",
    )  # fmt: skip
    assert list(both) == ["b", "a"]
    explained = both["b"]
    assert torch.equal(explained.train, orbit_activations(explained.base_model, images[:30], GROUP))
    assert torch.equal(explained.test, orbit_activations(explained.base_model, images[30:], GROUP))
    expected = fit_action(explained.train, GROUP, "least_squares")
    assert torch.equal(explained.action.matrices, expected.matrices)
    assert explained.action_run.activations == identity(explained.train)
    read = orbit_activations(explained.base_model, images[:30], GROUP)
    assert identity(explained.train) == identity(read) != identity(both["a"].train)


def test_saes_of_every_subject_have_the_width_of_its_activations(toy, tmp_path, executor):
    subjects = {
        name: Subject(
            toy.action,
            pd.DataFrame(),
            orbits,
            orbits[:9],
            toy.action,
            ActionRun("action", "", "C4"),
        )
        for name, orbits in (("toy", toy.activations), ("part", toy.activations[..., :6]))
    }
    sae = SAEConfig(1, 4, topk=2, encoder_hidden=5)
    saes = load_or_train_methods(
        subjects, ["vanilla", "canonical"], [1, 2], [0], sae, GROUP, tmp_path, executor=executor,
        epochs=1,
    )  # fmt: skip
    for (name, subject), d in zip(subjects.items(), (8, 6), strict=True):
        own = dataclasses.replace(sae, d=d)
        told, methods = identity(subject.train), ["vanilla", "canonical"]
        expected = method_runs(methods, [1, 2], [0], told, own, GROUP, epochs=1)
        assert list(saes[name]) == expected
        for config, found in saes[name].items():
            alone = load_or_train_saes([config], subject.train, tmp_path, executor=executor)
            assert_equal_states(states([found]), states(alone))


@pytest.mark.parametrize("validate", [True, False])
def test_histories_of_methods_are_of_what_is_held_out_unless_told(validate, toy, tmp_path):
    run = ActionRun("action", "", "C4")
    held_out = toy.activations[:9]
    subject = Subject(toy.action, pd.DataFrame(), toy.activations, held_out, toy.action, run)
    given = {"toy": subject}, ["vanilla"], [2], [0], SAEConfig(8, 4, topk=2), GROUP, tmp_path
    (config,) = load_or_train_methods(*given, epochs=2, validate=validate)["toy"]
    read = held_out if validate else None
    load_or_train_saes([config], toy.activations, tmp_path / "alone", read)
    histories = [runs.load_run(path, config)[1] for path in (tmp_path, tmp_path / "alone")]
    assert histories[0].equals(histories[1])


def test_base_models_of_shapes_are_told_apart_by_name_and_images(images):
    told = identity(images)
    named = BaseModelRun("base_mlp", told, "mlp", hidden_dim=3, group="D4", epochs=2)
    assert shapes_base_run("mlp", images, "D4", 2, hidden_dim=3) == named
    assert shapes_base_run("/some/where/vit", images, "C4", 0).name == "base_vit"


def test_an_untrained_network_keeps_its_initial_weights(tmp_path):
    images = torch.rand(6, 1, 16, 16)
    config = shapes_base_run("mlp_untrained", images, "C4", 0, latent_dim=8, hidden_dim=8, seed=3)
    assert (config.name, config.architecture) == ("base_mlp_untrained", "mlp")
    model, history = load_or_train_base_model(config, images, tmp_path)
    start = make_autoencoder("mlp", 8, 8, 16, seed=3)
    for name, tensor in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert history.empty and not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match="epochs must be 0 for 'mlp_untrained', got 5"):
        shapes_base_run("mlp_untrained", images, "C4", 5)


# --- measurements ---


def mean_of(sae_name: str, action: LinearAction) -> dict[str, float]:
    return {"first": float(len(sae_name)), "second": action.matrices.sum().item()}


def test_measurements_are_made_once(run, toy, tmp_path, executor, capsys):
    configs = [run, dataclasses.replace(run, seed=1)]
    load_or_train_saes(configs, toy.activations, tmp_path, executor=executor)
    path = tmp_path / "results.csv"
    jobs = [(config, {"experiment": "e"}, ("abc", toy.action)) for config in configs]
    table = measure_runs(mean_of, jobs[:1], path, executor)
    assert table["metric"].tolist() == ["first", "second"]
    assert table["value"].iloc[0] == 3
    capsys.readouterr()
    table = measure_runs(mean_of, jobs, path, executor)
    assert "SAEs measured: 1 of 2 done, 1 left" in capsys.readouterr().out
    assert len(table) == len(results.read(path)) == 4
    assert set(table["run_id"]) == {runs.run_id(config) for config in configs}


def test_other_numbers_of_samples_are_measured_beside(run, toy, tmp_path, executor):
    load_or_train_saes([run], toy.activations, tmp_path, executor=executor)
    path = tmp_path / "results.csv"
    for n_train, n_rows in ((10, 2), (20, 4), (10, 4)):
        job = (run, {"n_train": n_train, "n_test": 5}, ("abc", toy.action))
        table = measure_runs(mean_of, [job], path, executor)
        assert table["n_train"].tolist() == [n_train, n_train]
        assert len(results.read(path)) == n_rows


def sum_of(sae_name: str, action: LinearAction) -> dict[str, float]:
    return {"first": -1.0, "third": 0.0}


@pytest.mark.parametrize(
    "change",
    [
        lambda toy: (mean_of, ("abcd", toy.action)),
        lambda toy: (mean_of, ("abc", LinearAction.identity(GROUP, 8))),
        lambda toy: (sum_of, ("abc", toy.action)),
    ],
    ids=["data", "action", "measure"],
)
def test_what_is_measured_on_anything_else_is_measured_anew(run, toy, tmp_path, executor, change):
    path = tmp_path / "results.csv"
    before = measure_runs(mean_of, [(run, {}, ("abc", toy.action))], path, executor)
    measure, arguments = change(toy)
    after = measure_runs(measure, [(run, {}, arguments)], path, executor)
    assert dict(zip(after["metric"], after["value"], strict=True)) == pytest.approx(
        measure(*arguments), rel=1e-5
    )
    again = measure_runs(mean_of, [(run, {}, ("abc", toy.action))], path, executor)
    assert again.equals(before)
    assert results.latest(results.read(path)).query("metric == 'first'")["value"].item() == 3


# --- encoders of images, and their pixels ---

STAGE = "convnext.encoder.stages.0"


@pytest.fixture(scope="module")
def bright() -> tuple[torch.Tensor, torch.Tensor]:
    """40 noisy images of 16x16, dark and bright in turn, and which of them are bright."""
    return make_bright()


def make_bright() -> tuple[torch.Tensor, torch.Tensor]:
    generator, labels = torch.Generator().manual_seed(0), torch.arange(40) % 2
    noise = torch.randint(0, 128, (40, 3, 16, 16), generator=generator)
    return (noise + 100 * labels[:, None, None, None]).to(torch.uint8), labels


ENCODER = EncoderRun(
    "encoder", identity(make_bright()), (4, 8), (1, 1), 2, 2, epochs=12, batch_size=8
)


@pytest.fixture(scope="module")
def trained(bright, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    return *load_or_train_encoder(ENCODER, *bright, bright, models), models


def test_encoder_is_trained_once_then_loaded(bright, trained, no_training, capsys):
    model, history, models = trained
    assert list(history) == ["epoch", "step", "loss", "validation_loss", "validation_accuracy"]
    assert history["validation_accuracy"].iloc[-1] == 1
    assert torch.equal(model(bright[0]).logits.argmax(-1), bright[1])
    no_training()
    again, again_history = load_or_train_encoder(ENCODER, *bright, bright, models)
    assert "loaded   encoder-" in capsys.readouterr().out
    assert_equal_states(states([again]), states([model]))
    assert again_history.equals(history)


def test_the_encoder_of_galaxies_is_trained_or_read(bright, tmp_path):
    own = ImageSet(*bright, ("dark", "light"), "here")
    settings = {"widths": (4, 8), "depths": (1, 1), "epochs": 12, "seed": 3}
    encoder, accuracy = galaxy_encoder("convnext", own, own, tmp_path, **settings)
    config = EncoderRun(
        "base_galaxies", identity(bright), n_classes=2, batch_size=32, pixel_mean=0.1,
        pixel_std=0.12, **settings,
    )  # fmt: skip
    expected, history = load_or_train_encoder(config, *bright, bright, tmp_path)
    assert [path.name for path in tmp_path.glob("base_*")] == [runs.run_id(config)]
    assert_equal_states(states([encoder]), states([expected]))
    assert accuracy == history.validation_accuracy.iloc[-1]
    read, accuracy = galaxy_encoder("saehelpers.networks:make_convnext", own, own, tmp_path)
    assert isinstance(read, torch.nn.Module) and np.isnan(accuracy)


def test_an_action_that_is_fitted_in_other_ways(toy, tmp_path):
    run = ActionRun("action", identity(toy.activations), "C4", "least_squares", epochs=2)
    orbits = toy.activations
    subject = Subject(toy.action, pd.DataFrame(), orbits, orbits, toy.action, run)
    found = other_fits(subject, ["per_element", "adam"], tmp_path, n_samples=40, seed=3)
    sample = part(orbits, 0, 40)
    for method, (config, action) in zip(("per_element", "adam"), found.items(), strict=True):
        own = {"activations": identity(sample), "method": method, "seed": 3}
        assert config == dataclasses.replace(run, name=f"action_{method}", **own)
        expected = load_or_fit_action(config, sample, tmp_path / "again")
        assert torch.equal(action.matrices, expected.matrices)
        assert identity(action) == identity(expected)
    (config,) = other_fits(subject, ["adam"], tmp_path)
    assert config.activations == run.activations


@pytest.mark.parametrize("n_pixels, n_rows", [(None, 64), (5, 5)])
def test_explained_pixels_of_an_encoder(bright, trained, tmp_path, n_pixels, n_rows):
    images, group, folder = bright[0], Group.named("D4"), tmp_path / "pixels"
    given = (trained[0], STAGE, group, images[:6], images[6:10], tmp_path, folder, n_pixels)
    what = prepare_pixel_subject(*given, method="least_squares")
    assert (what.train.shape, what.test.shape) == ((6 * n_rows, 8, 4), (4 * n_rows, 8, 4))
    assert np.array_equal(np.load(what.train.path), what.train)
    assert what.action_run.activations == identity(part(what.train, 0, len(what.train)))
    expected = fit_action(what.train, group, "least_squares")
    assert_close(what.action.matrices, expected.matrices)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = prepare_pixel_subject(*given, method="least_squares")
    assert torch.equal(again.train, what.train)
    assert identity(again.train) == identity(what.train) != identity(what.test)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert len(written) == 4  # and their fingerprints


def test_a_classifier_needs_labels(bright, tmp_path):
    with pytest.raises(ValueError, match="these images have none"):
        load_or_train_encoder(ENCODER, bright[0], None, (bright[0], None), tmp_path)


@pytest.mark.parametrize("other", [2, -1])
@pytest.mark.parametrize("part", ["training", "validation"])
def test_labels_beyond_the_classes_are_named(other, part, bright, tmp_path):
    """Labels {0, 2} of two classes, before anything is trained."""
    images, labels = bright
    odd = torch.where(labels == 1, other, labels)
    given = (odd, bright) if part == "training" else (labels, (images, odd))
    message = rf"2 classes are numbers from 0 to 1, got \[{min(0, other)}, {max(0, other)}\]: set"
    with pytest.raises(ValueError, match=message):
        load_or_train_encoder(ENCODER, images, *given, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_sees_images_otherwise_each_time(bright, trained, tmp_path):
    config = dataclasses.replace(ENCODER, augmented=True, epochs=2)
    plain = dataclasses.replace(config, augmented=False)
    found = [load_or_train_encoder(c, *bright, bright, tmp_path)[0] for c in (config, plain)]
    again, _ = load_or_train_encoder(config, *bright, bright, tmp_path / "again")
    assert_equal_states(states([again]), states(found[:1]))
    one, other = (states([model])[0]["classifier.weight"] for model in found)
    assert not torch.equal(one, other)
    assert runs.run_id(ENCODER) == runs.run_id(dataclasses.replace(ENCODER, augmented=False))


def test_a_class_without_images_to_train_on_is_learnt_nothing_of(bright, tmp_path):
    images, labels = bright
    labels = 2 * labels
    config = dataclasses.replace(ENCODER, data=identity((images, labels)), n_classes=3)
    _, history = load_or_train_encoder(config, images, labels, (images, labels), tmp_path)
    assert history.validation_accuracy.iloc[-1] > 0.9


def test_a_layer_that_the_encoder_does_not_have(bright, trained, tmp_path):
    with pytest.raises(ValueError, match=rf"no module 'stages\.0'; nearest .*{STAGE}"):
        prepare_pixel_subject(trained[0], "stages.0", GROUP, *bright[:1] * 2, tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_images_and_an_encoder_of_ones_own(bright, run, tmp_path, monkeypatch, executor):
    for i, image in enumerate(bright[0][:12]):
        path = tmp_path / "images" / ("dark", "light")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    code = (
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 8, 4, 4))\n"
    )
    (tmp_path / "encoder_of_ones_own.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = load_galaxies(str(tmp_path / "images"), tmp_path, size=16)
    assert torch.equal(found.images[6:], bright[0][1:12:2])
    assert (found.classes, found.labels.sum()) == (("dark", "light"), 6)
    encoder = load_encoder("encoder_of_ones_own:make")
    what = prepare_pixel_subject(
        encoder, "0", GROUP, found.images[::2], found.images[1::2], tmp_path, tmp_path / "pixels",
        method="least_squares",
    )  # fmt: skip
    assert what.train.shape == what.test.shape == (6 * 16, 4, 8)
    config = dataclasses.replace(run, activations=identity(what.train))
    (sae,) = load_or_train_saes(
        [config], what.train, tmp_path, validation=what.test, executor=executor
    )
    assert_close(sae.mean, what.train.mean((0, 1)))
    assert sae.encode(what.test[:, 0]).shape == (96, 12)
