"""Probes: their features are what the equations say, and nothing held out decides anything."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch.testing import assert_close

from saehelpers.evaluation import probing
from saehelpers.evaluation.inputs import (
    ProbeInput,
    all_features,
    element_accuracy,
    orbit_averaged,
    probe_inputs,
    with_element,
)
from saehelpers.evaluation.metrics import f1, macro_f1, separating_latents
from saehelpers.evaluation.probing import (
    PROBES,
    class_probe_f1,
    fit_class_probe,
    fit_predict,
    probe_sweep,
    probe_tasks,
    resampled_scores,
    task_scores,
)
from saehelpers.runs import identity
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction

C4 = Group.named("C4")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_input(copies: int = 1, n_blocks: int = 3, **changes) -> ProbeInput:
    """40 samples, 5 latents (times `copies`), decoders into R^8."""
    return ProbeInput(
        "recons",
        "true",
        random(40, 5 * copies).relu(),
        random(n_blocks, 5 * copies, 8, seed=1),
        random(n_blocks, 8, seed=2),
        torch.arange(40) % n_blocks,
        copies=copies,
        **changes,
    )


# --- features ---


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("with_extra", [False, True])
def test_matrix_agrees_with_a_loop(copies, with_extra):
    extra = random(40, 2, seed=3) if with_extra else None
    probe_input, keep = random_input(copies, extra=extra), [3, 0]
    made = probe_input.matrix(torch.tensor(keep))
    for i in range(40):
        block = i % 3
        expected = probe_input.biases[block].clone()
        for copy in range(copies):
            for latent in keep:
                column = copy * 5 + latent
                row = probe_input.blocks[block, column]
                expected += probe_input.latents[i, column] * row
        if with_extra:
            expected = torch.cat([expected, extra[i]])
        assert_close(torch.from_numpy(made[i]), expected)


def test_features_of_all_latents_are_told_by_their_causes():
    of_copies = random_input(copies=3)
    assert np.array_equal(all_features(of_copies).numpy(), of_copies.matrix(torch.arange(5)))
    one, same, other = (
        all_features(random_input(causes={"weights": weights})) for weights in ("a", "a", "b")
    )
    assert identity(one) == identity(same) != identity(other)


def test_matrix_of_latents_is_the_kept_columns():
    latents, extra = random(10, 5), random(10, 2, seed=1)
    probe_input = ProbeInput("latents", "none", latents, extra=extra)
    made = probe_input.matrix(torch.tensor([4, 1]))
    assert np.array_equal(made[:, :2], latents.numpy()[:, [4, 1]])
    assert np.array_equal(made[:, 2:], extra.numpy())
    assert probe_input.width is None


@pytest.mark.parametrize("copies", [1, 3])
def test_reduced_matrix_keeps_distances_in_fewer_columns(copies):
    blocks, biases = random(2, 5 * copies, 30, seed=1), 10 * random(2, 30, seed=2)
    probe_input = ProbeInput(
        "recons",
        "true",
        random(40, 5 * copies),
        blocks,
        biases,
        torch.arange(40) % 2,
        extra=random(40, 2),
        copies=copies,
    )
    keep = torch.tensor([2, 4])
    full = torch.tensor(probe_input.matrix(keep)).double()
    turned, reduced = probe_input.reduced(torch.stack([keep.flip(0), keep])).dense()
    assert reduced.shape[1] == 2 * (2 * copies + 1) + 2 < full.shape[1]
    assert_close(turned @ turned.T, reduced @ reduced.T)
    assert_close(torch.cdist(reduced, reduced), torch.cdist(full, full), rtol=1e-4, atol=1e-4)


def test_logistic_on_the_reduced_matrix_predicts_as_on_the_full_one():
    probe_input, keep = random_input(), torch.tensor([0, 2])
    y = (probe_input.latents[:, 0] > 0.3).numpy()
    reduced = probe_input.reduced(keep[None]).dense()[0].numpy()
    predicted = fit_predict("logistic", reduced[:30], y[:30], reduced[30:], width=8)

    full = probe_input.matrix(keep)
    scale = np.sqrt(full[:30].var(axis=0).sum() / 8)
    reference = LogisticRegression(max_iter=3000).fit(
        (full[:30] - full[:30].mean(0)) / scale, y[:30]
    )
    expected = reference.predict((full[30:] - full[:30].mean(0)) / scale)
    assert np.array_equal(predicted, expected)
    assert 0 < expected.sum() < len(expected)
    assert np.array_equal(fit_predict("logistic", full[:30], y[:30], full[30:]), expected)
    own_scores = probe_tasks(probe_input, torch.from_numpy(y)[:, None], 30, "logistic")
    keep_all = probe_input.matrix(torch.arange(5))
    scale = np.sqrt(keep_all[:30].var(axis=0).sum() / 8)
    centred = (keep_all - keep_all[:30].mean(0)) / scale
    reference = LogisticRegression(max_iter=3000).fit(centred[:30], y[:30])
    assert own_scores == [f1_score(y[30:], reference.predict(centred[30:]))]


# --- what an SAE gives a probe ---


@pytest.fixture(scope="module")
def exact():
    """Two cycles of 4 coordinates, shifted by C4; latents are the sums over the cycles.

    psi(x) = a e_0 + b e_4 with a, b > 0: the SAE has exactly invariant latents (a, b) and
    exact canonical recons. Returns (sae, action, activations, coefficients).
    """
    shift = torch.block_diag(*[torch.eye(4).roll(1, 0)] * 2)
    action = LinearAction.from_generators(C4, [shift])
    coefficients = random(60, 2).abs() + 0.1
    canonical = torch.zeros(60, 8)
    canonical[:, [0, 4]] = coefficients
    sae = make_sae(SAEConfig(d=8, n_latents=2, activation="relu", encoder="linear")).eval()
    sae.encoder_weights[0].data = torch.eye(2).repeat_interleave(4, dim=0)
    sae.decoder_weight.data = torch.eye(8)[[0, 4]]
    return sae.requires_grad_(False), action, action.orbit(canonical), coefficients


ELEMENTS = torch.arange(60) * 7 % 4


def given(activations):
    return activations[torch.arange(len(activations)), ELEMENTS]


def test_probe_inputs_of_an_exactly_equivariant_sae(exact):
    sae, action, activations, coefficients = exact
    inputs = probe_inputs(sae, activations, ELEMENTS, action)
    assert inputs.keys() == {"latents", "true", "inferred"}
    for name in ("true", "inferred"):
        assert (inputs[name].features, inputs[name].element) == ("recons", name)
        assert torch.equal(inputs[name].blocks_used, ELEMENTS)
        made = torch.from_numpy(inputs[name].matrix(torch.arange(2)))
        assert_close(made, given(activations))
    only_second = coefficients * torch.tensor([0.0, 1.0])
    truncated = torch.zeros(60, 8)
    truncated[torch.arange(60), 4 + ELEMENTS] = only_second[:, 1]
    assert_close(torch.from_numpy(inputs["inferred"].matrix(torch.tensor([1]))), truncated)
    assert_close(torch.from_numpy(inputs["latents"].matrix(torch.arange(2))), coefficients)
    assert inputs["latents"].features == "latents"


def test_probe_inputs_without_an_action_are_the_canonical_recons(exact):
    sae, _, activations, coefficients = exact
    inputs = probe_inputs(sae, activations, ELEMENTS)
    assert inputs.keys() == {"latents", "none"}
    made = torch.from_numpy(inputs["none"].matrix(torch.arange(2)))
    assert_close(made, activations[:, 0])
    assert_close(made, sae(given(activations)))
    assert inputs["none"].element == "none"
    assert_close(inputs["latents"].latents, coefficients)


def test_inferred_element_is_the_one_that_reconstructs_best():
    """An SAE that is not equivariant, and an action about a point that is not the origin."""
    action = LinearAction.from_generators(
        C4, [torch.block_diag(*[torch.eye(4).roll(1, 0)] * 2)], origin=torch.linspace(-1, 1, 8)
    )
    sae = make_sae(SAEConfig(d=8, n_latents=12, topk=3, encoder_hidden=16)).eval()
    sae.set_standardisation(torch.linspace(0, 2, 8), torch.tensor(1.7))
    activations = random(60, 4, 8)
    inputs = probe_inputs(sae, activations, ELEMENTS, action)
    x = given(activations)
    recons = torch.stack([action.act(sae(x), g) for g in range(4)])
    nearest = (recons - x).norm(dim=-1).argmin(0)
    assert torch.equal(inputs["inferred"].blocks_used, nearest)
    assert not torch.equal(nearest, ELEMENTS)
    everything = torch.arange(12)
    for name, elements in (("inferred", nearest), ("true", ELEMENTS)):
        made = torch.from_numpy(inputs[name].matrix(everything))
        assert_close(made, recons[elements, torch.arange(60)])


def test_probe_inputs_of_a_searching_sae(exact):
    """It reads the canonical coordinates alone: the latents of a turned activation are zero."""
    sae, action, activations, coefficients = exact
    reader = make_sae(SAEConfig(d=8, n_latents=2, activation="relu", encoder="linear")).eval()
    reader.encoder_weights[0].data = torch.eye(8)[:, [0, 4]]
    reader.decoder_weight.data = sae.decoder_weight.clone()
    inputs = probe_inputs(reader, activations, ELEMENTS, action, search=True)
    assert inputs.keys() == {"latents", "true", "inferred"}
    for one in inputs.values():
        assert_close(one.latents, coefficients)
    for name in ("true", "inferred"):
        assert torch.equal(inputs[name].blocks_used, ELEMENTS)
        assert_close(torch.from_numpy(inputs[name].matrix(torch.arange(2))), given(activations))
    unsearched = probe_inputs(reader, activations, ELEMENTS, action)["true"]
    assert not unsearched.latents[ELEMENTS != 0].any()


def test_what_is_inferred_by_search_does_not_depend_on_the_true_elements(exact):
    _, action, activations, _ = exact
    sae = make_sae(SAEConfig(d=8, n_latents=12, topk=3, encoder_hidden=16)).eval()
    fixed = given(activations)[:, None].expand(-1, 4, -1)  # the same, whatever is claimed of it
    inputs = [
        probe_inputs(sae, fixed, elements, action, search=True)
        for elements in (ELEMENTS, torch.zeros(60, dtype=torch.long))
    ]
    for name in ("latents", "inferred"):
        assert torch.equal(inputs[0][name].latents, inputs[1][name].latents)
    assert not torch.equal(inputs[0]["true"].latents, inputs[1]["true"].latents)


def test_probe_inputs_of_a_crosscoder(exact):
    sae, action, activations, coefficients = exact
    crosscoder = make_sae(
        SAEConfig(
            d=8,
            n_latents=2,
            activation="relu",
            encoder="linear",
            dictionary="blocks",
            group_order=4,
        )
    ).eval()
    # it reads the canonical coordinates alone: latents of a turned activation are zero
    crosscoder.encoder_weights[0].data = sae.decoder_weight.T.clone()
    crosscoder.decoder_weight.data = (
        action.orbit_of_directions(sae.decoder_weight).transpose(0, 1).clone()
    )
    inputs = probe_inputs(crosscoder, activations, ELEMENTS, action)
    assert inputs.keys() == {"latents", "true", "inferred"}
    assert_close(inputs["latents"].latents, coefficients)
    assert torch.equal(inputs["inferred"].blocks_used, ELEMENTS)
    assert_close(inputs["inferred"].latents, coefficients)
    for name in ("true", "inferred"):
        assert_close(torch.from_numpy(inputs[name].matrix(torch.arange(2))), given(activations))


def test_with_element_appends_the_true_element(exact):
    sae, _, activations, _ = exact
    plain = probe_inputs(sae, activations, ELEMENTS)["none"]
    told = with_element(plain, ELEMENTS, 4)
    assert told.element == "one_hot"
    made = told.matrix(torch.arange(2))
    assert np.array_equal(made[:, :8], plain.matrix(torch.arange(2)))
    assert np.array_equal(made[:, 8:], np.eye(4)[ELEMENTS])


@pytest.mark.parametrize("action", ["C4", "D4"], indirect=True)
def test_orbit_averaged_agrees_with_a_loop(action):
    """Also for a group that does not commute, and an action that does not turn about 0."""
    group = action.group
    action = LinearAction(group, action.matrices, origin=torch.linspace(-1, 1, 8))
    sae = make_sae(SAEConfig(d=8, n_latents=12, topk=3, encoder_hidden=16)).eval()
    sae.set_standardisation(torch.linspace(0, 2, 8), torch.tensor(1.7))
    activations = random(30, group.order, 8)
    elements = torch.arange(30) * 5 % group.order
    probe_input = orbit_averaged(sae, activations, elements, action)
    assert (probe_input.n_latents, probe_input.copies) == (12, group.order)
    made = torch.from_numpy(probe_input.matrix(torch.arange(12)))
    for i in range(30):
        average = torch.zeros(8)
        for h in range(group.order):
            turned = activations[i, group.compose(h, int(elements[i]))]
            recons = sae(turned[None])[0]
            average += action.act(recons, group.inverse(h)) / group.order
        assert_close(made[i], average)


def test_orbit_average_of_an_equivariant_map_changes_nothing(exact):
    """Whose recons turn with the input: here, the identity."""
    _, action, activations, _ = exact
    identity = make_sae(SAEConfig(d=8, n_latents=8, activation="relu", encoder="linear")).eval()
    for weight in (identity.encoder_weights[0], identity.decoder_weight):
        weight.data = torch.eye(8)
    probe_input = orbit_averaged(identity, activations, ELEMENTS, action)
    made = torch.from_numpy(probe_input.matrix(torch.arange(8)))
    assert_close(made, given(activations))


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_the_element_is_right_whichever_way_an_sae_calls_up(name):
    group = Group.named(name)
    elements = torch.arange(40) % group.order
    for up in range(group.order):
        inferred = torch.tensor([group.compose(int(g), up) for g in elements])
        assert element_accuracy(inferred, elements, group) == 1
        inferred[:10] = (inferred[:10] + 1) % group.order
        assert element_accuracy(inferred, elements, group) == 0.75
    assert element_accuracy(torch.zeros_like(elements), elements, group) == 1 / group.order
    with pytest.raises(ValueError, match="element"):
        element_accuracy(elements + 1, elements, group)


# --- scores ---


def alternating(n: int) -> torch.Tensor:
    return torch.arange(n) % 2 == 0


@pytest.mark.parametrize("probe", ["logistic", "xgboost"])
def test_latents_are_chosen_on_the_training_samples_alone(probe):
    """Latent 0 tells the classes apart everywhere; latent 1 only, but more, when held out."""
    labels = alternating(80)[:, None]
    latents = torch.zeros(80, 2)
    latents[:, 0] = labels[:, 0].float()
    latents[40:, 1] = 100 * (~labels[40:, 0]).float()
    assert separating_latents(latents, labels, 1).tolist() == [[1]]
    scores = probe_tasks(ProbeInput("latents", "none", latents), labels, 40, probe, truncation=1)
    assert scores == [1.0]


def test_latents_are_chosen_for_each_task():
    labels = torch.stack([alternating(80), torch.arange(80) % 3 == 0], dim=1)
    latents = labels.float().flip(1) + 0.01 * random(80, 2)
    scores = probe_tasks(ProbeInput("latents", "none", latents), labels, 40, "logistic", 1)
    assert scores == [1.0, 1.0]


def test_too_few_latents_are_kept_to_tell_the_classes_apart():
    """An exclusive or of two latents needs both."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(200, 2, generator=generator) < 0.5
    labels = (bits[:, 0] ^ bits[:, 1])[:, None]
    probe_input = ProbeInput("latents", "none", bits.float())
    assert probe_tasks(probe_input, labels, 100, "xgboost") == [1.0]
    assert probe_tasks(probe_input, labels, 100, "xgboost", truncation=2) == [1.0]
    assert probe_tasks(probe_input, labels, 100, "xgboost", truncation=1)[0] < 0.9


