"""Columns of numbers or words, by name, from the files in which tables come: .csv, .mat and .npz.

A column is [N] float64, NaN where a cell is missing, or [N] object: strings, None where a cell is missing.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3tl_cli.core.errors import DataError

Column = npt.NDArray[Any]
Columns = dict[str, Column]

CELL = "cell"
"""Column of a .mat file with cell arrays: which cell a row comes from, from 1."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands in a missing cell of a .csv, in any case."""


def read_tables(paths: Sequence[Path], key: str | None) -> Columns:
    """Columns of all files side by side.

    Columns of one file have the names that they have there; of several files, `<file's stem>.<name>`.

    Args:
        paths: At least one. Without a key, line i of each belongs to sample i.
        key: Column that every file has and whose values say which line is which sample: those of the first file, in its order. A
            sample without a line in another file has missing cells there. It becomes a column of its own name.

    Raises:
        DataError: A file cannot be read, two columns have the same name, files differ in length, or the key is not one.
    """
    tables = {path.stem: read_table(path) for path in paths}
    if len(tables) < len(paths):
        raise DataError(f"`files` must differ in their names; found {', '.join(p.name for p in paths)}.", place="data.files")
    if len(tables) == 1:
        (found,) = tables.values()
        if key is not None:
            _place_of(found, key, paths[0])
        return found
    joined: Columns = {}
    if key is not None:
        places = {stem: _place_of(table, key, path) for (stem, table), path in zip(tables.items(), paths, strict=True)}
        first = next(iter(places.values()))
        joined[key] = next(iter(tables.values()))[key]
        for stem, table in tables.items():
            line = np.array([places[stem].get(value, -1) for value in first])
            for name in (n for n in table if n != key):
                column = table[name][line]
                column[line < 0] = None if column.dtype == object else np.nan
                joined[f"{stem}.{name}"] = column
        return joined
    for stem, table in tables.items():
        joined |= {f"{stem}.{name}": column for name, column in table.items()}
    lengths = {stem: len(next(iter(table.values()))) for stem, table in tables.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"`files` must have as many lines each where no key joins them; found {lengths}.", hint="data.key=column", place="data.files"
        )
    return joined


def read_table(path: Path) -> Columns:
    """Columns of one file; see the functions below.

    Raises:
        DataError: It is absent, damaged, empty or of another format.
    """
    readers = {".csv": read_csv, ".tsv": read_csv, ".mat": read_mat, ".npz": read_npz}
    if path.suffix.lower() not in readers:
        raise DataError(f"`files` must be {', '.join(readers)}; found {path.name}.", hint="convert it", place="data.files")
    if not path.is_file():
        raise DataError(f"`files` must exist; found none at {path}.", hint="data.files=[path/to/table.csv]", place="data.files")
    columns = readers[path.suffix.lower()](path)
    if not any(len(column) for column in columns.values()):
        raise DataError("a table must hold a row of numbers or words; found none.", place=str(path))
    return columns


def read_csv(path: Path) -> Columns:
    """Columns of a text table with a header; the separator, a comma, semicolon or tab, is that of the header.

    A column is of numbers where every cell that is not missing is one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            file.seek(0)
            lines = [line for line in csv.reader(file, delimiter=separator) if line]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"a table must be text in UTF-8; found {error}.", place=str(path)) from None
    names, *rows = lines or [[]]
    names = [name.strip() for name in names]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise DataError(f"the columns of a table must have names of their own; found `{twice}` twice.", place=str(path))
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise DataError(f"every line must have {len(names)} cells; found {len(row)} in line {number}.", place=str(path))
    cells = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    return {name: _typed(column) for name, column in zip(names, cells, strict=False)}


def read_mat(path: Path) -> Columns:
    """Columns of a MATLAB file up to version 7: a matrix [N, C] gives `<variable>.<0 ... C - 1>`, a vector `<variable>`.

    A cell array of matrices, one below the other, is one matrix, and `cell` says which of them a row comes from. Other variables are
    left out.
    """
    from scipy.io import loadmat  # a third of a second to import
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(str(path))
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"a .mat file must be of MATLAB's version 5 to 7; found {error}.", hint="save it with -v7", place=str(path)
        ) from None
    columns: Columns = {}
    for name, value in variables.items():
        if name.startswith("__") or not isinstance(value, np.ndarray):
            continue
        if value.dtype == object:
            cells = [_matrix(cell) for cell in value.ravel()]
            if not cells or any(cell is None or cell.shape[1] != cells[0].shape[1] for cell in cells):  # type: ignore[union-attr]
                continue
            columns.setdefault(CELL, np.repeat(np.arange(1.0, len(cells) + 1), [len(cell) for cell in cells]))  # type: ignore[arg-type]
            value = np.concatenate(cells)  # type: ignore[arg-type]
        elif value.ndim == 2 and len(value) == 1:
            value = value.T  # a row is a vector, too
        columns.update(_spread(name, _matrix(value)))
    return columns


def read_npz(path: Path) -> Columns:
    """Columns of numpy arrays: [N, C] gives `<array>.<0 ... C - 1>`, [N] and [N, 1] `<array>`; other shapes are left out."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"an .npz file must hold arrays of numbers or words; found {error}.", place=str(path)) from None
    columns: Columns = {}
    for name, value in found.items():
        columns.update(_spread(name, _matrix(value[:, None] if value.ndim == 1 else value)))
    return columns


def words(column: Column) -> list[str | None]:
    """Every value as a word, whole numbers without a point; None where it is missing."""
    if column.dtype == object:
        return list(column)
    return [None if np.isnan(v) else f"{v:.0f}" if float(v).is_integer() else repr(float(v)) for v in column]


def _typed(cells: Sequence[str]) -> Column:
    known = [None if cell.lower() in MISSING else cell for cell in cells]
    try:
        return np.array([np.nan if cell is None else float(cell) for cell in known])
    except ValueError:
        return np.array(known, dtype=object)


def _matrix(value: object) -> Column | None:
    """[N, C] float64 or object; None for anything else."""
    if not isinstance(value, np.ndarray) or value.ndim != 2:
        return None
    if value.dtype.kind in "biuf":
        return value.astype(np.float64)
    if value.dtype.kind == "U":
        return np.array([[None if w.strip().lower() in MISSING else w.strip() for w in row] for row in value], dtype=object)
    return None


def _spread(name: str, matrix: Column | None) -> Iterator[tuple[str, Column]]:
    if matrix is None:
        return
    for i in range(matrix.shape[1]):
        yield (name if matrix.shape[1] == 1 else f"{name}.{i}"), matrix[:, i]


def _place_of(table: Mapping[str, Column], key: str, path: Path) -> dict[str, int]:
    """Line of every value of the key."""
    if key not in table:
        raise DataError(f"`key` must be a column of every file; found no `{key}` in {path.name}.", hint="data.key=null", place="data.key")
    values = words(table[key])
    places = {value: line for line, value in enumerate(values) if value is not None}
    if len(places) < len(values):
        raise DataError(f"`key` must have another value in every line; found fewer in {path.name}.", hint="data.key=null", place="data.key")
    return places
