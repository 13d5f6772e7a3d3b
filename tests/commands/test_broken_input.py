"""What bad input gets: the cause, the next step, an exit code, and never a traceback."""

import json
import shutil
import subprocess
from pathlib import Path

import keras
import pytest

from support import save_photo

SMOKE = ["--set", "data.source=folder"]


def assert_clear(outcome, *, code: int, says: str) -> None:
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    assert says in outcome.err
    assert outcome.err.strip().splitlines()[-1]


def folder_of(path: Path):
    return ["smoke", *SMOKE, "--set", f"data.path={path}"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["no_such_config"],
            "bundled config: photos, photos_few_labels, photos_lite, quickstart, smoke",
        ),
        (["smoke", "--set", "student.epoch=3"], "Did you mean epochs?"),
        (["smoke", "--set", "student.loss.name=kdd"], "Did you mean kd?"),
        (["smoke", "--set", "student.loss.temperature=-1"], "greater than 0"),
        (["smoke", "--set", "student.epochs"], "expected key.path=value"),
        (["smoke", "--set", "data.path=/nowhere", *SMOKE], "does not exist"),
        (["smoke", "--set", "data.source=folder"], "data.path is not set"),
        (["smoke", "--force", "teachr"], "Did you mean teacher?"),
        (["smoke", "--set", "compress.methods=[cluster,magnitude]"], "Put magnitude first"),
        (["smoke", "--set", "compress.methods=[equalize]"], "{name: tflite.int8, equalize: off}"),
        (["smoke", "--set", "compress.methods=[qat,channels]"], "has channels after qat"),
        (["smoke", "--set", "data.validation=0.6", "--set", "data.test=0.6"], "below 1"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(program, words: list, says: str) -> None:
    assert_clear(program("distill", "run", *words), code=2, says=says)


@pytest.mark.parametrize("text", ["seed: [1", "- a list", "seed: 1\n"])
def test_a_broken_config_names_what_is_wrong(program, tmp_path: Path, text: str) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text(text)
    assert_clear(program("distill", "data", config), code=2, says="broken.yaml")


def test_a_file_where_a_folder_was_expected(program, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "a.png", seed=1)
    assert_clear(program("distill", "data", *folder_of(photo)), code=2, says="is a file")
    assert_clear(program("distill", "data", photo), code=2, says="is not a config")


def test_a_file_of_photos_is_a_target_as_a_folder_is(program, photo_folder: Path) -> None:
    archive = shutil.make_archive(str(photo_folder), "zip", photo_folder)
    few = ["--set", "student.image_size=32", "--run", "run"]
    outcome = program("distill", "data", archive, *few, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out.splitlines()[-1])["num_train"] > 20
    assert "up to date" in program("distill", "data", "run", "--run", "run").err
    # The archive may be gone once it was read, as on another machine.
    Path(archive).unlink()
    assert_clear(program("distill", "student", "run"), code=2, says="distill teacher")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("photos.zip", "cannot be read"),
        ("photos.tar.gz", "cannot be read"),
        ("photos.csv", "Which one holds the photos?"),
        ("photos.parquet", "cannot be read as a Parquet file"),
        ("photos.npz", "Expected photos x"),
        ("photos.json", "Expected COCO annotations"),
        ("hf:./none", "Expected one with Parquet or Arrow files"),
        ("tfds:none", "tfds build none"),
        ("none:none", "hf:NAME or tfds:NAME"),
    ],
)
def test_a_target_that_holds_no_photos(program, tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / target).parent.mkdir(exist_ok=True)
    if ":" not in target:
        (tmp_path / target).write_bytes(b"no photos here")
        target = str(tmp_path / target)
    assert_clear(program("distill", "data", target, "--run", "run"), code=2, says=says)


