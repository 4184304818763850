"""What `test_parameters.py` walks with: a small baseline, copies of it, a kernel, and what is new.

The baseline is what the notebooks make at their small sizes, which stand in the metadata of their
parameter cells, and it is the same that nbmake makes of them. It is kept in .small, a folder for
each family of notebooks that read what others made, until the code changes. A copy shares its files
(hard links): nothing here is written in place but tables, which are copied.
"""

import ast
import contextlib
import csv
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
FAMILIES = (
    "01",
    "02 04 06 11",
    "03 05",
    "07",
    "08 09 10",
    "12",
    "13",
)  # each in the order in which they run
SMALL = ROOT / ".small"  # what small runs have made, and copies of it
INPUTS = SMALL / "inputs"  # texts, images and models that parameters are changed to
KINDS = {
    "BaseModelRun": "base models", "EncoderRun": "base models", "LanguageModelRun": "base models",
    "AdditionRun": "base models", "ActionRun": "actions", "SAERun": "SAEs", "EndToEndRun": "SAEs",
}  # fmt: skip
# what was measured in this clone is another in every clone
INSTEAD = {"06": {"RESULTS_PATH": "{inputs}/results"}}
TRACE = 12  # lines of a traceback that are shown
KERNEL = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
OUTCOME = ("value", "git_commit", "created_utc")  # of a row; the other columns are its key
# the namespace of a kernel that has just started; its modules and pool of processes are kept, also
# while nbmake executes what the next walk begins with
FRESH = """%reset -f
%matplotlib {backend}
import gc, os
from matplotlib import pyplot
from saehelpers.runs import sweeps
pyplot.close("all"); gc.collect(); os.chdir({folder!r}); sweeps.KEPT_SECONDS = 1800
del gc, os, pyplot, sweeps"""


class CellError(Exception):
    """A cell has raised an error: its class, what it says, and the last lines that say where."""

    def __init__(self, error: CellExecutionError):
        self.ename, self.evalue = error.ename, error.evalue
        trace = re.sub(r"\x1b\[[\d;]*m", "", error.traceback).splitlines()
        super().__init__("\n".join([f"{error.ename}: {error.evalue}", *trace[-TRACE:]]))


def parameter_cell(notebook: str) -> nbformat.NotebookNode:
    cells = nbformat.read(NOTEBOOKS[notebook], as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def defaults(notebook: str) -> dict[str, Any]:
    """The parameters of a notebook, as its file has them."""
    statements = ast.parse(parameter_cell(notebook).source).body
    return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}


def small(notebook: str) -> dict[str, Any]:
    """The parameters at the small size."""
    mock = parameter_cell(notebook).metadata["nbmake"]["mock"]
    return defaults(notebook) | mock | INSTEAD.get(notebook, {})


def family_of(notebook: str) -> str:
    return next(family for family in FAMILIES if notebook in family.split())


def in_folder(value: Any, folder: Path) -> Any:
    """A value in which {folder} stands for the copy, as a family's folder does, and {inputs} for
    the inputs."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"^\.\./\.small/[\d-]+", "{folder}", value)
    return value.replace("{folder}", str(folder)).replace("{inputs}", str(INPUTS))


def small_folder(notebook: str) -> Path:
    """Where the small runs of a notebook and its family write."""
    return SMALL / family_of(notebook).replace(" ", "-")


@contextlib.contextmanager
def made_small(notebook: str) -> Iterator[bool]:
    """Remembers that a notebook has been executed at its small size, by this code.

    Yields whether it had been. What other code may have made is removed first.
    """
    folder = small_folder(notebook)
    with _alone_in(folder):
        made_by = folder / f"made-by-{notebook}"
        yield made_by.exists()
        made_by.write_text(_code())


@contextlib.contextmanager
def own_cores() -> Iterator[None]:
    """Several processes of tests share the cores out: kernels that start here use so many."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, sorted(cores)[number % len(cores) :: count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@dataclass(frozen=True)
class Made:
    """What lies in a folder.

    runs: kind and inode of each. data: files. rows: sort, value and stamp of each, by its key.
    """

    runs: dict[str, tuple[str, int]] = field(default_factory=dict)
    data: set[str] = field(default_factory=set)
    rows: dict[tuple, tuple] = field(default_factory=dict)

    @classmethod
    def in_folder(cls, folder: Path, sort: str) -> "Made":
        """sort: the column of results that tells the sort of a row."""
        runs = {}
        for path in folder.glob("models/[!.]*/config.json"):
            kind = json.loads(path.read_text())["kind"]
            runs[path.parent.name] = KINDS[kind], path.stat().st_ino
        data = {
            str(path.relative_to(folder))
            for path in folder.glob("data/**/*")
            if path.is_file() and path.suffix not in (".lock", ".fingerprint")
        }
        rows = {}
        for path in folder.glob("probe_results/**/[!.]*.csv"):
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    value, *stamp = (row.pop(name) for name in OUTCOME)
                    value = float(value) if value else None
                    rows[path.name, *row.values()] = row[sort], value, *stamp
        return cls(runs, data, rows)

    def added_to(self, before: "Made") -> set[str]:
        """Kinds of runs and of data, and sorts of rows, of which there is something new."""
        new = {kind for name, (kind, _) in self.runs.items() if name not in before.runs}
        for path in self.data - before.data:
            new.add("activations" if path.startswith("data/activations") else "data")
        return new | {sort for key, (sort, *_) in self.rows.items() if key not in before.rows}

    def lost(self, before: "Made") -> list:
        """Runs and rows that were there before, and are gone or were made anew."""
        pairs = ((before.runs, self.runs), (before.rows, self.rows))
        return [key for then, now in pairs for key in then if now.get(key) != then[key]]


