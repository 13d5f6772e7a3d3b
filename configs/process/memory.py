"""How much memory this process may still take."""

from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

VERSION_2 = "memory.max", "memory.current", "inactive_file"
VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
"""The files of a control group that hold its limit and what it takes, and the row of memory.stat
that says how much of this the kernel gives back at once."""


def free_memory() -> int:
    """Bytes that are free on this machine, or in the smaller limit of a container or a job.

    Schedulers (Slurm, Kubernetes) kill what takes more than its control group may hold, however
    much the machine has.
    """
    return min([psutil.virtual_memory().available, *_free_in_groups()])


def _free_in_groups() -> list[int]:
    """What is left of every limit that holds for this process."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return []  # not Linux
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (CGROUPS / "memory", VERSION_1) if controllers else (CGROUPS, VERSION_2)
        own = root / path.strip("/")
        # In a container, the path may be that of the host, and its own group is the root.
        for folder in [own, *own.parents]:
            if folder.is_relative_to(root):
                free += _free_in(folder, *files)
    return free


def _free_in(folder: Path, limit: str, taken: str, given_back: str) -> list[int]:
    with suppress(OSError, ValueError):  # no limit ("max"), or no such group
        num_bytes = int((folder / limit).read_text()) - int((folder / taken).read_text())
        rows = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
        return [max(num_bytes + int(rows.get(given_back, 0)), 0)]
    return []
