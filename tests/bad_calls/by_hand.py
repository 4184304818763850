"""Bad calls beyond one argument of a wrong kind: what does not go together, or is out of range.

(public name, arguments, the one that the error has to name, what is wrong)
"""

import dataclasses

import torch

from saehelpers.symmetry import Group, LinearAction
from saehelpers.training import SAERun

from . import things as t

NAN = float("nan")


def _same(rows: int = 20) -> torch.Tensor:
    return torch.full((rows, 4, t.D), 0.1)


def _narrow() -> LinearAction:
    return LinearAction.identity(t.C4, 3)


def _shifted() -> torch.Tensor:
    """Matrices of which the first is not that of the identity."""
    return t.toy().action.matrices.roll(1, 0)


def _nothing_finite(i, examples):
    return torch.full((len(examples), 8, 8), NAN)


def _wide_run() -> SAERun:
    return dataclasses.replace(t.run(), sae=dataclasses.replace(t.config(), d=5))


BLOCKS = {"dictionary": "blocks", "group_order": 3}
HAND = [
    ("saes.SAEConfig", {"prefixes": [4, 12]}, "prefixes", "a list"),
    ("saes.SAEConfig", {"prefixes": (4, 8)}, "prefixes", "do not end at n_latents"),
    ("saes.SAEConfig", {"prefixes": (8, 4, 12)}, "prefixes", "fall"),
    ("saes.SAEConfig", {"topk": 13}, "topk", "more than there are latents"),
    ("saes.SAEConfig", {"activation": "relus"}, "activation", "misspelt"),
    ("saes.SAEConfig", {"n_heads": 3, "dictionary": "block_diagonal"}, "n_heads", "no divisor"),
    ("saes.SAEConfig", {"n_heads": 2}, "n_heads", "of a free dictionary"),
    ("saes.SAEConfig", {"initial_norm": 2.0, "unit_decoder": True}, "initial_norm", "both"),
    ("saes.SAEConfig", {"unit_decoder": True, "dictionary": "archetypal"}, "unit_decoder", "both"),
    ("saes.SAEConfig", {"activation": "block_topk", "group_order": 5}, "group_order", "no divisor"),
    ("saes.PrincipalComponents.set_components", {"covariance": t.random(5, 5)}, "covariance",
     "another width"),
    ("saes.SAE.encode", {"x": t.random(3, 5)}, "x", "another width"),
    ("saes.SAE.decode", {"latents": t.random(3, 5)}, "latents", "another number of latents"),
    ("saes.EquivariantSAE", lambda: {"action": _narrow()}, "action", "of another width"),
    ("saes.EquivariantSAE.encode", {"x": t.random(3, 5)}, "x", "another width"),
    ("saes.EquivariantSAE.mapped", {"element": 9}, "element", "9 of C4"),
    ("saes.EquivariantSAE.mapped", {"element": [0, 1, 2]}, "element", "a list"),
    ("saes.stack", lambda: {"saes": [t.sae(), t.attention_sae()]}, "saes", "of two configs"),
    ("symmetry.LinearAction", lambda: {"matrices": _shifted()}, "matrices", "not the identity"),
    ("symmetry.LinearAction", {"matrices": t.random(3, 8, 8)}, "matrices", "one too few"),
    ("symmetry.LinearAction", {"matrices": t.random(4, 8, 7)}, "matrices", "not square"),
    ("symmetry.LinearAction", {"origin": t.random(7)}, "origin", "another width"),
    ("symmetry.LinearAction.from_generators", {"generators": []}, "generators", "none"),
    ("symmetry.LinearAction.act", {"element": 9}, "element", "9 of C4"),
    ("symmetry.LinearAction.act", {"element": True}, "element", "a truth value"),
    ("symmetry.LinearAction.act", {"element": torch.tensor([0.5] * 3)}, "element", "fractions"),
    ("symmetry.LinearAction.act", {"element": torch.tensor([0, 1])}, "element", "too few"),
    ("symmetry.LinearAction.act", {"element": torch.tensor([0, 1, 4])}, "element", "4 of C4"),
    ("symmetry.LinearAction.act", {"vectors": t.random(3, 5)}, "vectors", "another width"),
    ("symmetry.LinearAction.orbit", {"vectors": t.random(3, 5)}, "vectors", "another width"),
    ("symmetry.Group", {"table": [[0, 1], [1, 1]]}, "table", "no group"),
    ("symmetry.Group", {"table": [[0, 1, 2], [1, 2, 0]]}, "table", "not square"),
    ("symmetry.Group", {"generators": (5,)}, "generators", "no element"),
    ("symmetry.act_each", {"elements": torch.tensor([0, 1, 2, 3, 0, 7])}, "elements", "7 of C4"),
    ("symmetry.act_each", {"elements": torch.tensor([0, 1])}, "elements", "too few"),
    ("symmetry.act_each", {"elements": torch.rand(6)}, "elements", "fractions"),
    ("symmetry.infer_element", lambda: {"action": _narrow()}, "action", "another width"),
    ("symmetry.canonicalise", {"group": Group.named("C2")}, "activations", "another order"),
    ("symmetry.fit_action", {"group": Group.named("C2")}, "activations", "another order"),
    ("symmetry.fit_action", {"activations": _same()}, "activations", "all the same"),
    ("symmetry.fit_action", {"activations": _same(1000)}, "activations", "1,000 equal rows of 0.1"),
    ("symmetry.fit_action", {"activations": 1e30 * t.orbits()}, "activations", "huge"),
    ("symmetry.fit_action", {"activations": 1e-30 * t.orbits()}, "activations", "tiny"),
    ("networks.standardisation", {"activations": _same(1000)}, "activations", "1,000 equal rows"),
    ("networks.standardisation", {"activations": 1e30 * t.orbits()}, "activations", "huge"),
    ("networks.standardisation", {"activations": 1e-40 * t.orbits()}, "activations", "tiny"),
    ("networks.read_activations", {"module": "encoders"}, "module", "misspelt"),
    ("networks.orbit_pixels", {"pixels_per_image": 0}, "pixels_per_image", "none"),
    ("networks.make_gpt2", {"n_heads": 3}, "n_heads", "no divisor of the width"),
    ("datasets.make_toy", {"representatives": "fix"}, "representatives", "misspelt"),
    ("datasets.held_out", {"share": 2.0}, "share", "2"),
    ("datasets.train_tokeniser", {"documents": "one text"}, "documents", "one text"),
    ("datasets.token_blocks", {"documents": "one text"}, "documents", "one text"),
    ("datasets.token_blocks", {"context": 10**6}, "context", "longer than the text"),
    ("datasets.repeated_tokens", {"period": 5}, "period", "fits once"),
    ("datasets.repeated_tokens", {"n": -2}, "n", "negative"),
    ("datasets.split", {"n_test": 6}, "n_test", "all of them"),
    ("datasets.write_shards", lambda: {"parts": [t.orbits(), t.orbits()[..., :3]]}, "part",
     "of two widths"),
    ("datasets.write_shards", {"parts": [3]}, "parts", "no tensors"),
    ("datasets.task_labels", {"elements": torch.tensor([0, 1, 2, 3, 0, 7])}, "elements", "7 of C4"),
    ("evaluation.above_null", {"null": 1.0}, "null", "1"),
    ("evaluation.interval_over_runs", {"pairs": {(1, 0): 0.5, (2, 0): 0.5, (2, 1): 0.5}}, "pairs",
     "the wrong way round"),
    ("evaluation.interval_over_runs", {"level": 1.5}, "level", "above 1"),
    ("evaluation.frequency_bins", {"edges": [1.0, 0.0]}, "edges", "falling"),
    ("evaluation.svcca", {"share": 1.5}, "share", "above 1"),
    ("evaluation.svcca", {"y": t.random(20, 5)}, "y", "fewer samples"),
    ("evaluation.linear_cka", {"y": t.random(20, 5)}, "y", "fewer samples"),
    ("evaluation.linear_cka", {"y": torch.ones(30, 5)}, "y", "all the same"),
    ("evaluation.match", {"b": t.random(5, 4)}, "b", "another width"),
    ("evaluation.match", lambda: {"action": _narrow()}, "action", "another width"),
    ("evaluation.separating_latents", {"m": 99}, "m", "more than there are"),
    ("evaluation.separating_latents", {"labels": t.whole(2, 5)}, "labels", "too few"),
    ("evaluation.fvu", {"recons": t.random(5, 1)}, "recons", "would be broadcast"),
    ("evaluation.mse", {"recons": t.random(1, t.D)}, "recons", "would be broadcast"),
    ("evaluation.next_token_loss", {"tokens": t.whole(32, 6, 7)}, "tokens", "too few"),
    ("evaluation.kl_divergence", {"changed": t.random(4, 31)}, "changed", "another vocabulary"),
    ("evaluation.probe_tasks", {"n_train": t.N}, "n_train", "leaves nothing to test"),
    ("evaluation.probe_tasks", {"truncation": 99}, "truncation", "more than there are"),
    ("evaluation.probe_inputs", {"elements": torch.full((t.N,), 9)}, "elements", "9 of C4"),
    ("evaluation.encoder_directions", {"n_heads": 3}, "n_heads", "no divisor"),
    ("evaluation.encoder_directions", {"latents": [99]}, "latents", "no such latent"),
    ("evaluation.read_attention", {"layer": 7}, "layer", "no such layer"),
    ("evaluation.read_attention", lambda: {"model": t.autoencoder()}, "model", "no GPT-2"),
    ("evaluation.initialise_at", {"features": t.random(13, t.D)}, "features", "too many"),
    ("evaluation.evaluate", lambda: {"sae": t.attention_sae(), "data": t.narrow_features()}, "data",
     "another width"),
    ("evaluation.check_text", {"blocks": t.tokens() + 99}, "blocks", "beyond the vocabulary"),
    ("training.SAERun", {"auxk": 2.5}, "auxk", "a fraction"),
    ("training.SAERun", {"auxk": 99}, "auxk", "more than there are latents"),
    ("training.SAERun", {"sparsity": "l1"}, "lambda_sparsity", "without its weight"),
    ("training.SAERun", {"sparsity": "l0", "lambda_sparsity": 0.5}, "sparsity", "of TopK"),
    ("training.SAERun", {"lambda_sparsity": 0.5}, "sparsity", "a weight of nothing"),
    ("training.SAERun", {"p": 0.5}, "p", "of no term"),
    ("training.SAERun", {"sparsity_warmup_steps": 5}, "sparsity_warmup_steps", "of no term"),
    ("training.SAERun", {"target_l0": 5}, "target_l0", "of no term"),
    ("training.SAERun", {"order_seed": -1}, "order_seed", "negative"),
    ("training.SAERun", {"epochs": 10.0}, "epochs", "a fraction"),
    ("training.SAERun", {"learning_rate": 0.0}, "learning_rate", "0"),
    ("training.SAERun", {"objective": "canonic"}, "objective", "misspelt"),
    ("training.EndToEndRun", {"clip_norm": -1.0}, "clip_norm", "negative"),
    ("training.EndToEndRun", {"downstream": ("a",)}, "downstream", "without its weight"),
    ("training.EndToEndRun", {"lambda_kl": 0.0}, "lambda_kl", "nothing to train for"),
    ("training.EndToEndRun", {"positions": [1]}, "positions", "a list"),
    ("training.train_sae", {"validation": t.orbits()[:, :2]}, "validation", "another order"),
    ("training.train_sae", {"validation": t.orbits()[..., :5]}, "validation", "another width"),
    ("training.train_sae", {"x": _same()}, "activations", "all the same"),
    ("training.train_sae", lambda: {"config": _wide_run()}, "sae.d", "another width"),
    ("training.train_sae", {"progres": False}, "progres", "misspelt"),
    ("training.train_saes", {"activations": [t.orbits()] * 3}, "activations", "too many"),
    ("training.train_saes", {"validation": [t.orbits()] * 2}, "validation", "too many"),
    ("training.train_saes", lambda: {"configs": [t.run(), t.run(epochs=2)]}, "configs", "differ"),
    ("training.train_end_to_end", {"blocks": t.tokens() + 99}, "blocks", "beyond the vocabulary"),
    ("training.method_run", {"epoch": 3}, "epoch", "misspelt"),
    ("training.method_run", {"epochs": -3}, "epochs", "negative"),
    ("training.method_runs", {"topks": [99]}, "topk", "more than there are latents"),
    ("training.squared_error", {"recons": t.random(1, t.D)}, "recons", "would be broadcast"),
    ("training.with_parameters", {"size": "d"}, "size", "another field"),
    ("experiments.load_or_train_saes", {"activations": _same()}, "activations", "of another run"),
    ("experiments.load_or_train_saes", {"device": "cuda:77"}, "device", "not there"),
    ("experiments.load_or_train_methods", {"epoch": 1}, "epoch", "misspelt"),
    ("experiments.prepare_subjects", {"methd": "adam"}, "methd", "misspelt"),
    ("experiments.load_or_fit_action", {"group": Group.named("C2")}, "group", "not the config's"),
    ("experiments.load_or_train_encoder", {"labels": t.whole(2, 6) + 5}, "labels", "no classes"),
    ("experiments.load", {"device": "gpu"}, "device", "misspelt"),
    ("figures.text_dashboard", {"vocabulary": ["a"] * 5}, "vocabulary", "too short"),
    ("figures.text_dashboard", {"vocabulary": list(range(32))}, "vocabulary", "no texts"),
    ("figures.text_dashboard", {"effects": t.random(2, 99)}, "effects", "too many words"),
    ("figures.text_dashboard", {"latents": [0, -1]}, "latents", "negative"),
    ("figures.text_dashboard", {"latents": [0, 99]}, "latents", "no such latent"),
    ("figures.text_dashboard", {"latents": [0]}, "latents", "too few"),
    ("figures.text_dashboard", {"sources": _nothing_finite}, "sources", "gives NaN"),
    ("figures.image_dashboard", {"images": t.pictures()[:, :2]}, "images", "two channels"),
    ("figures.image_dashboard", {"activations": t.random(6, 3, 4, 4)}, "activations", "too many"),
    ("figures.at", {"group": "D4"}, "group", "not measured"),
    ("runs.part", {"start": -3}, "start", "negative"),
    ("runs.append", {"rows": [{"metrik": "f1", "measure": "m"}]}, "column", "misspelt"),
    ("runs.append", {"rows": [{"metric": "f1"}]}, "row", "without its causes"),
]  # fmt: skip
