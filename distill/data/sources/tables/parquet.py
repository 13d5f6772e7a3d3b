"""Parquet and Arrow files: rows with paths, or with the bytes of photos."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from configs.artifacts import ending
from configs.errors import UserError, is_of_the_disk
from configs.resume import Facts
from distill.data.sources.listing import ListedFile, Listing, Place
from distill.data.sources.tables.columns import Columns, find_columns, row_of
from distill.data.sources.unpacked import (
    RawPhoto,
    is_unpacked,
    read_listing,
    state_of,
    unpacked_folder,
    unpacked_photos,
    write_listing,
)
from eval.packed_photos import row_path
from eval.photo_files import PHOTO_SUFFIXES

ROWS_AT_ONCE = 64
MAX_GROUP_BYTES = 2**25
"""Files with more bytes of photos in a row group are unpacked. The hub writes 100 rows a group."""

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
    # A run of an older version stays with the photos that it has unpacked.
    if _can_stay(parts, columns) and not is_unpacked(place.run_data, inputs):
        root = Path(os.path.commonpath([path.parent.resolve() for path, _ in parts]))
        found = partial(_files_in_place, parts, columns, names, root)
        folder = unpacked_folder(
            place.run_data,
            {**inputs, "in_place": True},
            lambda folder: {"num_photos": write_listing(folder / "index.csv", found())},
        )
        return Listing(root, list(read_listing(folder / "index.csv")), sorted(names))
    photos = partial(_photos, parts, columns, names)
    root, files = unpacked_photos(
        place.run_data, inputs, photos, sum(_num_rows(path) for path, _ in parts)
    )
    return Listing(root, files, sorted(names))


def _can_stay(parts: Parts, columns: Columns) -> bool:
    """Whether photos are read where they lie: to read one, all of its row group are read."""
    import pyarrow.parquet as pq

    if any(ending(path) != ".parquet" for path, _ in parts):
        return False
    for path, _ in parts:
        with _readable(path):
            metadata = pq.read_metadata(path)
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                parts_of_group = map(group.column, range(group.num_columns))
                photos = (c for c in parts_of_group if _is_part_of(c.path_in_schema, columns.photo))
                if sum(c.total_uncompressed_size for c in photos) > MAX_GROUP_BYTES:
                    return False
    return True


def _is_part_of(path: str, column: str) -> bool:
    return path == column or path.startswith(f"{column}.")


def _files_in_place(
    parts: Parts, columns: Columns, names: list[str], root: Path
) -> Iterator[ListedFile]:
    """The photos of Parquet files, none of which is read."""
    import pyarrow.parquet as pq

    for path, split in parts:
        # In the cache of the hub, a file is a link to one that is named by its digest.
        shard = (path.parent.resolve() / path.name).relative_to(root).as_posix()
        wanted = [name for name in columns.names if name != columns.photo]
        number = 0
        with _readable(path), pq.ParquetFile(path) as file:
            if "path" in _fields(file.schema_arrow.field(columns.photo).type):
                wanted.append(f"{columns.photo}.path")
            for group in range(file.num_row_groups):
                batches = file.iter_batches(row_groups=[group], columns=wanted)
                rows = (values for batch in batches for values in batch.to_pylist())
                for place, values in enumerate(rows):
                    number += 1
                    row = row_of(
                        columns, _named(values, columns, names), f"row {number} of {path}", split
                    )
                    _, name = _content(values.get(columns.photo))
                    file_name = _file_name(name or f"row {number}")
                    yield ListedFile(
                        row_path(shard, columns.photo, group, place, file_name),
                        row.label, row.split, row.group, name, row.problem,
                    )  # fmt: skip


def _file_name(name: str) -> str:
    """A name with the ending of a photo; what its kind is the content says when it is read."""
    path = PurePosixPath(name)
    stem = re.sub(r"[^\w-]+", "-", path.stem).strip("-") or "photo"
    kind = ending(path.name)
    return stem + (kind if kind in PHOTO_SUFFIXES else ".jpg")


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
                yield number, _named(values, columns, names)


def _named(values: Facts, columns: Columns, names: list[str]) -> Facts:
    """The values of a row with the name of its class in place of the number."""
    label = values.get(columns.label)
    if names and isinstance(label, int):
        # The hub writes -1 for a label that nobody knows.
        values[columns.label] = names[label] if 0 <= label < len(names) else None
    return values


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
            return "bytes" in _fields(kind)
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


def _fields(kind: Any) -> set[str]:
    """The names in a struct; of another type none."""
    import pyarrow as pa

    return (
        {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
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
    except (pa.ArrowException, EOFError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and is_of_the_disk(error):
            raise
        kind = "Parquet" if ending(path) == ".parquet" else "Arrow"
        raise UserError(
            f"{path} cannot be read as a {kind} file: {error}. Copy or download it again."
        ) from None
