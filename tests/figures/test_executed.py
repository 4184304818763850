"""Executed notebooks as Markdown: what stays, what goes, what is refused."""

import base64

import nbformat
import pytest
from nbformat import v4

from saehelpers.figures import executed

PIXEL = base64.b64encode(b"a picture").decode()
TABLE = "<style scoped>\n  th {}\n</style>\n<table><tr><td>0.93</td></tr></table>"


def shown(**data):
    return v4.new_output("display_data", {key.replace("__", "/"): data[key] for key in data})


def cell(*outputs, source="work()"):
    return v4.new_code_cell(source, execution_count=1, outputs=list(outputs))


@pytest.fixture
def root(tmp_path):
    for folder in ("notebooks", "executed"):
        (tmp_path / folder).mkdir()
    return tmp_path


def write(root, *cells, name="01_first.ipynb"):
    notebook = v4.new_notebook(cells=list(cells))
    nbformat.write(v4.new_notebook(), root / "notebooks" / name)
    nbformat.write(notebook, root / "executed" / name)


def text_of(root, *cells):
    write(root, *cells)
    (page,) = executed.write_pages(root)
    return page.read_text()


def test_figures_are_files_beside_the_page(root):
    text = text_of(root, cell(shown(image__png=PIXEL)))
    (figure,) = (root / "docs/executed/01_first_files").iterdir()
    assert figure.read_bytes() == b"a picture"
    assert f"](01_first_files/{figure.name})" in text
    assert PIXEL not in text


def test_tables_stay_without_the_style_that_hosts_show_as_text(root):
    text = text_of(root, cell(shown(text__html=TABLE)))
    assert "<td>0.93</td>" in text
    assert "style" not in text


def test_progress_warnings_and_widgets_go_and_what_was_printed_stays(root):
    bar = v4.new_output("stream", name="stdout", text="a:  10%|#   | 1/10\nfour SAEs\n")
    only_bar = v4.new_output("stream", name="stderr", text="b: 100%|####| 2/2\n")
    widget = v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
    warning = v4.new_output("stream", name="stderr", text="a.py:3: UserWarning: slow\n")
    text = text_of(root, cell(bar, only_bar, widget, warning))
    assert "UserWarning" not in text
    assert "four SAEs" in text
    assert "%|" not in text
    assert "widget" not in text


@pytest.mark.parametrize("html", ["<script>a()</script>", "<iframe src='x'></iframe>"])
def test_what_is_interactive_says_so(root, html):
    text = text_of(root, cell(shown(text__html=html)))
    assert "Interactive: run the notebook" in text
    assert html not in text


def test_links_lead_to_where_they_led(root):
    text = text_of(
        root,
        v4.new_markdown_cell("[a](02_next.ipynb) [b](../docs/x.md) [c](https://y.org) [d](#here)"),
    )
    assert "[a](02_next.md) [b](../../docs/x.md) [c](https://y.org) [d](#here)" in text


def test_only_notebooks_of_the_collection_become_pages(root):
    write(root, cell())
    nbformat.write(v4.new_notebook(), root / "executed" / "paper_01.ipynb")
    assert [path.name for path in executed.write_pages(root)] == ["01_first.md"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (v4.new_code_cell("work()"), "cell 0 was not executed"),
        (cell(v4.new_output("error", ename="E", evalue="", traceback=[])), "cell 0 raised"),
    ],
)
def test_what_did_not_run_to_its_end_is_refused(root, given, why):
    write(root, given)
    with pytest.raises(ValueError, match=rf"01_first\.ipynb: {why}"):
        executed.write_pages(root)
    assert not (root / "docs").exists()
