"""`compress bundle`: what is in the ZIP, and that its Python answers without this project."""

import hashlib
import json
import shutil
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundles import run_outside, unpacked
from compress.bundle.archive import EPOCH, write_zip
from compress.bundle.bundle import bundle_file, bundle_run
from compress.bundle.code import TEMPLATES
from compress.bundle.photos import drawn_rows
from compress.foreign.contracts import ContractChoice
from compress.standalone import Quantized
from configs.artifacts import file_sha256, write_json
from configs.contract import RANGES, Statement
from configs.errors import UserError
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import Examples
from distill.data.scan import data_step
from eval.serve.answers import predict_photos
from support import ROOT, save_photo


@pytest.fixture(scope="module")
def run(quantized: Quantized, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run directory with a report, as far as a bundle reads it."""
    directory = RunDir(tmp_path_factory.mktemp("runs") / "mine")
    take_step(data_step(directory, DataConfig(path=photos)))
    (directory.path / "files").mkdir()
    rows = []
    for row in quantized.rows:
        shutil.copy(row["path"], directory.file(row["name"]))
        rows.append({**row, "sha256": file_sha256(directory.file(row["name"]))})
    report = {
        "run": "mine",
        "machine": {},
        "data": {"source": "folder photos", "num_test": 12},
        "models": [],
        "files": rows,
        "verdict": {"chosen_file": "mine-int8.tflite"},
    }
    write_json(directory.path / "report.json", report)
    (directory.path / "model_card.md").write_text("# the card of the run\n")
    return directory


def test_python_answers_as_expected_without_this_project(bundle: Path, outside: Path) -> None:
    outcome = run_outside(outside, "-c", "import configs")
    assert "No module named 'configs'" in outcome.stderr
    outcome = run_outside(outside, bundle / "python" / "classify.py")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "5 of 5 as expected"


def test_python_answers_about_any_photo_as_evaluate_predict(
    bundle: Path, outside: Path, tmp_path: Path
) -> None:
    """JPEG, turned by its EXIF, transparent, grey, and one pixel high."""
    files = [save_photo(tmp_path / "plain.jpg", seed=1, size=(300, 200))]
    with Image.open(files[0]) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees
        image.save(tmp_path / "turned.jpg", exif=exif)
        image.convert("L").save(tmp_path / "grey.png")
        image.resize((90, 1)).save(tmp_path / "flat.png")
        clear = image.convert("RGBA")
        clear.putalpha(120)
        clear.save(tmp_path / "clear.png")
    files += [tmp_path / f"{name}" for name in ("turned.jpg", "grey.png", "flat.png", "clear.png")]
    model = bundle / "model" / json.loads((bundle / "contract.json").read_text())["file"]
    outcome = run_outside(outside, bundle / "python" / "classify.py", "--json", *files)
    assert outcome.returncode == 0, outcome.stderr
    answers = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert answers == predict_photos(model, files)


def test_python_reads_the_contract_from_the_file_alone(
    bundle: Path, outside: Path, tmp_path: Path
) -> None:
    classify, photo = bundle / "python" / "classify.py", bundle / "photos" / "photo-1.png"
    (model,) = (bundle / "model").iterdir()
    with_json = run_outside(outside, classify, "--json", photo)
    alone = run_outside(outside, classify, "--json", "--model", model, photo)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == with_json.stdout


def test_a_wrong_answer_is_named(bundle: Path, outside: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    expected = json.loads((copy / "photos" / "expected.json").read_text())
    expected["photos"][2]["answers"].reverse()
    write_json(copy / "photos" / "expected.json", expected)
    outcome = run_outside(outside, copy / "python" / "classify.py")
    assert outcome.returncode == 1
    assert "photo-3.png" in next(line for line in outcome.stdout.splitlines() if "NOT AS" in line)
    assert outcome.stdout.splitlines()[-1] == "4 of 5 as expected"


def test_no_photo_ends_in_one_sentence(bundle: Path, outside: Path) -> None:
    for word, what in (("nowhere.jpg", "nowhere.jpg"), (bundle / "labels.txt", "not a photo")):
        outcome = run_outside(outside, bundle / "python" / "classify.py", word)
        assert outcome.returncode == 1
        assert outcome.stderr.splitlines()[-1].startswith("error: this is no photo")
        assert what in outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_the_contract_states_what_the_code_needs(bundle: Path) -> None:
    contract = json.loads((bundle / "contract.json").read_text())
    assert contract["classes"] == ["cat", "dog"]
    assert contract["image_size"] == [24, 20]
    assert contract["output"] == "probabilities"
    assert contract["pixels"]["std"] == [1, 1, 1]
    assert contract["numbers_in"]["shape"] == [1, 24, 20, 3]
    if contract["file"].endswith(".tflite"):
        assert contract["numbers_in"]["dtype"] == "uint8"
        assert contract["numbers_out"] == {
            "shape": [1, 2], "dtype": "uint8", "scale": 1 / 256, "zero": 0,
        }  # fmt: skip
    assert (bundle / "labels.txt").read_text() == "cat\ndog\n"


def test_numbers_and_digests_are_in_the_bundle(bundle: Path, quantized: Quantized) -> None:
    measured = json.loads((bundle / "measured.json").read_text())
    row = next(row for row in quantized.rows if row["name"] == measured["name"])
    assert measured["accuracy"]["top1"] == row["accuracy"]["top1"]
    assert "path" not in measured
    sums = dict(
        reversed(line.split("  ", 1)) for line in (bundle / "SHA256SUMS").read_text().splitlines()
    )
    # Other tests run the Python code there.
    files = [path for path in bundle.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    names = {path.relative_to(bundle).as_posix() for path in files}
    assert set(sums) == names - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest


def test_the_readme_names_every_folder_and_answer(bundle: Path) -> None:
    readme = (bundle / "README.md").read_text()
    for path in bundle.iterdir():
        assert path.name == "README.md" or f"`{path.name}" in readme
    expected = json.loads((bundle / "photos" / "expected.json").read_text())
    for photo in expected["photos"]:
        assert f"| `{photo['photo']}` | {photo['answers'][0]['class']} " in readme
    assert "They are test photos of the folder photos." in readme


def test_code_says_in_its_first_line_whether_it_was_compiled(bundle: Path) -> None:
    files = [
        path
        for folder in ("cpp", "kotlin", "swift")
        for path in (bundle / folder).iterdir()
        if path.name != "CMakeLists.txt"
    ]
    assert len(files) == 7
    for path in files:
        first_line = path.read_text().splitlines()[0]
        assert first_line.startswith(("// Compiled and run by", "// NOT COMPILED by"))


def test_a_bundle_of_a_run_has_its_photos_and_card(run: RunDir, outside: Path) -> None:
    made = bundle_run(run)
    assert (made.file, made.num_photos) == ("mine-int8.tflite", 5)
    assert made.path == run.path / "bundles" / "mine-int8.tflite.zip"
    folder = unpacked(made.path)
    assert (folder / "model_card.md").read_text() == "# the card of the run\n"
    assert json.loads((folder / "measured.json").read_text())["run"] == "mine"
    readme = (folder / "README.md").read_text()
    assert "They are test photos of the run mine, and come from folder photos." in readme
    labels = [
        photo["label"]
        for photo in json.loads((folder / "photos" / "expected.json").read_text())["photos"]
    ]
    assert labels == ["cat", "dog", "cat", "dog", "cat"]
    assert not Image.open(folder / "photos" / "photo-1.png").info  # pixels alone
    outcome = run_outside(outside, folder / "python" / "classify.py")
    assert outcome.stdout.splitlines()[-1] == "5 of 5 as expected"


def test_photos_come_from_the_test_split_alone(run: RunDir) -> None:
    folder = unpacked(bundle_run(run, "mine-float32.onnx").path)
    manifest = (run.path / "data" / "manifest.csv").read_text().splitlines()[1:]
    test = {row.split(",")[1] for row in manifest if ",test," in row}
    root = Path(json.loads((run.path / "data" / "manifest.json").read_text())["root"])
    pixels = {np.asarray(Image.open(root / name)).tobytes() for name in test}
    for path in (folder / "photos").glob("*.png"):
        assert np.asarray(Image.open(path)).tobytes() in pixels


def test_photos_can_be_left_out(run: RunDir, outside: Path, tmp_path: Path) -> None:
    made = bundle_run(run, out=tmp_path / "app" / "model.zip", photos=False)
    assert made.num_photos == 0
    folder = unpacked(made.path)
    assert not (folder / "photos").exists()
    assert "photos/" not in (folder / "README.md").read_text()
    outcome = run_outside(outside, folder / "python" / "classify.py")
    assert "no test photos. Name a photo" in outcome.stderr


def test_two_bundles_are_equal_byte_for_byte(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bundle_run(run, out=tmp_path / "first.zip")
    copy = tmp_path / "elsewhere" / "mine"  # newer files, in another folder
    shutil.copytree(run.path, copy, copy_function=shutil.copy)
    monkeypatch.setattr("time.time", lambda: 2e9)
    second = bundle_run(RunDir(copy), out=tmp_path / "second.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256 == file_sha256(first.path)
    with zipfile.ZipFile(first.path) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {info.date_time for info in archive.infolist()} == {EPOCH}
        assert str(tmp_path) not in archive.read("mine-int8/README.md").decode()


def test_a_bundle_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_zip(path, {"one": b"1"}, folder="a")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_zip(path, {"one": b"2", "two": None}, folder="a")  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_without_a_report_or_file_is_named(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no report.*\n  evaluate report"):
        bundle_run(RunDir(tmp_path))
    with pytest.raises(UserError, match=r"no file other\.tflite\. Its files: mine-int8"):
        bundle_run(run, "other.tflite")
    with pytest.raises(UserError, match="is not a ZIP"):
        bundle_run(run, out=tmp_path / "bundle.tar")
    copy = tmp_path / "mine"
    shutil.copytree(run.path, copy)
    shutil.copy(copy / "files" / "mine-float32.onnx", copy / "files" / "mine-int8.onnx")
    report = json.loads((copy / "report.json").read_text())
    report["files"][0]["sha256"] = "0" * 64
    write_json(copy / "report.json", report)
    with pytest.raises(UserError, match="changed since it was measured"):
        bundle_run(RunDir(copy))


def test_a_file_carries_its_own_contract(files: dict[str, Path]) -> None:
    choice = ContractChoice(Statement(pixels=RANGES["0..1"]))
    with pytest.raises(UserError, match="carries its own contract"):
        bundle_file(files["onnx"], choice=choice)


def test_a_foreign_file_gets_the_contract_that_the_user_states(
    files: dict[str, Path], outside: Path, photos: Path, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    onnx.save(model, foreign)
    statement = Statement(
        pixels=RANGES["torch"], channels="bgr", fit="pad", interpolation="lanczos",
        labels=("cat", "dog"),
    )  # fmt: skip
    choice = ContractChoice(statement)
    folder = unpacked(bundle_file(foreign, data=photos, choice=choice).path)
    photo = photos / "cat" / "3.png"
    outcome = run_outside(outside, folder / "python" / "classify.py", "--json", photo)
    assert outcome.returncode == 0, outcome.stderr
    assert [json.loads(outcome.stdout)] == predict_photos(foreign, [photo], choice=choice)
    assert run_outside(outside, folder / "python" / "classify.py").returncode == 0
    card = (folder / "model_card.md").read_text()
    assert "cat, dog" in card
    assert "How the model was trained is not known" in card


def test_a_foreign_file_without_photos_says_what_is_not_measured(
    files: dict[str, Path], tmp_path: Path
) -> None:
    made = bundle_file(files["tflite"], out=tmp_path / "a.zip")
    assert made.num_photos == 0
    readme = (unpacked(made.path) / "README.md").read_text()
    assert "Accuracy and latency were not measured" in readme


def test_photos_are_drawn_from_classes_in_turn() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2, 2], "int32")
    ids = ["c", "a", "b", "z", "g", "f", "e"]
    test = Examples(ids, [Path(i) for i in ids], labels, ["x", "y", "z"])
    # The first of each class by id: a, z, e; then the second of those that have one: b, f.
    assert [ids[row] for row in drawn_rows(test)] == ["a", "z", "e", "b", "f"]
    many = np.arange(100, dtype="int32")
    names = [f"{i:03}" for i in many]
    spread = Examples(names, [Path(n) for n in names], many, names)
    assert [int(many[row]) for row in drawn_rows(spread)] == [0, 25, 50, 74, 99]
    assert drawn_rows(Examples([], [], many[:0], [])) == []


def test_the_wheel_holds_every_template() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = config["tool"]["setuptools"]["package-data"]["compress.bundle"]
    files = [path for path in TEMPLATES.rglob("*") if path.is_file()]
    assert files
    for path in files:
        name = path.relative_to(TEMPLATES.parent).as_posix()
        assert any(
            fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns
        )
