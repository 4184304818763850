"""SAEs that are made by hand, so that what they should score is known."""

import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from saehelpers.datasets.synthetic import Hierarchy, Node, SyntheticFeatures, make_features
from saehelpers.evaluation import metrics
from saehelpers.evaluation.ground_truth import (
    Evaluation,
    evaluate,
    initialise_at,
    null_mcc,
)
from saehelpers.evaluation.matching import cosine_matrix, pw_mcc, recovery
from saehelpers.saes import SAE, SAEConfig, make_sae
from saehelpers.saes.sparse import choice

D, N_FEATURES, N_SAMPLES = 8, 5, 2000
# directions of axes: products with zeros are exact, so that what does not fire is 0 exactly
FEATURES = torch.eye(D)[[3, 0, 6, 1, 4]]
UNUSED = torch.eye(D)[[2, 5, 7]]  # orthogonal to all features
DEAD = -100.0  # a bias under which a latent never fires


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_data(dictionary: torch.Tensor = FEATURES, **changes) -> SyntheticFeatures:
    settings = {"probabilities": 0.3, "magnitude_mean": 1.0, "magnitude_std": 0.2}
    return SyntheticFeatures(dictionary, **settings | changes)


def sae_at(rows, encoder=None, bias=None, activation="relu") -> SAE:
    """An SAE of these rows; latent i reads `encoder[i]`, its own row by default."""
    config = SAEConfig(
        d=rows.shape[1],
        n_latents=len(rows),
        activation=activation,
        topk=len(rows),
        encoder="linear",
    )
    sae = make_sae(config)
    initialise_at(sae, rows, generator())
    if encoder is not None:
        sae.encoder_weights[0].data.copy_(encoder.T)
    if bias is not None:
        sae.encoder_biases[0].data.copy_(torch.tensor(bias))
    return sae


def measured(sae: SAE, data: SyntheticFeatures | None = None, seed: int = 1) -> Evaluation:
    return evaluate(sae, data or make_data(), generator(seed), N_SAMPLES)


def samples(data: SyntheticFeatures | None = None, seed: int = 1):
    """What `measured` sees."""
    return (data or make_data()).sample(N_SAMPLES, generator(seed))


PERFECT = {
    **dict.fromkeys(("mcc", "mcc_signed", "recovery", "uniqueness"), 1.0),
    **dict.fromkeys(("precision", "recall", "f1", "shrinkage", "explained_variance"), 1.0),
    **dict.fromkeys(("unmatched_features", "dead_latents", "split_features"), 0.0),
}


def assert_summary(evaluation: Evaluation, **expected) -> None:
    for name, value in expected.items():
        value = pytest.approx(float(value), abs=1e-6, nan_ok=True)
        assert evaluation.summary[name] == value, name


# --- matching ---


def test_a_matching_by_absolute_cosines_keeps_their_signs():
    rows = torch.stack([2 * FEATURES[1], UNUSED[0], -FEATURES[3], FEATURES[0] / 2])
    evaluation = measured(sae_at(rows))
    assert evaluation.features.latent.tolist()[:2] == [3, 0]
    assert evaluation.features.latent[3] == 2
    cosines = evaluation.features.cosine.tolist()
    assert [cosines[i] for i in (0, 1, 3)] == pytest.approx([1, 1, -1])


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("n_latents", [5, 20, 40])
def test_null_mcc_is_near_the_mean_over_many_random_dictionaries(n_latents, absolute):
    features, draws = make_features(20, 10, generator(), steps=20), generator(1)
    found = null_mcc(n_latents, features, generator(2), absolute)
    drawn = [torch.randn(n_latents, 10, generator=draws) for _ in range(40)]
    many = [pw_mcc(features, rows, absolute) for rows in drawn]
    assert found == pytest.approx(sum(many) / 40, abs=0.06)
    assert 0.2 < found < 0.95
    assert null_mcc(n_latents, features, generator(2), absolute) == found


def test_null_mcc_on_a_line_is_one():
    assert null_mcc(3, torch.ones(1, 1), generator()) == pytest.approx(1)


