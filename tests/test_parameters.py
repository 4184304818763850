"""Every parameter of every notebook: changed, it remakes what depends on it, and nothing else.

parameters.yaml says what that is. `make test` walks one parameter of each notebook, `make
test-parameters` all of them, and pairs.
"""

import itertools
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from saehelpers.runs.notebooks import check_parameters
from tests.walking import NOTEBOOKS, CellError, Made, Walker, defaults, family_of, in_folder, small

TABLE = yaml.safe_load(Path(__file__).with_name("parameters.yaml").read_text(encoding="utf-8"))
REMADE = ("data", "base models", "activations", "actions", "SAEs")
N_PAIRS = 50
STOPS = ("ValueError", "TypeError", "FileNotFoundError", "ModuleNotFoundError")


def sorts_of(notebook: str) -> list[str]:
    (sorts,) = TABLE["sorts"][notebook].values()
    return sorts


def made_in(folder: Path, notebook: str) -> Made:
    (column,) = TABLE["sorts"][notebook]
    return Made.in_folder(folder, column)


@dataclass(frozen=True)
class Change:
    """A line of the table: see there what the fields mean."""

    notebook: str
    name: str
    remakes: str | list[str]
    value: Any = None
    code: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    quick: bool = False

    def __str__(self) -> str:
        return f"{self.notebook}-{self.name}"

    @property
    def kinds(self) -> set[str]:
        """What is made anew, the sorts of rows among it."""
        if isinstance(self.remakes, str):
            return set()
        every = sorts_of(self.notebook) if "rows" in self.remakes else []
        return {*self.remakes, *every} - {"rows"}

    @property
    def values(self) -> dict[str, Any]:
        """The changed value, by name, as `Walker.execute` takes it."""
        return {self.name: ("code", self.code) if self.code else self.value}


CHANGES = [
    Change(notebook, name, **line)
    for notebook, lines in TABLE["changes"].items()
    for name, line in lines.items()
]


def apart(change: Change) -> list[str]:
    return TABLE["apart"].get(change.notebook, {}).get(change.name, [])


def pairs() -> list[tuple[Change, Change]]:
    """Pairs of parameters of one notebook, drawn from those that do not exclude each other."""
    possible = [
        (a, b)
        for a, b in itertools.combinations(CHANGES, 2)
        if a.notebook == b.notebook and b.name not in apart(a) and a.name not in apart(b)
    ]
    drawn = random.Random(0).sample(range(len(possible)), N_PAIRS)
    return [possible[i] for i in sorted(drawn)]


def walked(items, quick=lambda item: False):
    """Parameters of a test, which only the whole walk takes unless they are quick."""
    return [
        pytest.param(
            item,
            id=_name(item),
            # those of one baseline in the process that makes it
            marks=pytest.mark.xdist_group(family_of(item.notebook))
            if quick(item)
            else pytest.mark.walk,
        )
        for item in items
    ]


def _name(item) -> str:
    if isinstance(item, dict):
        return "-".join([item["notebook"], *item["values"]])
    return "+".join(map(str, item)) if isinstance(item, tuple) else str(item)


@pytest.fixture(scope="session")
def walker():
    walker = Walker()
    yield walker
    walker.close()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_table_has_every_parameter_and_no_other(notebook):
    assert [*TABLE["changes"][notebook]] == [*defaults(notebook)]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_changed_values_are_others_of_the_same_type(change, monkeypatch):
    monkeypatch.chdir(".")  # which check_parameters leaves
    values = small(change.notebook) | change.given
    known = {*REMADE, *sorts_of(change.notebook)}
    assert change.remakes in ("nothing", "presentation") or change.kinds <= known
    assert change.given.keys() <= values.keys()
    assert bool(change.code) or change.value != values[change.name]
    check_parameters(change.notebook, values | {change.name: change.value})


def test_the_table_is_sound():
    quick = [change.notebook for change in CHANGES if change.quick]
    assert quick == [*NOTEBOOKS]
    for notebook, names in TABLE["apart"].items():
        assert {*names, *itertools.chain(*names.values())} <= defaults(notebook).keys()
    for stop in TABLE["stops"]:
        assert stop["values"].keys() <= defaults(stop["notebook"]).keys()


@pytest.mark.parametrize("change", walked(CHANGES, lambda change: change.quick))
def test_a_changed_value_remakes_what_depends_on_it(change, walker):
    with walker.copy(change.notebook) as folder:
        before, shows = made_in(folder, change.notebook), change.remakes == "presentation"
        if change.given:
            shown = walker.execute(change.notebook, folder, change.given, shows)
            before = made_in(folder, change.notebook)
        elif shows:
            shown = walker.shown_before(change.notebook)
        changed = walker.execute(change.notebook, folder, change.given | change.values, shows)
        after = made_in(folder, change.notebook)
        assert not after.lost(before)
        if change.name == "SAVE_PATH":
            elsewhere = made_in(Path(in_folder(change.value, folder)), change.notebook)
            assert not after.added_to(before)
            # the same at another place
            assert elsewhere.runs.keys() <= before.runs.keys()
            assert elsewhere.rows.keys() <= before.rows.keys()
            before, after = Made(), elsewhere
        assert after.added_to(before) == change.kinds
        if change.name == "FIGURE_PATH":
            assert [*Path(in_folder(change.value, folder)).iterdir()]
        if shows:
            assert changed != shown


@pytest.mark.parametrize("pair", walked(pairs()))
def test_two_changed_values_remake_what_depends_on_either(pair, walker):
    first, second = pair
    with walker.copy(first.notebook) as folder:
        before = made_in(folder, first.notebook)
        given = first.given | second.given
        walker.execute(first.notebook, folder, given | first.values | second.values)
        elsewhere = next((c.value for c in pair if c.name == "SAVE_PATH"), None)
        place = Path(in_folder(elsewhere, folder)) if elsewhere else folder
        after = made_in(place, first.notebook)
        assert after.added_to(Made() if elsewhere else before) >= (first.kinds | second.kinds)


@pytest.mark.parametrize("notebook", walked(NOTEBOOKS))
def test_executed_again_nothing_is_trained_or_measured(notebook, walker):
    with walker.copy(notebook) as folder:
        before = made_in(folder, notebook)
        walker.execute(notebook, folder, {})
        assert made_in(folder, notebook) == before


@pytest.mark.parametrize("stop", walked(TABLE["stops"]))
def test_values_that_cannot_work_stop_in_the_first_cell(stop, walker, tmp_path):
    with pytest.raises(CellError) as raised:
        walker.execute(stop["notebook"], tmp_path, stop["values"], first_cells=stop.get("cells", 1))
    assert raised.value.ename in STOPS
    for words in stop["words"]:
        assert re.search(rf"(?<!\w){re.escape(words)}(?!\w)", raised.value.evalue)
    assert not [*tmp_path.glob("models/*")]