def test_a_hostile_archive_writes_nothing(program, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("cat/1.png", b"x")
        file.writestr("../../../escaped.png", b"x")
    outcome = program("distill", "data", tmp_path / "photos.zip", "--run", "run")
    assert_clear(outcome, code=2, says="lies outside of its folder. Nothing was unpacked")
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_without_photos(program, tmp_path: Path) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    outcome = program("distill", "data", *folder_of(tmp_path / "empty"))
    assert_clear(outcome, code=2, says="one folder per class")


def test_a_folder_of_one_class(program, photo_folder: Path) -> None:
    shutil.rmtree(photo_folder / "dog")
    outcome = program("distill", "data", *folder_of(photo_folder))
    assert_clear(outcome, code=2, says="at least two folders")


def test_what_is_left_out_is_named_at_the_end_of_the_scan_and_later(
    program, photo_folder: Path
) -> None:
    (photo_folder / "orchid").mkdir()
    for number in range(3):
        (photo_folder / "cat" / f"IMG_{number}.CR2").touch()
    (photo_folder / "cat" / "notes.txt").touch()
    words = ["distill", "data", *folder_of(photo_folder), "--run", "run"]
    scan, again = program(*words), program(*words)
    for said in (scan.err, scan.out, again.out):
        assert "3 .cr2, 1 .txt" in said
        assert "no photo in them can be used: orchid." in said
    document = json.loads(program(*words, "--json").out)
    assert document["skipped_endings"] == {".cr2": 3, ".txt": 1}
    assert document["empty_classes"] == ["orchid"]


def test_too_many_broken_photos_and_the_run_works_afterwards(program, photo_folder: Path) -> None:
    for number in range(20):
        (photo_folder / "cat" / f"x{number}.jpg").write_text("no photo")
    words = ["distill", "data", *folder_of(photo_folder), "--run", "run", "--json"]
    assert_clear(program(*words), code=2, says="--set data.max_skipped")
    for path in photo_folder.glob("cat/x*.jpg"):
        path.unlink()
    # The program returns without SystemExit only under a runner; Typer exits with 0.
    outcome = program(*words)
    assert outcome.code == 0
    assert json.loads(outcome.out.splitlines()[-1])["classes"] == ["cat", "dog"]


def test_a_run_directory_that_is_a_file(program, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    outcome = program("distill", "data", "smoke", "--run", tmp_path / "taken")
    assert_clear(outcome, code=2, says="Name a folder")


def test_a_run_directory_with_other_files(program, photo_folder: Path) -> None:
    outcome = program("distill", "data", "smoke", "--run", photo_folder)
    assert_clear(outcome, code=2, says="holds files and no run")
    assert not (photo_folder / "experiment.yaml").exists()


def test_a_run_directory_with_a_run_on_other_photos(program, photo_folder: Path) -> None:
    assert program("distill", "data", "smoke", "--run", "run").code == 0
    outcome = program("distill", "data", *folder_of(photo_folder), "--run", "run")
    assert_clear(outcome, code=2, says="run on other photos")
    assert program("distill", "data", "run").code == 0  # the first run is as it was


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["distill", "student"], "distill teacher"),
        (["distill", "label"], "distill teacher"),
        (["distill", "label", "--merge", "--parts", "shards"], "distill teacher"),
        (["compress", "export"], "distill teacher"),
        (["evaluate", "report"], "distill teacher"),
    ],
)
def test_a_step_before_its_time_names_the_one_to_take(program, words: list, says: str) -> None:
    assert program("distill", "data", "smoke", "--run", "run").code == 0
    assert_clear(program(*words, "smoke", "--run", "run"), code=2, says=says)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"just text, and rather a lot of it: no model at all"])
def test_a_model_file_that_is_none(program, tmp_path: Path, suffix: str, content: bytes) -> None:
    photo = save_photo(tmp_path / "a.png", seed=1)
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    outcome = program("evaluate", "predict", file, photo)
    assert_clear(outcome, code=2, says=f"model{suffix} is not a model")


def test_a_model_file_of_another_kind_or_none(program, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "a.png", seed=1)
    (tmp_path / "model.pt").touch()
    outcome = program("evaluate", "predict", tmp_path / "model.pt", photo)
    assert_clear(outcome, code=2, says="expected .tflite or .onnx")
    outcome = program("evaluate", "predict", tmp_path / "gone.tflite", photo)
    assert_clear(outcome, code=2, says="does not exist")


def test_a_keras_file_that_is_cut_short(program, photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 a zip, once")
    outcome = program("compress", "quantize", tmp_path / "cut.keras", "--data", photo_folder)
    assert_clear(outcome, code=2, says="is not a Keras model")


def test_a_bare_model_without_photos_or_with_an_unknown_recipe(program, tmp_path: Path) -> None:
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]).save(
        tmp_path / "m.keras"
    )
    outcome = program("compress", "quantize", tmp_path / "m.keras")
    assert_clear(outcome, code=2, says="Give a folder of photos with --data")
    outcome = program("compress", "quantize", tmp_path / "m.keras", "--recipe", "int9")
    assert_clear(outcome, code=2, says="unknown recipe 'tflite.int9'")


def test_weights_that_are_not_here_and_cannot_be_fetched(
    program, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket
    import urllib.request

    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    words = [*folder_of(photo_folder), "--run", "run"]
    words += ["--set", "teacher.backbone.weights=imagenet"]
    assert program("distill", "data", *words).code == 0
    outcome = program("distill", "teacher", *words)
    assert_clear(outcome, code=1, says="efficientnetb0_notop.h5")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(program, small_disk) -> None:
    run = small_disk / "run"
    assert_clear(program("distill", "data", "smoke", "--run", run), code=1, says="no space left")
    assert not (run / "data" / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert program("distill", "data", "smoke", "--run", run).code == 0


def test_a_model_that_does_not_fit_on_the_disk_leaves_nothing_half_written(small_disk) -> None:
    import keras

    from configs.run_dir import RunDir
    from distill.model_file import save_model

    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, keras.layers.Dense(100)(keras.layers.Flatten()(inputs)))
    with pytest.raises(OSError, match=r"No space left|Can't|errno = 28|write failed"):
        save_model(RunDir(small_disk), "student", model, [])
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_a_path_that_was_mistyped_does_not_take_the_run_directory(program, photo_folder) -> None:
    mistyped = photo_folder.with_name("fotos")
    outcome = program("distill", "data", *folder_of(mistyped), "--run", "run")
    assert_clear(outcome, code=2, says="does not exist")
    assert program("distill", "data", *folder_of(photo_folder), "--run", "run").code == 0


def test_a_file_of_the_users_is_not_written_over(program, photo_folder, tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x)).save(tmp_path / "m.keras")
    (tmp_path / "m-float32.tflite").write_text("mine")
    words = ["compress", "quantize", tmp_path / "m.keras", "--data", photo_folder]
    words += ["--recipe", "float32", "--json"]
    assert_clear(program(*words), code=2, says="Potstill did not write it")
    assert (tmp_path / "m-float32.tflite").read_text() == "mine"
    # Elsewhere it is written; one score tells two classes apart.
    outcome = program(*words, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    row = json.loads(outcome.out.splitlines()[-1])["files"][0]
    assert row["parity"]["max_abs_diff"] < 1e-5