# --- evaluation ---


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_a_perfect_sae(activation):
    evaluation = measured(sae_at(FEATURES, activation=activation))
    assert_summary(evaluation, **PERFECT, absorption=float("nan"))
    assert evaluation.summary["l0"] == evaluation.summary["l0_true"]
    assert 0 < evaluation.summary["mcc_null"] < 0.9
    table = evaluation.features
    assert table.feature.tolist() == table.latent.tolist() == list(range(N_FEATURES))
    for column in ("cosine", "precision", "recall", "f1", "magnitude_ratio"):
        assert table[column].tolist() == pytest.approx([1] * N_FEATURES), column
    assert table.absorption.isna().all() and (table.parent == -1).all()


def test_a_perfect_sae_on_directions_that_are_no_axes():
    features = make_features(6, 16, generator())
    evaluation = measured(sae_at(features, activation="jumprelu"), make_data(features))
    assert_summary(evaluation, **PERFECT)
    assert evaluation.summary["l0"] == evaluation.summary["l0_true"]


def test_what_fires_is_counted():
    evaluation, (_, coefficients) = measured(sae_at(FEATURES)), samples()
    present = coefficients > 0
    rates = present.double().mean(0).tolist()
    assert evaluation.features.firing_rate.tolist() == pytest.approx(rates)
    assert_summary(evaluation, l0_true=present.sum(1).double().mean())


def test_the_order_of_the_latents_does_not_matter():
    order = [2, 0, 4, 1, 3]
    evaluation = measured(sae_at(FEATURES[order]))
    assert_summary(evaluation, **PERFECT)
    assert [order[latent] for latent in evaluation.features.latent] == list(range(N_FEATURES))


def test_flipped_rows_match_in_absolute_value_only():
    evaluation = measured(sae_at(-FEATURES, encoder=FEATURES))
    x, _ = samples()
    assert_summary(
        evaluation,
        **PERFECT | {"mcc_signed": 0.0, "explained_variance": metrics.explained_variance(x, -x)},
    )
    assert evaluation.features.cosine.tolist() == pytest.approx([-1] * N_FEATURES)


def test_duplicated_latents_split_their_feature():
    """Two features have two latents each, of half the effect."""
    encoder = torch.cat([FEATURES, FEATURES[:2]])
    halves = torch.tensor([0.5, 0.5, 1, 1, 1, 0.5, 0.5])
    evaluation = measured(sae_at(encoder * halves[:, None], encoder=encoder))
    table = evaluation.features
    assert_summary(
        evaluation,
        **PERFECT | {"uniqueness": 5 / 7, "split_features": 2},
        l0=evaluation.summary["l0_true"] + table.firing_rate[:2].sum(),
    )
    assert table.magnitude_ratio.tolist() == pytest.approx([0.5, 0.5, 1, 1, 1])


@pytest.mark.parametrize("cosine, n_split", [(0.65, 0), (0.75, 1)])
def test_a_latent_that_is_too_far_from_a_feature_is_no_part_of_it(cosine, n_split):
    oblique = cosine * FEATURES[0] + (1 - cosine**2) ** 0.5 * UNUSED[0]
    evaluation = measured(sae_at(torch.cat([FEATURES, oblique[None]])))
    assert_summary(evaluation, mcc=1, uniqueness=5 / 6, split_features=n_split)


def test_a_dead_latent_detects_nothing():
    evaluation = measured(sae_at(FEATURES, bias=[DEAD, 0.0, 0.0, 0.0, 0.0]))
    table, (x, coefficients) = evaluation.features, samples()
    found = x - coefficients[:, :1] * FEATURES[:1]
    nonzero = x.norm(dim=1) > 0
    assert_summary(
        evaluation,
        **PERFECT
        | {"dead_latents": 1, "precision": 0.8, "recall": 0.8, "f1": 0.8}
        | {"explained_variance": metrics.explained_variance(x, found)}
        | {"shrinkage": (found.norm(dim=1) / x.norm(dim=1))[nonzero].mean()},
        l0=evaluation.summary["l0_true"] - table.firing_rate[0],
    )
    assert table[["precision", "recall", "f1"]].iloc[0].tolist() == [0, 0, 0]
    assert table.magnitude_ratio.isna().tolist() == [True, False, False, False, False]


