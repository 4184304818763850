"""Calls that work of evaluation; None where there is nothing to call with."""

import numpy as np
import pandas as pd
import torch

from saehelpers.datasets import go
from saehelpers.evaluation import (
    NUMBERS,
    Estimate,
    Predictions,
    ProbeInput,
    TrustModel,
    fit_trust,
    leave_one_kind_out,
    probe_inputs,
    read_attention,
    subgroup_r2,
    task_table,
)

from . import things as t

TRUTH, PREDICTED = np.array([True, False, True]), np.array([True, True, False])


def _dictionaries() -> dict:
    return {"a": t.random(6, t.D), "b": t.random(5, t.D)}


def _two() -> dict:
    return {"x": t.random(30, 4), "y": t.random(30, 5)}


def _probe_input() -> ProbeInput:
    return probe_inputs(t.sae(), t.orbits(), t.whole(4, t.N))["none"]


def _labels() -> torch.Tensor:
    return t.whole(2, t.N, 2).bool()


def _attention():
    return read_attention(t.gpt2(), t.tokens(), 0)


def _guesses():
    return [_labels()[:9, task].numpy() for task in range(_labels().shape[1])]


def _values() -> pd.DataFrame:
    return pd.DataFrame({"base_seed": [0, 1], "seed": [0, 0], "value": [1.0, 2.0]})


TASKS = pd.DataFrame({"task_type": ["a"], "task": ["b"]})


def _legal() -> torch.Tensor:
    return go.legal_moves(go.replay(t.go_games()).boards)


def _score(i, j):
    return 0.5


def _with_target(**more) -> dict:
    return {"target": t.random(5, t.D), "recons": t.random(5, t.D), **more}


def _symmetric(**more) -> dict:
    return {"sae": t.sae(), "activations": t.orbits(), **more}


def _latent_table() -> pd.DataFrame:
    """Numbers of latents of three kinds of worlds, some of them true, as `fit_trust` takes them."""
    rows = np.random.default_rng(0).uniform(0.1, 0.9, (90, len(NUMBERS)))
    return pd.DataFrame(rows, columns=list(NUMBERS)).assign(
        kind=np.array(["a", "b", "c"])[np.arange(90) % 3], seed=np.arange(90) % 2, firings=50.0,
        consistency_null=0.2, true=np.arange(90) % 4 == 0,
    )  # fmt: skip


def _of_latents() -> dict:
    """Many samples of what an SAE reads, and SAEs of it."""
    return {"sae": t.sae(), "activations": t.random(120, t.D), "others": [t.sae()]}


def _r2_rows() -> pd.DataFrame:
    return pd.DataFrame(subgroup_r2(t.orbits(), t.orbits(), t.C4, torch.arange(t.N)))


def _sae_table() -> pd.DataFrame:
    return pd.DataFrame({"kind": "toy", "world": 0, "seed": 0, "run": ["a", "b"],
                         "recovery": [0.5, 0.6], "alive_latents": 4.0, "consistency": 0.3,
                         "fvu": [0.1, 0.2]})  # fmt: skip


def _trust() -> TrustModel:
    return fit_trust(_latent_table())


