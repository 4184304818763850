"""The results tables: tidy CSV files under probe_results/, one row a measurement.

A row is told from others by its key: by all columns but the value, the commit and the time. In
the key are the identities of what decides the value (`saehelpers.runs.identities`): the weights
of what was measured, the action, the data, and the measuring function with its settings. Rows
measured on anything else are other rows. A value that could not be measured (a class that is
missing) is empty.

    probe_results/toy.csv        shipped with the repository, or toy.csv.gz; a run only reads it
    probe_results/own/toy.csv    measured here, in the order in which it was last asked for

Where SHIP_RESULTS is set in the environment (`make paper`), rows are read from and written to
the shipped file alone.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from saehelpers.runs.checking import checked
from saehelpers.runs.columns import COLUMNS, DESCRIPTION, KEY, NUMERIC, Rows
from saehelpers.runs.files import is_visible
from saehelpers.runs.identities import identity
from saehelpers.runs.saving import git_state, now_utc
from saehelpers.runs.table_files import OWN, changed, locked, read_text, write_text
from saehelpers.runs.wanted import NOT_EMPTY, Positive, check_columns


def causes(measure: Any, data: Any, weights: Any = None, action: Any = None) -> dict[str, str]:
    """The columns that tell what a value was measured on, and how.

    Args:
        measure: the measuring function, or it and its settings.
        data: what it was given beside the model and the action.
        weights: the model that was measured; action: the one that was used. None if there is none.
    """
    given = {"weights": weights, "action": action, "data": data, "measure": measure}
    return {name: "" if value is None else identity(value) for name, value in given.items()}


@checked
def tables(folder: Path | str) -> list[Path]:
    """The tables of a folder, shipped ones and own ones, by name: what `read` takes."""
    folder = Path(folder)
    found = [*folder.glob("*.csv"), *folder.glob("*.csv.gz"), *(folder / "own").glob("*.csv")]
    return sorted({folder / p.name.removesuffix(".gz") for p in found if is_visible(p, folder)})


@checked
def read(paths: Path | str | Iterable[Path | str], own_alone: bool = False) -> pd.DataFrame:
    """The rows of tables that exist, own before shipped ones of the same key; prints how many.

    Args:
        own_alone: leave out the shipped rows of tables that have own ones.

    Raises:
        ValueError: a file has other columns, two rows of one key, or a row that cannot be read;
            names the line.
    """
    paths = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    pairs = [_rows(path) for path in paths]
    if own_alone:
        pairs = [(own, _table([]) if len(own) else shipped) for own, shipped in pairs]
    for path, (own, shipped) in zip(paths, pairs, strict=True):
        print(f"{path.name.split('.')[0]}: {len(own):,} own rows, {len(shipped):,} shipped")
    return _joined([part for pair in pairs for part in reversed(pair)])


@checked
def append(path: Path | str, rows: list[Mapping[str, Any]]) -> int:
    """Add rows to the own table, all or none, and return how many were new.

    Columns that do not apply may be left out; `causes` may not. Commit and time are filled in. A
    row of a key that is there already is left out. Writers wait for each other's lock.

    Raises:
        ValueError: a row has a column that the table does not have or lacks what it was measured
            on, or the file has other columns or a last line that is cut short.
        OSError: the file cannot be written (names it); it is left as it was.
    """
    unknown = {name for row in rows for name in row} - set(COLUMNS)
    if unknown:
        raise ValueError(f"no such results column: {', '.join(sorted(unknown))}")
    if not all(row.get("measure") for row in rows):
        raise ValueError("a row does not say what it was measured on, and how: see `causes`")
    stamp = {"git_commit": git_state()[0], "created_utc": now_utc()}
    table = _table([{**stamp, **row} for row in rows]).drop_duplicates(list(KEY))
    target = _writable(Path(path))
    if not len(table) or not _new(table, target).any():
        return 0  # nothing to lock for
    with locked(target):
        new = table[_new(table, target)]
        before = read_text(target)[0] if not _ships() else _without_superseded(target, new)
        write_text(target, before + _csv(new, header=not before))
    return len(new)


@checked
def missing(path: Path | str, wanted: list[Mapping[str, Any]]) -> list[bool]:
    """For each description, whether no row agrees with it in all columns that it gives.

    What came out (value, commit, time) does not count.
    """
    table, absent = _joined(list(_rows(Path(path)))), [False] * len(wanted)
    for names in {_told_by(row) for row in wanted}:
        numbers = [i for i, row in enumerate(wanted) if _told_by(row) == names]
        present = set(keys(table, names))
        for i, key in zip(numbers, keys(_table([wanted[i] for i in numbers]), names), strict=True):
            absent[i] = key not in present
    return absent


@checked
def take(path: Path | str, wanted: list[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows that agree with one of `wanted` in all columns that it gives; own before shipped.

    They stand last in the own table from then on, where it can be written: `latest` prefers what
    was last asked for.
    """
    own, shipped = _rows(Path(path))
    table = _joined([shipped, own])
    chosen = table[agree(table, wanted)]
    if len(chosen) and keys(own)[-len(chosen) :] != keys(chosen):
        with suppress(OSError):  # what is measured can be read without
            _put_last(_writable(Path(path)), chosen)
    return chosen.reset_index(drop=True)


def _put_last(path: Path, chosen: pd.DataFrame) -> None:
    with locked(path):
        kept = _parse(path) if path.exists() else _table([])
        rest = kept[~pd.Series(keys(kept), index=kept.index, dtype=object).isin(keys(chosen))]
        write_text(path, _csv(pd.concat([rest, chosen])))


