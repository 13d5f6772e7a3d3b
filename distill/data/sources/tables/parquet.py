"""Parquet and Arrow files: rows with paths, or with the bytes of photos."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from configs.artifacts import ending
from configs.errors import UserError, is_of_the_disk
from distill.data.sources.listing import Listing, Place
from distill.data.sources.tables.columns import Columns, find_columns, row_of
from distill.data.sources.unpacked import RawPhoto, state_of, unpacked_photos

ROWS_AT_ONCE = 64

Parts = list[tuple[Path, str | None]]
"""Files, each with the split that its name says."""


def list_parquet(parts: Parts, place: Place) -> Listing:
    """The photos in Parquet or Arrow files that hold their bytes.

    Raises:
        UserError: a file is damaged, or its columns do not say what they hold.
    """
    with _readable(parts[0][0]) as path:
        schema = _schema(path)
        columns = _columns(schema, place, path)
        names = _label_names(schema, columns.label)
    inputs = {
        "parquet": [[path.name, split, state_of(path)] for path, split in parts],
        "columns": vars(columns),
    }
    photos = partial(_photos, parts, columns, names)
    root, files = unpacked_photos(
        place.run_data, inputs, photos, sum(_num_rows(path) for path, _ in parts)
    )
    return Listing(root, files, sorted(names))


def holds_bytes(path: Path, place: Place) -> bool:
    """Whether the rows of a Parquet file hold photos, and not their paths."""
    with _readable(path):
        schema = _schema(path)
        columns = _columns(schema, place, path)
        return not _is_text(schema.field(columns.photo).type)


def parquet_rows(
    path: Path, place: Place
) -> tuple[Columns, Iterator[tuple[int, Mapping[str, Any]]]]:
    """The columns, and (row number, values by column) of every row."""
    with _readable(path):
        schema = _schema(path)
    columns = _columns(schema, place, path)
    return columns, _rows(path, columns, _label_names(schema, columns.label))


def _photos(parts: Parts, columns: Columns, names: list[str]) -> Iterator[RawPhoto]:
    for path, split in parts:
        for number, values in _rows(path, columns, names):
            row = row_of(columns, values, f"row {number} of {path}", split)
            content, name = _content(values.get(columns.photo))
            problem = row.problem or ("" if content else "no bytes")
            yield RawPhoto(
                partial(bytes, content) if content and not problem else None,
                name or f"{path.name} row {number}",
                row.label,
                row.split,
                row.group,
                problem,
            )


def _content(cell: Any) -> tuple[bytes | None, str]:
    """The bytes of a photo and its name, from bytes or from {"bytes": ..., "path": ...}."""
    if isinstance(cell, Mapping):
        content, path = cell.get("bytes"), cell.get("path")
        name = PurePath(str(path)).as_posix() if path else ""
        return content if isinstance(content, bytes) else None, name
    return cell if isinstance(cell, bytes) else None, ""


def _rows(
    path: Path, columns: Columns, names: list[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, values by column) of every row, of which few are in memory."""
    number = 0
    with _readable(path):
        for batch in _batches(path, columns.names):
            for values in batch.to_pylist():
                number += 1
                label = values.get(columns.label)
                if names and isinstance(label, int):
                    # The hub writes -1 for a label that nobody knows.
                    values[columns.label] = names[label] if 0 <= label < len(names) else None
                yield number, values


def _batches(path: Path, names: list[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if ending(path) == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=names)
        return
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield batch.select(names).slice(start, ROWS_AT_ONCE)


def _schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if ending(path) == ".parquet":
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.schema


def _num_rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path):
        if ending(path) == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return sum(batch.num_rows for batch in reader)


def _columns(schema: Any, place: Place, path: Path) -> Columns:
    import pyarrow as pa

    def is_photo(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    photos = [field.name for field in schema if is_photo(field.type)]
    labels = [name for name in schema.names if _label_names(schema, name)]
    return find_columns(
        schema.names,
        place,
        str(path),
        photo=photos[0] if len(photos) == 1 else None,
        label=labels[0] if len(labels) == 1 else None,
    )


def _label_names(schema: Any, column: str) -> list[str]:
    """The names of the labels 0, 1, ..., as `datasets` notes them; [] if there are none."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        return [str(name) for name in metadata["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Raises UserError in place of pyarrow's errors, and where pyarrow is not here."""
    try:
        import pyarrow as pa
    except ImportError:
        raise UserError(
            f"to read {path.name}, install one more package: pip install 'potstill[hf]'"
        ) from None
    try:
        yield path
    except (pa.ArrowException, EOFError, OSError) as error:
        if isinstance(error, OSError) and is_of_the_disk(error):
            raise
        kind = "Parquet" if ending(path) == ".parquet" else "Arrow"
        raise UserError(
            f"{path} cannot be read as a {kind} file: {error}. Copy or download it again."
        ) from None
