"""A ZIP whose bytes depend on nothing but the names and the contents of its members."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from configs.artifacts import whole_file

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of all members: the earliest that a ZIP can say."""

MODE = 0o100644 << 16
"""A regular file that everybody may read, in the field that unzip reads it from."""

UNIX = 3
COMPRESSION_LEVEL = 9


def write_zip(path: Path, members: Mapping[str, bytes], *, folder: str) -> None:
    """Write the members in the order of their names, completely or not at all.

    Args:
        members: contents by their names, with "/" between folders.
        folder: the one folder at the top, so that unpacking fills no other.
    """
    with whole_file(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(f"{folder}/{name}", EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr, info.create_system = MODE, UNIX
            archive.writestr(info, members[name], compresslevel=COMPRESSION_LEVEL)
