"""Registries: what is known by name, what users add, and what goes along to other processes."""

import dataclasses
import inspect
import pickle

import cloudpickle
import pandas as pd
import pytest
import torch

from saehelpers import SAEConfig, SAERun, runs
from saehelpers.runs import registry
from saehelpers.runs.registry import REGISTRIES, carrying
from saehelpers.saes import ACTIVATIONS, DICTIONARIES, SAE, activation, dictionary, make_sae
from saehelpers.training import METHODS, OBJECTIVES, Method, method, objective
from saehelpers.training.objectives import canonical

pytestmark = pytest.mark.usefixtures("clean_registries")
CONFIG = SAEConfig(8, 12, topk=3, encoder_hidden=16)


def add(kind: str, name: str, value: float = 1.0):
    """Something of each kind; `value` decides what it does."""
    if kind == "objective":

        @objective(name)
        def added(sae, batch):
            terms, latents = canonical(sae, batch)
            return {**terms, "further": value * terms["reconstruction"]}, latents

    elif kind == "activation":

        @activation(name)
        def added(x):
            return value * x.relu()

    elif kind == "dictionary":

        @dictionary(name)
        class added(SAE):  # noqa: N801 (as the functions are called)
            @property
            def dictionary(self):
                return value * self.decoder_weight

    else:
        added = method(name, "canonical", width=int(value))
    return added


KINDS = {registry.kind: registry for registry in (OBJECTIVES, ACTIVATIONS, DICTIONARIES, METHODS)}


def test_these_are_all_registries():
    assert sorted(KINDS) == sorted(registry.kind for registry in REGISTRIES)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_is_known(kind):
    before = dict(KINDS[kind])
    added = add(kind, "mine")
    assert KINDS[kind].added.keys() == {"mine"}
    assert KINDS[kind] == {**before, "mine": KINDS[kind]["mine"]}
    value = KINDS[kind]["mine"]
    assert added in (value, getattr(value, "function", None))  # nothing is wrapped


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_names(kind):
    add(kind, "mine")
    with pytest.raises(ValueError, match=f"unknown {kind} 'others'; known are .*, mine$"):
        KINDS[kind]["others"]
    assert KINDS[kind].get("others") is None
    assert "others" not in KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_built_in_stays(kind):
    for name in KINDS[kind]:
        with pytest.raises(ValueError, match=f"the {kind} '{name}' is built in: choose another"):
            add(kind, name)


@pytest.mark.parametrize("kind", ["objective", "activation", "dictionary"])
def test_a_cell_that_is_run_again_replaces_what_it_added(kind):
    add(kind, "mine", 1.0)
    first, identity = KINDS[kind]["mine"], KINDS[kind].identity("mine")
    add(kind, "mine", 2.0)
    assert KINDS[kind]["mine"] is not first
    assert KINDS[kind].identity("mine") != identity


def test_a_method_that_is_added_again_as_it_was():
    add("method", "mine", 2)
    add("method", "mine", 2)
    message = (
        r"another method 'mine', Method\(objective='canonical', width=2,.*: choose another name "
        r"than for Method\(objective='canonical', width=3,.*, or delete the first with "
        r"`del METHODS\['mine'\]`"
    )
    with pytest.raises(ValueError, match=message):
        add("method", "mine", 3)
    del METHODS["mine"]
    assert add("method", "mine", 3).width == METHODS["mine"].width == 3


def test_two_things_of_one_name():
    add("objective", "mine")
    message = (
        r"there is another objective 'mine', tests.runs.test_registry.add.<locals>.added: choose "
        r"another name than for saehelpers.training.objectives.canonical, or delete the first "
        r"with `del OBJECTIVES\['mine'\]`"
    )
    with pytest.raises(ValueError, match=message):
        objective("mine")(canonical)
    add("activation", "mine")  # of another kind
    with pytest.raises(ValueError, match="there is another activation 'mine'"):
        activation("mine")(torch.relu)
    add("dictionary", "mine")
    with pytest.raises(ValueError, match="there is another dictionary 'mine'"):
        dictionary("mine")(SAE)