def test_dead_latents_are_neither_duplicates_nor_unique():
    rows = torch.cat([FEATURES, FEATURES[:2]])
    evaluation = measured(sae_at(rows, bias=[0.0] * 5 + [DEAD] * 2))
    assert_summary(evaluation, **PERFECT | {"dead_latents": 2})


def test_an_sae_whose_latents_are_all_dead():
    evaluation, (x, _) = measured(sae_at(FEATURES, bias=[DEAD] * 5)), samples()
    assert_summary(
        evaluation,
        **dict.fromkeys(("uniqueness", "precision", "recall", "f1", "shrinkage", "l0"), 0.0),
        mcc=1,
        dead_latents=N_FEATURES,
        split_features=0,
        explained_variance=metrics.explained_variance(x, torch.zeros_like(x)),
    )


def test_a_latent_that_always_fires_is_as_precise_as_its_feature_is_frequent():
    evaluation = measured(sae_at(FEATURES, bias=[1.0, 0.0, 0.0, 0.0, 0.0]))
    first = evaluation.features.iloc[0]
    assert first.recall == 1
    assert first.precision == pytest.approx(first.firing_rate)
    assert first.f1 == pytest.approx(2 * first.firing_rate / (1 + first.firing_rate))
    assert first.magnitude_ratio > 1.9  # c + 1 for a c near 1
    assert_summary(evaluation, precision=(4 + first.firing_rate) / 5, recall=1)


def test_a_feature_that_never_fires_is_left_out_of_the_means():
    data = make_data(probabilities=torch.tensor([0.3, 0.0, 0.3, 0.3, 0.3]))
    evaluation = measured(sae_at(FEATURES), data)
    assert_summary(evaluation, **PERFECT | {"dead_latents": 1})
    assert evaluation.features.firing_rate[1] == evaluation.features.recall[1] == 0


def test_a_halved_decoder_shrinks():
    evaluation, (x, _) = measured(sae_at(FEATURES / 2, encoder=FEATURES)), samples()
    halved = {"shrinkage": 0.5, "explained_variance": metrics.explained_variance(x, x / 2)}
    assert_summary(evaluation, **PERFECT | halved)
    assert evaluation.features.magnitude_ratio.tolist() == pytest.approx([0.5] * N_FEATURES)


def test_magnitude_ratio_is_one_for_features_of_any_norm():
    """Perfect reconstructions of features that are no unit vectors."""
    norms = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])[:, None]
    sae, data = sae_at(FEATURES * norms, encoder=FEATURES / norms), make_data(FEATURES * norms)
    evaluation = measured(sae, data)
    assert_summary(evaluation, **PERFECT)
    assert evaluation.features.magnitude_ratio.tolist() == pytest.approx([1] * N_FEATURES)


def test_fewer_latents_than_features():
    evaluation, (x, _) = measured(sae_at(FEATURES[[4, 1, 0]])), samples()
    shares = dict.fromkeys(("recovery", "precision", "recall", "f1"), 3 / 5)
    recons = x @ FEATURES[[4, 1, 0]].T @ FEATURES[[4, 1, 0]]
    table = evaluation.features
    assert_summary(
        evaluation,
        **shares,
        mcc=1,
        mcc_signed=1,
        unmatched_features=2,
        uniqueness=1,
        l0=table.firing_rate[[0, 1, 4]].sum(),
        explained_variance=metrics.explained_variance(x, recons),
    )
    assert table.latent.tolist() == [2, 1, -1, -1, 0]
    for column in ("cosine", "magnitude_ratio"):
        assert table[column].isna().tolist() == [False, False, True, True, False]
    assert table.recall.tolist() == [1, 1, 0, 0, 1]


def test_more_latents_than_features():
    """Three latents have no feature: two never fire, one always does."""
    rows = torch.cat([UNUSED, FEATURES])
    evaluation = measured(sae_at(rows, bias=[0.0, 1.0, 0.0, *[0.0] * 5]))
    changed = {"uniqueness": 5 / 6, "dead_latents": 2}
    kept = {k: v for k, v in PERFECT.items() if k not in ("shrinkage", "explained_variance")}
    assert_summary(evaluation, **kept | changed, l0=evaluation.summary["l0_true"] + 1)
    assert evaluation.features.latent.tolist() == [3, 4, 5, 6, 7]
    assert evaluation.summary["explained_variance"] < 1 < evaluation.summary["shrinkage"]


