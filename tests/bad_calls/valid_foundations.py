"""Calls that work of runs, symmetry and saes; None where there is nothing to call with."""

import concurrent.futures
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from saehelpers import runs, symmetry
from saehelpers.runs import notebooks
from saehelpers.saes import ArchetypalSAE, make_sae, save_sae_lens, stack

from . import things as t


def _same(*jobs):
    return jobs


def _act(images, element):
    return images.rot90(element, (-2, -1))


HISTORY = pd.DataFrame({"epoch": [1], "loss": [0.5]})
ROW = {"run_id": "a-1", "measure": "m", "metric": "f1", "value": 0.5, "epochs": 3}


def _written() -> Path:
    """A results table with a row."""
    path = t.fresh("table").with_suffix(".csv")
    runs.append(path, [ROW])
    return path


def _run_folder() -> Path:
    return runs.save_run(t.fresh("models"), t.run(), t.sae().state_dict(), HISTORY)


def _registry() -> runs.Registry:
    registry = runs.Registry("thing", "tests:nowhere", {"first": len})
    runs.REGISTRIES.remove(registry)
    return registry


CALLS = {
    "runs.default_device": None,
    "runs.several_threads": lambda: {"count": 2},
    "runs.average": lambda: {"terms": {"loss": torch.ones(1)}},
    "runs.check_same": lambda: {"what": "files", "values": [1]},
    "runs.data_parallel": lambda: {"model": t.sae(), "step": _same},
    "runs.is_active": None,
    "runs.is_first": None,
    "runs.not_yet": lambda: {"step": _same},
    "runs.own_part": lambda: {"*": [t.random(2, 4)]},
    "runs.process_group": lambda: {"timeout_seconds": 1.0},
    "runs.share_buffers": lambda: {"model": t.sae()},
    "runs.wait_for_all": None,
    "runs.checked": lambda: {"thing": len},
    "runs.checked_config": lambda: {"thing": type("Some", (), {"__init__": _same})},
    "runs.extra": lambda: {"name": "text"},
    "runs.added_later": lambda: {"default": 1},
    "runs.check_free": lambda: {"folder": t.fresh("free"), "overwrite": False,
                                "suffixes": (".json",)},
    "runs.config_hash": lambda: {"config": t.run()},
    "runs.damaged": lambda: {"folder": Path("some"), "why": "because"},
    "runs.described": lambda: {"config": t.run()},
    "runs.fingerprint": lambda: {"tensors": {"a": t.random(3)}},
    "runs.git_state": None,
    "runs.listed": lambda: {"values": {"a": 1}},
    "runs.now_utc": None,
    "runs.provenance": None,
    "runs.run_id": lambda: {"config": t.run()},
    "runs.save_run": lambda: {"root": t.fresh("models"), "config": t.run(),
                              "tensors": t.sae().state_dict(), "history": HISTORY},
    "runs.settings": lambda: {"config": t.run()},
    "runs.temporary_folder": lambda: {"folder": t.fresh("folder")},
    "runs.temporary_path": lambda: {"path": t.fresh("file")},
    "runs.write_atomically": lambda: {"path": t.fresh("file"), "data": b"x"},
    "runs.write_folder": lambda: {"folder": t.fresh("folder"), "config": t.run(),
                                  "tensors": t.sae().state_dict()},
    "runs.derived": lambda: {"*": [torch.abs, t.random(3)]},
    "runs.file_fingerprint": lambda: {"path": Path(__file__)},
    "runs.identified": lambda: {"value": t.random(3), "cause": 1},
    "runs.identity": lambda: {"value": 1},
    "runs.joined": lambda: {"*": [t.random(3, 2), t.random(2, 2)]},
    "runs.part": lambda: {"tensor": t.random(8, 2), "start": 0, "stop": 4, "step": 2},
    "runs.check_parameters": lambda: {"notebook": "01", "values": notebooks._defaults("01")},
    "runs.enter_notebooks": None,
    "runs.full_precision": lambda: {"x": t.random(3)},
    "runs.progress_line": lambda: {"label": "SAEs", "done": 1, "total": 3},
    "runs.seconds_each": lambda: {"times": ["2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"]},
    "runs.load_run": lambda: {"root": _run_folder().parent, "config": t.run()},
    "runs.local_folder": lambda: {"source": Path(), "names": ["config.json"]},
    "runs.read_config": lambda: {"folder": Path(), "record": runs.read_record(_run_folder()),
                                 "classes": [type(t.run())]},
    "runs.read_record": lambda: {"folder": _run_folder()},
    "runs.read_tensors": lambda: {"folder": _run_folder()},
    "runs.unreadable": lambda: {"folder": Path("some"), "why": "because"},
    "runs.REGISTRIES": None,
    "runs.Registry": lambda: {"kind": "thing", "home": "tests:nowhere", "built_in": {}},
    "runs.Registry.register": lambda: (_registry().register, {"name": "mine", "value": len}),
    "runs.Registry.check": lambda: (_registry().check, {"name": "first"}),
    "runs.Registry.identity": lambda: (_registry().identity, {"name": "first"}),
    "runs.Registry.adding": lambda: (_registry().adding, {"name": "mine", "value_of": len}),
    "runs.carrying": lambda: {"function": _same},
    "runs.extensions": lambda: {"config": t.run()},
    "runs.COLUMNS": None,
    "runs.KEY": None,
    "runs.SAMPLES": None,
    "runs.agree": lambda: {"table": runs.read(_written()), "wanted": [{"run_id": "a-1"}]},
    "runs.append": lambda: {"path": t.fresh("table"), "rows": [ROW]},
    "runs.causes": lambda: {"measure": len, "data": 1},
    "runs.convert": lambda: {"path": runs.own_path(_written())},
    "runs.keys": lambda: {"table": runs.read(_written())},
    "runs.latest": lambda: {"table": runs.read(_written())},
    "runs.missing": lambda: {"path": _written(), "wanted": [{"run_id": "a-1"}]},
    "runs.own_path": lambda: {"path": Path("some.csv")},
    "runs.read": lambda: {"paths": _written()},
    "runs.tables": lambda: {"folder": Path()},
    "runs.take": lambda: {"path": _written(), "wanted": [{"run_id": "a-1"}]},
    "runs.trained_for": lambda: {"table": runs.read(_written()), "epochs": 3},
    "runs.n_cores": None,
    "runs.sweep": lambda: {"function": _same, "jobs": [(1,), (2,)],
                           "executor": concurrent.futures.ThreadPoolExecutor(1)},
    "symmetry.LinearAction": lambda: {"group": t.C4, "matrices": t.toy().action.matrices.clone(),
                                      "origin": t.random(t.D)},
    "symmetry.LinearAction.from_generators": lambda: (
        symmetry.LinearAction.from_generators,
        {"group": t.C4, "generators": [t.toy().action.matrices[1]], "origin": t.random(t.D)}),
    "symmetry.LinearAction.from_state": lambda: (
        symmetry.LinearAction.from_state,
        {"identifier": "C4", "state": t.toy().action.state_dict()}),
    "symmetry.LinearAction.identity": lambda: (symmetry.LinearAction.identity,
                                               {"group": t.C4, "d": t.D}),
    "symmetry.LinearAction.act": lambda: (t.toy().action.act,
                                          {"vectors": t.random(3, t.D), "element": 1}),
    "symmetry.LinearAction.orbit": lambda: (t.toy().action.orbit, {"vectors": t.random(3, t.D)}),
    "symmetry.LinearAction.decoder_blocks": lambda: (
        t.toy().action.decoder_blocks, {"dictionary": t.random(3, t.D), "bias": t.random(t.D)}),
    "symmetry.canonical_direction": lambda: {"activations": t.orbits()},
    "symmetry.canonicalise": lambda: {"activations": t.orbits(), "group": t.C4,
                                      "direction": t.random(t.D)},
    "symmetry.check_orbits": lambda: {"activations": t.orbits(), "group": t.C4},
    "symmetry.infer_element": lambda: {"action": t.toy().action, "activations": t.random(3, t.D),
                                       "canonical_recons": t.random(3, t.D)},
    "symmetry.FIT_METHODS": None,
    "symmetry.fit_action": lambda: {"activations": t.orbits(), "group": t.C4, "epochs": 1,
                                    "progress": False},
    "symmetry.usual_fit": lambda: {"group": t.C4},
    "symmetry.Group": lambda: {"name": "mine", "table": [[0, 1], [1, 0]]},
    "symmetry.Group.named": lambda: (symmetry.Group.named, {"name": "C4"}),
    "symmetry.Group.from_permutations": lambda: (symmetry.Group.from_permutations,
                                                 {"name": "mine", "generators": [[1, 0]]}),
    "symmetry.Group.product": lambda: (symmetry.Group.product, {"first": t.C2, "second": t.C2}),
    "symmetry.Group.compose": lambda: (t.C4.compose, {"second": 1, "first": 2}),
    "symmetry.Group.inverse": lambda: (t.C4.inverse, {"elements": 1}),
    "symmetry.Group.powers": lambda: (t.C4.powers, {"element": 1}),
    "symmetry.given_or_named": lambda: {"identifier": "C4", "group": t.C4},
    "symmetry.rotations_and_flips": lambda: {"group": t.C4},
    "symmetry.InputAction": None,
    "symmetry.act_each": lambda: {"inputs": t.images(), "elements": t.whole(4, 6), "group": t.C4},
    "symmetry.Group.subgroup": lambda: (t.C4.subgroup, {"name": "C2", "elements": [0, 2]}),
    "symmetry.restricted_action": lambda: {"act": _act, "elements": [0, 2]},
    "symmetry.action_by_generators": lambda: {"group": t.C4, "functions": [_same]},
    "symmetry.check_input_action": lambda: {"group": t.C4, "act": _act, "inputs": t.images()},
    "symmetry.image_action": lambda: {"group": t.C4},
    "symmetry.input_action": lambda: {"group": t.C4, "act": _act, "inputs": t.images()},
    "symmetry.orbit": lambda: {"inputs": t.images(), "group": t.C4},
    "symmetry.report_action": lambda: {"action": t.toy().action, "activations": t.orbits()},
    "symmetry.turning_generators": lambda: {"group": t.C4},
    "saes.ACTIVATIONS": None,
    "saes.DICTIONARIES": None,
    "saes.WITHOUT_GROUP": None,
    "saes.activation": lambda: {"name": "mine"},
    "saes.make_activation": lambda: {"config": t.config()},
    "saes.ArchetypalSAE": lambda: {"config": t.config(dictionary="archetypal", n_archetypes=4)},
    "saes.ArchetypalSAE.set_centres": lambda: (
        ArchetypalSAE(t.config(dictionary="archetypal", n_archetypes=4)).set_centres,
        {"activations": t.random(30, t.D), "seed": 0}),
    "saes.FrozenDecoderSAE": lambda: {"config": t.config(dictionary="frozen")},
    "saes.FrozenEncoderSAE": lambda: {"config": t.config(dictionary="frozen_encoder")},
    "saes.SoftFrozenDecoderSAE": lambda: {"config": t.config(dictionary="soft_frozen")},
    "saes.PrincipalComponents": lambda: {"config": t.config(dictionary="pca")},
    "saes.PrincipalComponents.set_components": lambda: (
        make_sae(t.config(dictionary="pca")).set_components, {"covariance": torch.eye(t.D)}),
    "saes.SAE": lambda: {"config": t.config(), "generator": t.generator()},
    "saes.SAE.encode": lambda: (t.sae().encode, {"x": t.random(3, t.D)}),
    "saes.SAE.decode": lambda: (t.sae().decode, {"latents": t.latents()}),
    "saes.SAE.set_standardisation": lambda: (
        make_sae(t.config()).set_standardisation,
        {"mean": t.random(t.D), "scale": torch.tensor(2.0)}),
    "saes.SAEConfig": lambda: {"d": 8, "n_latents": 12},
    "saes.align_rows": lambda: {"weight": nn.Parameter(t.random(3, 4))},
    "saes.BlockDiagonalSAE": lambda: {"config": t.config(dictionary="block_diagonal", n_heads=2)},
    "saes.stack": lambda: {"saes": [make_sae(t.config()), make_sae(t.config())]},
    "saes.unstack": lambda: {
        "stacked": stack([make_sae(t.config())])},
    "saes.load_sae_lens": lambda: {"source": save_sae_lens(t.sae(), t.fresh("lens"))},
    "saes.MatchingPursuitSAE": lambda: {"config": t.config(dictionary="matching_pursuit")},
    "saes.save_sae_lens": lambda: {"sae": t.sae(), "folder": t.fresh("lens")},
    "saes.dictionary": lambda: {"name": "mine"},
    "saes.make_sae": lambda: {"config": t.config(), "seed": 0},
    "saes.EquivariantSAE": lambda: {"sae": t.sae(), "action": t.toy().action},
    "saes.EquivariantSAE.encode": lambda: (t.equivariant().encode, {"x": t.random(3, t.D)}),
    "saes.EquivariantSAE.mapped": lambda: (t.equivariant().mapped,
                                           {"x": t.random(3, t.D), "element": 1}),
    "saes.EquivariantSAE.infer_element": lambda: (t.equivariant().infer_element,
                                                  {"x": t.random(3, t.D)}),
    "saes.GroupCrosscoder": lambda: {"config": t.config(dictionary="blocks", group_order=4)},
    "saes.GroupCrosscoder.decode_orbit": lambda: (
        make_sae(t.config(dictionary="blocks", group_order=4)).decode_orbit,
        {"latents": t.latents()}),
}  # fmt: skip
