"""Opens every notebook in Colab: `make colab REPOSITORY=owner/name`, of a repository on GitHub.

Below a notebook's title comes a link, and before its first code a cell that, in Colab alone,
fetches the collection and installs what is missing. Done again, both name the new address.
"""

import sys
from pathlib import Path

import nbformat

NAME = "colab"  # of the cell, and how the link's line begins
LINK = "[Open in Colab](https://colab.research.google.com/github/{}/blob/main/notebooks/{})"
CELL = """\
# in Colab alone: fetch the collection, and install what is missing
import sys

if "google.colab" in sys.modules:
    !git clone --quiet --depth 1 https://github.com/{repository}
    %cd {folder}/notebooks
    %pip install --quiet "..[all]"
"""


def with_colab(notebook: nbformat.NotebookNode, name: str, repository: str):
    """The notebook with link and cell, instead of those that it has."""
    owner, _, folder = repository.partition("/")
    if not owner or not folder or "/" in folder:
        raise ValueError(f"REPOSITORY must be owner/name, but is {repository!r}")
    title, *lines = notebook.cells[0].source.split("\n")
    lines = [line for line in lines if not line.startswith("[Open in Colab]")]
    text = "\n".join(lines).strip("\n")
    notebook.cells[0].source = f"{title}\n\n{LINK.format(repository, name)}\n\n{text}"
    cell = nbformat.v4.new_code_cell(CELL.format(repository=repository, folder=folder).strip())
    cell.id = NAME
    others = [other for other in notebook.cells if other.id != NAME]
    notebook.cells = [others[0], cell, *others[1:]]
    return notebook


if __name__ == "__main__":
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        given = nbformat.read(path, as_version=4)
        nbformat.write(with_colab(given, path.name, sys.argv[1]), path)
