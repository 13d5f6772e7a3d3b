"""Shards that are copied from a folder: which files are taken, and which are here already."""

from pathlib import Path

import pytest

from configs.artifacts import file_sha256, write_json
from configs.errors import StepFailed, UserError
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.labels import shards
from distill.labels.shards import fetch_shards

NAME = "abc.1-of-2"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run whose labels have a known name."""
    monkeypatch.setattr(shards, "soft_label_inputs", lambda run, experiment: {})
    monkeypatch.setattr(shards, "digest", lambda inputs: "abc")
    return RunDir(tmp_path / "run")


def put_shard(folder: Path, content: bytes, described: bytes | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / f"{NAME}.npy"
    labels.write_bytes(content if described is None else described)
    facts = {"bytes": len(content), "sha256": file_sha256(labels)}
    labels.write_bytes(content)
    write_json(folder / f"{NAME}.json", {"outputs": {labels.name: facts}, "made": content.decode()})


def test_a_shard_that_was_made_anew_replaces_one_of_the_same_size(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, here = tmp_path / "place", run.soft_labels("abc").parent
    put_shard(here, b"old")
    put_shard(place, b"new")
    fetch_shards(run, Experiment.model_construct(), str(place))
    for ending in (".npy", ".json"):
        copy, original = (folder / f"{NAME}{ending}" for folder in (here, place))
        assert copy.read_bytes() == original.read_bytes()
    monkeypatch.setattr(shards, "fetch", None)  # nothing is copied twice
    fetch_shards(run, Experiment.model_construct(), str(place))


def test_a_shard_that_is_not_what_its_manifest_says_is_refused(run: RunDir, tmp_path: Path) -> None:
    put_shard(tmp_path / "place", b"new", described=b"old")
    with pytest.raises(StepFailed, match=r"abc\.1-of-2\.npy in .* give the same command again"):
        fetch_shards(run, Experiment.model_construct(), str(tmp_path / "place"))
    assert not run.soft_labels("abc").with_name(f"{NAME}.json").exists()
    (tmp_path / "place" / f"{NAME}.json").write_text("{}")
    with pytest.raises(UserError, match=r"abc\.1-of-2\.json in .* is damaged"):
        fetch_shards(run, Experiment.model_construct(), str(tmp_path / "place"))