class Walker:
    """Executes notebooks at the small size, one after another in one kernel, on copies."""

    def __init__(self):
        self._manager = AsyncKernelManager()
        self._shown: dict[str, dict[str, str]] = {}

    def execute(
        self,
        notebook: str,
        folder: Path,
        changes: Mapping[str, Any],
        shows: bool = False,
        first_cells: int | None = None,
    ) -> dict[str, str]:
        """What a notebook shows: a hash by cell and kind, of what it displays but no printed text.

        Checks may fail where SMALL is off: small runs are not expected to hold them.

        Args:
            changes: values by name; those called ("code", text) are written as they are.
            shows: show figures, too, which are saved else, but drawn once.
            first_cells: stop behind so many of the cells that follow the parameters.

        Raises:
            CellError: a cell fails.
        """
        content = nbformat.read(NOTEBOOKS[notebook], as_version=4)
        codes = [cell for cell in content.cells if cell.cell_type == "code"]
        place = codes.index(parameter_cell(notebook))
        values = {name: in_folder(value, folder) for name, value in small(notebook).items()}
        values |= {name: in_folder(value, folder) for name, value in changes.items()}
        if str(INPUTS) in str(values):
            _make_inputs_once()
        lines = [
            f"{name} = {value[1] if isinstance(value, tuple) else repr(value)}"
            for name, value in values.items()
        ]
        given = nbformat.v4.new_code_cell("\n".join(lines))
        backend = "inline" if shows else "agg"
        fresh = nbformat.v4.new_code_cell(
            FRESH.format(folder=str(ROOT / "notebooks"), backend=backend)
        )
        if values.get("SMALL") is False:
            (checks,) = [cell for cell in codes if re.search("^if SMALL:", cell.source, re.M)]
            checks.source = f"try:\n{_indented(checks.source)}\nexcept AssertionError: pass"
        behind = codes[place + 1 :][:first_cells]
        content.cells = [fresh, *codes[: place + 1], given, *behind]
        client = NotebookClient(content, km=self._manager, timeout=600)
        failed = None
        try:
            with own_cores():
                client.execute(cwd=str(ROOT / "notebooks"), env=os.environ | KERNEL)
        except CellExecutionError as error:
            failed = CellError(error)
        except (DeadKernelError, CellTimeoutError):
            self.close()
            self._manager = AsyncKernelManager()
            raise
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
        if failed is not None:
            raise failed  # without the long way that it took
        return {
            f"cell {i}, {kind}": hashlib.sha256(
                str(shown).replace(str(folder), "").encode()
            ).hexdigest()
            for i, cell in enumerate(codes)
            for output in cell.outputs
            for kind, shown in output.get("data", {}).items()
        }

    @contextlib.contextmanager
    def copy(self, notebook: str) -> Iterator[Path]:
        """A copy of the baseline that the notebook belongs to, removed afterwards."""
        self._make_baseline(notebook)
        source = small_folder(notebook)
        folder = Path(tempfile.mkdtemp(prefix="copy-", dir=SMALL))
        try:
            for part in ("models", "data", "probe_results"):
                if (source / part).exists():
                    link = shutil.copy if part == "probe_results" else os.link
                    ignored = shutil.ignore_patterns("*.lock", ".unfinished")
                    shutil.copytree(source / part, folder / part, ignored, copy_function=link)
            yield folder
        finally:
            shutil.rmtree(folder)

    def _make_baseline(self, notebook: str) -> None:
        """What the notebook's family makes at the small size, where it is not there."""
        for name in family_of(notebook).split():
            with made_small(name) as there:
                if not there:
                    self.execute(name, small_folder(name), {})

    def shown_before(self, notebook: str) -> dict[str, str]:
        """What a notebook shows, figures among it, where nothing is changed."""
        if notebook not in self._shown:
            with self.copy(notebook) as folder:
                self._shown[notebook] = self.execute(notebook, folder, {}, shows=True)
        return self._shown[notebook]

    def close(self) -> None:
        if self._manager.has_kernel:
            run_sync(self._manager.shutdown_kernel)()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """A folder of what this code has made and nothing else; processes wait for each other."""
    SMALL.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if {made_by.read_text() for made_by in folder.glob("made-by*")} != {_code()}:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield


def _make_inputs_once() -> None:
    from tests.walking_inputs import make_inputs  # what it needs takes seconds to import

    made_by = INPUTS / "made-by"
    with _alone_in(INPUTS):
        if not made_by.exists():
            make_inputs(INPUTS)
            made_by.write_text(_code())


@functools.cache
def _code() -> str:
    """A hash of all that decides what notebooks make."""
    digest = hashlib.sha256()
    paths = [*ROOT.glob("saehelpers/**/*.py"), *NOTEBOOKS.values(), *ROOT.glob("tests/walking*.py")]
    for path in sorted([*paths, ROOT / "docs" / "findings.md"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _indented(source: str) -> str:
    return "\n".join(f"    {line}" for line in source.splitlines())