def test_xgboost_is_perfect_on_separable_recons():
    probe_input = random_input()
    recons = torch.from_numpy(probe_input.matrix(torch.arange(5)))
    labels = (recons[:, :2].sign() > 0).repeat(5, 1)
    repeated = ProbeInput("activations", "none", recons.repeat(5, 1))
    assert probe_tasks(repeated, labels, 120, "xgboost") == [1.0, 1.0]


def test_trees_see_what_seldom_fires():
    """A value in fewer samples than a bin holds, 0 elsewhere: a latent, or a plane of a board."""
    generator = np.random.default_rng(0)
    labels = generator.random(4000) < 0.02
    for feature in (labels, np.where(labels, generator.uniform(0.1, 2.0, 4000), 0), -2.0 * labels):
        x = feature.astype(np.float32)[:, None]
        assert (fit_predict("xgboost", x[:2000], labels[:2000], x[2000:]) == labels[2000:]).all()


def test_trees_read_recons_of_one_latent_as_xgboosts_own_bins_do():
    import xgboost

    generator = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(6):
        fires = generator.random(2500) < 0.05
        latent = np.where(fires, generator.gamma(4, 0.3, 2500), 0)
        x = generator.normal(size=32) + latent[:, None] * generator.normal(size=32)
        y = (latent > 0.8) | (generator.random(2500) < 0.01)
        given = x[:1500].astype(np.float32), y[:1500], x[1500:].astype(np.float32)
        ours.append(f1(y[1500:], fit_predict("xgboost", *given)))
        booster = xgboost.XGBClassifier(n_estimators=probing.N_TREES, **probing.XGBOOST)
        theirs.append(f1(y[1500:], booster.fit(*given[:2]).predict(given[2]).astype(bool)))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)
    assert np.mean(ours) > 0.7


