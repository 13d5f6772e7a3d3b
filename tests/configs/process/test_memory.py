"""The free memory is that of the machine, or what a job or container may still take of it."""

from pathlib import Path

import psutil
import pytest

from configs.process import memory
from configs.process.memory import free_memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 512 GiB of free memory, and a folder for its control groups."""
    free = type("Memory", (), {"available": 512 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    return tmp_path


def make(folder: Path, files: tuple[str, str, str], limit: str, taken: int, given: int) -> None:
    limit_name, taken_name, given_row = files
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / taken_name).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{given_row} {given}\n")


def test_the_smallest_limit_above_a_job_counts(groups: Path) -> None:
    (groups / "own").write_text("0::/slurm/job_7/step_0\n")
    root = groups / "cgroup"
    make(root / "slurm" / "job_7", memory.VERSION_2, str(16 * GIB), 10 * GIB, 3 * GIB)
    make(root / "slurm" / "job_7" / "step_0", memory.VERSION_2, "max", 10 * GIB, 0)
    make(root / "slurm", memory.VERSION_2, str(64 * GIB), 20 * GIB, 0)
    assert free_memory() == 9 * GIB  # 16 - 10, and 3 that the kernel gives back


def test_a_container_sees_its_own_group_as_the_root(groups: Path) -> None:
    (groups / "own").write_text("0::/../../kubepods/pod1\n")
    make(groups / "cgroup", memory.VERSION_2, str(4 * GIB), GIB, 0)
    assert free_memory() == 3 * GIB


def test_groups_of_the_first_version_count(groups: Path) -> None:
    (groups / "own").write_text("9:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n")
    make(groups / "cgroup" / "memory", memory.VERSION_1, str(2 * GIB), GIB, 0)
    assert free_memory() == GIB


def test_a_limit_that_is_used_up_leaves_nothing(groups: Path) -> None:
    (groups / "own").write_text("0::/\n")
    make(groups / "cgroup", memory.VERSION_2, str(GIB), 2 * GIB, 0)
    assert free_memory() == 0


def test_without_a_limit_the_machine_counts(groups: Path) -> None:
    assert free_memory() == 512 * GIB
    (groups / "own").write_text("0::/user\n")
    make(groups / "cgroup", memory.VERSION_2, "max", GIB, 0)
    assert free_memory() == 512 * GIB
