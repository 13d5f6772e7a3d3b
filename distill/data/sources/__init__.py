"""`SOURCES`: where photos come from. A source lists files. Every file of this room is imported.

To add a source, write one function under `@SOURCES.add` in a file here.
"""

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path, PurePath

from configs.errors import UserError
from configs.schema.data import DataConfig, GroupConfig
from distill.data.sources.listing import SOURCES, Listing, Place
from distill.data.sources.stored.copies import copied

__all__ = ["SOURCES", "list_photos"]

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def list_photos(data: DataConfig, run_data: Path) -> Listing:
    """The files of the source that a config names.

    Source `folder` also takes a file that another source reads, by its ending.

    Raises:
        UserError: the source cannot be read, or a setting has no effect on it.
    """
    kind, _, name = data.source.partition(":")
    is_stored = isinstance(data.path, str)
    if kind == "folder" and data.path is not None and (is_stored or Path(data.path).is_file()):
        kind = SOURCES.name_by_ending(PurePath(data.path).name) or kind
    list_files, facts = SOURCES[kind], SOURCES.facts(kind)
    if name and "named" not in facts:
        raise UserError(
            f"data.source is {data.source}, but {kind} takes no name. Write data.source={kind}, "
            "and the place of the photos into data.path."
        )
    by_column = isinstance(data.group, GroupConfig) and data.group.column is not None
    columns_are_set = any(value is not None for _, value in data.columns)
    for setting, is_set in (
        ("photos", data.photos is not None),
        ("columns", columns_are_set),
        ("group.column", by_column),
    ):
        if is_set and setting not in facts.get("reads", ()):
            raise UserError(f"data.{setting} has no effect on source {kind}. Leave it out.")
    path, photos = data.path, data.photos
    notes: list[str] = []
    if isinstance(path, str):
        if "named" in facts or kind == "digits":
            raise UserError(f"data.path is {path}, but source {kind} reads no URL.")
        if "photos" in facts.get("reads", ()) and photos is None:
            photos = path.rpartition("/")[0]
        path, notes = copied(run_data, path, is_file=kind != "folder")
    place = Place(
        path=path,
        run_data=run_data,
        name=name,
        photos=photos,
        columns=data.columns,
        group_column=data.group.column if isinstance(data.group, GroupConfig) else None,
        has_groups=data.group is not None,
    )
    if path == data.path:
        return list_files(place)
    try:
        listing = list_files(place)
    except UserError as error:
        raise UserError(str(error).replace(str(path), str(data.path))) from None
    return replace(listing, notes=[*listing.notes, *notes])
