"""`SOURCES`: where photos come from. A source lists files. Every file of this room is imported.

To add a source, write one function under `@SOURCES.add` in a file here.
"""

import importlib
import pkgutil
from pathlib import Path

from configs.errors import UserError
from configs.schema.data import DataConfig, GroupConfig
from distill.data.sources.listing import SOURCES, Listing, Place

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
    if kind == "folder" and data.path is not None and data.path.is_file():
        kind = SOURCES.name_by_ending(data.path.name) or kind
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
    return list_files(
        Place(
            path=data.path,
            run_data=run_data,
            name=name,
            photos=data.photos,
            columns=data.columns,
            group_column=data.group.column if isinstance(data.group, GroupConfig) else None,
            has_groups=data.group is not None,
        )
    )
