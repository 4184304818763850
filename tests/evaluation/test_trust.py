import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import saehelpers
from saehelpers.evaluation import (
    NUMBERS,
    ablation_effects,
    calibration_scores,
    cards,
    fit_trust,
    leave_one_kind_out,
    spliced_fvu,
    thresholds,
    true_latents,
    trust_model,
    verdict_scores,
)
from saehelpers.saes import EquivariantSAE, SAEConfig, load_sae_lens, make_sae, save_sae_lens
from saehelpers.symmetry import Group, LinearAction

D, N, N_LATENTS = 8, 150, 12


def table(n: int = 600, seed: int = 0) -> pd.DataFrame:
    """Three kinds of worlds, in which agreement decides what is true."""
    generator = np.random.default_rng(seed)
    numbers = pd.DataFrame(generator.uniform(0.05, 0.95, (n, len(NUMBERS))), columns=list(NUMBERS))
    chance = 1 / (1 + np.exp(-12 * (numbers["agreement"] - 0.5)))
    return numbers.assign(
        kind=np.array(["a", "b", "c"])[np.arange(n) % 3], seed=np.arange(n) % 2, firings=50.0,
        consistency_null=0.2, true=generator.uniform(size=n) < chance,
    )  # fmt: skip


def sae(seed: int = 0):
    made = make_sae(SAEConfig(D, N_LATENTS, topk=3, encoder="linear"), seed)
    return made.eval().requires_grad_(False)


def vectors(n: int = N) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0))


# --- the regression ---


def test_probabilities_are_those_of_scikit_learn():
    rows = table()
    ours = fit_trust(rows, ["agreement", "nested"]).probabilities(rows)
    x = rows[["agreement", "nested"]]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    assert ours == pytest.approx(pipeline.fit(x, rows["true"]).predict_proba(x)[:, 1], abs=2e-3)


def test_a_promise_is_kept_at_the_largest_coverage_that_allows_it():
    probabilities = np.arange(100)[::-1] / 100
    true = np.arange(100) < 40
    trust, do_not = thresholds(probabilities, true)
    trusted, refused = probabilities >= trust, probabilities <= do_not
    assert trusted.sum() == 42 and true[trusted].mean() >= 0.95  # of 43, 40 would be 93 %
    assert refused.sum() == 63 and (~true[refused]).mean() >= 0.95
    assert thresholds(probabilities, np.arange(100) % 2 == 0) == (None, None)


def test_what_decides_carries_the_verdict_on_kinds_that_were_left_out():
    rows = table()
    scores = {}
    for numbers in (NUMBERS, ["agreement"], [name for name in NUMBERS if name != "agreement"]):
        found = calibration_scores(leave_one_kind_out(rows, numbers))
        scores[len(numbers)] = found.groupby("metric").value.mean()
    assert scores[1].auc > 0.9 > 0.65 > scores[len(NUMBERS) - 1].auc
    assert scores[1].brier < 0.6 * scores[1].brier_of_base_rate
    assert scores[len(NUMBERS)].precision > 0.85 and 0.1 < scores[len(NUMBERS)].coverage < 0.6


def test_a_kind_that_is_left_out_decides_nothing_about_itself():
    rows = table()
    other = rows.assign(true=rows["true"] ^ (rows["kind"] == "a"))
    before, after = (leave_one_kind_out(one).query("kind == 'a'") for one in (rows, other))
    assert before["probability"].tolist() == after["probability"].tolist()
    assert before["verdict"].tolist() == after["verdict"].tolist()


def test_latents_that_hardly_fire_are_not_decided_and_dead_ones_refused():
    model, rows = fit_trust(table()), table().assign(firings=[0, 9, 10] * 200)
    p = model.probabilities(rows)
    assert p[0] == 0 and np.isnan(p[1]) and 0 < p[2] < 1
    assert model.verdicts(rows)[:2] == ["do not", "not decided"]
    assert dataclasses.replace(model, do_not=None).verdicts(rows)[0] == "do not"


def test_a_latent_with_a_near_neighbour_is_never_trusted():
    model, rows = fit_trust(table()), table()
    alone, near = (rows.assign(neighbour_cosine=cosine) for cosine in (0.39, 0.4))
    assert "trust" in model.verdicts(alone)
    assert "trust" not in model.verdicts(near)
    assert model.trust > model.do_not


def test_numbers_beyond_all_that_was_seen_go_no_farther():
    model, rows = fit_trust(table()), table()
    far = rows.assign(agreement=1e6)
    farther = rows.assign(agreement=1e9)
    assert model.probabilities(far).tolist() == model.probabilities(farther).tolist()


