"""Documents whose numbers come from the rows of the results: templates, filled.

A template is Markdown with expressions of Jinja in it, {{ mean(...) }}: what `Measured` offers.
No number of a measurement stands in a template. `make paper` fills them anew, and a test compares
the documents with what the shipped rows make of them.

    docs/templates/findings.md    makes docs/findings.md
    docs/templates/trust.md       makes docs/trust.md
    docs/templates/found.md       makes what stands in README.md between two comments
    docs/templates/run.txt        makes what `make run` says last
"""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from saehelpers.evaluation.statements import Estimate, verdict, wilson
from saehelpers.figures.go_results import in_words
from saehelpers.figures.measured import Measured, promise
from saehelpers.figures.names import label
from saehelpers.runs import results
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Count

TEMPLATES = Path("docs") / "templates"
TASK_NETWORKS = [("shapes", "Autoencoders of Shapes"), ("go", "A Go network")]
BEGIN, END = "<!-- from docs/templates/found.md -->\n", "<!-- so far -->\n"


def span(values: pd.Series | Sequence[float], digits: int = 2) -> str:
    """The smallest and the largest of some numbers, in words: "0.39 to 0.54", or one of them."""
    ends = np.round([np.min(values), np.max(values)], digits) + 0.0  # without the sign of -0.0
    numbers = [f"{value:.{digits}f}" for value in ends]
    return numbers[0] if numbers[0] == numbers[1] else " to ".join(numbers)


def order(auc: Estimate) -> str:
    """What an area under the ROC curve says of how probabilities order latents."""
    if auc.low > 0.5:
        return "better than chance"
    return "worse than chance" if auc.high < 0.5 else "no better than chance can tell"


def _rounded(digits: Count):
    return lambda value: f"{value:.{digits}f}"


@checked
def fill(template: str, measured: Measured) -> str:
    """A template's text with what was measured in place of its expressions.

    Raises:
        ValueError: an expression asks for rows that are not there.
    """
    with extra("notebooks"):
        import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "one": _rounded(1), "two": _rounded(2), "three": _rounded(3), "span": span,
        "short": lambda found: span([found.low, found.high]) if not found.why_none else "none",
        "signed": lambda value: f"{round(value, 2) + 0.0:+.2f}",
        "percent": lambda value: f"{100 * value:.0f} %", "label": label, "verdict": verdict,
        "in_words": in_words,
        "promise": lambda found: promise(found.low, found.high), "order": order,
    }  # fmt: skip
    offered = (
        "has", "rows", "mean", "estimate", "each", "f1", "f1_gain", "f1_range", "f1_spreads",
        "ratio", "above",
        "published", "by_seed", "of_world", "go_fvu", "go_f1", "go_counts", "go_difference",
        "go_spliced", "trust", "trust_kept", "trust_brier", "trust_lost", "trust_kinds",
        "trust_found_again", "trust_tasks", "trust_task_counts",
    )  # fmt: skip
    names = {name: getattr(measured, name) for name in offered}
    names |= {"wilson": wilson, "task_networks": TASK_NETWORKS}
    lines = environment.from_string(template).render(**names).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


@checked
def documents(root: Path, table: pd.DataFrame) -> dict[Path, str]:
    """The documents of a repository, as these rows have them."""
    measured = Measured(table, root / "data" / "reference")
    found, findings, trust = (
        fill((root / TEMPLATES / name).read_text(encoding="utf-8"), measured)
        for name in ("found.md", "findings.md", "trust.md")
    )
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return {
        root / "README.md": f"{before}{BEGIN}\n{found}\n{END}{after}",
        root / "docs" / "findings.md": findings,
        root / "docs" / "trust.md": trust,
    }


@checked
def shipped_rows(root: Path) -> pd.DataFrame:
    """The rows that documents rest on, where SHIP_RESULTS is set: see `results`."""
    return results.latest(results.read(results.tables(root / "probe_results")))


@checked
def of_this_machine(root: Path) -> str:
    """What a run of the main notebooks found, in a few lines."""
    with contextlib.redirect_stdout(io.StringIO()):  # how many rows there are
        rows = results.read(results.tables(root / "probe_results"), own_alone=True)
    template = (root / TEMPLATES / "run.txt").read_text(encoding="utf-8")
    try:
        return fill(template, Measured(results.latest(rows), root / "data" / "reference"))
    except ValueError as error:  # other methods, base models or groups than a template asks for
        return f"What was measured here is not what can be summed up: {error}\n"


if __name__ == "__main__":
    here = Path(sys.argv[1])
    if sys.argv[2:] == ["--run"]:
        print(of_this_machine(here), end="")
    else:
        for path, text in documents(here, shipped_rows(here)).items():
            path.write_text(text, encoding="utf-8")
            print(path)
