"""Notebooks in Colab: a link, and a cell that fetches what is missing there and nowhere else."""

import importlib.util
import sys
import types
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("colab", ROOT / "docs" / "colab.py")
colab = importlib.util.module_from_spec(spec)
spec.loader.exec_module(colab)
NAME = "01_toy_model.ipynb"


def linked(*repositories: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "notebooks" / NAME, as_version=4)
    for repository in repositories:
        notebook = colab.with_colab(notebook, NAME, repository)
    nbformat.validate(notebook)
    return notebook


def test_the_link_stands_below_the_title():
    title, _, link, _, question = linked("someone/collection").cells[0].source.split("\n")[:5]
    address = "colab.research.google.com/github/someone/collection/blob/main/notebooks/" + NAME
    assert title.startswith("# 01") and f"https://{address}" in link
    assert question.startswith("**")


def test_a_new_address_replaces_the_old_one():
    assert linked("someone/collection", "another/place") == linked("another/place")


@pytest.mark.parametrize("repository", ["", "collection", "https://host/someone/collection"])
def test_what_is_no_repository(repository):
    with pytest.raises(ValueError, match=r"REPOSITORY must be owner/name"):
        linked(repository)


@pytest.mark.parametrize("in_colab", [True, False])
def test_the_cell_installs_in_colab_alone(in_colab, monkeypatch):
    if in_colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    done = []
    shell = types.SimpleNamespace(
        system=done.append,
        run_line_magic=lambda name, line: done.append(f"{name} {line}"),
    )
    cell = TransformerManager().transform_cell(linked("someone/collection").cells[1].source)
    exec(cell, {"get_ipython": lambda: shell})
    expected = [
        "git clone --quiet --depth 1 https://github.com/someone/collection",
        "cd collection/notebooks",
        'pip install --quiet "..[all]"',
    ]
    assert done == (expected if in_colab else [])
