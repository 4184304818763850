"""Identity by cause: what changes it, and what does not."""

import copy
import functools
import inspect
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from saehelpers.runs import fingerprints
from saehelpers.runs.identities import derived, file_fingerprint, identified, identity
from saehelpers.saes import ACTIVATIONS, SAEConfig, activation, make_sae

NUMBERS = torch.arange(6.0)
FACTOR = 2


@dataclass(frozen=True)
class Generator:
    n: int
    seed: float = 0.0


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x)


def inner(x):
    return x + 1


def measure(x):
    """Doc strings and comments do not count."""
    return FACTOR * inner(x)  # nor does layout


def defined(source, **names):
    """A function out of source text, as a cell of a notebook defines it."""
    import linecache

    file = f"<cell {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace = {"__name__": "__main__", **names}
    exec(compile(source, file, "exec"), namespace)
    return namespace["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NUMBERS, NUMBERS.reshape(2, 3)),
        (NUMBERS, NUMBERS.double()),
        (NUMBERS, NUMBERS + 1),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (np.zeros(3), np.zeros(3, np.float32)),
        ([b"a", b"b"], [b"ab"]),
        (["a", "b"], ["ab"]),
        ("1", 1),
        (True, 1),
        ({"a": 1}, {"a": 2}),
        (Generator(3), Generator(4)),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (functools.partial(inner, 1), functools.partial(inner, 2)),
        (torch.nn.functional.relu, torch.nn.functional.gelu),
    ],
)
def test_what_differs_has_another_identity(one, other):
    assert identity(one) != identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NUMBERS, NUMBERS.clone()),
        (NUMBERS.reshape(2, 3).T.contiguous(), NUMBERS.reshape(2, 3).T),
        (1, 1.0),
        (np.float64(0.5), 0.5),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {2, 1}),
        ((1, 2), [1, 2]),
        (Generator(3, 1), Generator(3, 1.0)),
    ],
)
def test_what_is_equal_has_the_same(one, other):
    assert identity(one) == identity(other)