# --- absorption ---


def family(**changes) -> SyntheticFeatures:
    """Feature 0 with the children 1 and 2, the latter below a group; 3 and 4 are free."""
    tree = Node(0, (Node(1), Node(None, (Node(2),))))
    settings = {"probabilities": 0.5, "magnitude_std": 0.0, "hierarchy": Hierarchy([tree], 5)}
    return make_data(**settings | changes)


def test_a_perfect_sae_absorbs_nothing():
    evaluation = measured(sae_at(FEATURES), family())
    assert_summary(evaluation, **PERFECT, absorption=0)
    assert evaluation.features.parent.tolist() == [-1, 0, 0, -1, -1]
    assert evaluation.features.absorption[[1, 2]].tolist() == [0, 0]
    assert evaluation.features.absorption[[0, 3, 4]].isna().all()


def test_a_child_that_absorbs_its_parent():
    """The first child's latent writes the parent too, whose own latent is then silent."""
    decoder, encoder = FEATURES.clone(), FEATURES.clone()
    decoder[1] += FEATURES[0]
    encoder[0] -= 10 * FEATURES[1]
    evaluation, (_, coefficients) = measured(sae_at(decoder, encoder), family()), samples(family())
    table = evaluation.features
    assert table.latent.tolist() == [0, 1, 2, 3, 4]
    assert table.absorption[1] == 1
    alone = (coefficients[:, 1] == 0)[coefficients[:, 2] > 0].double().mean().item()
    assert table.absorption[2] == pytest.approx(1 - alone)
    assert 0.4 < alone < 0.6
    assert_summary(
        evaluation,
        explained_variance=1,  # which does not show it
        absorption=(2 - alone) / 2,
        mcc=(4 + 0.5**0.5) / 5,
    )
    present = coefficients > 0
    seen = (present[:, 0] & ~present[:, 1]).sum() / present[:, 0].sum()
    assert table.recall[0] == pytest.approx(seen.item())


def test_absorption_is_unknown_where_a_latent_is_missing():
    """Of the parent, and then of one child."""
    without_parent = measured(sae_at(FEATURES[1:]), family())
    assert without_parent.features.absorption.isna().all()
    assert_summary(without_parent, absorption=float("nan"))
    without_child = measured(sae_at(FEATURES[[0, 2, 3, 4]]), family())
    assert without_child.features.absorption.isna().tolist() == [True, True, False, True, True]
    assert_summary(without_child, absorption=0)


def test_a_parent_whose_coefficient_is_zero_is_not_absorbed():
    """Where a magnitude falls below zero the feature is absent, and so should its latent be."""
    std = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])  # the parent's alone: below zero in 16 %
    data = family(magnitude_std=std)
    evaluation = measured(sae_at(FEATURES), data)
    assert_summary(evaluation, **PERFECT, absorption=0)


# --- the same numbers by other ways ---


def any_sae(standardised: bool) -> SAE:
    """An SAE that is far from perfect."""
    config = SAEConfig(d=D, n_latents=11, activation="topk", topk=3, encoder_hidden=16)
    sae = make_sae(config, seed=3)
    sae.decoder_weight.data *= torch.linspace(0.5, 2, 11)[:, None]
    sae.decoder_bias.data.normal_(generator=generator(4))
    if standardised:
        sae.set_standardisation(torch.linspace(-1, 1, D), torch.tensor(3.0))
    return sae.requires_grad_(False)


