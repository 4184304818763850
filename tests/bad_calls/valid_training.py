"""Calls that work of training and experiments; None where there is nothing to call with."""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

from saehelpers import experiments, runs, training
from saehelpers.datasets import ProbeSamples, go
from saehelpers.evaluation import probe_inputs
from saehelpers.experiments import BaseModelRun, EncoderRun, LanguageModelRun
from saehelpers.runs import identity
from saehelpers.saes import make_sae
from saehelpers.training import Loss, OrbitBatch, Settings

from . import things as t

HISTORY = pd.DataFrame({"epoch": [1], "loss": [0.5]})


def _nothing(*_):
    return None


def _batch() -> OrbitBatch:
    rows = t.orbits().flatten(0, 1)
    return OrbitBatch(rows, torch.arange(0, 32, 4), t.whole(4, 8), 4, torch.zeros(1, t.D),
                      torch.ones(1, 1))  # fmt: skip


def _objective(**more):
    return lambda: {"sae": t.sae(**more), "batch": _batch()}


def _model() -> nn.Module:
    return nn.Linear(2, 1)


def _step(model):
    def step(index, uniform):
        return {"loss": model.weight.pow(2).sum()[None]}

    return step


def _fit() -> dict:
    model = _model()
    return {"model": model, "step": _step(model), "n_samples": 8, "seeds": [0],
            "settings": Settings(1, 4, 1e-3), "progress": False}  # fmt: skip


def _original():
    return training.run_original(t.gpt2(), t.tokens(), [t.end_to_end_run()])


def _saved(config=None, tensors=None) -> Path:
    """The folder of a run that was trained, of an SAE or of another config."""
    tensors = t.sae().state_dict() if tensors is None else tensors
    return runs.save_run(t.fresh("models"), config or t.run(), tensors, HISTORY)


def _trained(config) -> Path:
    """A folder of models in which there is the SAE of a config."""
    return _saved(config).parent


def _base_run() -> BaseModelRun:
    return BaseModelRun("base", identity(t.images()), "mlp", t.D, 16, epochs=1, batch_size=4)


def _encoder_run() -> EncoderRun:
    told = identity((t.pictures(), t.whole(2, 6)))
    return EncoderRun("encoder", told, (8,), (1,), n_classes=2, epochs=1, batch_size=4)


def _language_run() -> LanguageModelRun:
    return LanguageModelRun("language", identity(t.TEXT), 280, 8, 8, 1, 2, 1, 4, 2)


def _probe_input():
    return probe_inputs(t.sae(), t.orbits(), t.whole(4, t.N))["none"]


def _probe_samples() -> ProbeSamples:
    return ProbeSamples(12, 6, 1, t.whole(8, 18, 4), t.whole(4, 18))


def _measure_pair(a, b):
    return {"distance": 0.5}


def _measure(sae, x):
    return {"fvu": 0.5}


