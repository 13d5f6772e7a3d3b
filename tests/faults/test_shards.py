"""Parts of labels and scores: made together on one machine, or on machines that share nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from faults.harness import ending, finish_times, leftovers, run_to_end, started
from object_storage import Put

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


def test_shards_of_machines_that_share_nothing_go_through_a_storage(
    place: Path, tmp_path: Path, put_files: Put
) -> None:
    url = f"{put_files({})}/labels"
    words = "distill label config.yaml --run {run} --parts {url} "
    for machine, part in (("a", "--shard 1/2"), ("b", "--shard 2/2"), ("c", "--merge")):
        run = tmp_path / machine
        shutil.copytree(place / "run", run)
        shutil.rmtree(run / "soft_labels")
        run_to_end(words.format(run=run, url=url) + part, cwd=place)
    (undisturbed,) = (place / "run").glob("soft_labels/*.npy")
    assert (run / "soft_labels" / undisturbed.name).read_bytes() == undisturbed.read_bytes()
    assert len(list((run / "soft_labels").glob("*-of-2.npy"))) == 2


def test_parts_of_the_scores_are_all_scores(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    shutil.rmtree(run / "results" / "predictions")
    shutil.rmtree(run / "results" / "corrupted")
    for part in ("1/2", "2/2"):
        run_to_end(f"evaluate accuracy {run} --shard {part}", cwd=place)
    scored = finish_times(run)
    run_to_end(f"evaluate accuracy {run}", cwd=place)
    assert finish_times(run) == scored, "something was left to score"
    assert ending(run / "results") == ending(place / "run" / "results")