def any_data() -> SyntheticFeatures:
    features = make_features(9, D, generator(), steps=20)
    tree = Node(0, (Node(1), Node(2), Node(3, (Node(4),))))
    return SyntheticFeatures(
        features,
        torch.linspace(0.3, 0.8, 9),
        magnitude_std=0.1,
        bias=torch.linspace(0, 1, D),
        hierarchy=Hierarchy([tree], 9),
    )


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("batch_size", [1000, 5000, 300])
def test_summary_agrees_with_the_metrics_on_the_same_samples(batch_size, standardised):
    sae, data, draws = any_sae(standardised), any_data(), generator(7)
    evaluation = evaluate(sae, data, generator(7), 1000, batch_size)
    sizes = [300, 300, 300, 100] if batch_size == 300 else [1000]
    x, coefficients = map(torch.cat, zip(*[data.sample(n, draws) for n in sizes], strict=True))
    latents, recons = sae.encode(x), sae(x)
    expected = {
        "explained_variance": metrics.explained_variance(x, recons),
        "l0": metrics.l0(latents),
        "l0_true": metrics.l0(coefficients),
        "dead_latents": metrics.dead_latents(latents),
        "recovery": recovery(sae.dictionary, data.dictionary),
        "mcc_signed": recovery(sae.dictionary, data.dictionary, absolute=False),
        "shrinkage": (recons.norm(dim=1) / x.norm(dim=1)).mean().item(),
        "mcc_null": null_mcc(11, data.dictionary, draws),
    }
    for name, value in expected.items():
        assert evaluation.summary[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("standardised", [False, True])
def test_the_table_agrees_with_sklearn_and_plain_loops(standardised):
    sae, data = any_sae(standardised), any_data()
    evaluation = evaluate(sae, data, generator(7), 1000)
    x, coefficients = data.sample(1000, generator(7))
    latents, present = sae.encode(x), coefficients > 0
    parents, scores = data.hierarchy.parents(), {"precision": [], "recall": [], "f1": []}
    table = evaluation.features
    latent_of = table.latent.tolist()
    for i, row in enumerate(table.itertuples()):
        active = latents[:, row.latent] > 0
        pair = present[:, i].numpy(), active.numpy()
        for function, name in (
            (precision_score, "precision"),
            (recall_score, "recall"),
            (f1_score, "f1"),
        ):
            scores[name].append(function(*pair, zero_division=0))
            assert getattr(row, name) == pytest.approx(scores[name][-1]), name
        sizes = sae.decoder_blocks()[0][0][row.latent].norm() * latents[:, row.latent]
        ratios = [
            (sizes[n] / coefficients[n, i]).item() for n in (active & present[:, i]).nonzero()
        ]
        expected = sum(ratios) / len(ratios) if ratios else float("nan")
        assert row.magnitude_ratio == pytest.approx(expected, rel=1e-4, nan_ok=True)
        assert row.parent == parents.get(i, -1)
        if row.parent >= 0:
            silent = latents[:, latent_of[row.parent]] == 0
            share = (active & silent)[present[:, i]].double().mean().item()
            assert row.absorption == pytest.approx(share)
    assert 0 < table.absorption.mean() < 1
    assert_summary(evaluation, **{name: sum(found) / 9 for name, found in scores.items()})
    assert 0.1 < evaluation.summary["f1"] < 0.9
    assert_summary(evaluation, absorption=table.absorption[sorted(parents)].mean())


def test_latents_are_held_against_the_features_that_they_are_most_like():
    """The convention of SAELens, by scikit-learn, averaged over all latents."""
    sae, data = any_sae(standardised=True), any_data()
    evaluation = evaluate(sae, data, generator(7), 1000)
    x, coefficients = data.sample(1000, generator(7))
    latents, present = sae.encode(x) != 0, coefficients > 0
    scores = {"precision": [], "recall": [], "f1": [], "accuracy": []}
    best = cosine_matrix(sae.dictionary, data.dictionary).abs().argmax(1)
    for row in evaluation.latents.itertuples():
        assert row.feature == best[row.latent]
        pair = present[:, row.feature].numpy(), latents[:, row.latent].numpy()
        for name, function in (
            ("precision", precision_score), ("recall", recall_score), ("f1", f1_score)
        ):  # fmt: skip
            scores[name].append(function(*pair, zero_division=0))
        scores["accuracy"].append((pair[0] == pair[1]).mean())
        for name, found in scores.items():
            assert getattr(row, name) == pytest.approx(found[-1])
    expected = {f"{name}_by_latent": sum(found) / 11 for name, found in scores.items()}
    assert_summary(evaluation, **expected, uniqueness_by_latent=len(best.unique()) / 11)


@pytest.mark.parametrize("kind", ["topk", "batch_topk", "abs_topk"])
def test_an_sae_on_the_sparse_path_scores_as_on_the_dense_one(kind, monkeypatch):
    sae = make_sae(SAEConfig(d=D, n_latents=32, activation=kind, topk=3, encoder="linear"))
    if kind == "batch_topk":
        sae.train()(torch.randn(50, D, generator=generator()))  # learns a threshold
    dense = evaluate(sae, any_data(), generator(7), 1000)
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", choice.Bounds(0, 1, 1))
    assert sae.is_sparse
    sparse = evaluate(sae, any_data(), generator(7), 1000)
    assert sparse.summary == pytest.approx(dense.summary, nan_ok=True, rel=1e-5)


def test_evaluation_is_reproducible_and_leaves_the_sae_as_it_is():
    sae = any_sae(standardised=True)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    first, second = (evaluate(sae, any_data(), generator(2), 500) for _ in range(2))
    assert first.summary == second.summary
    assert first.features.equals(second.features)
    assert first.summary != evaluate(sae, any_data(), generator(3), 500).summary
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())


