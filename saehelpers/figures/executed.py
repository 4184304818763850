"""Executed notebooks as Markdown: what a code host's pages show, results beside the code.

    python -m saehelpers.figures.executed .    # executed/*.ipynb makes docs/executed/*.md

Figures become files beside the page. `make paper` alone does this, at the sizes that are committed,
so that the pages show what whoever runs the notebooks gets.
"""

import re
import sys
from pathlib import Path
from typing import Any

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.files import write_atomically

PAGES = Path("docs") / "executed"
PROGRESS = re.compile(r"\d+%\|")  # of a bar
INTERACTIVE = re.compile(r"<(script|iframe|button|input)\b")
STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)  # hosts show it as text
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def _readable(output: Any) -> Any | None:
    """An output without what a page cannot show; None if nothing is left."""
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        lines = [line for line in output.text.splitlines(True) if not PROGRESS.search(line)]
        output.text = "".join(lines)
        return output if output.text.strip() else None
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return None
    html = data.get("text/html", "")
    if INTERACTIVE.search(html):
        data["text/html"] = "<p><em>Interactive: run the notebook to use it.</em></p>"
    elif html:
        data["text/html"] = STYLE.sub("", html)
    return output


def _from_pages(link: re.Match) -> str:
    """A link of a notebook, as seen from its page."""
    target = link[1]
    if re.fullmatch(r"\d\d_\w+\.ipynb", target):
        return f"]({Path(target).stem}.md)"
    return f"](../../{target.removeprefix('../')})"


@checked
def page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """An executed notebook as Markdown, and its figures by file name.

    Progress bars, warnings and widgets are left out; of what is interactive the page says that it
    is.

    Raises:
        ValueError: a cell was not executed, or raised an error.
    """
    with extra("notebooks"):
        import nbformat
        from nbconvert import MarkdownExporter
        from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    content = nbformat.read(notebook, as_version=4)
    for number, cell in enumerate(content.cells):
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(_from_pages, cell.source)
            continue
        if cell.source.strip() and cell.execution_count is None:
            raise ValueError(f"{notebook}: cell {number} was not executed")
        if any(output.output_type == "error" for output in cell.outputs):
            raise ValueError(f"{notebook}: cell {number} raised an error")
        readable = [_readable(output) for output in cell.outputs]
        cell.outputs = [output for output in readable if output is not None]
    naming = {"unique_key": notebook.stem, "output_files_dir": f"{notebook.stem}_files"}
    exporter = MarkdownExporter()
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    text, made = exporter.from_notebook_node(content, resources=naming)
    return text, dict(made["outputs"])


@checked
def write_pages(root: Path) -> list[Path]:
    """Pages of all notebooks in executed/ that were run at their committed sizes."""
    written = []
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        executed = root / "executed" / notebook.name
        if not executed.exists():
            continue
        text, figures = page(executed)
        target = root / PAGES / f"{notebook.stem}.md"
        for name, image in {target.name: text.encode(), **figures}.items():
            path = target.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, image)
        written.append(target)
    return written


if __name__ == "__main__":
    print(*write_pages(Path(sys.argv[1])), sep="\n")
