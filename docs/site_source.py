"""Lays out what the site is built from: README, pages, notebooks, package. See `make docs`.

Of a notebook the site shows what ran on this machine (executed/), or else the page with the outputs
that come along (docs/executed/), or else the notebook as it is.
"""

import re
import shutil
import sys
from pathlib import Path

COPIED = {
    "README.md": "README.md", "LICENSE": "LICENSE", "docs": "docs", "docs/index.md": "index.md",
    "saehelpers": "package/saehelpers", "benchmarks/README.md": "benchmarks/README.md",
    "data/reference/README.md": "data/reference/README.md",
}  # fmt: skip


def copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_dir():
        shutil.copytree(origin, target)
    else:
        shutil.copyfile(origin, target)


def shown_as(root: Path, name: str, source: Path) -> str:
    """Copies a notebook in the best form that there is, and says under which name."""
    page = root / "docs" / "executed" / f"{name}.md"
    executed = root / "executed" / f"{name}.ipynb"
    if page.exists() and not executed.exists():
        text = page.read_text(encoding="utf-8").replace("](../../", "](../")  # a folder higher
        (source / f"{name}.md").write_text(text, encoding="utf-8")
        if (figures := page.with_name(f"{name}_files")).exists():
            copy(figures, source / figures.name)
        return f"{name}.md"
    copy(executed if executed.exists() else root / "notebooks" / f"{name}.ipynb",
         source / f"{name}.ipynb")  # fmt: skip
    return f"{name}.ipynb"


def lay_out(root: Path, source: Path) -> None:
    for origin, target in COPIED.items():
        copy(root / origin, source / target)
    shutil.rmtree(source / "docs" / "executed", ignore_errors=True)
    (source / "notebooks").mkdir()
    forms = {
        path.stem: shown_as(root, path.stem, source / "notebooks")
        for path in sorted((root / "notebooks").glob("*.ipynb"))
    }
    for path in [source / "README.md", *(source / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"docs/executed/(\w+)\.md", r"notebooks/\1.ipynb", text)
        text = re.sub(r"notebooks/(\w+)\.ipynb", lambda link: f"notebooks/{forms[link[1]]}", text)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    lay_out(Path.cwd(), Path(sys.argv[1]))