# --- starting at the truth ---


def linear_sae(n_latents: int = 7, d: int = D, **changes) -> SAE:
    """With biases that are not zero."""
    sae = make_sae(SAEConfig(d, n_latents, activation="relu", encoder="linear", **changes))
    for bias in (sae.encoder_biases[0], sae.decoder_bias):
        bias.data.normal_(generator=generator())
    return sae


def test_initialise_at_fills_the_first_rows_and_keeps_the_others():
    sae = linear_sae()
    rest = sae.dictionary[N_FEATURES:].detach().clone()
    initialise_at(sae, 2 * FEATURES, generator())
    assert torch.equal(sae.dictionary[:N_FEATURES], 2 * FEATURES)
    assert torch.equal(sae.dictionary[N_FEATURES:], rest)
    assert torch.equal(sae.encoder_weights[0], sae.dictionary.T)
    assert not sae.encoder_biases[0].any() and not sae.decoder_bias.any()
    assert all(parameter.requires_grad for parameter in sae.parameters())


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_initialise_at_adds_noise_of_a_share_of_each_rows_norm(noise):
    norms = torch.tensor([0.1, 1.0, 10.0]).repeat(10)
    features = make_features(30, 400, generator()) * norms[:, None]
    sae = linear_sae(n_latents=30, d=400)
    initialise_at(sae, features, generator(1), noise)
    added = (sae.dictionary - features).detach()
    shares = added.norm(dim=1) / norms
    assert shares.tolist() == pytest.approx([noise] * 30, rel=0.15)
    assert shares.mean().item() == pytest.approx(noise, rel=0.02)
    assert torch.equal(sae.encoder_weights[0], sae.dictionary.T)
    again = linear_sae(n_latents=30, d=400)
    initialise_at(again, features, generator(1), noise)
    assert torch.equal(again.dictionary, sae.dictionary)


@pytest.mark.parametrize(
    "features, message",
    [
        (torch.eye(D), r"8 features of width 8 do not fit 7 latents of width 8"),
        (torch.eye(7), r"7 features of width 7 do not fit 7 latents of width 8"),
    ],
)
def test_initialise_at_features_that_do_not_fit(features, message):
    sae = linear_sae()
    before = sae.dictionary.detach().clone()
    with pytest.raises(ValueError, match=message):
        initialise_at(sae, features, generator())
    assert torch.equal(sae.dictionary, before)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "two_layer"},
        {"dictionary": "archetypal", "n_archetypes": 4},
        {"dictionary": "blocks", "group_order": 2},
    ],
)
def test_initialise_at_needs_a_linear_encoder_and_a_free_dictionary(changes):
    config = SAEConfig(**{"d": D, "n_latents": 9, "encoder": "linear"} | changes)
    with pytest.raises(ValueError, match="only an SAE with a linear encoder and a free dictionary"):
        initialise_at(make_sae(config), FEATURES, generator())
