"""What is installed is what is imported, and what is not installed is asked for by name."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import torch

import saehelpers
from saehelpers.datasets import draw_templates
from saehelpers.networks import make_gpt2
from saehelpers.saes import SAEConfig, make_sae

ROOT = Path(__file__).parent.parent
SIMULATED = ROOT / "saehelpers" / "datasets" / "galaxies" / "simulated.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
EVERY = [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())]
DISTRIBUTIONS = packages_distributions()
BROUGHT_BY_TORCH = {"triton"}  # where there is a GPU
ASKED_FOR = {"datasets", "timm", "transformer_lens"}  # by errors of their own, or left out


def name_of(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def imported(node: ast.AST, extra: str | None = None) -> Iterator[tuple[str, str | None]]:
    """(package, extra that it is imported under) of every import but those for type checkers."""
    match node:
        case ast.If(test=ast.Name("TYPE_CHECKING")):
            return
        case ast.With(items=[ast.withitem(ast.Call(ast.Name("extra"), [ast.Constant(name)]))]):
            extra = name
        case ast.Import():
            yield from ((alias.name.split(".")[0], extra) for alias in node.names)
        case ast.ImportFrom(level=0):
            yield node.module.split(".")[0], extra
    for child in ast.iter_child_nodes(node):
        yield from imported(child, extra)


def imports_of(*folders: str) -> set[tuple[str, str | None]]:
    texts = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for folder in folders:
        for path in (ROOT / folder).glob("*.ipynb"):
            cells = nbformat.read(path, as_version=4).cells
            code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
            texts.append(re.sub(r"^%.*", "", code, flags=re.MULTILINE))
    found = {pair for text in texts for pair in imported(ast.parse(text))}
    ours = {"saehelpers", "tests", *sys.stdlib_module_names}
    return {(package, extra) for package, extra in found if package not in ours}


def distributions(package: str) -> set[str]:
    return {name.lower().replace("_", "-") for name in DISTRIBUTIONS.get(package, ())}


def test_the_package_imports_what_it_brings_and_the_rest_under_its_extra():
    brought = {None: PROJECT["dependencies"], **EXTRAS}
    wrong = [
        (package, extra)
        for package, extra in imports_of("saehelpers")
        if package not in BROUGHT_BY_TORCH | ASKED_FOR
        and not distributions(package) & set(map(name_of, brought[extra]))
    ]
    assert not wrong


def test_what_notebooks_and_tests_import_is_declared():
    declared = set(map(name_of, EVERY))
    found = {package for package, _ in imports_of("notebooks", "tests")} - ASKED_FOR
    assert not {package for package in found if not distributions(package) & declared}


def test_nothing_is_brought_that_nobody_imports():
    used = {package for package, _ in imports_of("saehelpers", "notebooks", "tests")}
    used = BROUGHT_BY_TORCH.union(*map(distributions, used))
    commands = {  # and what others ask for
        "beartype", "distributed", "ipywidgets", "jupyterlab", "nbmake", "nbstripout", "papermill",
        "playwright", "pytest-xdist", "ruff", *map(name_of, EXTRAS["docs"]),
    }  # fmt: skip
    brought = set(map(name_of, EVERY))
    assert brought - used - {"saehelpers"} == commands


def test_every_requirement_has_both_bounds():
    packages = [requirement for requirement in EVERY if name_of(requirement) != "saehelpers"]
    assert not [text for text in packages if not re.match(r"[\w-]+>=[\d.]+,<[\d.]+(;|$)", text)]


def test_constraints_pin_what_is_installed_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {name_of(name) for name in pins}
    left_out = {"saehelpers", "torch", *map(name_of, EXTRAS["docs"])}
    assert set(map(name_of, EVERY)) - pinned == left_out


def test_version_is_said_once():
    assert saehelpers.__version__ == version("saehelpers")


LIGHT = "from saehelpers import EquivariantSAE, Group, LinearAction, SAEConfig, train_saes"
HEAVY = {"pandas", "scipy", "sklearn", "matplotlib", "transformers", "IPython", "torch._dynamo"}


def test_importing_saes_and_training_imports_no_more_than_torch():
    code = f"import sys; {LIGHT}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("extra", "package", "use"),
    [
        ("probes", "sklearn", lambda: archetypal_sae().set_centres(torch.randn(8, 4), seed=0)),
        ("galaxies", "galsim", lambda: runpy.run_path(str(SIMULATED))),
        ("text", "transformers", lambda: make_gpt2(16, 8, 8, 1, 1)),
        ("notebooks", "skimage", draw_templates),
    ],
)
def test_a_package_that_is_missing_names_its_extra(extra, package, use, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    text = rf"^this needs {package}: pip install 'saehelpers\[{extra}\]'$"
    with pytest.raises(ModuleNotFoundError, match=text):
        use()


def archetypal_sae():
    return make_sae(SAEConfig(4, 6, topk=2, dictionary="archetypal", n_archetypes=3))


@pytest.fixture
def make(tmp_path):
    """`make` of a copy, on a path with these commands alone: each runs, or is a stub that fails."""
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()

    def run(*arguments: str, **runs: bool) -> subprocess.CompletedProcess:
        for name, does in runs.items():
            script = commands / name.replace("_", ".")
            script.write_text(
                f'#!/bin/sh\n{f"exec {sys.executable}" if does else "exit 127 #"} "$@"\n'
            )
            script.chmod(0o755)
        make = [shutil.which("make"), "-C", str(tmp_path), *arguments, ".venv/.installed"]
        return subprocess.run(
            make, env={"PATH": str(commands)}, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="no make")
class TestMake:
    def test_takes_the_first_python_that_runs(self, make):
        done = make("--dry-run", python3_11=False, python3_12=True, python3_13=True)
        assert 'python="python3.12"' in done.stdout

    def test_takes_the_python_it_is_given(self, make):
        done = make("--dry-run", "PYTHON=/some/python", python3_11=True)
        assert 'python="/some/python"' in done.stdout

    def test_says_what_to_install_where_none_runs(self, make):
        done = make(python3_11=False)
        assert done.returncode != 0
        assert "apt install\npython3.11-venv" in done.stderr
