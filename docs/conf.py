"""The site: README, pages, executed notebooks, the reference from docstrings. See `make docs`."""

import itertools
import re

from autoapi.directives import AutoapiSummary
from docutils.nodes import SkipNode, Text, container, image, literal_block, paragraph
from latex2mathml.converter import convert

project = "What has a network learnt about data with symmetries?"
author = "the saehelpers authors"
extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["docs/templates", "docs/figures", "docs/index.md"]
html_theme = "furo"
html_title = "saehelpers"
html_copy_source = False
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]

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
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
suppress_warnings = ["autoapi.python_import_resolution", "myst.xref_missing", "ref.python"]
html_math_renderer = "mathml"
default_role = "code"
highlight_language = "none"
napoleon_use_ivar = True  # the reference lists attributes itself
SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")


def inline_formula(translator, node):
    translator.body.append(convert(node.astext()))
    raise SkipNode


def displayed_formula(translator, node):
    translator.body.append(convert(node.astext(), display="block"))
    raise SkipNode


def describe_figures(app, doctree, docname):
    """What is said of a notebook's figure below it, a caption first, is read out in its place."""
    for cell in doctree.findall(container):
        below = cell.next_node(paragraph, descend=False, siblings=True)
        if "cell" in cell["classes"] and below:
            for figure in cell.findall(image):
                figure["alt"] = below[0].astext()


def leave_out_bars(app, doctree):
    """Of what a notebook printed, its bars; `saehelpers.figures.executed` leaves them out, too."""
    for block in list(doctree.findall(literal_block)):
        if "stream" in block["classes"]:
            lines = block.astext().splitlines(keepends=True)
            text = "".join(line for line in lines if not re.search(r"\d+%\|", line))
            block[:], block.rawsource = [Text(text)], text  # what differs would look otherwise
            if not text.strip():
                block.parent.remove(block)


def quote_shapes(app, docname, source):
    """The shape of a tensor in a signature, a text, has lost its quotation marks."""
    shape = r"(jaxtyping\.\w+\[[\w.]+, )([^\]]*)\]"
    if docname.startswith("reference/"):
        source[0] = re.sub(shape, r'\1"\2"]', source[0])


def short_name(app, env, node, contnode):
    """A type that has no entry here is named without its module."""
    return contnode if node.get("refdomain") == "py" else None


class Summary(AutoapiSummary):
    """Names with what they stand for; their signatures follow on the same page."""

    def get_items(self, names):
        return [(name, "", *rest) for name, _, *rest in super().get_items(names)]


def docstring_as_rest(app, what, name, obj, options, lines):
    """Docstrings are plain text. What stands indented below a paragraph is a formula or a table,
    and shown as it stands; else |G| and M^* are mathematics, not markup."""
    source, lines[:] = list(lines), []
    in_section = in_block = False
    for before, line in itertools.pairwise(["", *source]):
        indented = line.startswith(" ")
        if line and not indented:
            in_section, in_block = line in SECTIONS, False
        elif indented and not before and not in_section and not in_block:
            lines += ["::", ""]
            in_block = True
        lines.append(line if in_block else escaped(line))


def escaped(line):
    """With backslashes before bars and stars, but for those in code."""
    parts = re.split(r"(``?[^`]*``?)", line)
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def setup(app):
    """Formulas become MathML: no script, and no request to another host."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.add_directive("autoapisummary", Summary, override=True)
    app.connect("doctree-read", leave_out_bars)
    app.connect("doctree-resolved", describe_figures)
    app.connect("source-read", quote_shapes)
    app.connect("missing-reference", short_name)
    app.connect("autodoc-process-docstring", docstring_as_rest, priority=1)