DIRECTIONS = {"latents": [0, 1], "n_heads": 2}
CALLS = {
    "evaluation.NUMBERS": None,
    "evaluation.TrustModel": lambda: vars(_trust()),
    "evaluation.TrustModel.probabilities": lambda: (_trust().probabilities,
                                                    {"table": _latent_table()}),
    "evaluation.TrustModel.verdicts": lambda: (_trust().verdicts, {"table": _latent_table()}),
    "evaluation.ablation_effects": lambda: {
        "model": t.autoencoder(), "module": "encoder", "sae": t.sae(), "inputs": t.images(),
        "latents": [0, 1]},
    "evaluation.spliced_fvu": lambda: {
        "model": t.autoencoder(), "module": "encoder", "sae": t.sae(), "inputs": t.images()},
    "evaluation.calibration_scores": lambda: {"predicted": leave_one_kind_out(_latent_table())},
    "evaluation.card_numbers": _of_latents,
    "evaluation.cards": lambda: {
        **_of_latents(), "network": (t.autoencoder(), "encoder", t.images()),
        "labels": pd.DataFrame({"a": np.arange(120) % 2 == 0})},
    "evaluation.fit_trust": lambda: {"table": _latent_table()},
    "evaluation.card_table": lambda: {"rows": t.card_rows()},
    "evaluation.sae_table": lambda: {"rows": t.card_rows()},
    "evaluation.task_table": lambda: {"rows": t.task_rows()},
    "evaluation.verdict_scores": lambda: {"judged": task_table(t.task_rows())},
    "evaluation.without_each": lambda: {"table": _latent_table()},
    "evaluation.rule_success": lambda: {"saes": _sae_table(), "predicted": pd.DataFrame(
        {"run": ["a", "b"], "probability": [0.2, 0.7]})},
    "evaluation.leave_one_kind_out": lambda: {"table": _latent_table()},
    "evaluation.judged": lambda: {"rows": _r2_rows(), "least": 0.8, "parts": {"D1": ["C2"]}},
    "evaluation.smaller_subgroups": lambda: {"group": t.C4},
    "evaluation.subgroup_r2": lambda: {"train": t.orbits(), "test": t.orbits(), "group": t.C4,
                                       "units": torch.arange(t.N)},
    "evaluation.subgroups": lambda: {"group": t.C4},
    "evaluation.thresholds": lambda: {"probabilities": np.linspace(0, 1, 50),
                                      "true": np.arange(50) > 25},
    "evaluation.true_latents": lambda: {
        "dictionary": t.random(6, t.D), "features": t.random(5, t.D),
        "fires": t.whole(2, 9, 6).bool(), "present": t.whole(2, 9, 5).bool(),
        "action": t.toy().action},
    "evaluation.trust_model": lambda: {"name": "one_seed"},
    "evaluation.Attention": lambda: vars(_attention()),
    "evaluation.UpstreamAttribution": lambda: {"latents": t.random(3, 4), "bias": t.random(3),
                                               "error": t.random(3)},
    "evaluation.attribution_by_source": lambda: {"patterns": t.random(2, 2, 5, 5),
                                                 "values": t.random(2, 5, 2, 4),
                                                 "directions": t.random(3, 2, 4)},
    "evaluation.check_trained_here": lambda: {"sae": t.attention_sae(),
                                              "outputs": t.random(4, 5, t.D)},
    "evaluation.decoder_directions": lambda: {"sae": t.sae(), **DIRECTIONS},
    "evaluation.encoder_directions": lambda: {"sae": t.sae(), **DIRECTIONS},
    "evaluation.head_attribution": lambda: {"sae": t.sae(), "n_heads": 2},
    "evaluation.logit_effects": lambda: {"model": t.gpt2(), "written": t.random(3, t.D)},
    "evaluation.output_projection": lambda: {"model": t.gpt2(), "layer": 0},
    "evaluation.read_attention": lambda: {"model": t.gpt2(), "tokens": t.tokens(), "layer": 0},
    "evaluation.residual_readers": lambda: {"model": t.gpt2(), "layer": 0,
                                            "attention": _attention(),
                                            "direction": t.random(2, 4), "example": 0, "t": 3},
    "evaluation.source_shares": lambda: {
        "attention": _attention(), "directions": t.random(3, 2, 4),
        "active": torch.ones(6, 3, 2, dtype=torch.bool), "positions": torch.tensor([3, 4]),
        "sources": torch.tensor([[0, 1]])},
    "evaluation.upstream_attribution": lambda: {"readers": t.random(5, t.D),
                                                "activations": t.random(5, t.D),
                                                "upstream": t.sae()},
    "evaluation.written_directions": lambda: {"model": t.gpt2(), "layer": 0, "sae": t.sae(),
                                              "latents": [0, 1]},
    "evaluation.above_null": lambda: {"observed": 0.8, "null": 0.3},
    "evaluation.interval_over_runs": lambda: {"pairs": {(0, 1): 0.5, (0, 2): 0.6, (1, 2): 0.7}},
    "evaluation.frequency_bins": lambda: {"values": t.random(5).abs(),
                                          "frequency": torch.rand(5, generator=t.generator()),
                                          "edges": [0.0, 0.5, 1.0]},
    "evaluation.frequent": lambda: {"frequency": torch.rand(5, generator=t.generator())},
    "evaluation.latent_consistency": lambda: {"dictionary": t.random(4, t.D),
                                              "others": [t.random(5, t.D)]},
    "evaluation.linear_cka": _two,
    "evaluation.null_of_activations": lambda: {
        "activations": t.random(9, t.D), "n_latents": 3, "score": _score, "n_draws": 2,
        "generator": t.generator()},
    "evaluation.null_pw_mcc": lambda: {**_dictionaries(), "generator": t.generator()},
    "evaluation.over_runs": lambda: {"pairs": pd.DataFrame(
        {"plan": "a", "first": [0, 0, 1], "second": [1, 2, 2], "value": [0.5, 0.6, 0.7]})},
    "evaluation.permutation_p_value": lambda: {"observed": 0.5, "draws": [0.1, 0.9]},
    "evaluation.permuted_pairings": lambda: {"score": _score, **_two(), "n_draws": 2,
                                             "generator": t.generator()},
    "evaluation.pw_mcc_matrix": lambda: {"dictionaries": [t.random(4, t.D), t.random(4, t.D)]},
    "evaluation.random_rows": lambda: {"like": t.random(3, 4), "generator": t.generator()},
    "evaluation.rsa": _two,
    "evaluation.shared_fraction": lambda: {"strength": torch.tensor([0.5, 0.9])},
    "evaluation.shared_strength": lambda: {"encoders": (t.random(4, t.D), t.random(5, t.D)),
                                           "dictionaries": (t.random(4, t.D), t.random(5, t.D))},
    "evaluation.subspace_overlap": lambda: {"a": t.random(4, t.D), "b": t.random(5, t.D),
                                            "action": t.toy().action},
    "evaluation.svcca": _two,
    "evaluation.Evaluation": lambda: {"summary": {"mcc": 0.5},
                                      "features": pd.DataFrame({"f": [1]}),
                                      "latents": pd.DataFrame({"f": [1]})},
    "evaluation.evaluate": lambda: {"sae": t.sae(), "data": t.features(),
                                    "generator": t.generator(), "n_samples": 20, "batch_size": 8},
    "evaluation.initialise_at": lambda: {"sae": t.trained(), "features": t.random(4, t.D),
                                         "generator": t.generator()},
    "evaluation.null_mcc": lambda: {"n_latents": 5, "features": t.random(4, t.D),
                                    "generator": t.generator()},
    "evaluation.ProbeInput": lambda: {"features": "latents", "element": "none",
                                      "latents": t.latents()},
    "evaluation.ProbeInput.matrix": lambda: (_probe_input().matrix,
                                             {"keep": torch.tensor([0, 1])}),
    "evaluation.all_features": lambda: {"given": _probe_input()},
    "evaluation.element_accuracy": lambda: {"inferred": t.whole(4, t.N),
                                            "elements": t.whole(4, t.N), "group": t.C4},
    "evaluation.orbit_averaged": lambda: _symmetric(elements=t.whole(4, t.N),
                                                    action=t.toy().action),
    "evaluation.probe_inputs": lambda: _symmetric(elements=t.whole(4, t.N),
                                                  action=t.toy().action),
    "evaluation.with_element": lambda: {"probe_input": _probe_input(),
                                        "elements": t.whole(4, t.N), "order": 4},
    "evaluation.Predictions": lambda: vars(Predictions.of(t.random(4, 32))),
    "evaluation.Predictions.of": lambda: (Predictions.of, {"logits": t.random(4, 32)}),
    "evaluation.Predictions.kl_to": lambda: (Predictions.of(t.random(4, 32)).kl_to,
                                             {"logits": t.random(4, 32)}),
    "evaluation.apply_sae": lambda: {"sae": t.sae(), "x": t.random(3, t.D)},
    "evaluation.check_text": lambda: {"model": t.gpt2(), "blocks": t.tokens()},
    "evaluation.evaluate_spliced": lambda: {"model": t.gpt2(), "saes": {t.MODULE: t.sae()},
                                            "blocks": t.tokens(), "later": ["transformer.h.1"],
                                            "positions": (1, 2)},
    "evaluation.generate": lambda: {"model": t.gpt2(), "tokens": t.tokens(), "n_new": 2,
                                    "context": 8},
    "evaluation.kl_divergence": lambda: {"original": t.random(4, 32), "changed": t.random(4, 32)},
    "evaluation.logits_of": lambda: {"model": t.gpt2(), "tokens": t.tokens()},
    "evaluation.nearest_cosine": lambda: {"dictionary": t.random(4, t.D)},
    "evaluation.next_token_accuracy": lambda: {"logits": t.random(6, 8, 32), "tokens": t.tokens()},
    "evaluation.spliced": lambda: {"model": t.gpt2(), "saes": {t.MODULE: t.sae()},
                                   "positions": [1]},
    "evaluation.Pairs": lambda: {"a": t.whole(4, 3), "b": t.whole(4, 3), "cosines": t.random(3)},
    "evaluation.cosine_matrix": _dictionaries,
    "evaluation.latent_order": lambda: {"dictionary": t.random(6, t.D),
                                        "features": t.random(4, t.D)},
    "evaluation.match": lambda: {**_dictionaries(), "action": t.toy().action},
    "evaluation.mean_max_similarity": lambda: {**_dictionaries(), "action": t.toy().action},
    "evaluation.pw_mcc": lambda: {**_dictionaries(), "action": t.toy().action},
    "evaluation.recovery": lambda: {"dictionary": t.random(6, t.D), "features": t.random(4, t.D),
                                    "action": t.toy().action},
    "evaluation.angle_dependence": lambda: {"latents": t.latents(), "angles": t.random(t.N)},
    "evaluation.correlations": lambda: {"latents": t.latents(), "values": t.random(t.N)},
    "evaluation.dead_latents": lambda: {"latents": t.latents()},
    "evaluation.detection": lambda: {"latents": t.latents(), "presence": _labels(), "m": 2},
    "evaluation.equivariance_error": lambda: _symmetric(action=t.toy().action),
    "evaluation.explained_variance": _with_target,
    "evaluation.f1": lambda: {"truth": TRUTH, "predicted": PREDICTED},
    "evaluation.firing_frequency": lambda: {"latents": t.latents()},
    "evaluation.frame_recons": lambda: _symmetric(action=t.toy().action),
    "evaluation.fvu": _with_target,
    "evaluation.invariance_error": _symmetric,
    "evaluation.l0": lambda: {"latents": t.latents()},
    "evaluation.macro_f1": lambda: {"truth": np.arange(3), "predicted": np.arange(3)},
    "evaluation.mse": _with_target,
    "evaluation.next_token_loss": lambda: {"logits": t.random(6, 8, 32), "tokens": t.tokens()},
    "evaluation.orbit_closure": lambda: {"dictionary": t.random(4, t.D),
                                         "action": t.toy().action},
    "evaluation.orbit_jaccard": _symmetric,
    "evaluation.separating_latents": lambda: {"latents": t.latents(), "labels": t.whole(2, t.N),
                                              "m": 2},
    "evaluation.spliced_loss": lambda: {
        "model": t.autoencoder(), "inputs": t.images(), "module": "encoder", "replace": torch.abs,
        "loss": torch.nn.functional.mse_loss},
    "evaluation.symmetry_report": lambda: _symmetric(action=t.toy().action),
    "evaluation.symmetry_spectrum": lambda: {"dictionary": t.random(4, t.D),
                                             "action": t.toy().action},
    "evaluation.PROBES": None,
    "evaluation.class_probe_f1": lambda: {"trained_on": t.whole(2, 9), "truth": t.whole(2, 5),
                                          "predicted": t.whole(2, 5).numpy()},
    "evaluation.fit_class_probe": lambda: {"latents": t.latents(), "labels": t.whole(2, t.N),
                                           "probe": "logistic", "truncation": 3},
    "evaluation.Estimate": None,
    "evaluation.interval": lambda: {"values": _values(), "level": 0.9},
    "evaluation.paired_difference": lambda: {"first": _values(), "second": _values(),
                                             "level": 0.9},
    "evaluation.each_above": lambda: {"values": _values().assign(method="vanilla"),
                                      "methods": ["canonical"], "baseline": "vanilla"},
    "evaluation.verdict": lambda: {"difference": Estimate(0.2, 0.1, 0.3, 2, 2)},
    "evaluation.opinion_changes": lambda: {
        "before": t.go_network()(t.go_planes()), "after": t.go_network()(t.go_planes()),
        "legal": _legal()},
    "evaluation.view_disagreement": lambda: {"views": [t.go_network()(t.go_planes())],
                                             "legal": _legal()},
    "evaluation.probe_by_block": lambda: {
        "features": t.random(9, 3), "labels": t.whole(2, 9, 1).bool(), "tasks": TASKS,
        "blocks": t.whole(2, 4), "probe": "logistic"},
    "evaluation.report_by_block": lambda: {
        "sae": t.sae(), "action": t.toy().action, "activations": t.orbits(),
        "blocks": t.whole(2, t.N), "search": False},
    "evaluation.fit_predict": lambda: {"probe": "logistic", "x_train": t.random(9, 3).numpy(),
                                       "y_train": np.arange(9) % 2,
                                       "x_test": t.random(4, 3).numpy()},
    "evaluation.probe_sweep": lambda: {
        "jobs": [({"probe": "logistic", "truncation": 2}, _probe_input(), [0])],
        "labels": _labels(), "n_train": 12, "executor": t.threads()},
    "evaluation.probe_tasks": lambda: {"probe_input": _probe_input(), "labels": _labels(),
                                       "n_train": 12, "probe": "logistic", "truncation": 2},
    "evaluation.predict_tasks": lambda: {"probe_input": _probe_input(), "labels": _labels(),
                                         "n_train": 12, "probe": "logistic", "truncation": 2},
    "evaluation.task_scores": lambda: {"truth": _labels()[:9], "predictions": _guesses()},
    "evaluation.resampled_scores": lambda: {"truth": _labels()[:9], "predictions": _guesses(),
                                            "units": t.whole(4, 9)},
}  # fmt: skip
