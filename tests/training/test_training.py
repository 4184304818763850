"""Training: reproducible, resumable, the same side by side, and clear about what it refuses."""

import dataclasses
import itertools

import pytest
import torch
from torch.testing import assert_close

from saehelpers.datasets.synthetic import Stream, SyntheticFeatures, make_features
from saehelpers.networks.scaling import standardisation
from saehelpers.saes import SAE, SAEConfig, make_sae
from saehelpers.symmetry import Group
from saehelpers.training import fitting, side_by_side as training
from saehelpers.training.fitting import Settings, _draws, _learning_rate, fit
from saehelpers.training.methods import METHODS, SAERun, method_run, method_runs
from saehelpers.training.side_by_side import train_sae, train_saes

SAE_CONFIG = SAEConfig(d=8, n_latents=12, topk=3, encoder_hidden=16)
RUN = SAERun("vanilla", "toy", SAE_CONFIG, epochs=6, batch_size=64, learning_rate=1e-2)
STEPS_PER_EPOCH = 4  # 256 toy samples

KINDS = {
    "topk": {},
    "batch_topk": {"activation": "batch_topk"},
    "jumprelu": {"activation": "jumprelu"},
    "unit_decoder": {"unit_decoder": True},
    "archetypal": {"dictionary": "archetypal", "n_archetypes": 16},
    "crosscoder": {"dictionary": "blocks", "group_order": 4},
}


def run_of(**sae_changes) -> SAERun:
    sae = dataclasses.replace(SAE_CONFIG, **sae_changes)
    objective = "crosscoder" if sae.dictionary == "blocks" else "reconstruction"
    sparsity = {} if "topk" in sae.activation else {"sparsity": "l1", "lambda_sparsity": 0.01}
    return dataclasses.replace(RUN, sae=sae, objective=objective, **sparsity)


def train(configs, activations, **settings):
    return train_saes(configs, activations, progress=False, **settings)


def same_weights(left, right) -> bool:
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def fail_after(monkeypatch, n_calls: int, failure) -> list[None]:
    """Let `failure(terms)` change the loss from the n-th step on; returns the calls so far."""
    calls, total_loss = [], training.total_loss

    def counted(*arguments):
        calls.append(None)
        terms = total_loss(*arguments)
        return failure(terms) if len(calls) > n_calls else terms

    monkeypatch.setattr(training, "total_loss", counted)
    return calls


def interrupt(terms):
    raise KeyboardInterrupt


# --- one SAE ---


def test_one_sae_is_trained_as_one_of_several(toy):
    held_out = 2 * toy.activations
    (expected,), (rows,) = train([RUN], [toy.activations], validation=[held_out])
    sae, history = train_sae(RUN, toy.activations, held_out, progress=False)
    assert same_weights(sae, expected)
    assert history.equals(rows)
    streamed, _ = train_sae(RUN, lambda epoch: toy.activations, held_out, progress=False)
    assert same_weights(streamed, expected)


def test_activations_without_a_group_are_orbits_of_one_element(toy):
    x = toy.activations[:, 1]
    (expected,), (rows,) = train([RUN], [x[:, None]], validation=[x[:, None] + 1])
    sae, history = train_sae(RUN, x, x + 1, progress=False)
    assert same_weights(sae, expected)
    assert history.equals(rows)


def test_training_of_one_sae_shows_its_progress(toy, capsys):
    train_sae(RUN, toy.activations[:64])
    assert "vanilla" in "".join(capsys.readouterr())


@pytest.mark.parametrize("x", [torch.zeros(8), torch.zeros(2, 3, 4, 8)])
def test_one_sae_on_activations_of_another_shape(toy, x):
    shape = ", ".join(map(str, x.shape))
    with pytest.raises(ValueError, match=rf"x must be \(n, d\) or \(n, \|G\|, d\), got \({shape}"):
        train_sae(RUN, x)
    with pytest.raises(ValueError, match="validation must be"):
        train_sae(RUN, toy.activations, x)


