"""The results table: tidy CSV files under probe_results/, one row a measurement.

A row is told from others by its key and by the number of samples it was measured on: by all
columns but the value, the commit and the time. A value that could not be measured (a class
that is missing) is empty.
"""

from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from saehelpers import runs

KEY = (
    "run_id", "experiment", "dataset", "data_source", "base_model", "group", "method",
    "n_latents", "topk", "objective", "epochs", "seed", "task_type", "task", "probe", "features",
    "truncation", "element", "split", "metric",
)  # fmt: skip
SAMPLES = ("n_train", "n_test")
COLUMNS = (*KEY, "value", *SAMPLES, "git_commit", "created_utc")
NUMERIC = ("n_latents", "topk", "epochs", "seed", "truncation", "value", "n_train", "n_test")


def read(paths: Path | str | Iterable[Path | str]) -> pd.DataFrame:
    """The rows of one or more results files; none for a file that does not exist.

    Raises:
        ValueError: a file has other columns, or a row that cannot be read; names the line.
    """
    paths = [paths] if isinstance(paths, Path | str) else paths
    tables = [_parse(Path(path)) for path in paths if Path(path).exists()]
    return pd.concat(tables, ignore_index=True) if tables else _table([])


def append(path: Path | str, rows: list[Mapping[str, Any]]) -> int:
    """Add rows to a results file, all or none, and return how many were new.

    Columns that do not apply may be left out. Commit and time are filled in. A row that is in
    the file already, with the same key and numbers of samples, is left as it is. Writers wait
    for each other's lock.

    Raises:
        ValueError: a row has a column that the table does not have, or the file has other
            columns or a last line that is cut short.
        OSError: the file cannot be written (names it); it is left as it was.
    """
    path = Path(path)
    stamp = {"git_commit": runs.git_state()[0], "created_utc": runs.now_utc()}
    unknown = {name for row in rows for name in row} - set(COLUMNS)
    if unknown:
        raise ValueError(f"no such results column: {', '.join(sorted(unknown))}")
    table = _table([{**stamp, **row} for row in rows]).drop_duplicates([*KEY, *SAMPLES])
    with _locked(path):
        before = path.read_text() if path.exists() else ""
        present = _present(path, before)
        new = table[[key not in present for key in keys(table)]]
        text = new.to_csv(index=False, header=not before, lineterminator="\n")
        if len(new):
            _write(path, before + text)
    return len(new)


def missing(path: Path | str, rows: list[Mapping[str, Any]]) -> list[bool]:
    """For each row, whether the file has none like it yet: what is left to measure."""
    present = set(keys(read(path)))
    return [key not in present for key in keys(_table(rows))]


def latest(table: pd.DataFrame) -> pd.DataFrame:
    """Of rows that differ in their run or their numbers of samples alone, the one measured last.

    Runs of the same method, epochs and seed with other training settings are told apart by
    their run_id; a figure should show one of them.
    """
    told_by = [name for name in KEY if name != "run_id"]
    return table.sort_values("created_utc", kind="stable").drop_duplicates(told_by, keep="last")


def trained_for(table: pd.DataFrame, epochs: int | None = None) -> pd.DataFrame:
    """The rows of SAEs that were trained for this long, and those of no SAE.

    By default for as long as any of the same experiment, group, base model and number of
    active latents: short and long runs are never shown as one.

    Raises:
        ValueError: no SAE was trained for `epochs`.
    """
    wanted = epochs
    if epochs is not None and epochs not in set(table["epochs"]):
        there = sorted(set(table["epochs"].dropna().astype(int)))
        raise ValueError(f"no SAE was trained for {epochs} epochs, but for {there}")
    if epochs is None:
        same = ["experiment", "dataset", "group", "base_model", "topk"]
        wanted = table.groupby(same, dropna=False)["epochs"].transform("max")
    return table[table["epochs"].isna() | (table["epochs"] == wanted)]


def drop_stale(path: Path | str, created: Mapping[str, str]) -> int:
    """Remove the rows of runs that were trained after the rows were measured.

    `created` gives each run's creation time by its id. A config that is trained again (on
    another machine, or with force=True) makes another model, whose rows must be its own.
    Returns how many rows were removed.
    """
    path = Path(path)
    if not path.exists():
        return 0
    with _locked(path):
        table = read(path)
        stale = table["created_utc"] < table["run_id"].map(created).fillna("")
        if stale.any():
            _write(path, table[~stale].to_csv(index=False, lineterminator="\n"))
    return int(stale.sum())


def keys(table: pd.DataFrame) -> list[str]:
    """What tells every row from others, as it stands in the row's line in the file."""
    told_by = table[[*KEY, *SAMPLES]]
    return told_by.to_csv(index=False, header=False, lineterminator="\n").splitlines()


def _present(path: Path, text: str) -> set[str]:
    """The keys in a file's text, without parsing its values, which takes far longer."""
    after = len(COLUMNS) - len(KEY)
    parts = [line.rsplit(",", after) for line in text.splitlines() if line.strip()]
    whole = text.startswith(",".join(COLUMNS) + "\n") and text.endswith("\n")
    if text and not (whole and all(len(part) == after + 1 for part in parts)):
        return set(keys(_parse(path)))  # says what is wrong with it, if anything is
    return {",".join((key, *samples)) for key, _, *samples, _, _ in parts}


def _table(rows: list[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as they would be read back from disk."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return _read_csv(StringIO(text))


def _read_csv(source) -> pd.DataFrame:
    types = {name: str for name in COLUMNS if name not in NUMERIC}
    # whole: read in parts, a column that is empty in one of them has another type there
    table = pd.read_csv(
        source, dtype=types, keep_default_na=False, na_values={"value": [""]}, low_memory=False
    )
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"the columns are {', '.join(table.columns)}")
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of a field too many
        raise ValueError(f"a row has more than {len(COLUMNS)} fields")
    for name in NUMERIC:
        # columns that do not apply to a row are empty; whole numbers stay whole
        kind = "float64" if name == "value" else "Int64"
        table[name] = pd.to_numeric(table[name]).astype(kind)
    return table


def _parse(path: Path) -> pd.DataFrame:
    text = path.read_text()
    try:
        if not text.endswith("\n"):
            raise ValueError("the last line is cut short")
        table = _read_csv(StringIO(text))
        if (table["created_utc"] == "").any():  # what pandas makes of a field too few
            raise ValueError(f"a row has fewer than {len(COLUMNS)} fields")
        return table
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}, line {_broken_line(text)}: {error}") from error


def _broken_line(text: str) -> int:
    """Number of the first line that cannot be read."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines[1:], start=2):
        try:
            if not line.strip():
                continue
            if line.count(",") < len(COLUMNS) - 1 or not line.endswith("\n"):
                return number
            _read_csv(StringIO(lines[0] + line))
        except (ValueError, TypeError, OverflowError):
            return number
    return 1


def _locked(path: Path) -> FileLock:
    _guarded(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
    lock = FileLock(path.with_suffix(".lock"))
    _guarded(path, lock.acquire)
    lock.release()
    return lock


def _write(path: Path, text: str) -> None:
    """Replace the file, so that a process killed at any time leaves the old rows or the new."""
    _guarded(path, lambda: runs.write_atomically(path, text.encode()))


def _guarded(path: Path, write) -> None:
    """Run a write; let its OSError name the results file and what to do."""
    try:
        write()
    except OSError as error:
        raise type(error)(
            error.errno,
            f"results cannot be written ({error.strerror}); nothing was changed. Free space, "
            "make the folder writable, or choose another with SAVE_PATH",
            str(path),
        ) from error