@checked
def agree(table: Rows, wanted: list[Mapping[str, Any]]) -> pd.Series:
    """Which rows agree with one of some descriptions in all columns that it gives."""
    found = pd.Series(False, table.index)
    for names in {_told_by(row) for row in wanted}:
        rows = keys(_table([row for row in wanted if _told_by(row) == names]), names)
        found |= pd.Series(keys(table, names), index=table.index).isin(rows)
    return found


def _told_by(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in KEY if name in row)


@checked
def latest(table: Rows) -> pd.DataFrame:
    """Of rows that describe the same, the one that was asked for last, own before shipped.

    Runs of the same method, epochs and seed with other settings are told apart by their run and
    causes alone; a figure should show one of them.
    """
    return table.drop_duplicates([c for c in DESCRIPTION if c != "run_id"], keep="last")


@checked
def trained_for(table: Rows, epochs: Positive | None = None) -> pd.DataFrame:
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


@checked
def keys(table: pd.DataFrame, names: Annotated[Iterable[str], NOT_EMPTY] = KEY) -> list[str]:
    """What these columns hold in every row, as it stands in the row's line in the file."""
    check_columns("table", table, names=(names := list(names)))
    return table[names].to_csv(index=False, header=False, lineterminator="\n").splitlines()


@checked
def own_path(path: Path | str) -> Path:
    """Where the rows of a table lie that were measured here."""
    return Path(path).parent / OWN / Path(path).name.removesuffix(".gz")


@checked
def convert(path: Path | str) -> None:
    """Bring a file of the format without causes into today's: its rows have none.

    They are read as before, and count as measured on something else.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    write_text(Path(path), _csv(_table(table.to_dict("records"))))


def _ships() -> bool:
    return bool(os.environ.get("SHIP_RESULTS"))


def _shipped_path(path: Path) -> Path:
    path = path.with_name(path.name.removesuffix(".gz"))
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.exists() else path


def _writable(path: Path) -> Path:
    return _shipped_path(path) if _ships() else own_path(path)


def _rows(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Own rows and shipped rows of a table."""
    own = _table([]) if _ships() else _parse(own_path(path))
    return own, _parse(_shipped_path(path))


def _without_superseded(path: Path, new: pd.DataFrame) -> str:
    """A file's text, but for rows without causes that describe what new rows do."""
    table = _parse(path)
    told_by = [name for name in DESCRIPTION if name != "run_id"]
    old = (table["measure"] == "") & pd.Series(keys(table, told_by)).isin(keys(new, told_by))
    return _csv(table[~old.to_numpy()]) if len(table) else ""


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all, of those with one key the last."""
    joined = pd.concat([_table([]), *tables], ignore_index=True)
    return joined[~joined.duplicated(list(KEY), keep="last")].reset_index(drop=True)


def _new(table: pd.DataFrame, path: Path) -> pd.Series:
    present = _present(path)
    return pd.Series([key not in present for key in keys(table)], index=table.index, dtype=bool)


def _present(path: Path) -> set[str]:
    """The keys in a file, without parsing its values, which takes far longer."""
    (text, known), after = read_text(path), len(COLUMNS) - len(KEY)
    parts = [line.rsplit(",", after) for line in text.splitlines() if line.strip()]
    whole = text.startswith(",".join(COLUMNS) + "\n") and text.endswith("\n")
    if text and not (known and whole and all(len(part) == after + 1 for part in parts)):
        return set(keys(_parse(path)))  # says what is wrong with it, if anything is
    return {part[0] for part in parts}


def _table(rows: list[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as they would be read back from disk."""
    return _read_csv(StringIO(_csv(pd.DataFrame(rows, columns=list(COLUMNS)))))


def _csv(table: pd.DataFrame, header: bool = True) -> str:
    return table.to_csv(index=False, header=header, float_format="%.6g", lineterminator="\n")


def _read_csv(source) -> pd.DataFrame:
    types = {name: str for name in COLUMNS if name not in NUMERIC}
    empty = {name: [""] for name in NUMERIC}
    # whole: read in parts, a column that is empty in one of them has another type there
    table = pd.read_csv(
        source, dtype=types, keep_default_na=False, na_values=empty, low_memory=False
    )
    if tuple(table.columns) != COLUMNS:
        old = "weights" not in table.columns and "run_id" in table.columns
        hint = ": an older format, see `saehelpers.runs.results.convert`" if old else ""
        raise ValueError(f"the columns are {', '.join(table.columns)}{hint}")
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of a field too many
        raise ValueError(f"a row has more than {len(COLUMNS)} fields")
    for name in NUMERIC:
        # columns that do not apply to a row are empty; whole numbers stay whole
        kind = "float64" if name == "value" else "Int64"
        table[name] = pd.to_numeric(table[name]).astype(kind)
    return table


def _parse(path: Path) -> pd.DataFrame:
    text, known = read_text(path)
    if not text:
        return _table([])
    try:
        if not text.endswith("\n"):
            raise ValueError("the last line is cut short")
        table = _read_csv(StringIO(text))
        if (table["created_utc"] == "").any():  # what pandas makes of a field too few
            raise ValueError(f"a row has fewer than {len(COLUMNS)} fields")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}, line {_broken_line(text)}: {error}") from error
    repeated = table.duplicated(list(KEY))
    if repeated.any():
        raise ValueError(f"{path}, line {repeated.argmax() + 2}: a second row of one key")
    if not known:
        raise changed(path)
    return table


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