CALLS = {
    "training.Original": lambda: vars(_original()),
    "training.activations_of": lambda: {"config": t.end_to_end_run(), "model": t.gpt2(),
                                        "blocks": t.tokens()},
    "training.check_downstream": lambda: {"model": t.gpt2(), "tokens": t.tokens(),
                                          "config": t.end_to_end_run()},
    "training.check_model": lambda: {"config": t.end_to_end_run(), "model": t.gpt2()},
    "training.end_to_end_loss": lambda: {"model": t.gpt2(), "sae": t.sae(),
                                         "original": _original(), "config": t.end_to_end_run()},
    "training.local_loss": lambda: {"sae": t.sae(), "x": t.random(2, t.D),
                                    "config": t.end_to_end_run(lambda_local=1.0)},
    "training.model_id": lambda: {"name": "gpt2", "model": t.gpt2()},
    "training.run_original": lambda: {"model": t.gpt2(), "tokens": t.tokens(),
                                      "configs": [t.end_to_end_run()]},
    "training.train_end_to_end": lambda: {
        "configs": [t.end_to_end_run()], "model": t.gpt2(), "blocks": t.tokens(),
        "validation": t.tokens(4), "progress": False},
    "training.Settings": lambda: {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3,
                                  "clip_norm": 1.0},
    "training.fit": _fit,
    "training.Loss": lambda: {"objective": "reconstruction"},
    "training.differentiated": lambda: {"loss": t.trained().decoder_bias.pow(2).sum()
                                        + sum(p.sum() for p in t.trained().parameters()),
                                        "model": t.trained()},
    "training.total_loss": lambda: {"sae": t.trained(), "batch": _batch(),
                                    "loss": Loss("canonical")},
    "training.METHODS": None,
    "training.EndToEndRun": lambda: {"name": "a", "base_model": "b", "text": "c", "module": "d",
                                     "sae": t.config()},
    "training.Method": lambda: {"objective": "canonical"},
    "training.SAERun": lambda: {"name": "a", "activations": "b", "sae": t.config()},
    "training.matched_runs": lambda: {"config": t.run(), "group": t.C4},
    "training.method": lambda: {"name": f"mine-{t.fresh('x')}", "objective": "canonical"},
    "training.method_run": lambda: {"method": "canonical", "activations": "a", "sae": t.config(),
                                    "group": t.C4},
    "training.method_runs": lambda: {"methods": ["canonical"], "topks": [3], "seeds": [0],
                                     "activations": "a", "sae": t.config(), "group": t.C4},
    "training.n_parameters": lambda: {"sae": t.config()},
    "training.run_columns": lambda: {"config": t.run()},
    "training.runs_at_equal_cost": lambda: {"methods": ["canonical"], "seeds": [0],
                                            "activations": "a", "sae": t.config(), "group": t.C4},
    "training.with_parameters": lambda: {"sae": t.config(), "size": "n_latents", "number": 900},
    "training.OBJECTIVES": None,
    "training.SPARSITY_TERMS": None,
    "training.Objective": lambda: {"name": "mine", "function": training.canonical},
    "training.OrbitBatch": lambda: {
        name: getattr(_batch(), name)
        for name in ("rows", "starts", "elements", "order", "mean", "scale")},
    "training.canonical": _objective(),
    "training.crosscoder": _objective(dictionary="blocks", group_order=4),
    "training.decoder_l1": lambda: {"latents": t.latents(), "sae": t.sae(), "p": 1.0},
    "training.l0": lambda: {"latents": t.sae(activation="jumprelu").encode(t.random(t.N, t.D)),
                            "sae": t.sae(activation="jumprelu"), "p": 1.0,
                            "x": t.random(t.N, t.D)},
    "training.l1": lambda: {"latents": t.latents(), "sae": t.sae(), "p": 1.0},
    "training.latent_inv": _objective(),
    "training.lp": lambda: {"latents": t.latents(), "sae": t.sae(), "p": 1.0},
    "training.matryoshka": _objective(prefixes=(4, t.N_LATENTS)),
    "training.gated": _objective(activation="gated"),
    "training.gate_l1": lambda: {"latents": t.sae(activation="gated").encode(t.random(t.N, t.D)),
                                 "sae": t.sae(activation="gated"), "p": 1.0,
                                 "x": t.random(t.N, t.D)},
    "training.objective": lambda: {"name": "mine"},
    "training.oriented": _objective(),
    "training.output_inv": _objective(),
    "training.reconstruction": _objective(),
    "training.self_oriented": _objective(),
    "training.squared_distance": lambda: {"latents": t.latents(), "others": t.latents()},
    "training.squared_error": lambda: {"target": t.random(3, t.D), "recons": t.random(3, t.D)},
    "training.Revival": lambda: {"sae": t.sae(), "auxk": 2, "dead_after": 10, "weight": 0.1},
    "training.SparsityController": lambda: {"sae": t.sae(), "target_l0": 2.0},
    "training.train_sae": lambda: {"config": t.run(), "x": t.orbits(), "validation": t.orbits()},
    "training.train_saes": lambda: {
        "configs": [t.run(), t.run(seed=1)], "activations": [t.orbits()],
        "validation": [t.orbits()], "progress": False},
    "experiments.BaseModelRun": lambda: {"name": "a", "data": "b", "architecture": "mlp"},
    "experiments.LanguageModelRun": lambda: {"name": "a", "text": "b"},
    "experiments.acted_on": lambda: {"inputs": t.images(), "group": t.C4,
                                     "act": lambda x, g: x.rot90(g, (-2, -1))},
    "experiments.load_or_train_base_model": lambda: {
        "config": _base_run(), "images": t.images(), "models": t.fresh("models"),
        "validation": t.images()},
    "experiments.load_or_train_language_model": lambda: {
        "config": _language_run(), "documents": t.TEXT, "models": t.fresh("models")},
    "experiments.make_language_model": lambda: {"config": _language_run()},
    "experiments.read_tokeniser": lambda: {"folder": _tokeniser(), "error_of": runs.damaged},
    "experiments.shapes_base_run": lambda: {"architecture": "mlp", "images": t.images(),
                                            "group": "C4", "epochs": 1},
    "experiments.other_group": lambda: {"group": t.C4},
    "experiments.matched_inputs": lambda: {
        "configs": [t.run()], "subject": t.subject(), "samples": _probe_samples(),
        "models": t.fresh("models")},
    "experiments.other_group_inputs": lambda: {
        "configs": [t.run()], "subject": t.subject(), "other_subject": t.subject(),
        "samples": _probe_samples(), "models": t.fresh("models")},
    "experiments.shuffled_action": lambda: {"subject": t.subject(), "models": t.fresh("models")},
    "experiments.untrained_inputs": lambda: {
        "subject": t.subject(), "samples": _probe_samples(), "sae": t.config()},
    "experiments.run_under": lambda: {"config": t.run(), "subject": t.subject(),
                                      "other_subject": t.subject()},
    "experiments.samples_under": lambda: {"other": t.C4, "orbits": t.orbits(),
                                          "elements": t.whole(4, t.N)},
    "experiments.subject_under": lambda: {
        "other": experiments.other_group(t.C4), "subject": t.subject(), "train_images": t.images(),
        "test_images": t.images(), "models": t.fresh("models")},
    "experiments.GoPoints": lambda: {
        "planes": t.go_planes(), "points": t.whole(9, 4, 2), "elements": t.whole(4, 8),
        "labels": t.whole(2, 8, 3).bool()},
    "experiments.turned_boards": lambda: {
        "positions": go.replay(t.go_games()), "planes": t.go_planes(), "group": t.C4},
    "experiments.turned_samples": lambda: {
        "games": t.go_games(), "positions": go.replay(t.go_games()), "planes": t.go_planes(),
        "points": t.whole(9, 4, 2), "group": t.C4},
    "experiments.EncoderRun": lambda: {"name": "a", "data": "b"},
    "experiments.PixelsRun": lambda: {"name": "a", "encoder": "b", "images": "c", "layer": "d",
                                      "group": "C4", "pixels_per_image": 3},
    "experiments.galaxy_encoder": lambda: {
        "source": "convnext", "train": t.image_set(), "test": t.image_set(),
        "models": t.fresh("models"), "widths": (8,), "depths": (1,), "epochs": 1},
    "experiments.load_or_train_encoder": lambda: {
        "config": _encoder_run(), "images": t.pictures(), "labels": t.whole(2, 6),
        "validation": (t.pictures(4), t.whole(2, 4)), "models": t.fresh("models")},
    "experiments.prepare_pixel_subject": lambda: {
        "encoder": t.convolutions(), "layer": "0", "group": t.C4, "train_images": t.images(),
        "test_images": t.images(), "models": t.fresh("models"), "folder": t.fresh("pixels"),
        "pixels_per_image": 3, "method": "least_squares"},
    "experiments.load_onto": lambda: {"model": t.gpt2(), "sources": [_saved(t.end_to_end_run())]},
    "experiments.load_or_train_end_to_end": lambda: {
        "configs": [t.end_to_end_run()], "model": t.gpt2(), "blocks": t.tokens(),
        "validation": t.tokens(4), "models": _trained(t.end_to_end_run())},
    "experiments.load_start": lambda: {"config": _going_on(), "models": _started()},
    "experiments.ActionConfig": lambda: {"group": "C4"},
    "experiments.EquivariantConfig": lambda: {"sae": t.config(), "group": "C4"},
    "experiments.load": lambda: {"source": _saved(), "action": t.toy().action},
    "experiments.load_folder": lambda: {"folder": _saved()},
    "experiments.measure_probes": lambda: {
        "plan": [(t.run(), {"experiment": "shapes"}, "logistic", 2, _probe_input())],
        "labels": t.whole(2, t.N, 2).bool(),
        "tasks": pd.DataFrame({"task_type": ["S", "S"], "task": ["a", "b"]}), "n_train": 12,
        "path_of": lambda row: Path("probes.csv"), "executor": t.threads()},
    "experiments.measure_pairs": lambda: {
        "measure": _measure_pair, "plans": {"seeds": [t.run(), t.run(seed=1)]},
        "saes": {t.run(): t.sae(), t.run(seed=1): t.sae()}, "columns": {"task_type": "seeds"},
        "path": t.fresh("table").with_suffix(".csv")},
    "experiments.KINDS": None,
    "experiments.KnownWorld": lambda: {"kind": "toy", "seed": 0, "features": t.features(),
                                       "action": t.toy().action},
    "experiments.known_world": lambda: {"kind": "toy", "seed": 0},
    "experiments.calibration_rows": lambda: {
        "path": t.fresh("table").with_suffix(".csv"), "models": t.fresh("models"),
        "kinds": ["toy", "independent"], "widths": [1.0], "topks": [2], "methods": ["vanilla"],
        "world_seeds": [0], "seeds": [0, 1], "epochs": 1, "samples_per_epoch": 64,
        "n_counted": 80, "device": "cpu", "executor": t.threads()},
    "experiments.shapes_trust_rows": lambda: {
        "path": t.fresh("table").with_suffix(".csv"), "models": t.fresh("models"),
        "base_models": ["mlp"], "methods": ["vanilla"], "seeds": [0, 1], "n_latents": 8,
        "epochs": 1, "base_epochs": 1, "n_train": 40, "n_test": 30, "n_probe_train": 20,
        "n_probe_test": 20, "device": "cpu", "executor": t.threads()},
    "experiments.go_trust_rows": lambda: {
        "path": t.fresh("table").with_suffix(".csv"), "models": t.fresh("models"),
        "data": t.fresh("data"), "network": "tiny", "layer": 1, "methods": ["vanilla"],
        "seeds": [0, 1], "n_latents": 8, "epochs": 1, "n_games": 3, "n_train": 4, "n_test": 4,
        "points": 5, "n_probe_train": 3, "device": "cpu", "executor": t.threads()},
    "experiments.write_trust": lambda: {"rows": t.card_rows(), "path": t.fresh("trust")},
    "experiments.Given": lambda: {"network": t.autoencoder(), "train": t.images(),
                                  "test": t.images(), "source": "here", "pictures": t.pictures(),
                                  "labels": pd.DataFrame({"a": [True] * 6})},
    "experiments.prepare_given": lambda: {
        "given": experiments.Given(t.convolutions(), t.images(), t.images(), "here"),
        "network": t.convolutions(), "layer": "0", "group": t.C4, "models": t.fresh("models"),
        "folder": t.fresh("data"), "points": 2, "device": "cpu"},
    "experiments.sequence_action": lambda: {"group": t.C4},
    "experiments.load_given": lambda: {
        "model": str(_saved(_base_run(), t.autoencoder().state_dict())), "inputs": "shapes",
        "n_train": 4, "n_test": 2, "folder": t.fresh("data")},
    "experiments.measure_runs": lambda: {
        "measure": _measure, "jobs": [(t.run(), {"metric": "fvu"}, (t.sae(), t.orbits()))],
        "path": t.fresh("table").with_suffix(".csv"), "executor": t.threads()},
    "experiments.as_read": lambda: {"config": t.run(), "sae": t.sae(), "action": t.toy().action},
    "experiments.checkpoint_path": lambda: {"models": t.fresh("models"), "configs": [t.run()]},
    "experiments.fill": lambda: {"model": make_sae(t.config()), "tensors": t.sae().state_dict(),
                                 "folder": Path(), "error_of": runs.damaged},
    "experiments.fit_run": lambda: {"config": t.run(), "models": t.fresh("models"),
                                    "evaluate": lambda epoch: {}, **_one_model()},
    "experiments.load_existing": lambda: {"config": t.run(), "models": _trained(t.run())},
    "experiments.load_or_train": lambda: {"config": t.run(), "train": _nothing,
                                          "models": _trained(t.run()), "force": False},
    "experiments.load_weights": lambda: {
        "model": make_sae(t.config()), "tensors": t.sae().state_dict(), "config": t.run(),
        "models": t.fresh("models")},
    "experiments.load_or_train_methods": lambda: {
        "subjects": {"mlp": t.subject()}, "methods": ["vanilla"], "topks": [3], "seeds": [0],
        "sae": t.config(), "group": t.C4, "models": t.fresh("models"), "epochs": 1,
        "batch_size": 8},
    "experiments.load_or_train_saes": lambda: {
        "configs": [t.run()], "activations": t.orbits(), "models": t.fresh("models"),
        "validation": t.orbits()},
    "experiments.load_sae": lambda: {"config": t.run(), "models": _trained(t.run())},
    "experiments.push_to_hub": lambda: {"thing": t.sae(), "repo_id": "owner/name"},
    "experiments.save_equivariant": lambda: {"folder": t.fresh("saved"), "sae": t.equivariant()},
    "experiments.ActionRun": lambda: {"name": "a", "activations": "b", "group": "C4"},
    "experiments.Subject": lambda: vars(t.subject()),
    "experiments.load_or_fit_action": lambda: {
        "config": t.action_run(), "activations": t.orbits(), "models": t.fresh("models"),
        "group": t.C4},
    "experiments.other_fits": lambda: {
        "subject": t.subject(), "methods": ["least_squares"], "models": t.fresh("models")},
    "experiments.prepare_subjects": lambda: {
        "base_runs": {"mlp": _base_run()}, "group": t.C4, "train_images": t.images(),
        "test_images": t.images(), "models": t.fresh("models"), "method": "least_squares"},
}  # fmt: skip


def _one_model() -> dict:
    made = _fit()
    return {name: made[name] for name in ("model", "step", "n_samples")}


def _tokeniser() -> Path:
    folder = t.fresh("tokeniser")
    folder.mkdir()
    t.tokeniser().save(str(folder / "tokenizer.json"))
    return folder


def _going_on():
    return t.end_to_end_run(start=runs.run_id(t.end_to_end_run()))


def _started() -> Path:
    return _trained(t.end_to_end_run())
