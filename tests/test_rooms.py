"""The nine rooms of the package: which may import which, and what each hands on."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "saehelpers"
FLOORS = [  # each imports from those before it
    {"runs"},
    {"symmetry"},
    {"saes", "datasets"},
    {"networks"},
    {"evaluation"},
    {"training"},
    {"experiments", "figures"},
]
ROOMS = sorted(set().union(*FLOORS))


def test_every_folder_is_a_room():
    assert sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")) == ROOMS


def imported_rooms(tree: ast.Module) -> Iterator[str]:
    """The rooms that `import saehelpers.room`, `from saehelpers import room` and so on name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the package"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("saehelpers."))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    floor = next(i for i, rooms in enumerate(FLOORS) if room in rooms)
    allowed = {room}.union(*FLOORS[:floor])
    for path in (PACKAGE / room).rglob("*.py"):
        assert set(imported_rooms(ast.parse(path.read_text()))) <= allowed, path


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_a_line_what_it_is_for_and_hands_on_its_names(room):
    module = import_module(f"saehelpers.{room}")
    assert module.__doc__ and "\n" not in module.__doc__
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_is_that_of_a_submodule(room):
    submodules = {path.stem for path in (PACKAGE / room).iterdir()}
    stub = ast.parse((PACKAGE / room / "__init__.pyi").read_text())
    names = [
        alias.name
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    ]
    assert names
    assert not submodules.intersection(names)