def test_bins_hold_as_many_samples_each_but_for_values_that_many_share():
    generator = np.random.default_rng(0)
    n, bins = 1600, probing.TASK_BINS
    smooth = generator.permutation(n).astype(np.float32)
    shared = np.where(smooth < n / 2, -1.0, smooth)  # half of all samples
    few = generator.integers(0, 5, n)
    x = np.stack([smooth, shared, few, np.ones(n)], axis=1)
    found = probing._binned(x, probing._bin_edges(x, bins))
    assert found.max() < bins
    sizes = [np.unique(column, return_counts=True)[1].tolist() for column in found.T]
    assert sizes[0] == [n // bins] * bins
    assert sizes[1][0] == n / 2 and len(sizes[1]) == bins and max(sizes[1][1:]) <= 54
    assert sizes[2] == np.unique(few, return_counts=True)[1].tolist()
    assert sizes[3] == [n]


@pytest.mark.parametrize("probe", ["logistic", "xgboost"])
def test_tasks_that_cannot_be_evaluated_are_nan(probe):
    labels = alternating(40)[:, None].repeat(1, 5)
    labels[:20, 0] = True  # no negative to train on
    labels[:20, 1] = False  # no positive to train on
    labels[20:, 2] = False  # no positive held out
    labels[20:, 3] = True  # no negative held out: F1 is still defined
    latents = alternating(40).float()[:, None] + torch.zeros(40, 2)
    scores = probe_tasks(ProbeInput("latents", "none", latents), labels, 20, probe, 1)
    assert np.isnan(scores).tolist() == [True, True, True, False, False]
    assert scores[3] == pytest.approx(2 / 3)  # half of the 20 positives are found
    assert scores[4] == 1.0


def test_features_that_are_all_the_same():
    labels = alternating(40)[:, None]
    scores = probe_tasks(ProbeInput("latents", "none", torch.ones(40, 2)), labels, 20, "logistic")
    assert scores[0] in (0.0, pytest.approx(2 / 3))  # all negative, or all positive


def test_probe_sweep_gives_what_probe_tasks_gives():
    probe_input, labels = random_input(), random(40, 110, seed=5) > 0
    tasks = list(range(3, 103))
    jobs = [
        ({"probe": "logistic", "truncation": 1, "number": 0}, probe_input, tasks),
        ({"probe": "logistic", "truncation": None, "number": 1}, probe_input, [7]),
        ({"probe": "logistic", "truncation": None, "number": 2}, probe_input, []),
    ]
    with ThreadPoolExecutor(1) as executor:
        done = list(probe_sweep(jobs, labels, 20, executor))
    scores = {
        (job["number"], task): score
        for job, tasks, predictions in done
        for task, score in zip(tasks, task_scores(labels[20:, tasks], predictions), strict=True)
    }
    assert len(scores) == 101
    truncated = probe_tasks(probe_input, labels, 20, "logistic", 1)
    assert [scores[0, task] for task in tasks] == truncated[3:103]
    assert scores[1, 7] == probe_tasks(probe_input, labels, 20, "logistic")[7]


# --- samples drawn anew ---


def test_resampled_scores_against_a_plain_loop():
    """30 units of one to four samples; the draws are those of the library's multinomial."""
    generator = np.random.default_rng(3)
    units = torch.from_numpy(generator.integers(30, size=90)) * 7
    truth = torch.from_numpy(generator.random((90, 3)) < 0.3)
    predictions = [generator.random(90) < 0.4, None, truth[:, 2].numpy()]
    found = resampled_scores(truth, predictions, units)
    members = units.unique()
    drawn = np.random.default_rng(0).multinomial(
        len(members), np.full(len(members), 1 / len(members)), size=probing.RESAMPLES
    )
    for scores, counts in zip(found, drawn, strict=True):
        rows = [i for unit, n in zip(members, counts, strict=True) if n
                for i in (units == unit).nonzero()[:, 0].tolist() * int(n)]  # fmt: skip
        assert scores[0] == pytest.approx(f1(truth[rows, 0].numpy(), predictions[0][rows]))
        assert np.isnan(scores[1]) and scores[2] == 1
    assert found[:, 0].std() > 0.01


def test_resamples_are_the_same_for_whatever_is_measured_on_the_same_units():
    units, truth = torch.arange(50), random(50, 1, seed=1) > 0
    guess = (random(50, 1, seed=2) > 0)[:, 0].numpy()
    first, second = (resampled_scores(truth, [guess], units) for _ in range(2))
    assert np.array_equal(first, second)
    # nothing positive is drawn: there is no F1
    rare = torch.zeros(50, 1, dtype=torch.bool)
    rare[0] = True
    found = resampled_scores(rare, [np.ones(50, dtype=bool)], units)
    assert np.isnan(found).any() and not np.isnan(found).all()


# --- classes ---

CLASSES = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(20)


@pytest.fixture
def separable() -> torch.Tensor:
    """Latents 1 and 4 tell the three classes apart, 4 by more; the other three are noise."""
    latents = 0.1 * random(120, 5)
    latents[:, 1] = (CLASSES == 0).float()
    latents[:, 4] = 4.0 * (CLASSES == 2)
    return latents


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("truncation", [None, 2])
def test_separable_classes_are_all_found(probe, truncation, separable):
    predict = fit_class_probe(separable[:60], CLASSES[:60], probe, truncation)
    assert predict(separable[60:]).tolist() == CLASSES[60:].tolist()


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("names", [(0, 2, 5), (-1, 7, 10**9), (3, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_labels_are_any_whole_numbers(probe, names, dtype, separable):
    labels = torch.tensor(names, dtype=dtype)[CLASSES]
    predict = fit_class_probe(separable[:60], labels[:60], probe, 2)
    assert predict(separable[60:]).tolist() == labels[60:].tolist()


@pytest.mark.parametrize("probe", PROBES)
def test_probes_of_two_classes_of_three_are_those_of_two(probe, separable):
    """Labels {0, 2}, as where a class is missing from the training part."""
    some = CLASSES != 1
    two, codes = separable[some], CLASSES[some].div(2, rounding_mode="floor")
    predict, expected = (fit_class_probe(two, labels, probe, 2) for labels in (2 * codes, codes))
    assert np.array_equal(predict(separable), 2 * expected(separable))


@pytest.mark.parametrize("probe", PROBES)
def test_a_class_alone_is_always_predicted(probe, separable):
    predict = fit_class_probe(separable, torch.full((120,), 3), probe)
    assert predict(separable[:4]).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    "trained_on, truth, evaluable",
    [
        ([0, 1, 2], [0, 1, 2, 1], True),
        ([0, 2], [0, 0, 2, 2], True),
        ([0, 1, 2], [0, 0, 1, 1], True),  # not held out: known, and never right
        ([0, 2], [0, 1, 2, 2], False),
        ([1], [1, 1, 1, 1], False),
        ([1], [0, 1, 1, 1], False),
    ],
)
def test_scores_of_classes_that_a_probe_cannot_know_are_empty(trained_on, truth, evaluable):
    predicted, truth = np.array([0, 1, 2, 2]), torch.tensor(truth)
    score = class_probe_f1(torch.tensor(trained_on), truth, predicted)
    assert score == macro_f1(truth.numpy(), predicted) if evaluable else np.isnan(score)


def test_logistic_probe_agrees_with_scikit_learn():
    latents = 5 * random(120, 4) + 3 * CLASSES[:, None] * random(4, seed=1) + 7
    predicted = fit_class_probe(latents[:60], CLASSES[:60], "logistic")(latents[60:])
    scaled = ((latents - latents[:60].mean(0)) / latents[:60].std(0, correction=0)).numpy()
    reference = LogisticRegression(max_iter=3000).fit(scaled[:60], CLASSES[:60].numpy())
    expected, truth = reference.predict(scaled[60:]), CLASSES[60:].numpy()
    assert np.array_equal(predicted, expected)
    scores = [f1_score(truth == c, expected == c) for c in range(3)]
    assert macro_f1(truth, predicted) == pytest.approx(np.mean(scores))
    assert 0.3 < np.mean(scores) < 0.9


@pytest.mark.parametrize("probe", PROBES)
def test_truncated_probes_read_the_kept_latents_alone(probe, separable):
    predict = fit_class_probe(separable, CLASSES, probe, truncation=1)
    before, others = predict(separable), separable.clone()
    assert ((before == 2) == (CLASSES == 2).numpy()).all()
    others[:, :4] = random(120, 4, seed=1)
    assert np.array_equal(predict(others), before)
    others[:, 4] = others[:, 4].flip(0)
    assert not np.array_equal(predict(others), before)


@pytest.mark.parametrize(
    "probe, truncation, message",
    [
        (
            "forest",
            1,
            "unknown probe 'forest'|probe must be one of 'xgboost', 'logistic', got 'forest'",
        )
    ]
    + [
        ("xgboost", m, f"cannot keep {m} of 5 latents|truncation must be 1 or more, got {m}")
        for m in (-1, 0, 6)
    ],
)
def test_bad_probe_or_truncation(probe, truncation, message, separable):
    with pytest.raises(ValueError, match=message):
        fit_class_probe(separable, CLASSES, probe, truncation)


# --- bad input ---


def test_unknown_probe():
    with pytest.raises(
        ValueError,
        match=r"unknown probe 'forest'|probe must be one of 'xgboost', 'logistic', got 'forest'",
    ):
        probe_tasks(random_input(), alternating(40)[:, None], 20, "forest")


@pytest.mark.parametrize("n_train", [0, 40, -1, 41])
def test_no_samples_left_to_train_or_to_test(n_train):
    with pytest.raises(ValueError, match=f"n_train must be .*, got {n_train}"):
        probe_tasks(random_input(), alternating(40)[:, None], n_train, "logistic")


@pytest.mark.parametrize("truncation", [0, 6])
def test_truncation_out_of_range(truncation):
    with pytest.raises(
        ValueError, match=f"cannot keep {truncation} of 5|must be 1 or more, got {truncation}"
    ):
        probe_tasks(random_input(), alternating(40)[:, None], 20, "logistic", truncation)
