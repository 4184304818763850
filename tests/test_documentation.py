"""Links in what is read first lead somewhere; the page on extending runs as it stands."""

import linecache
import re
import subprocess
from pathlib import Path

import pytest

from saehelpers.saes import ACTIVATIONS, DICTIONARIES
from saehelpers.training import METHODS, OBJECTIVES

ROOT = Path(__file__).parent.parent


PAGES = ["README.md", "benchmarks/README.md", "data/reference/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)", path.read_text())
    files = [link for link in links if not link.startswith("http")]
    assert not [link for link in files if not (path.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_described_and_have_captions(page):
    figures = re.findall(r"^!\[(.*)\]\(.*\)\n\n(.*)", (ROOT / page).read_text(), re.MULTILINE)
    assert all(description and caption.startswith("*") for description, caption in figures)


def test_figures_that_come_along_are_those_that_are_shown():
    listed = subprocess.run(
        ["git", "ls-files", "docs/figures"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    linked = {
        (ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT.resolve()).as_posix()
        for page in PAGES
        for link in re.findall(r"\]\(([^)#]*figures/[^)#]+)\)", (ROOT / page).read_text())
        if not link.startswith("http")
    }
    assert set(listed) == linked


def test_every_page_is_in_the_index_of_the_site():
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert set(re.findall(r"^docs/(\w+)$", index, re.MULTILINE)) == pages


@pytest.mark.usefixtures("clean_registries")
def test_what_is_added_in_cells_is_trained_also_when_they_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "extending.md").read_text()
    cells = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    notebook = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        name = f"<cell {number} of extending.md>"
        linecache.cache[name] = len(cell), None, cell.splitlines(True), name  # as a kernel does
        for _ in range(2):
            exec(compile(cell, name, "exec"), notebook)
    assert [*OBJECTIVES.added, *ACTIVATIONS.added, *DICTIONARIES.added, *METHODS.added] == [
        "latent_l1", "squared_relu", "non_negative", "ours"
    ]  # fmt: skip
    assert "SAEs trained: 4 of 4 done" in capsys.readouterr().out
    assert type(notebook["ours"]) is notebook["NonNegativeSAE"]
    assert notebook["orbits"].shape == (500, 6, 48)