def test_identity_is_that_of_any_process():
    code = (
        "from tests.runs.test_identities import *\n"
        "print(identity([NUMBERS, Generator(3), measure, {'b': 1, 'a': {2, 'x'}}]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    expected = identity([NUMBERS, Generator(3), measure, {"b": 1, "a": {2, "x"}}])
    assert told.stdout.strip() == expected


# --- causes ---


def test_tensor_is_told_by_its_cause():
    one, other = identified(NUMBERS, Generator(3)), identified(NUMBERS + 1e-7, Generator(3))
    assert identity(one) == identity(other) != identity(NUMBERS)
    assert one.data_ptr() == NUMBERS.data_ptr()
    assert not hasattr(NUMBERS, "cause")


@pytest.mark.parametrize("change", [lambda x: x.add_(1), lambda x: x[:2].zero_()])
def test_tensor_that_was_changed_is_told_by_its_bytes(change):
    tensor = identified(NUMBERS.clone(), Generator(3))
    change(tensor)
    assert (
        identity(tensor) == identity(tensor.clone()) != identity(identified(NUMBERS, Generator(3)))
    )


def test_tensor_whose_cause_cannot_be_told_is_told_by_its_bytes():
    assert identity(identified(NUMBERS, object())) == identity(NUMBERS)


def test_part_of_a_tensor_is_told_by_its_bytes():
    tensor = identified(NUMBERS, Generator(3))
    assert identity(tensor[:3]) == identity(NUMBERS[:3])


def test_what_is_derived_is_told_by_what_from_and_how():
    one, other = identified(NUMBERS, Generator(3)), identified(NUMBERS + 1e-7, Generator(3))
    made = derived(last_rows, one, 2)
    assert torch.equal(made, NUMBERS[-2:])
    assert identity(made) == identity(derived(last_rows, other, 2)) != identity(NUMBERS[-2:])
    for changed in (derived(last_rows, one, 3), derived(last_row, one, 2)):
        assert identity(changed) != identity(made)


def last_rows(x, n):
    return x[-n:]


def last_row(x, n):
    return x[-1:]


def test_cause_survives_a_process():
    tensor = pickle.loads(pickle.dumps(identified(NUMBERS + 0, Generator(3))))
    assert identity(tensor) == identity(identified(NUMBERS, Generator(3)))
    tensor += 1
    assert identity(tensor) == identity(NUMBERS + 1)


def test_sae_is_told_by_its_settings():
    """Equal weights that keep other numbers of latents are another SAE."""
    keeps_two, keeps_four = (make_sae(SAEConfig(8, 16, topk=k), seed=0) for k in (2, 4))
    assert identity(keeps_two.state_dict()) == identity(keeps_four.state_dict())
    assert identity(keeps_two) != identity(keeps_four)
    before = identity(keeps_two)
    keeps_two(torch.ones(3, 8))
    assert identity(keeps_two.eval()) == identity(copy.deepcopy(keeps_two)) == before


def test_network_is_told_by_weights_source_and_cause():
    torch.manual_seed(0)
    network = Network()
    before = identity(network)
    assert identity(pickle.loads(pickle.dumps(network))) == before

    class Network2(Network):
        def forward(self, x):
            return -self.linear(x)

    other = Network2()
    other.load_state_dict(network.state_dict())
    assert identity(other) != before
    told = identity(identified(network, "trained"))
    assert told != before
    with torch.no_grad():
        network.linear.weight += 1
    assert identity(network) not in (told, before)


# --- code ---


def test_function_is_told_by_what_it_does():
    source = "def f(x):\n    return a * x\n"
    layout = 'def f(x):  # layout\n    """Words."""\n    return (a *\n            x)\n'
    one = defined(source, a=2)
    assert identity(one) == identity(defined(layout, a=2))
    assert identity(one) != identity(defined(source, a=3))
    assert identity(one) != identity(defined("def f(x):\n    return a + x\n", a=2))


def test_what_a_function_calls_counts():
    source = "def g(x):\n    return x {}\n\ndef f(x):\n    return [g(y) for y in x]\n"
    assert identity(defined(source.format("+ 1"))) != identity(defined(source.format("+ 2")))


def test_what_a_function_closes_over_counts():
    source = "def make(a):\n    def f(x):\n        return a * x\n    return f\nf = make({})\n"
    assert identity(defined(source.format(1))) != identity(defined(source.format(2)))


@pytest.mark.parametrize("in_notebook", [False, True])
def test_what_a_property_uses_and_what_a_class_holds_count(in_notebook, monkeypatch):
    source = (
        "class f:\n    size = {}\n    @property\n    def x(self):\n        return a\n"
        "    @staticmethod\n    def y():\n        return {}\n"
    )
    kinds = [defined(source.format(1, 2), a=a) for a in (2, 2, 3)]
    kinds += [defined(source.format(*numbers), a=2) for numbers in ((3, 2), (1, 3))]
    if in_notebook:  # Python before 3.13 does not know where its classes are defined
        monkeypatch.setattr(inspect, "getsource", unless_class(inspect.getsource))
    first, same, *others = map(identity, kinds)
    assert first == same
    assert len({first, *others}) == 4


def unless_class(getsource):
    def read(code):
        if isinstance(code, type):
            raise OSError("source code not available")
        return getsource(code)

    return read


def test_registries_are_told_by_their_names():
    before = identity(ACTIVATIONS)
    activation("mine")(torch.relu)
    try:
        assert identity(ACTIVATIONS) == before
    finally:
        del ACTIVATIONS["mine"]


def test_functions_may_call_themselves_and_each_other():
    source = "def g(x):\n    return f(x)\n\ndef f(x):\n    return g(x - 1) if x else f(x)\n"
    assert identity(defined(source)) == identity(defined(source))


def test_folder_that_a_function_names_is_told_by_its_name(tmp_path):
    function = defined("def f():\n    return models\n", models=tmp_path)
    before = identity(function)
    (tmp_path / "new").write_text("x")
    assert identity(function) == before


def test_version_stands_for_a_source_that_cannot_be_read():
    namespace = {"__name__": "__main__"}
    exec("def f(x):\n    return x", namespace)
    function = namespace["f"]
    with pytest.raises(TypeError, match=r"source of __main__\.f cannot be read.*`version`"):
        identity(function)
    function.version = "1"
    first = identity(function)
    function.version = "2"
    assert identity(function) != first


def test_what_cannot_be_told_asks_for_a_version():
    with pytest.raises(
        TypeError, match=r"what decides a builtins\.object cannot be told.*`version`"
    ):
        identity(object())


# --- files ---


def test_files_and_folders_are_told_by_their_bytes(tmp_path):
    for name, text in (
        ("a/x.txt", "one"),
        ("b/x.txt", "one"),
        ("c/x.txt", "two"),
        ("d/y.txt", "one"),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    told = [identity(tmp_path / name) for name in "abcd"]
    assert told[0] == told[1] and len(set(told)) == 3
    (tmp_path / "a" / ".hidden").write_text("x")
    assert identity(tmp_path / "a") == told[0]
    with pytest.raises(FileNotFoundError, match="nothing"):
        identity(tmp_path / "nothing")


def test_large_file_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "LARGE", 4)
    path, beside = tmp_path / "x.npy", tmp_path / "x.npy.fingerprint"
    path.write_bytes(b"12345678")
    digits = file_fingerprint(path)
    kept = json.loads(beside.read_text())
    assert kept["sha256"] == digits and kept["size"] == 8
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_digits", None)  # it is taken from beside the file
        assert file_fingerprint(path) == digits
    del kept["own"]  # as earlier releases wrote it: the file is read again
    beside.write_text(json.dumps(kept | {"sha256": "0" * 64}))
    assert file_fingerprint(path) == digits
    path.write_bytes(b"87654321")
    os.utime(path, ns=(1, 1))
    assert file_fingerprint(path) != digits


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"size": 1, "own": ""}', "[" * 100_000])
def test_what_is_no_fingerprint_is_named(tmp_path, text):
    (tmp_path / "x").write_text("x")
    (tmp_path / "x.fingerprint").write_text(text)
    with pytest.raises(ValueError, match=r"x\.fingerprint is no fingerprint of x: delete it"):
        file_fingerprint(tmp_path / "x")
