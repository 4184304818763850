"""Notebooks find their folder, and stop where a parameter cannot work."""

import os
from pathlib import Path

import pytest

from saehelpers.runs import notebooks
from saehelpers.runs.notebooks import check_parameters, enter_notebooks

FOLDER = Path(__file__).parents[2] / "notebooks"
DEFAULTS = {
    "SEEDS": [0, 1], "EPOCHS": 40, "RATE": 1e-3, "KIND": "a", "SMALL": False, "EXECUTOR": None,
    "SIZES": {"mlp": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def stay():
    here = Path.cwd()
    yield
    os.chdir(here)


@pytest.fixture
def check(monkeypatch):
    monkeypatch.setattr(notebooks, "_defaults", lambda notebook: DEFAULTS)
    rules = ("known", "least", "most", "multiples", "may_be_empty")

    def check(**options):
        told = {name: options.pop(name) for name in rules if name in options}
        check_parameters("01", DEFAULTS | options, **told)

    return check


@pytest.mark.parametrize("start", ["notebooks", ".", "saehelpers/runs", "/"])
def test_folder_is_found_wherever_the_kernel_starts(start):
    os.chdir(FOLDER.parent / start)
    assert enter_notebooks() == FOLDER and Path.cwd() == FOLDER


def test_without_a_clone(tmp_path, monkeypatch):
    os.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(FileNotFoundError, match="start the kernel inside the clone"):
        enter_notebooks()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_defaults_pass(path):
    check_parameters(path.stem[:2], notebooks._defaults(path.stem[:2]))


@pytest.mark.parametrize(
    "changed",
    [{"RATE": 1}, {"SEEDS": (3,)}, {"EXECUTOR": object()}, {"SMALL": True}, {"EPOCHS": None}],
)
def test_values_of_the_type_of_the_default_pass(check, changed):
    check(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"SEEDS": "[0, 1]"}, r"SEEDS must be of type list.*papermill reads it with -y 'SEEDS: "),
        ({"SIZES": "{}"}, "SIZES must be of type dict.*-y"),
        ({"EPOCHS": 2.5}, r"EPOCHS must be of type int, as 40 is, got 2\.5"),
        ({"EPOCHS": True}, "EPOCHS must be of type int"),
        ({"SMALL": 1}, "SMALL must be of type bool"),
        ({"KIND": 3}, "KIND must be of type str"),
        ({"RATE": "0.1"}, r"RATE must be of type float, as 0\.001 is, got '0\.1'$"),
    ],
)
def test_other_types_are_named(check, changed, message):
    with pytest.raises(TypeError, match=message):
        check(**changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"SEEDS": []}, "SEEDS is empty"),
        ({"known": {"KIND": ["b", "c"]}}, "KIND has 'a', which is unknown; known are 'b', 'c'"),
        ({"known": {"SEEDS": [0]}}, "SEEDS has 1, which is unknown; known are 0"),
        ({"least": {"EPOCHS": 41}}, "EPOCHS must be 41 or more, got 40"),
        ({"least": {"SIZES": 3}}, "SIZES must be 3 or more, got 2"),
        ({"least": {"SIZES": "EPOCHS"}}, r"SIZES must be 40 \(EPOCHS\) or more, got 2"),
        ({"most": {"EPOCHS": 39}}, "EPOCHS must be 39 or less, got 40"),
        ({"most": {"EPOCHS": "SEEDS"}}, r"EPOCHS must be 0 \(SEEDS\) or less, got 40"),
        ({"multiples": {"EPOCHS": 3}}, "EPOCHS must be a multiple of 3, got 40"),
    ],
)
def test_values_that_cannot_work_are_named(check, options, message):
    with pytest.raises(ValueError, match=message):
        check(**options)


def test_values_within_their_bounds_pass(check):
    check(least={"EPOCHS": "SIZES"}, most={"SIZES": "EPOCHS"}, multiples={"EPOCHS": "SIZES"})


def test_a_list_may_be_empty_where_a_notebook_says_so(check):
    check(SEEDS=[], may_be_empty=["SEEDS"])
    with pytest.raises(ValueError, match="SEEDS is empty"):
        check(SEEDS=[], may_be_empty=["SIZES"])
    with pytest.raises(ValueError, match="may_be_empty has 'SEED', which is no parameter"):
        check(may_be_empty=["SEED"])
