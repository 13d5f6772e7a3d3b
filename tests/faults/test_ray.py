"""Labels, scores and trials on a Ray cluster of this machine: the results of one process.

Workers are killed, and so is the command itself.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import optuna
import psutil
import pytest
from keras import layers

from configs.resume import HIDDEN
from distill.labels.label_file import ROWS_PER_CHUNK
from faults.harness import leftovers, run_to_end, started, write_photos
from object_storage import Put

pytestmark = pytest.mark.slow

NUM_VIEWS = 8
CHUNK_BYTES = ROWS_PER_CHUNK * NUM_VIEWS * 3 * 2
"""Of three logits as float16."""

LABEL = "distill label config.yaml --run {run} --on ray"

CONFIG = """
data: {path: photos, test: 0.4}
teacher: {backbone: {name: tiny, width: 16}, image_size: 32, epochs: 1}
soft_labels: {num_views: 8}
student: {backbone: {name: tiny, width: 8}, image_size: 32, epochs: 1, control: false}
compress: {recipes: [tflite.float32, tflite.int8]}
evaluate: {num_runs: 10, num_warmup: 1}
"""

TUNE = """
data: {path: photos}
teacher: {backbone: {name: keras_file, weights: tiny.keras}, image_size: 32, epochs: 1}
soft_labels: {num_views: 1}
student: {backbone: {name: keras_file, weights: tiny.keras}, image_size: 32, epochs: 1}
compress: {recipes: [tflite.float32]}
evaluate: {num_runs: 10, num_warmup: 1}
tune: {trials: 6, space: {student.soft_weight: {low: 0.3, high: 1.0}}}
"""


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of its own for each command, whatever else runs on this machine."""
    monkeypatch.setenv("RAY_ADDRESS", "local")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, config.yaml, and run/, which one process has finished."""
    place = tmp_path_factory.mktemp("ray")
    write_photos(place / "photos", num_per_class=500)
    (place / "config.yaml").write_text(CONFIG)
    run_to_end("distill run config.yaml --run run", cwd=place)
    return place


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A copy of the run without soft labels and predictions."""
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    shutil.rmtree(run / "soft_labels")
    shutil.rmtree(run / "results" / "predictions")
    return run


def labels_of(run: Path) -> bytes:
    (path,) = run.glob("soft_labels/*.npy")
    return path.read_bytes()


def unfinished_labels(run: Path, num_chunks: int) -> Path:
    """The file that grows, once it holds so many chunks."""
    while True:
        for path in (run / "soft_labels" / HIDDEN).rglob("labels.npy"):
            if path.stat().st_size > num_chunks * CHUNK_BYTES:
                return path
        time.sleep(0.02)


def busy_workers(command: int) -> Iterator[psutil.Process]:
    """The worker processes of a command that do a task; Ray names them so."""
    for process in psutil.Process(command).children(recursive=True):
        if process.name().startswith("ray::_answer"):
            yield process


def test_workers_label_what_one_process_labels(place: Path, run: Path) -> None:
    run_to_end(LABEL.format(run=run), cwd=place)
    assert labels_of(run) == labels_of(place / "run")
    assert not leftovers(run)


def test_a_killed_worker_costs_no_label_and_makes_none_twice(place: Path, run: Path) -> None:
    with started(LABEL.format(run=run), cwd=place) as (command, errors):
        unfinished_labels(run, 1)
        next(busy_workers(command.pid)).kill()
        assert command.wait(600) == 0, errors.read_text()
    assert labels_of(run) == labels_of(place / "run")
    assert not leftovers(run)


def test_finished_chunks_are_kept_when_the_command_is_killed(place: Path, run: Path) -> None:
    with started(LABEL.format(run=run), cwd=place) as (command, _):
        path = unfinished_labels(run, 2)
        workers = list(busy_workers(command.pid))
    assert psutil.wait_procs(workers, timeout=60)[1] == [], "workers outlive their command"
    # A label that is changed now stays so: its chunk is not made again.
    labels = bytearray(path.read_bytes())
    labels[200] ^= 1
    path.write_bytes(labels)
    run_to_end(LABEL.format(run=run), cwd=place)
    expected = bytearray(labels_of(place / "run"))
    expected[200] ^= 1
    assert labels_of(run) == expected
    assert not leftovers(run)


def test_workers_score_what_one_process_scores(place: Path, run: Path) -> None:
    shutil.copytree(place / "run" / "soft_labels", run / "soft_labels")
    run_to_end(f"evaluate accuracy {run} --on ray", cwd=place)
    scored = sorted((place / "run" / "results" / "predictions").glob("*.npz"))
    assert len(scored) == 4
    for path in scored:
        with np.load(path) as one, np.load(run / "results" / "predictions" / path.name) as ray:
            assert sorted(one.files) == sorted(ray.files)
            assert all(np.array_equal(one[split], ray[split]) for split in one.files)
    assert not leftovers(run)


def test_photos_in_a_storage_get_the_labels_of_the_same_photos_here(
    place: Path, run: Path, put_files: Put
) -> None:
    photos = {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in (place / "photos").rglob("*.png")
    }
    url = f"{put_files(photos)}/photos"
    stored = run.with_name("stored")
    words = f"distill data config.yaml --run {stored} --set data.path={url}"
    run_to_end(words, cwd=place)
    shutil.copytree(run / "teacher", stored / "teacher")
    run_to_end(f"{LABEL.format(run=stored)} --set data.path={url}", cwd=place)
    assert labels_of(stored) == labels_of(place / "run")


def trials(run: Path) -> dict[int, tuple[float, float]]:
    """Setting and score of each finished trial, by its number."""
    backend = optuna.storages.journal.JournalFileBackend(str(run / "tune/study.log"))
    study = optuna.load_study(study_name="tune", storage=optuna.storages.JournalStorage(backend))
    done = [t for t in study.trials if t.state.name == "COMPLETE"]
    return {t.number: (t.params["student.soft_weight"], t.value) for t in done}


def prepare_search(folder: Path) -> None:
    """Photos, a config, and a network that workers can build: they know no backbone of tests."""
    write_photos(folder / "photos")
    pixels = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(pixels)
    x = layers.GlobalAveragePooling2D()(x)
    keras.Model(pixels, layers.Dense(3)(x)).save(folder / "tiny.keras")
    (folder / "config.yaml").write_text(TUNE)


def test_workers_run_the_trials_of_a_search(tmp_path: Path) -> None:
    prepare_search(tmp_path)
    run_to_end("distill tune config.yaml --run one", cwd=tmp_path)
    run_to_end("distill tune config.yaml --run many --on ray", cwd=tmp_path)
    one, many = trials(tmp_path / "one"), trials(tmp_path / "many")
    assert sorted(one) == sorted(many) == list(range(6))
    # The first of them are the config's own and a random one. Later ones depend on which are done.
    assert [one[0], one[1]] == [many[0], many[1]]
    assert (tmp_path / "many" / "tune" / "best.yaml").exists()


def test_a_killed_worker_costs_no_trial(tmp_path: Path) -> None:
    prepare_search(tmp_path)
    with started("distill tune config.yaml --run run --on ray", cwd=tmp_path) as (command, errors):
        while not list((tmp_path / "run" / "tune").glob("trials/*/student/history.csv")):
            assert command.poll() is None, errors.read_text()
            time.sleep(0.05)
        next(busy_workers(command.pid)).kill()
        assert command.wait(600) == 0, errors.read_text()
    assert len(trials(tmp_path / "run")) == 6
