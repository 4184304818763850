"""Calls that work of datasets and networks; None where there is nothing to call with."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from saehelpers import datasets
from saehelpers.datasets import go, synthetic

from . import things as t


def _folder_of_images() -> Path:
    folder = t.fresh("images")
    for kind in "ab":
        (folder / kind).mkdir(parents=True)
        Image.new("RGB", (16, 16), (255, 0, 0)).save(folder / kind / "one.png")
    return folder


def _shards() -> Path:
    return datasets.write_shards(t.fresh("shards"), [t.orbits()])


def _array() -> Path:
    path = t.fresh("array").with_suffix(".npy")
    np.save(path, t.orbits().numpy())
    return path


def _text() -> Path:
    path = t.fresh("text")
    path.write_text("\n\n".join(t.TEXT))
    return path


def _same(x):
    return x


def _shapes():
    return datasets.make_shapes(6, 0)


CALLS = {
    "datasets.augment": lambda: {"images": t.pictures(), "generator": t.generator()},
    "datasets.ImageSet": lambda: {"images": t.pictures(), "labels": t.whole(2, 6),
                                  "classes": ("a", "b"), "source": "here"},
    "datasets.load_image_folder": lambda: {"folder": _folder_of_images(), "size": 16},
    "datasets.split": lambda: {"images": t.image_set(), "n_test": 2},
    "datasets.SHAPES": None,
    "datasets.SHAPE_GROUPS": None,
    "datasets.N_HELD_OUT": None,
    "datasets.SPLITS": None,
    "datasets.split_shapes": lambda: {"n_train": 6, "n_test": 6, "by": "images"},
    "datasets.TASK_TYPES": None,
    "datasets.ProbeSamples": lambda: {"n_train": 2, "n_test": 4, "turns": 1,
                                      "shapes": t.whole(8, 6, 4), "elements": t.whole(4, 6)},
    "datasets.probe_samples": lambda: {"train": _shapes(), "test": _shapes(), "n_train": 4,
                                       "n_test": 3, "group": t.C4, "by": "compositions"},
    "datasets.ShapesData": lambda: {"images": t.images(), "shapes": t.whole(8, 6, 4)},
    "datasets.draw_templates": None,
    "datasets.element_ceiling": lambda: {"shapes": _shapes().shapes, "group": t.C4},
    "datasets.list_tasks": None,
    "datasets.share_unseen": lambda: {"shapes": _shapes().shapes,
                                      "trained_on": _shapes().shapes},
    "datasets.make_shapes": lambda: {"n_samples": 6, "seed": 0},
    "datasets.orientations": lambda: {"group": t.C4},
    "datasets.quadrant_sources": lambda: {"group": t.C4},
    "datasets.task_labels": lambda: {"shapes": _shapes().shapes, "elements": t.whole(4, 6),
                                     "group": t.C4},
    "datasets.ShardStream": lambda: {"path": _shards(), "n_samples": 8},
    "datasets.map_activations": lambda: {"path": _array()},
    "datasets.map_shards": lambda: {"path": _shards()},
    "datasets.write_shards": lambda: {"folder": t.fresh("shards"), "parts": [t.orbits()]},
    "datasets.documentation": lambda: {"folder": _documentation()},
    "datasets.held_out": lambda: {"documents": t.TEXT, "share": 0.1},
    "datasets.read_documents": lambda: {"path": _text()},
    "datasets.repeated_tokens": lambda: {"n": 3, "context": 8, "vocab_size": 32,
                                         "generator": t.generator(), "period": 3},
    "datasets.stream_documents": lambda: {"source": _text()},
    "datasets.token_blocks": lambda: {"documents": t.TEXT, "tokeniser": t.tokeniser(),
                                      "context": 8, "n_blocks": 3},
    "datasets.train_tokeniser": lambda: {"documents": t.TEXT, "vocab_size": 280},
    "datasets.ToyData": lambda: {name: getattr(t.toy(), name) for name in (
        "activations", "coefficients", "features", "action", "stream")},
    "datasets.ToyData.part": lambda: (t.toy().part, {"start": 0, "stop": 3}),
    "datasets.make_action": lambda: {"order": 4, "d": 8, "generator": t.generator()},
    "datasets.make_toy": lambda: {"n_samples": 8, "n_features": 4, "order": 4, "seed": 0, "d": 8},
    "datasets.synthetic.make_features": lambda: (synthetic.make_features, {
        "n_features": 4, "d": 8, "generator": t.generator(), "steps": 5}),
    "datasets.synthetic.firing_probabilities": lambda: (synthetic.firing_probabilities, {
        "kind": "zipfian", "n_features": 4, "largest": 0.5, "smallest": 0.1, "exponent": 1.0}),
    "datasets.synthetic.SyntheticFeatures": lambda: (synthetic.SyntheticFeatures, {
        "dictionary": t.random(4, t.D), "probabilities": 0.3}),
    "datasets.synthetic.Stream": lambda: (synthetic.Stream, {
        "features": t.features(), "n_samples": 8, "seed": 0}),
    "datasets.synthetic.near_orthogonal": lambda: (synthetic.near_orthogonal, {
        "rows": t.random(6, t.D), "steps": 2, "learning_rate": 0.01}),
    "datasets.synthetic.superposition": lambda: (synthetic.superposition, {
        "features": t.random(6, t.D), "percentiles": [50]}),
    "datasets.synthetic.low_rank_correlation": lambda: (synthetic.low_rank_correlation, {
        "n_features": 6, "rank": 2, "scale": 0.1, "generator": t.generator()}),
    "datasets.synthetic.Linear": lambda: (synthetic.Linear, {"start": 2.0, "end": 1.0}),
    "datasets.synthetic.Exponential": lambda: (synthetic.Exponential, {"start": 2.0, "end": 1.0}),
    "datasets.synthetic.FoldedNormal": lambda: (synthetic.FoldedNormal, {
        "mean": 0.5, "std": 0.5, "smallest": 0.1, "largest": 1.0}),
    "datasets.synthetic.HierarchyConfig": lambda: (synthetic.HierarchyConfig, {
        "n_roots": 2, "branching": (2, 3), "depth": 1, "exclusive_share": 0.5}),
    "datasets.synthetic.World": lambda: (synthetic.World, {
        "n_features": 20, "d": 8, "largest_probability": 0.5, "smallest_probability": 0.01,
        "exponent": 0.5}),
    "datasets.synthetic.save_world": lambda: (synthetic.save_world, {
        "world": synthetic.World(20, 8), "folder": t.fresh("world")}),
    "datasets.synthetic.load_world": lambda: (synthetic.load_world, {
        "source": synthetic.save_world(synthetic.World(20, 8), t.fresh("world"))}),
    "datasets.go.Boards": lambda: (go.Boards, {
        "stones": t.go_games().stones, "to_move": t.go_games().first, "ko": -t.go_games().first}),
    "datasets.go.Games": lambda: (go.Games, {
        name: getattr(t.go_games(), name) for name in ("stones", "first", "moves", "komi")}),
    "datasets.go.area": lambda: (go.area, {"stones": t.go_games().stones}),
    "datasets.go.area_scores": lambda: (go.area_scores, {"stones": t.go_games().stones}),
    "datasets.go.capture_first": lambda: (go.capture_first, {"planes": t.go_planes()}),
    "datasets.go.chains": lambda: (go.chains, {"stones": t.go_games().stones}),
    "datasets.go.count_liberties": lambda: (go.count_liberties, {"stones": t.go_games().stones}),
    "datasets.go.draw_positions": lambda: (go.draw_positions, {
        "games": t.go_games(), "n_positions": 2}),
    "datasets.go.empty_boards": lambda: (go.empty_boards, {"n": 2, "size": 3}),
    "datasets.go.final_boards": lambda: (go.final_boards, {"games": t.go_games()}),
    "datasets.go.find_ladders": lambda: (go.find_ladders, {"boards": go.empty_boards(2, 3)}),
    "datasets.go.input_planes": lambda: (go.input_planes, {"positions": go.replay(t.go_games())}),
    "datasets.go.legal_moves": lambda: (go.legal_moves, {"boards": go.empty_boards(2, 3)}),
    "datasets.go.load_games": lambda: (go.load_games, {
        "path": go.save_games(t.fresh("games"), t.go_games())}),
    "datasets.go.load_or_play_games": lambda: (go.load_or_play_games, {
        "policy": t.go_network().policy, "n_games": 1, "folder": t.fresh("games"), "size": 3}),
    "datasets.go.load_sgf_folder": lambda: (go.load_sgf_folder, {
        "folder": _records(), "size": 3}),
    "datasets.go.play": lambda: (go.play, {
        "boards": go.empty_boards(2, 3), "moves": t.whole(9, 2)}),
    "datasets.go.play_games": lambda: (go.play_games, {
        "policy": t.go_network().policy, "n_games": 1, "size": 3}),
    "datasets.go.point_tasks": lambda: (go.point_tasks, {
        "games": t.go_games(), "positions": go.replay(t.go_games())}),
    "datasets.go.policy_wins": lambda: (go.policy_wins, {"games": t.go_games()}),
    "datasets.go.random_player": lambda: (go.random_player, {"planes": t.go_planes()}),
    "datasets.go.replay": lambda: (go.replay, {"games": t.go_games()}),
    "datasets.go.save_games": lambda: (go.save_games, {
        "path": t.fresh("games"), "games": t.go_games()}),
    "datasets.go.turned_labels": lambda: (go.turned_labels, {
        "answers": go.point_tasks(t.go_games(), go.replay(t.go_games())),
        "points": t.whole(9, 4, 2), "elements": t.whole(4, 4, 2), "group": t.C4}),
    "datasets.go.turned_tasks": lambda: (go.turned_tasks, {"group": t.C4}),
    "datasets.go.turned_points": lambda: (go.turned_points, {"group": t.C4, "size": 3}),
    "networks.GoNetwork": None,
    "networks.GoOpinion": None,
    "networks.load_go_network": None,  # depends on the wheel: tests/networks/test_go.py
    "networks.named_go_network": None,  # the same
    "networks.make_go_network": lambda: {"n_blocks": 2, "channels": 4},
    "networks.read_opinions": lambda: {"network": t.go_network(), "planes": t.go_planes()},
    "networks.reconstructing": lambda: {"network": t.go_network(), "module": "blocks.0",
                                        "recons": _same},
    "networks.spliced_policy": lambda: {"network": t.go_network(), "module": "blocks.0",
                                        "recons": _same},
    "networks.viewed_opinions": lambda: {"network": t.go_network(), "planes": t.go_planes(),
                                         "group": t.C4},
    "networks.with_random_weights": lambda: {"network": t.go_network()},
    "networks.at_positions": lambda: {"edit": _same, "positions": [1]},
    "networks.chosen_positions": lambda: {"x": t.random(2, 4, 3), "positions": [1]},
    "networks.orbit_activations": lambda: {"model": t.autoencoder(), "inputs": t.images(),
                                           "group": t.C4},
    "networks.read_activations": lambda: {"model": t.autoencoder(), "inputs": t.images(),
                                          "module": "encoder"},
    "networks.reading": lambda: {"model": t.autoencoder(), "modules": ["encoder"]},
    "networks.recording_prefix": lambda: {"model": t.autoencoder(), "modules": ["encoder"]},
    "networks.replaying": lambda: {"model": t.autoencoder(), "outputs": {"encoder": [1]}},
    "networks.splice": lambda: {"model": t.autoencoder(), "edits": {"encoder": _same}},
    "networks.clamped": lambda: {"model": t.autoencoder(), "module": "encoder",
                                 "sae": t.sae(), "values": {0: 1.0}},
    "networks.token_activations": lambda: {"model": t.gpt2(), "tokens": t.tokens(),
                                           "module": t.MODULE},
    "networks.ARCHITECTURES": None,
    "networks.UNTRAINED": None,
    "networks.Autoencoder": lambda: {"encoder": nn.Identity(), "decoder": nn.Identity()},
    "networks.make_autoencoder": lambda: {"architecture": "mlp", "latent_dim": 8,
                                          "hidden_dim": 16, "size": 16},
    "networks.VIT_B_16": None,
    "networks.PretrainedViT": lambda: {"model": nn.Identity(), "size": 16},
    "networks.load_encoder": lambda: {"source": "torch.nn:Identity"},
    "networks.load_pretrained_vit": lambda: {"source": t.fresh("vit")},
    "networks.make_convnext": lambda: {"widths": (8,), "depths": (1,)},
    "networks.drawn_pixels": lambda: {"n_images": 3, "n_pixels": 4, "pixels_per_image": 2},
    "networks.neighbourhoods": lambda: {"maps": t.random(2, 3, 3, 3), "pixels": t.whole(9, 2, 2),
                                        "width": 3},
    "networks.latent_maps": lambda: {"sae": t.sae(), "maps": t.random(2, t.D, 3, 3)},
    "networks.leading_tokens": lambda: {"model": t.autoencoder()},
    "networks.mean_latents": lambda: {"sae": t.sae(), "maps": t.random(2, t.D, 3, 3)},
    "networks.orbit_pixels": lambda: {"model": t.convolutions(), "images": t.images(),
                                      "group": t.C4, "module": "0",
                                      "path": t.fresh("pixels").with_suffix(".npy"),
                                      "pixels_per_image": 3},
    "networks.to_feature_maps": lambda: {"activations": t.random(2, t.D, 3, 3)},
    "networks.load_pretrained_language_model": lambda: {"source": t.fresh("model")},
    "networks.make_gpt2": lambda: {"vocab_size": 32, "context": 8, "width": 8, "n_layers": 1,
                                   "n_heads": 2},
    "networks.evaluation_mode": lambda: {"*": [t.autoencoder()]},
    "networks.standardisation": lambda: {"activations": t.random(20, t.D), "n_heads": 1},
}  # fmt: skip
NOT_THERE = ("networks.load_pretrained_vit", "networks.load_pretrained_language_model",
             "experiments.push_to_hub")  # fmt: skip


def _documentation() -> Path:
    folder = t.fresh("documentation")
    folder.mkdir()
    (folder / "documentation.txt").write_text("some text")
    return folder


def _records() -> Path:
    folder = t.fresh("records")
    folder.mkdir()
    (folder / "game.sgf").write_text("(;SZ[3];B[aa];W[bb])")
    return folder
