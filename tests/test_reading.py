"""The reader of executed notebooks finds what it is there for, and nothing else."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.reading import LONGEST, faults


def printed(*parts: str):
    return [new_output("stream", name="stdout", text=part) for part in parts]


def table(n_rows: int):
    data = {"text/plain": "a table", "text/html": "<tr><td>1</td></tr>" * n_rows}
    return [new_output("display_data", data=data)]


def bar(done: int, elapsed: str) -> str:
    return f"\rSAEs: {done * 10}%|███  | {done}/10 [{elapsed}<00:03,  2.0it/s]"


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (printed("line\n" * LONGEST), []),
        (printed("line\n" * LONGEST, "line\n"), ["cell 1 (show()) shows 61 lines, 60 is the most"]),
        (table(LONGEST), []),
        (table(LONGEST + 1), ["cell 1 (show()) shows 61 lines, 60 is the most"]),
        (printed(bar(1, "00:01"), bar(2, "00:02"), "\n"), []),
        (printed(bar(1, "00:01"), "\n", bar(1, "00:01"), "\n"), []),  # one bar after another
        (
            printed(bar(1, "00:01"), bar(2, "00:01"), "\n"),
            ["cell 1 (show()) has the bar 'SAEs' twice within a second"],
        ),
    ],
)  # fmt: skip
def test_what_a_reader_would_mind_is_found(outputs, found):
    shown = new_code_cell("show()\nmore()", outputs=outputs)
    cells = [new_markdown_cell("line\n" * 2 * LONGEST), shown]
    assert faults(new_notebook(cells=cells)) == found