@pytest.mark.parametrize("kind", KINDS)
def test_no_name(kind):
    with pytest.raises(ValueError, match=f'give the {kind} a name: @{kind}\\("mine"\\)'):
        KINDS[kind].adding(add, lambda thing: thing)  # @objective instead of @objective("mine")
    with pytest.raises(ValueError, match=f"the {kind} needs a name, got ''"):
        add(kind, "")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: dictionary("mine")(torch.nn.Linear), "must be a subclass of SAE, got <class"),
        (lambda: dictionary("mine")(make_sae), "must be a subclass of SAE, got <function"),
        (lambda: activation("mine")(3), "the activation 'mine' must be a function, got 3"),
        (lambda: method("mine", "none"), "unknown objective 'none'; known are reconstruction, "),
        (lambda: method("mine", "canonical", dictionary="none"), "unknown dictionary 'none'"),
        (lambda: method("mine", "canonical", width=0), "width must be 1 or more, got 0"),
    ],
)
def test_things_that_cannot_be_added(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
    assert not any(registry.added for registry in REGISTRIES)


def test_a_registry_is_itself_in_every_process():
    for each in REGISTRIES:
        assert pickle.loads(pickle.dumps(each)) is each


# --- identity ---


def test_runs_of_what_is_built_in_are_called_as_before():
    config = SAERun("test", "toy", CONFIG)
    before = runs.config_hash(config)
    for kind in KINDS:
        add(kind, "mine")
    assert runs.config_hash(config) == before
    assert registry.extensions(config) == {}


def test_runs_of_what_is_built_in_but_has_changed_are_others(monkeypatch):
    config, other = (
        SAERun("test", "toy", dataclasses.replace(CONFIG, dictionary=kind, n_archetypes=4))
        for kind in ("archetypal", "free")
    )
    assert registry.extensions(config) == {"dictionary": "2"}
    hashes = runs.config_hash(config), runs.config_hash(other)
    monkeypatch.setattr(KINDS["dictionary"], "versions", {})
    assert runs.config_hash(config) != hashes[0]  # as before weights were projected
    assert runs.config_hash(other) == hashes[1]


@pytest.mark.parametrize("kind", ["objective", "activation", "dictionary"])
def test_runs_with_other_code_are_other_runs(kind, tmp_path):
    add(kind, "mine", 1.0)
    if kind == "objective":
        config = SAERun("test", "toy", CONFIG, "mine")
    else:
        config = SAERun("test", "toy", dataclasses.replace(CONFIG, **{kind: "mine"}))
    run_id = runs.run_id(config)
    history = pd.DataFrame({"epoch": [0]})
    folder = runs.save_run(tmp_path, config, {"weight": torch.zeros(1)}, history)
    assert runs.load_run(tmp_path, config)[2]["extensions"] == {kind: KINDS[kind].identity("mine")}
    add(kind, "mine", 2.0)
    assert runs.run_id(config) != run_id == folder.name
    assert runs.load_run(tmp_path, config) is None
    add(kind, "mine", 1.0)
    assert runs.run_id(config) == run_id


# --- to other processes ---


def test_nothing_goes_along_when_nothing_was_added():
    assert carrying(pow) is pow


def test_in_this_process_everything_stays_as_it_is():
    add("objective", "mine", 1.0)
    first = carrying(OBJECTIVES.identity)
    add("objective", "mine", 2.0)
    assert first("mine") == carrying(OBJECTIVES.identity)("mine") == OBJECTIVES.identity("mine")
    assert OBJECTIVES["mine"].function.__closure__[-1].cell_contents == 2.0


def unreadable(code):
    raise OSError(f"no source of {code}")


@pytest.mark.parametrize("pickled", [pickle, cloudpickle])
def test_what_was_added_goes_along(pickled, monkeypatch):
    digits = {}
    for kind in KINDS:
        add(kind, "mine", 2.0)
        digits[kind] = KINDS[kind].identity("mine")
    sent = pickled.dumps(carrying(make_sae))
    for each in REGISTRIES:
        del each["mine"]
    monkeypatch.setattr(registry, "TOKEN", "that of another process")
    monkeypatch.setattr(inspect, "getsource", unreadable)
    config = object.__new__(SAEConfig)  # what unpickling makes, without a look at names
    config.__dict__.update({**CONFIG.__dict__, "activation": "mine", "dictionary": "mine"})
    sae = pickle.loads(sent)(config)
    assert METHODS["mine"] == Method("canonical", width=2)
    assert {kind: KINDS[kind].identity("mine") for kind in KINDS} == digits  # as they were told
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    expected = make_sae(dataclasses.replace(CONFIG, activation="relu"))
    assert torch.equal(sae.encode(x), 2 * expected.encode(x))
    assert torch.equal(sae.dictionary, 2 * expected.dictionary)