def test_true_latents_have_the_direction_and_the_firings_of_a_feature():
    features = torch.eye(4)
    dictionary = torch.cat([features[:3], features[:1]])  # the last feature has no latent left
    dictionary[1] = torch.tensor([0.5, 1.0, 0, 0])  # cosine 0.894
    present = torch.rand(N, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    fires = present[:, [0, 1, 2, 0]]
    fires[:, 2] &= torch.arange(N) % 2 == 0  # half of them are missed
    found = true_latents(dictionary, features, fires, present).tolist()
    assert found[1:3] == [False, False] and sum(found) == 1
    cycle = LinearAction.from_generators(Group.named("C4"), [features.roll(1, 0)])
    turned = dictionary[:1] @ cycle.matrices[1].T
    alone = true_latents(turned, features[:1], fires[:, :1], present[:, :1], cycle)
    assert alone.tolist() == [True]


def judged(n_saes: int = 8, n: int = 12) -> pd.DataFrame:
    """Latents of SAEs of two methods, of which the second gets its verdicts by lot."""
    generator = np.random.default_rng(0)
    p = generator.uniform(size=n_saes * n)
    true = generator.uniform(size=n_saes * n) < p
    runs = np.arange(n_saes * n) // n
    method = np.where(runs < n_saes // 2, "a", "b")
    p = np.where(method == "b", generator.permutation(p), p)
    verdict = np.where(p > 0.7, "trust", np.where(p < 0.3, "do not", "not decided"))
    return pd.DataFrame({"run": runs, "method": method, "true": true, "probability": p,
                         "verdict": verdict})  # fmt: skip


def auc_within(own: pd.DataFrame) -> float:
    """Of pairs of a true and an untrue latent of one SAE, the share that is in the right order."""
    pairs = [
        (first > second)
        for _, rows in own.groupby("run")
        for first in rows.loc[rows["true"], "probability"]
        for second in rows.loc[~rows["true"], "probability"]
    ]
    return float(np.mean(pairs))


def test_scores_of_verdicts_are_those_of_the_latents_and_their_intervals_those_of_saes():
    rows = judged()
    found = verdict_scores(rows).set_index(["method", "metric"])
    assert [*dict.fromkeys(found.index.get_level_values("method"))] == ["all", "a", "b"]
    own = rows[rows["method"] == "a"]
    trusted, refused = own[own["verdict"] == "trust"], own[own["verdict"] == "do not"]
    expected = {
        "base_rate": own["true"].mean(), "brier": ((own["probability"] - own["true"]) ** 2).mean(),
        "brier_of_base_rate": ((own["true"].mean() - own["true"]) ** 2).mean(),
        "auc": auc_within(own), "coverage": len(trusted) / len(own),
        "precision": trusted["true"].mean(), "precision_of_do_not": 1 - refused["true"].mean(),
    }  # fmt: skip
    assert found.loc["a", "value"].to_dict() == pytest.approx(expected)
    assert found.loc["a", "latents"].to_dict() == {
        **dict.fromkeys(expected, len(own)), "precision": len(trusted),
        "precision_of_do_not": len(refused),
    }  # fmt: skip
    assert (found["low"] < found["value"]).all() and (found["value"] < found["high"]).all()
    assert found.loc[("a", "auc"), "low"] > 0.5 > found.loc[("b", "auc"), "low"]
    drawn = np.random.default_rng(1).integers(4, size=(500, 4))
    of_run = [own[own["run"] == run] for run in range(4)]
    aucs = [
        auc_within(pd.concat([of_run[run].assign(run=i) for i, run in enumerate(draw)]))
        for draw in drawn
    ]
    low, high = found.loc[("a", "auc"), ["low", "high"]]
    assert (low, high) == pytest.approx(tuple(np.quantile(aucs, [0.025, 0.975])), abs=0.03)


def test_where_no_latent_has_a_verdict_there_is_no_score():
    found = verdict_scores(judged().assign(verdict="not decided")).set_index(["method", "metric"])
    of = found.loc[("all", "precision")]
    assert of[["value", "low", "high"]].isna().all() and of["latents"] == 0
    assert found.loc[("all", "coverage"), "value"] == 0


def test_what_does_not_do_for_a_fit_is_said():
    with pytest.raises(ValueError, match="two kinds of worlds or more"):
        fit_trust(table().assign(kind="a"))
    with pytest.raises(ValueError, match="three kinds of worlds or more"):
        leave_one_kind_out(table().query("kind != 'a'"))
    with pytest.raises(ValueError, match="true and latents that are not"):
        fit_trust(table().assign(true=True))
    with pytest.raises(ValueError, match="table lacks nested"):
        fit_trust(table()).probabilities(table().drop(columns="nested"))


# --- what ships ---


def test_the_shipped_regressions_are_of_seeds_and_of_one_sae():
    several, one = trust_model("several_seeds"), trust_model("one_seed")
    assert set(several.numbers) - set(one.numbers) == {"consistency", "agreement"}
    assert several.fitted_to["kinds"] == one.fitted_to["kinds"]
    with pytest.raises(ValueError, match="several_seeds, one_seed, got 'two'"):
        trust_model("two")
    path = Path(saehelpers.__file__).parent / "evaluation" / "trust.json"
    assert [*json.loads(path.read_text())] == ["several_seeds", "one_seed"]


# --- cards ---


def test_cards_of_an_sae_without_a_group(capsys):
    found = cards(sae(), vectors(), others=[sae(1), sae(2)])
    assert len(found) == N_LATENTS and found.latent.tolist() == list(range(N_LATENTS))
    assert set(found.verdict) <= {"trust", "do not", "not decided"}
    model = trust_model("several_seeds")
    assert found.probability.tolist() == pytest.approx(model.probabilities(found), nan_ok=True)
    said = capsys.readouterr().out
    assert "no network" in said and "one seed" not in said


def test_one_seed_alone_has_no_consistency_and_it_is_said(capsys):
    found = saehelpers.cards(sae(), vectors())
    assert "consistency" not in found
    assert "one seed only" in capsys.readouterr().out
    model = trust_model("one_seed")
    assert found.probability.tolist() == pytest.approx(model.probabilities(found), nan_ok=True)


def test_cards_of_an_sae_that_was_loaded_from_sae_lens(tmp_path):
    save_sae_lens(sae(), tmp_path / "sae")
    loaded, _ = load_sae_lens(tmp_path / "sae")
    ours, theirs = (cards(one, vectors(), others=[sae(1)]) for one in (sae(), loaded))
    assert theirs.verdict.tolist() == ours.verdict.tolist()
    assert theirs.probability.tolist() == pytest.approx(ours.probability, abs=1e-4, nan_ok=True)


def test_a_group_is_fitted_given_or_that_of_the_sae(toy):
    given = cards(sae(), toy.activations, toy.action)
    fitted = cards(sae(), toy.activations, Group.named("C4"))
    assert fitted.sharpness.tolist() == pytest.approx(given.sharpness)
    assert fitted.copy_cosine.tolist() == pytest.approx(given.copy_cosine, abs=0.01)
    equivariant = cards(EquivariantSAE(sae(), toy.action), toy.activations)
    assert "sharpness" in equivariant and (equivariant.sharpness > 0).any()


def test_the_effect_is_what_the_output_loses():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Identity(), nn.Linear(D, 3)), vectors()
    found = cards(sae(), x, network=(model, "0", x))
    latents = sae().encode(x)
    latent = int((latents > 0).sum(0).argmax())
    alone = torch.zeros_like(latents)
    alone[:, latent] = latents[:, latent]
    lost = (sae().contribution(alone) @ model[1].weight.T).square().sum()
    output = model(x)
    expected = float((lost / (output - output.mean(0)).square().sum()).detach())
    assert found.effect[latent] == pytest.approx(expected, rel=1e-4)
    assert (found.effect[found.firings == 0] == 0).all()


def test_input_that_allows_no_card_is_named(toy):
    with pytest.raises(ValueError, match="activations must be of 100 inputs or more, got 99"):
        cards(sae(), vectors(99))
    with pytest.raises(ValueError, match="D4 has orbits of 8 elements"):
        cards(sae(), toy.activations, Group.named("D4"))
    noise = torch.randn(200, 4, D, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="group: a linear action of C4 explains R"):
        cards(sae(), noise, Group.named("C4"))

    class Headless(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Identity()

        def forward(self, x):
            return {"last_hidden_state": self.body(x)}

    with pytest.raises(ValueError, match="Headless returns last_hidden_state, no logits"):
        cards(sae(), vectors(), network=(Headless(), "body", vectors()))
    silent = nn.Sequential(nn.Identity(), nn.Linear(D, 2, bias=False))
    silent[1].weight.data.zero_()
    with pytest.raises(ValueError, match="output is the same for all"):
        ablation_effects(silent, "0", sae(), vectors(), [0])


def test_recons_in_the_place_of_activations_lose_what_they_lack():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Identity(), nn.Linear(D, 3)).requires_grad_(False), vectors()
    lost = ((sae()(x) - x) @ model[1].weight.T).square().sum()
    output = model(x)
    expected = float(lost / (output - output.mean(0)).square().sum())
    assert spliced_fvu(model, "0", sae(), x) == pytest.approx(expected, rel=1e-4)
    exact = make_sae(SAEConfig(D, 2 * D, "relu", encoder="linear"))
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    exact.decoder_weight.data.copy_(both)
    exact.encoder_weights[0].data.copy_(both.T)
    assert spliced_fvu(model, "0", exact, x) == pytest.approx(0, abs=1e-6)
