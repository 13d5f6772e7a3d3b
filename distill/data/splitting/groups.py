"""Which photos belong together, by the file names: `data.group`."""

import logging
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import PurePath

from configs.errors import UserError
from configs.schema.data import GroupConfig
from distill.data.sources.listing import ListedFile, Listing
from eval.metadata import class_name

log = logging.getLogger("potstill")


def with_groups(listing: Listing, group: GroupConfig | str | None) -> Listing:
    """The listing with the group of every file. Without `group`, its source decides.

    Raises:
        UserError: the names form no groups.
    """
    if group is None or (isinstance(group, GroupConfig) and group.column is not None):
        return listing
    pattern = None if isinstance(group, str) else re.compile(str(group.pattern))
    files = [replace(file, group=_group_of(file, pattern)) for file in listing.files]
    num_alone = sum(not file.group for file in files)
    if files and num_alone == len(files):
        raise UserError(
            f"data.group.pattern finds no group in any file name, as in {files[0].source_name}. "
            "Expected a regular expression with one pair of parentheses round the group, as in "
            r"--set 'data.group.pattern=/(\w+)_\d+\.jpg$'"
        )
    if num_alone:
        log.warning("%d of %d file names name no group: split alone", num_alone, len(files))
    if pattern is None:
        _refuse_classes_as_groups(files)
    return replace(listing, files=files)


def _group_of(file: ListedFile, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return _folder_of(file)
    match = pattern.search(PurePath(file.source_name).as_posix())
    return (match[1] or "") if match else ""


def _folder_of(file: ListedFile) -> str:
    """The folder of a file inside its class: the same patient may lie in several classes."""
    parts = PurePath(file.source_name).parent.parts
    names = [class_name(part) for part in parts]
    inside = parts[names.index(file.label) + 1 :] if file.label in names else parts
    return "/".join(inside or parts)


def _refuse_classes_as_groups(files: list[ListedFile]) -> None:
    folders: dict[str, set[str]] = defaultdict(set)
    for file in files:
        if file.label:
            folders[file.label].add(file.group)
    if all(len(names) == 1 for names in folders.values()):
        label, names = next(iter(folders.items()))
        raise UserError(
            "data.group=parent makes one group of every class, because the photos of "
            f"{label!r} lie in one folder, {next(iter(names))}. Expected a folder for each group "
            f"inside, as in {label}/animal1/1.jpg. Or name groups by --set data.group.pattern=..."
        )
