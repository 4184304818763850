"""The site: README, pages, executed notebooks, the reference from docstrings. See `make docs`."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "What has a network learnt about data with symmetries?"
author = "the saehelpers authors"
extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["docs/templates", "docs/figures", "docs/index.md"]
html_theme = "furo"
html_title = "saehelpers"
html_copy_source = False

nb_execution_mode = "off"  # they were executed, by `make run` or `make paper`
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autoapi_dirs = ["package/saehelpers"]
autoapi_root = "reference"
autoapi_options = ["members", "show-module-summary"]
autoapi_add_toctree_entry = False
autoapi_file_patterns = ["*.py"]
autoapi_keep_files = False
suppress_warnings = ["autoapi.python_import_resolution", "myst.xref_missing", "ref.python"]
html_math_renderer = "mathml"
default_role = "code"


def inline_formula(translator, node):
    translator.body.append(convert(node.astext()))
    raise SkipNode


def displayed_formula(translator, node):
    translator.body.append(convert(node.astext(), display="block"))
    raise SkipNode


def escape_bars_and_stars(app, what, name, obj, options, lines):
    """In docstrings |G| and M^* are mathematics: not what reStructuredText takes them for."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``?[^`]*``?)", line)  # code is left alone
        parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def setup(app):
    """Formulas become MathML: no script, and no request to another host."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.connect("autodoc-process-docstring", escape_bars_and_stars, priority=1)
