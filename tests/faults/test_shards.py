"""Two shards of the labels that start together on one machine."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from faults.harness import leftovers, run_to_end, started

NUM_TIMES = 3

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", range(NUM_TIMES))
def test_two_shards_that_start_together_make_the_same_labels(number: int, place: Path) -> None:
    run = place / f"shards-{number}"
    shutil.copytree(place / "run", run)
    shutil.rmtree(run / "soft_labels")
    # The copy is scanned again, by whichever shard comes first.
    (run / "data" / "manifest.json").unlink()
    words = f"distill label config.yaml --run {run} --shard"
    with (
        started(f"{words} 1/2", cwd=place) as (first, first_errors),
        started(f"{words} 2/2", cwd=place) as (second, second_errors),
    ):
        assert (first.wait(), second.wait()) == (0, 0), (
            first_errors.read_text() + second_errors.read_text()
        )
    run_to_end(f"distill label config.yaml --run {run} --merge", cwd=place)
    (merged,) = (path for path in run.glob("soft_labels/*.npy") if "-of-" not in path.name)
    (undisturbed,) = (place / "run").glob("soft_labels/*.npy")
    assert np.array_equal(np.load(merged), np.load(undisturbed))
    assert not leftovers(run)
