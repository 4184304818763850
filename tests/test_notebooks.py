"""Facts about the notebooks that executing them does not show."""

import ast
import itertools
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from tests.walking import small_folder

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def parameter_cell(path):
    cells = [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(cells) == 1, f"{path.name} has {len(cells)} cells tagged parameters"
    return cells[0]


def parameters(path):
    """Names and values that the parameter cell assigns; all must be plain literals."""
    values = {}
    for statement in ast.parse(parameter_cell(path).source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_upper_case_and_commented(path):
    assert all(name.isupper() for name in parameters(path))


def test_figures_are_saved_as_the_notebooks_folder_says():
    found = subprocess.run(
        [sys.executable, "-c", "import matplotlib as m; print(m.rcParams['savefig.dpi'])"],
        cwd=FOLDER, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(found.stdout) == 200
    for path in NOTEBOOKS:
        assert "dpi=" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_mock_replaces_a_parameter_that_exists(path):
    mocks = parameter_cell(path).metadata["nbmake"]["mock"]
    assert mocks
    assert set(mocks) <= set(parameters(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_small_runs_write_into_the_folder_of_their_family_alone(path):
    mocks = parameter_cell(path).metadata["nbmake"]["mock"]
    written = [name for name in parameters(path) if name in ("SAVE_PATH", "FIGURE_PATH")]
    assert written
    folder = small_folder(path.name[:2])
    assert all((FOLDER / mocks[name]).resolve().is_relative_to(folder) for name in written)


@pytest.mark.parametrize(
    "name",
    [
        "models/base_mlp-00000000/config.json", "models/gpt2_docs-00000000/weights.safetensors",
        "models/canonical-00000000/history.csv", "models/.base_mlp-00000000-12-34",
        "probe_results/own/toy.csv", "probe_results/own/.toy.csv.check", "probe_results/toy.lock",
        "executed/figures/toy.png", "executed/01_toy_model.ipynb", "data/images/0.png",
    ],
)  # fmt: skip
def test_what_a_run_writes_leaves_git_status_empty(name):
    """Whatever its parameters are: base models of other sizes, too."""
    root = FOLDER.parent
    if not (root / ".git").exists():
        pytest.skip("not a clone")
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", name], cwd=root)
    assert ignored.returncode == 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("path", sorted(FOLDER.glob("paper/*.yaml")), ids=lambda path: path.stem)
def test_paper_sizes_name_parameters_that_exist(path):
    """A step is of one notebook, or of two that are told the same."""
    numbers = path.stem.split("_")[0].split("-")
    known = [parameters(*FOLDER.glob(f"{number}_*.ipynb")) for number in numbers]
    assert set(yaml.safe_load(path.read_text())) <= set().union(*known)


@pytest.mark.parametrize(
    ("train", "probe", "own"),
    [
        ("02_shapes_train", "04_shapes_probes", {"BASE_MODELS"}),
        ("03_galaxy_train", "05_galaxy_probes", set()),
    ],
)
def test_probing_notebooks_share_the_settings_of_training(train, probe, own):
    """Notebook 04 finds the models of notebook 02 only if their settings agree; so do 05, 03."""
    train, probe = (parameters(FOLDER / f"{name}.ipynb") for name in (train, probe))
    shared = set(train) & set(probe) - own
    assert len(shared) > 20
    assert {name: train[name] for name in shared} == {name: probe[name] for name in shared}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short(path):
    cells = [
        len([line for line in cell.source.splitlines() if line.strip()])
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    assert statistics.median(cells) <= 8
    assert max(cells) <= 25


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_that_is_kept_has_a_caption(path):
    cells = nbformat.read(path, as_version=4).cells
    for cell, after in itertools.pairwise(cells):
        if cell.cell_type == "code" and "savefig" in cell.source:
            assert after.cell_type == "markdown" and after.source.startswith("*"), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_at_its_end_what_it_means_for_other_networks(path):
    meaning = "## What this means for your own network"
    cells = nbformat.read(path, as_version=4).cells
    assert any(meaning in cell.source for cell in cells[-5:] if cell.cell_type == "markdown")
