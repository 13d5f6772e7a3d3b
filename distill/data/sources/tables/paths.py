"""A table of paths and labels as a source: CSV, TSV or Parquet."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.artifacts import ending
from configs.errors import UserError
from configs.remote.storage import is_url
from distill.data.sources.listing import SOURCES, ListedFile, Listing, Place
from distill.data.sources.stored.copies import copies_of
from distill.data.sources.tables.columns import Columns, find_columns, row_of
from distill.data.sources.tables.parquet import holds_bytes, list_parquet, parquet_rows

EXPECTED = (
    "Expected a first line with the names of the columns, as in\n  path,label\n  cat/1.jpg,cat"
)


@SOURCES.add(endings=(".csv", ".tsv", ".parquet"), reads=("photos", "columns", "group.column"))
def table(place: Place) -> Listing:
    """A table with a row for each photo. Paths are relative to the table, or to `data.photos`.

    A Parquet file may hold the bytes of the photos instead.
    """
    path = place.file("a table of photos (.csv, .tsv or .parquet)")
    if ending(path) == ".parquet":
        if holds_bytes(path, place):
            return list_parquet([(path, None)], place)
        columns, rows = parquet_rows(path, place)
    else:
        columns, rows = _csv_rows(path, place)
    files = list(_files(path, columns, rows))
    if not files:
        raise UserError(f"{path} holds no rows. {EXPECTED}")
    expected_in, files = _with_one_root(path, place.photos or path.parent, files)
    root = expected_in
    if isinstance(root, str):
        root = copies_of(place.run_data, root, [file.path for file in files if not file.problem])
    if not any((root / file.path).exists() for file in files[:100]):
        raise UserError(
            f"{path} names {files[0].source_name}, which is not in {expected_in}. Name the folder "
            "that the paths are relative to: --set data.photos=FOLDER"
        )
    return Listing(root, files)


def _with_one_root(
    path: Path, root: Path | str, files: list[ListedFile]
) -> tuple[Path | str, list[ListedFile]]:
    """What the paths of a table are relative to; the files of URLs without their common start."""
    readable = [file for file in files if not file.problem]
    if not any(is_url(file.path) for file in readable):
        return root, files
    schemes = {file.path.partition("://")[0] if is_url(file.path) else "" for file in readable}
    if len(schemes) > 1:
        raise UserError(
            f"{path} names photos by URLs of one kind, and others by paths or other URLs. Expected "
            "only URLs such as s3://bucket/cat/1.jpg, or only paths."
        )
    root = f"{schemes.pop()}://"
    return root, [
        replace(file, path=file.path.removeprefix(root), name=file.path) for file in files
    ]


def _files(
    path: Path, columns: Columns, rows: Iterator[tuple[int, Mapping[str, Any]]]
) -> Iterator[ListedFile]:
    for number, values in rows:
        row = row_of(columns, values, f"row {number} of {path}", None)
        name = str(values.get(columns.photo) or "").strip()
        problem = row.problem if name else f"row {number} of {path.name} names no photo"
        if "\0" in name:
            name, problem = name.replace("\0", "?"), "no file can have this name"
        yield ListedFile(name or f"row {number}", row.label, row.split, row.group, problem=problem)


def _csv_rows(path: Path, place: Place) -> tuple[Columns, Iterator[tuple[int, dict[str, str]]]]:
    """The columns, and (line number, values by column) of every row."""
    with _opened(path) as file:
        try:
            start = file.read(65536)
        except UnicodeDecodeError as error:
            raise _unreadable(path, error) from None
    first_line = start.partition("\n")[0]
    delimiter = max("\t;,", key=first_line.count)  # the comma where there is none
    if not first_line.strip():
        raise UserError(f"{path} is empty. {EXPECTED}")
    names = next(csv.reader([first_line], delimiter=delimiter))
    columns = find_columns([name.strip() for name in names], place, str(path))
    return columns, _read_csv(path, delimiter)


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with _opened(path) as file:
            reader = csv.reader(file, delimiter=delimiter)
            names = [name.strip() for name in next(reader)]
            for cells in reader:
                if cells:
                    yield reader.line_num, dict(zip(names, cells, strict=False))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _opened(path: Path) -> Any:
    return open(path, newline="", encoding="utf-8-sig")


def _unreadable(path: Path, error: Exception) -> UserError:
    advice = "Save it as CSV in UTF-8." if isinstance(error, UnicodeDecodeError) else EXPECTED
    return UserError(f"{path} cannot be read as a table: {error}. {advice}")
