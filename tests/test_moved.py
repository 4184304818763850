"""Imports of release 0.1 work, or name the room that has what they asked for."""

import importlib

import pytest

from saehelpers.moved import MOVED

# what the README of release 0.1 imported, by module
README = {
    "saehelpers.activations": ["orbit_activations"],
    "saehelpers.shards": ["ShardStream", "write_shards"],
    "saehelpers.interchange": ["load_sae_lens", "save_sae_lens"],
    "saehelpers.base_models": ["load_pretrained_language_model"],
    "saehelpers.end_to_end": ["model_id", "train_end_to_end"],
    "saehelpers.language_metrics": ["evaluate_spliced", "spliced"],
    "saehelpers.methods": ["EndToEndRun"],
    "saehelpers.distributed": ["process_group"],
    "saehelpers.metrics": ["fvu"],
    "saehelpers.sweeps": ["sweep"],
    "saehelpers.results": ["read"],
    "saehelpers.probing": ["probe_sweep"],
}
STAYED = {
    "saehelpers": ["EquivariantSAE", "Group", "SAEConfig", "SAERun", "fit_action"],
    "saehelpers.training": ["train_saes"],
    "saehelpers.datasets.text": ["stream_documents", "token_blocks"],
    "saehelpers.experiments": ["load_or_train_end_to_end", "load_or_train_saes", "load_onto"],
    "saehelpers.saes": ["SAEConfig"],
    "saehelpers.symmetry": ["Group"],
}


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_has_moved_says_where_it_is(name):
    parent, _, module = name.rpartition(".")
    message = rf"what was in {name} is in saehelpers\.{MOVED[name]} now"
    for statement in (
        f"import {name}",
        f"from {name} import anything",
        f"from {parent} import {module}",
        f"import {name}.below",
    ):
        with pytest.raises(ImportError, match=message):
            exec(statement, {})
    importlib.import_module(f"saehelpers.{MOVED[name]}")


@pytest.mark.parametrize("module", README)
def test_the_room_has_what_the_module_had(module):
    room = importlib.import_module(f"saehelpers.{MOVED[module]}")
    assert all(hasattr(room, name) for name in README[module])


@pytest.mark.parametrize("module", STAYED)
def test_imports_that_work_as_before(module):
    exec(f"from {module} import {', '.join(STAYED[module])}", {})


def test_modules_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'saehelpers\.astrology'"):
        importlib.import_module("saehelpers.astrology")
