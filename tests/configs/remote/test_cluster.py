"""Tasks on a cluster: how work is parted, which parts are kept, and what errors say.

Ray itself runs in tests/faults/test_ray.py.
"""

import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands.option_groups.sharing import ClusterOptions, ShardOptions
from configs.errors import UserError
from configs.process.packages import versions
from configs.remote import cluster as clusters
from configs.remote.cluster import Cluster
from configs.remote.parts import ROWS_OF_A_PART, even_parts, kept_rows
from configs.resume import Workspace


class ThisProcess(Cluster):
    """Does the tasks here, as the workers of a cluster would."""

    def map(
        self, task: Callable[[Any], Any], items: Iterable[Any], note: Callable[[], str] = str
    ) -> Iterator[Any]:
        return map(task, items)


@pytest.mark.parametrize(
    ("num_rows", "num_workers", "max_units", "expected"),
    [
        (1000, 2, 8, 128),  # 8 units for 16 tasks: one each
        (128 * 40, 2, 8, 2 * 128),  # 40 units for 16 tasks: two each
        (128 * 1000, 2, 8, 8 * 128),  # 62 each would be more than 8
        (128 * 1000, 2, 0, 128),  # a unit stays whole, however large its answer is
        (50, 4, 8, 128),
    ],
)
def test_parts_hold_whole_units_and_every_row_once(
    num_rows: int, num_workers: int, max_units: int, expected: int
) -> None:
    rows = range(256, 256 + num_rows)
    parts = list(even_parts(rows, unit=128, num_workers=num_workers, max_units=max_units))
    assert [row for part in parts for row in part] == list(rows)
    assert {len(part) for part in parts[:-1]} <= {expected}
    assert len(parts[-1]) <= expected


def test_no_rows_have_no_parts() -> None:
    assert not list(even_parts(range(5, 5), unit=128, num_workers=2, max_units=8))


def test_parts_that_were_answered_before_are_kept(tmp_path: Path) -> None:
    asked: list[range] = []

    def squares(part: tuple[str, range]) -> np.ndarray:
        split, rows = part
        assert split == "test"
        asked.append(rows)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return np.array([[row**2] for row in rows])

    def all_rows() -> np.ndarray:
        return kept_rows(
            ThisProcess(), Workspace(tmp_path), squares, split="test", num_rows=1000, name="squares"
        )

    with pytest.raises(KeyboardInterrupt):
        all_rows()
    assert np.array_equal(all_rows()[:, 0], np.arange(1000) ** 2)
    starts = [rows.start // ROWS_OF_A_PART for rows in asked]
    assert starts == [0, 1, 2, 2, 3]
    assert len(all_rows()) == 1000
    assert len(asked) == 5


def test_a_missing_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        Cluster() as cluster,
        pytest.raises(UserError, match=r"on all workers: pip install 'potstill\[ray\]'"),
    ):
        next(cluster.map(len, ["a task"]))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "head", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with Cluster() as cluster, pytest.raises(UserError, match=rf"cluster at {address} cannot be"):
        next(cluster.map(len, ["a task"]))


def test_a_worker_with_other_packages_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a worker sets its variables
    here = versions()
    assert clusters._answer(pickle.dumps(len), "abc", os.getcwd(), {}, here) == 3
    with pytest.raises(UserError, match=r"a worker .* numpy [\d.]+, not 1\.0\. Results would diff"):
        clusters._answer(pickle.dumps(len), "abc", "/nowhere", {}, {**here, "numpy": "1.0"})


@pytest.mark.parametrize(
    ("machines", "share"),
    [
        ([{"CPU": 2.0}, {"CPU": 64.0}], (0, 1)),
        ([{"CPU": 16.0, "GPU": 4.0}], (1, 4)),
        # The machine without GPUs decodes for nobody, and the smallest share has to fit everywhere.
        ([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}], (1, 2)),
        ([{"CPU": 2.0, "GPU": 4.0}], (1, 1)),
        ([], (0, 1)),
    ],
)
def test_a_worker_with_a_gpu_has_its_share_of_the_cores(
    machines: list[dict[str, float]], share: tuple[int, int]
) -> None:
    assert clusters._share_of_a_worker(machines) == share


def test_this_process_leaves_memory_of_a_gpu_to_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {})
    with ClusterOptions().cluster():
        assert not os.environ
    with ClusterOptions(on="ray").cluster():
        assert os.environ == {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "false"
    with ClusterOptions(on="ray").cluster():
        assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"
    assert "TF_FORCE_GPU_ALLOW_GROWTH" in clusters.PASSED_ON


def test_words_that_do_not_go_together_are_refused() -> None:
    assert ShardOptions(shard="2/4").part() == (2, 4)
    assert ShardOptions().part() is None
    for word in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(UserError, match=f"--shard {word}: expected I/N"):
            ShardOptions(shard=word).part()
    with pytest.raises(UserError, match="Give one of them"):
        ShardOptions(on="ray", shard="1/2").part()
    with pytest.raises(UserError, match="--on dask: expected ray"):
        ClusterOptions(on="dask").cluster()
    with ClusterOptions().cluster() as cluster:
        assert cluster is None