# --- the same config gives the same SAE ---


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_weights(toy, kind):
    (first,), (history,) = train([run_of(**KINDS[kind])], [toy.activations])
    (second,), (again,) = train([run_of(**KINDS[kind])], [toy.activations])
    assert same_weights(first, second)
    assert history.equals(again)


def test_another_seed_gives_other_weights(toy):
    (first, second), _ = train([RUN, dataclasses.replace(RUN, seed=1)], [toy.activations])
    assert not same_weights(first, second)


def test_training_changes_every_parameter(toy):
    (trained,), _ = train([RUN], [toy.activations])
    fresh = make_sae(RUN.sae, RUN.seed)
    for (name, before), after in zip(fresh.named_parameters(), trained.parameters(), strict=True):
        assert not torch.equal(before, after), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_changes_nothing_in_the_end(toy, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    config, checkpoint = run_of(**KINDS[kind]), tmp_path / "new_folder" / "checkpoint.safetensors"
    (expected,), (expected_history,) = train([config], [toy.activations])

    with monkeypatch.context() as patch:
        fail_after(patch, 3 * STEPS_PER_EPOCH + 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train([config], [toy.activations], checkpoint=checkpoint)
    assert checkpoint.exists()

    calls = fail_after(monkeypatch, 1000, interrupt)
    (resumed,), (history,) = train([config], [toy.activations], checkpoint=checkpoint)
    assert len(calls) == 3 * STEPS_PER_EPOCH
    assert same_weights(resumed, expected)
    assert history.equals(expected_history)
    assert checkpoint.exists()  # for as long as what was trained is not saved


def test_no_checkpoint_before_its_time(toy, tmp_path, monkeypatch):
    fail_after(monkeypatch, 3 * STEPS_PER_EPOCH, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train([RUN], [toy.activations], checkpoint=tmp_path / "checkpoint.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "not a checkpoint", "another architecture"])
def test_damaged_checkpoint(toy, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    checkpoint, config = tmp_path / "checkpoint.safetensors", RUN
    with monkeypatch.context() as patch:
        fail_after(patch, STEPS_PER_EPOCH, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train([RUN], [toy.activations], checkpoint=checkpoint)
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif damage == "not a checkpoint":
        checkpoint.write_bytes(b"nothing of the kind")
    else:
        config = run_of(encoder_hidden=17)
    what = "of another training" if damage == "another architecture" else "damaged"
    with pytest.raises(ValueError, match=rf"checkpoint .*checkpoint\.safetensors is {what}"):
        train([config], [toy.activations], checkpoint=checkpoint)


# --- a loss that is not finite ---


def test_nan_loss_stops_at_its_step_and_leaves_the_checkpoint(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "checkpoint.safetensors"
    (expected,), _ = train([RUN], [toy.activations])
    with monkeypatch.context() as patch:
        fail_after(patch, 9, lambda terms: {k: v * torch.nan for k, v in terms.items()})
        with pytest.raises(FloatingPointError, match=r"loss of vanilla is nan at step 9 \(epoch 2"):
            train([RUN], [toy.activations], checkpoint=checkpoint)
    (resumed,), _ = train([RUN], [toy.activations], checkpoint=checkpoint)
    assert same_weights(resumed, expected)


def test_diverging_training_stops(toy):
    config = dataclasses.replace(RUN, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"at step 1 \(epoch 0\)"):
        train([config], [toy.activations])


def test_one_nan_instance_stops_them_all(toy, monkeypatch):
    only_second = torch.tensor([1.0, torch.nan])
    fail_after(monkeypatch, 2, lambda terms: {k: v * only_second for k, v in terms.items()})
    with pytest.raises(FloatingPointError, match="step 2"):
        train([RUN, dataclasses.replace(RUN, seed=1)], [toy.activations])


# --- side by side ---


@pytest.mark.parametrize("kind", KINDS)
def test_side_by_side_equals_alone(toy, kind):
    configs = [dataclasses.replace(run_of(**KINDS[kind]), seed=seed) for seed in (0, 5, 1)]
    together, histories = train(configs, [toy.activations])
    for config, sae, history in zip(configs, together, histories, strict=True):
        (alone,), (alone_history,) = train([config], [toy.activations])
        for name, tensor in alone.state_dict().items():
            assert_close(sae.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
        assert history["fvu"].tolist() == pytest.approx(alone_history["fvu"].tolist(), rel=1e-4)


@pytest.mark.parametrize(
    "objective", ["reconstruction", "canonical", "latent_inv", "output_inv", "oriented"]
)
def test_groups_of_different_orders_side_by_side(toy, d4_action, objective):
    other = 2 * d4_action.orbit(toy.activations[:, 0]) + 1
    sources = [toy.activations, other, toy.activations[:, :1]]
    config = dataclasses.replace(RUN, objective=objective, lambda_mse=0.5)
    configs = [dataclasses.replace(config, seed=seed) for seed in (3, 4, 5)]
    together, _ = train(configs, sources, validation=[source[:100] for source in sources])
    for config, source, sae in zip(configs, sources, together, strict=True):
        (alone,), _ = train([config], [source])
        for name, tensor in alone.state_dict().items():
            assert_close(sae.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_groups_of_different_orders_for_self_oriented_saes(toy):
    configs = [dataclasses.replace(RUN, objective="self_oriented", seed=seed) for seed in (3, 4)]
    with pytest.raises(ValueError, match="needs orbits of one size"):
        train(configs, [toy.activations, toy.activations[:, :1]])


def test_oriented_saes_are_standardised_by_what_they_read(toy):
    for objective, read in (("oriented", toy.activations[:, 0]), ("canonical", toy.activations)):
        (sae,), _ = train([dataclasses.replace(RUN, objective=objective)], [toy.activations])
        mean, scale = standardisation(read)
        assert_close(sae.mean, mean)
        assert_close(sae.scale, scale)


# --- the learning rate ---


def rates(schedule: str, warmup_steps: int, n_steps: int) -> list[float]:
    settings = Settings(1, 1, 0.4, schedule, warmup_steps)
    return [_learning_rate(settings, step, n_steps) for step in range(n_steps)]


def test_constant_schedule():
    assert rates("constant", 0, 4) == [0.4] * 4


def test_linear_schedule():
    assert rates("linear", 0, 4) == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_cosine_schedule():
    half = 0.2 * 2**-0.5
    assert rates("cosine", 0, 4) == pytest.approx([0.4, 0.2 + half, 0.2, 0.2 - half])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_rises_to_the_rate_and_the_schedule_begins_there(schedule):
    with_warmup = rates(schedule, 4, 10)
    assert with_warmup[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert with_warmup[4:] == pytest.approx(rates(schedule, 0, 6))


def test_warmup_as_long_as_training():
    assert rates("linear", 4, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_fit_agrees_with_plain_adam_under_the_schedule():
    """One sample of one instance, so that its order is known: a quadratic, minimised by hand."""
    ours, theirs = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    for linear in (ours, theirs):
        torch.nn.init.constant_(linear.weight, 3.0)
    settings = Settings(5, 1, 0.1, "linear", 2)
    history = fit(
        ours,
        lambda index, uniform: {"loss": ours.weight.pow(2).sum()},
        1,
        [0],
        settings,
        progress=False,
    )
    optimiser, losses = torch.optim.Adam(theirs.parameters()), []
    for rate in [0.05, 0.1, 0.1, 0.1 * 2 / 3, 0.1 / 3]:
        optimiser.param_groups[0]["lr"] = rate
        loss = theirs.weight.pow(2).sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert_close(ours.weight, theirs.weight)
    assert history["loss"].tolist() == pytest.approx(losses)
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4]


def test_an_epoch_sees_every_sample_once_in_another_order():
    model, seen = torch.nn.Linear(1, 1), []

    def step(index, uniform):
        assert index.shape == uniform.shape
        assert uniform.min() >= 0 and uniform.max() < 1
        seen.append(index)
        return {"loss": model.weight.sum() * torch.ones(2)}

    fit(model, step, 10, [7, 8], Settings(2, 4, 0.1), progress=False)
    first, second = (torch.cat(seen[i : i + 3], dim=1) for i in (0, 3))
    for epoch in (first, second):
        assert epoch.sort(dim=1).values.tolist() == [list(range(10))] * 2
    assert first.tolist() != second.tolist()


def test_draws_depend_on_the_seed():
    orders, uniforms = _draws([7, 8], 0, 10, "cpu")
    assert orders[0].tolist() != orders[1].tolist()
    assert uniforms[0].tolist() != uniforms[1].tolist()


# --- what is learnt ---


def test_fvu_falls(toy):
    config = dataclasses.replace(run_of(n_latents=24), epochs=60)
    _, (history,) = train([config], [toy.activations])
    assert history["fvu"].iloc[-1] < 0.1
    assert history["fvu"].iloc[0] > 0.4
    assert history["explained_variance"].tolist() == pytest.approx((1 - history["fvu"]).tolist())
    assert list(history["epoch"]) == list(range(60))
    assert list(history["step"]) == [STEPS_PER_EPOCH * (epoch + 1) for epoch in range(60)]


def test_recons_are_in_the_activations_own_units(toy):
    offset = torch.linspace(50, 150, 8)
    activations = 7 * toy.activations + offset
    config = dataclasses.replace(run_of(n_latents=24), epochs=60)
    (sae,), (history,) = train([config], [activations])
    assert_close(sae.mean, activations.flatten(0, 1).mean(0))
    elements = torch.arange(len(activations)) % 4
    x = activations[torch.arange(len(activations)), elements]
    variance = (activations - activations.flatten(0, 1).mean(0)).pow(2).mean()
    fvu = (x - sae(x)).pow(2).mean() / variance
    assert fvu.item() == pytest.approx(history["fvu"].iloc[-1], rel=1e-3)
    assert fvu < 0.1


def test_history_is_measured_on_the_validation_activations(toy):
    held_out = toy.activations[:40].flip(0) * 1.5
    (sae,), (history,) = train([RUN], [toy.activations], validation=[held_out])
    x = held_out[torch.arange(40), torch.arange(40) % 4]
    fvu = (x - sae(x)).pow(2).mean() / sae.scale**2
    latents = sae.encode(x)
    assert fvu.item() == pytest.approx(history["fvu"].iloc[-1], rel=1e-3)
    assert history["l0"].iloc[-1] == pytest.approx((latents > 0).sum(1).float().mean().item())
    assert history["dead_latents"].iloc[-1] == (latents > 0).logical_not().all(0).sum()


def test_unit_decoder_keeps_unit_rows(toy):
    (sae,), _ = train([run_of(unit_decoder=True)], [toy.activations])
    assert_close(sae.dictionary.norm(dim=1), torch.ones(12))
    (free,), _ = train([run_of()], [toy.activations])
    assert (free.dictionary.norm(dim=1) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("delta", [0.05, 0.0])
def test_archetypal_constraints_hold_after_training(toy, delta):
    config = run_of(dictionary="archetypal", n_archetypes=16, delta=delta)
    (sae,), _ = train([config], [toy.activations])
    weights, relaxation = sae.convex_weights, sae.relaxation
    assert (weights >= 0).all()
    assert_close(weights.sum(1), torch.ones(12))
    assert (relaxation.norm(dim=1) <= delta * (1 + 1e-5)).all()
    if delta:
        assert sae.relaxation.norm(dim=1).max() > 0.99 * delta  # the bound was reached
    for i in range(12):
        row = sum(weights[i, j] * sae.centres[j] for j in range(16)) + relaxation[i]
        assert_close(sae.dictionary[i], row * sae.log_scale.exp())
    standardised = (toy.activations.flatten(0, 1) - sae.mean) / sae.scale
    assert (sae.centres.amax(0) <= standardised.amax(0) + 1e-4).all()
    assert (sae.centres.amin(0) >= standardised.amin(0) - 1e-4).all()


# --- bad input ---


@pytest.mark.parametrize("shape", [(256, 8), (256, 4, 8, 1), (0, 4, 8), (256, 0, 8)])
def test_activations_of_a_wrong_shape(shape):
    with pytest.raises(
        ValueError, match=r"must have shape \(n, \|G\|, d\), got \(|is empty, of shape \("
    ):
        train([RUN], [torch.zeros(shape)])


def test_activations_of_a_wrong_width(toy):
    with pytest.raises(ValueError, match=r"sae\.d is 8, the activations are \(256, 4, 7\)"):
        train([RUN], [toy.activations[..., :7]])


def test_orbits_of_a_wrong_size_for_a_crosscoder(toy):
    with pytest.raises(ValueError, match=r"orbits of 4 elements, the activations are \(256, 3, 8"):
        train([run_of(**KINDS["crosscoder"])], [toy.activations[:, :3]])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_activations_that_are_not_finite(toy, bad):
    activations = toy.activations.clone()
    activations[100, 2, 3] = bad
    with pytest.raises(ValueError, match=r"(contain|has) NaN or infinite values"):
        train([RUN], [activations])


def test_activations_that_are_all_the_same():
    with pytest.raises(ValueError, match="are all the same"):
        train([RUN], [torch.ones(64, 4, 8)])


def test_activations_that_do_not_go_with_the_configs(toy):
    configs = [dataclasses.replace(RUN, seed=seed) for seed in range(3)]
    with pytest.raises(ValueError, match="one tensor, or one of equal length for each config"):
        train(configs, [toy.activations] * 2)
    with pytest.raises(ValueError, match="one tensor, or one of equal length for each config"):
        train(configs[:2], [toy.activations, toy.activations[:100]])


def test_more_archetypes_than_samples(toy):
    config = run_of(dictionary="archetypal", n_archetypes=41)
    with pytest.raises(ValueError, match="n_archetypes = 41 is more than 40 samples"):
        train([config], [toy.activations[:10]])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "invariance"}, "unknown objective 'invariance'; known are reconstruction,"),
        (
            {"schedule": "step"},
            "schedule must be one of 'constant', 'linear', 'cosine', got 'step'",
        ),
        (
            {"sparsity": "l2"},
            "sparsity must be one of 'l1', 'lp', 'decoder_l1', 'l0', 'gate_l1', got 'l2'",
        ),
        ({"objective": "crosscoder"}, "'crosscoder' and a dictionary of 'blocks' go together"),
    ],
)
def test_run_with_an_unknown_setting(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **changes)


def test_multi_topk_without_topk():
    with pytest.raises(ValueError, match="lambda_multi_topk needs the activation 'topk'"):
        dataclasses.replace(run_of(activation="relu"), lambda_multi_topk=0.1)


RELU = dataclasses.replace(SAE_CONFIG, activation="relu")
JUMPRELU = dataclasses.replace(SAE_CONFIG, activation="jumprelu")
L0 = {"sparsity": "l0", "lambda_sparsity": 1.0}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lambda_sparsity": 0.1}, r"go together, got sparsity=None and lambda_sparsity=0\.1"),
        ({"sparsity": "l1"}, r"go together, got sparsity='l1' and lambda_sparsity=0"),
        ({"sae": RELU}, "nothing makes an SAE with the activation 'relu' sparse"),
        ({"sae": JUMPRELU}, "nothing makes an SAE with the activation 'jumprelu' sparse"),
        ({"p": 0.5}, r"p is that of the sparsity term 'lp', got p=0\.5 without it"),
        ({"p": 2.0, "sparsity": "l1", "lambda_sparsity": 1.0}, r"term 'lp', got p=2 without it"),
        ({"sparsity_warmup_steps": 9}, "sparsity_warmup_steps are those of a sparsity term"),
        (L0, "thresholds of .* 'jumprelu', got 'topk'"),
        (
            {**L0, "sae": JUMPRELU, "objective": "self_oriented"},
            "'l0' needs to know what is read",
        ),
    ],
)
def test_settings_that_would_have_no_effect(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RUN, **changes)


@pytest.mark.parametrize("sae", [SAE_CONFIG, RELU, JUMPRELU])
def test_sparsity_terms_with_their_weights(sae):
    run = dataclasses.replace(
        RUN, sae=sae, sparsity="lp", lambda_sparsity=0.1, p=0.5, sparsity_warmup_steps=9
    )
    assert (run.sparsity, run.p) == ("lp", 0.5)


def test_blocks_without_the_crosscoders_objective():
    blocks = dataclasses.replace(SAE_CONFIG, dictionary="blocks", group_order=4)
    with pytest.raises(ValueError, match="go together"):
        dataclasses.replace(RUN, sae=blocks)
    with pytest.raises(ValueError, match="lambda_mse has no meaning for 'crosscoder'"):
        dataclasses.replace(RUN, sae=blocks, objective="crosscoder", lambda_mse=1.0)


@pytest.mark.parametrize("topk", [0, 13])
def test_more_active_latents_than_there_are(topk):
    with pytest.raises(ValueError, match=f"topk must be .*, got {topk}"):
        dataclasses.replace(SAE_CONFIG, topk=topk)


# --- methods ---


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(toy, method):
    sae = dataclasses.replace(SAE_CONFIG, n_archetypes=16)
    config = method_run(method, "toy", sae, Group.named("C4"), epochs=1, lambda_mse=0.5)
    (trained,), (history,) = train([config], [toy.activations])
    assert config.name == method
    wide = method.endswith("_wide") or method == "block_topk"
    assert config.sae.n_latents == (48 if wide else 12)
    assert trained.dictionary.shape == (config.sae.n_latents, 8)
    assert config.lambda_mse == (0.0 if method in ("crosscoder", "pca") else 0.5)
    assert ("mse" in history) == (method not in ("crosscoder", "pca"))


def test_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'magic'; known are vanilla, "):
        method_run("magic", "toy", SAE_CONFIG, Group.named("C4"))


def test_method_runs_nest_methods_topks_and_seeds():
    runs = method_runs(
        ["vanilla", "canonical"], [1, 2], [7, 8], "toy", SAE_CONFIG, Group.named("C4")
    )
    assert [(run.name, run.sae.topk, run.seed) for run in runs] == [
        (method, topk, seed)
        for method in ("vanilla", "canonical")
        for topk in (1, 2)
        for seed in (7, 8)
    ]


# --- Matryoshka ---


def test_objective_and_prefixes_go_together():
    message = "'matryoshka' and two or more prefixes go together"
    nested = dataclasses.replace(SAE_CONFIG, prefixes=(4, 12))
    for changes in (
        {"objective": "matryoshka"},
        {"objective": "matryoshka", "sae": dataclasses.replace(SAE_CONFIG, prefixes=(12,))},
        {"sae": nested},
        {"sae": nested, "objective": "canonical"},
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(RUN, **changes)
    assert dataclasses.replace(RUN, sae=nested, objective="matryoshka").sae.prefixes == (4, 12)


def test_matryoshka_saes_learn_side_by_side(toy):
    sae = dataclasses.replace(SAE_CONFIG, prefixes=(2, 5, 12))
    config = dataclasses.replace(RUN, sae=sae, objective="matryoshka", epochs=30)
    configs = [dataclasses.replace(config, seed=seed) for seed in (0, 3)]
    together, histories = train(configs, [toy.activations])
    for config, sae, history in zip(configs, together, histories, strict=True):
        (alone,), _ = train([config], [toy.activations])
        for name, tensor in alone.state_dict().items():
            assert_close(sae.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        parts = history["reconstruction"] + history["prefixes"]
        assert history["loss"].tolist() == pytest.approx(parts.tolist())
        assert history["fvu"].iloc[-1] < 0.6 * history["fvu"].iloc[0]
        assert history["prefixes"].iloc[-1] < 0.9 * history["prefixes"].iloc[0]


# --- streams: new samples for every epoch ---


def make_stream(seed: int = 0, action=None, n_samples: int = 256) -> Stream:
    features = make_features(6, 8, torch.Generator().manual_seed(9))
    bias = torch.linspace(-1, 1, 8)
    data = SyntheticFeatures(features, 0.3, magnitude_std=0.2, bias=bias)
    return Stream(data, n_samples, seed, action)


@dataclasses.dataclass
class Recorded:
    """A stream that notes what epochs it was asked for."""

    stream: Stream
    epochs: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, epoch: int) -> torch.Tensor:
        self.epochs.append(epoch)
        return self.stream(epoch)


def stream_by_hand(config: SAERun, stream: Stream) -> tuple[SAE, list[float]]:
    """One SAE, trained by a plain loop; and its mean loss of every epoch."""
    mean, scale = standardisation(stream(0))
    sae, losses = make_sae(config.sae, config.seed), []
    optimiser = torch.optim.Adam(sae.parameters(), config.learning_rate)
    for epoch in range(config.epochs):
        orbits = (stream(epoch) - mean) / scale
        order, uniform = _draws([config.seed], epoch, len(orbits), "cpu")
        elements = (uniform * orbits.shape[1]).long()
        losses.append(0.0)
        for step in range(STEPS_PER_EPOCH):
            batch = slice(step * config.batch_size, (step + 1) * config.batch_size)
            read = orbits[order[0, batch], elements[0, batch]]
            target = orbits[order[0, batch], 0] if config.objective == "canonical" else read
            loss = (target - sae(read)).pow(2).sum(-1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[-1] += loss.item() / STEPS_PER_EPOCH
    sae.set_standardisation(mean, scale)
    return sae, losses


def assert_same_weights(left: SAE, right: SAE) -> None:
    for name, tensor in right.state_dict().items():
        assert_close(left.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["reconstruction", "canonical"])
@pytest.mark.parametrize("orbits", [False, True])
def test_training_from_a_stream_agrees_with_a_plain_loop(c4_action, objective, orbits):
    stream = make_stream(action=c4_action if orbits else None)
    config = dataclasses.replace(RUN, objective=objective)
    (sae,), (history,) = train([config], [stream])
    expected, losses = stream_by_hand(config, stream)
    assert_same_weights(sae, expected)
    assert history["loss"].tolist() == pytest.approx(losses, rel=1e-4)


def test_orbits_matter_to_the_canonical_objective(c4_action):
    config = dataclasses.replace(RUN, objective="canonical")
    (turned,), _ = train([config], [make_stream(action=c4_action)])
    (still,), _ = train([config], [make_stream()])
    assert not same_weights(turned, still)
    stream = make_stream(action=c4_action, n_samples=10)
    assert stream(3).shape == (10, 4, 8)
    assert_close(stream(3)[:, 0], make_stream(n_samples=10)(3)[:, 0])


def test_a_stream_is_asked_for_every_epoch_in_order():
    stream = Recorded(make_stream())
    _, (history,) = train([RUN], [stream])
    assert [epoch for epoch, _ in itertools.groupby(stream.epochs)] == list(range(RUN.epochs))
    assert history["epoch"].tolist() == list(range(RUN.epochs))


def test_a_stream_that_repeats_itself_is_a_tensor():
    stream = make_stream()
    (from_function,), (history,) = train([RUN], [lambda epoch: stream(0)])
    (from_tensor,), (expected,) = train([RUN], [stream(0)])
    assert same_weights(from_function, from_tensor)
    assert history.equals(expected)
    (fresh,), _ = train([RUN], [stream])
    assert not same_weights(fresh, from_tensor)


def test_training_from_a_stream_twice_gives_the_same_weights():
    (first,), (history,) = train([RUN], [make_stream()])
    (second,), (again,) = train([RUN], [make_stream()])
    (other,), _ = train([RUN], [make_stream(seed=1)])
    assert same_weights(first, second)
    assert history.equals(again)
    assert not same_weights(first, other)


@pytest.mark.parametrize("kind", ["topk", "archetypal", "crosscoder"])
def test_an_interrupt_changes_nothing_for_a_stream(c4_action, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    config, checkpoint = run_of(**KINDS[kind]), tmp_path / "checkpoint.safetensors"
    stream = make_stream(action=c4_action)
    (expected,), (expected_history,) = train([config], [stream])
    with monkeypatch.context() as patch:
        fail_after(patch, 3 * STEPS_PER_EPOCH + 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train([config], [stream], checkpoint=checkpoint)
    resuming = Recorded(stream)
    (resumed,), (history,) = train([config], [resuming], checkpoint=checkpoint)
    assert resuming.epochs == [0, 3, 4, 5]  # epoch 0 for its mean and scale
    assert same_weights(resumed, expected)
    assert history.equals(expected_history)


def test_streams_side_by_side_equal_each_alone(c4_action, d4_action):
    """Of different groups, and one tensor among them."""
    sources = [
        make_stream(seed=1, action=c4_action),
        make_stream(seed=2, action=d4_action),
        make_stream(seed=3),
        make_stream(seed=4)(0),
    ]
    config = dataclasses.replace(RUN, objective="canonical")
    configs = [dataclasses.replace(config, seed=seed) for seed in (3, 4, 5, 6)]
    together, histories = train(configs, sources)
    for config, source, sae, history in zip(configs, sources, together, histories, strict=True):
        (alone,), (alone_history,) = train([config], [source])
        assert_same_weights(sae, alone)
        assert history["fvu"].tolist() == pytest.approx(alone_history["fvu"].tolist(), rel=1e-4)


def test_one_stream_for_several_saes():
    configs = [dataclasses.replace(RUN, seed=seed) for seed in (0, 5)]
    together, _ = train(configs, [make_stream()])
    for config, sae in zip(configs, together, strict=True):
        (alone,), _ = train([config], [make_stream()])
        assert_same_weights(sae, alone)


def test_history_of_a_stream_is_measured_on_held_out_samples():
    stream = make_stream()
    held_out = stream(1000)[:40]
    (sae,), (history,) = train([RUN], [stream], validation=[held_out])
    x = held_out[:, 0]
    fvu = (x - sae(x)).pow(2).mean() / sae.scale**2
    assert fvu.item() == pytest.approx(history["fvu"].iloc[-1], rel=1e-3)


def test_a_stream_of_a_wrong_width():
    with pytest.raises(ValueError, match=r"sae\.d is 8, the activations are \(256, 1, 7\)"):
        train([RUN], [lambda epoch: make_stream()(epoch)[..., :7]])


def test_streams_of_different_lengths():
    configs = [dataclasses.replace(RUN, seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="one tensor, or one of equal length for each config"):
        train(configs, [make_stream(), make_stream(n_samples=100)])


def test_after_epoch_sees_the_stacked_saes_after_every_epoch(toy):
    seen = []

    def keep(epoch, model):
        seen.append((epoch, model.dictionary.detach().clone()))

    configs = [dataclasses.replace(RUN, seed=seed) for seed in (0, 1)]
    trained, _ = train(configs, [toy.activations], after_epoch=keep)
    assert [epoch for epoch, _ in seen] == list(range(RUN.epochs))
    assert torch.equal(seen[-1][1], torch.stack([sae.dictionary for sae in trained]))
    short = [dataclasses.replace(config, epochs=2) for config in configs]
    early, _ = train(short, [toy.activations])
    assert torch.equal(seen[1][1], torch.stack([sae.dictionary for sae in early]))
