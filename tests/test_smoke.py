"""configs/smoke.yaml from teacher to report: real training, real conversion, real runtimes."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from compress import prune as apply
from compress.config_choices import REGISTRIES
from compress.methods import METHODS, channel_sizes
from compress.prune import method_step
from configs.artifacts import file_sha256, read_json
from configs.loading.experiment import load_experiment
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from distill.backbones.macs import count_macs
from distill.data.pipelines import open_photo_store
from support import Outcome, command, save_photo, timed_by_size

FILES = {
    f"{source}-{recipe}"
    for source in ("student", "magnitude")
    for recipe in ("float32.tflite", "int8.tflite", "float32.onnx", "int8.onnx")
}


@pytest.fixture(scope="module")
def report(smoke_run: Path) -> dict:
    return json.loads((smoke_run / "report.json").read_text())


def test_the_report_keeps_its_contract(report: dict) -> None:
    assert {"run", "created", "seed", "machine", "data", "models", "files", "verdict"} <= set(
        report
    )
    assert {row["name"] for row in report["files"]} == FILES
    assert [row["name"] for row in report["models"]] == [
        "teacher", "student", "control", "magnitude",
    ]  # fmt: skip
    accuracy = {
        "split", "n", "top1", "top1_low", "top1_high", "top5", "macro_f1", "nll", "ece",
        "agreement_with_teacher",
    }  # fmt: skip
    of_a_file = {
        "agreement_with_source", "num_flips", "drop_vs_source", "drop_vs_student", "mcnemar_p",
    }  # fmt: skip
    latency = {
        "device", "runtime", "num_threads", "batch", "num_warmup", "num_runs", "p50_ms", "p90_ms",
        "p99_ms", "mean_ms", "load_ms", "peak_rss_mib",
    }  # fmt: skip
    for model in report["models"]:
        assert {"backbone", "input_shape", "num_parameters", "num_macs"} <= set(model)
        assert accuracy <= set(model["accuracy"])
    for row in report["files"]:
        assert accuracy | of_a_file <= set(row["accuracy"])
        assert row["accuracy"]["split"] == "test"
        assert row["accuracy"]["n"] == report["data"]["num_test"]
        assert latency <= set(row["latency"][0])
        assert row["zip_bytes"] < row["file_bytes"]
    assert report["verdict"]["chosen_file"] in FILES


def test_float_files_answer_as_their_models(report: dict) -> None:
    for row in report["files"]:
        if row["recipe"].endswith("float32"):
            assert row["parity"]["max_abs_diff"] < 1e-3
            assert row["parity"]["argmax_equal"] == row["parity"]["n"] == row["accuracy"]["n"]


def test_raw_times_are_kept(smoke_run: Path) -> None:
    latency = json.loads((smoke_run / "results" / "latency-local.json").read_text())["latency"]
    assert {len(row["times_ms"]) for row in latency.values()} == {30}


def test_training_is_written_down_epoch_by_epoch(smoke_run: Path) -> None:
    for name in ("teacher", "student", "control"):
        with open(smoke_run / name / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1", "2"]
    assert not list(smoke_run.rglob("checkpoint"))
    assert not list(smoke_run.rglob(".unfinished*"))


def test_the_page_needs_no_network(smoke_run: Path) -> None:
    page = (smoke_run / "report.html").read_text()
    assert len(page) < 1_000_000
    for word in ("http://", "https://", 'src="/', "@import"):
        assert word not in page.replace("http://www.w3.org/", "")


def test_the_model_card_names_every_file(smoke_run: Path) -> None:
    card = (smoke_run / "model_card.md").read_text()
    assert all(f"| {name}" in card for name in FILES)


def test_a_second_run_does_nothing_again(smoke_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke_run.rglob("manifest.json")}
    outcome = command("distill", "run", "smoke", "--run", smoke_run)
    assert outcome.code == 0
    assert "working" not in outcome.err
    assert {p: p.stat().st_mtime_ns for p in smoke_run.rglob("manifest.json")} == before
    assert "student-int8.tflite" in outcome.out
    assert str(smoke_run / "report.html") in outcome.out


def test_another_temperature_leaves_teacher_soft_labels_and_control(smoke_run: Path) -> None:
    from configs.loading.targets import open_run
    from configs.resume import is_current
    from distill.data.pipelines import open_photo_store
    from distill.labels.soft_labels import soft_labels_step
    from distill.student import control_step, student_step
    from distill.teacher import teacher_step

    changed = ["student.loss.temperature=2"]

    def opened(overrides: list[str]) -> tuple[RunDir, Experiment]:
        return open_run("smoke", run=smoke_run, overrides=overrides, registries=lambda: REGISTRIES)

    run, experiment = opened(changed)
    current = {
        step.name: is_current(step.manifest, step.inputs)
        for step in (
            make(run, experiment, open_photo_store(run, experiment))
            for make in (teacher_step, soft_labels_step, control_step, student_step)
        )
    }
    assert current == {"teacher": True, "soft labels": True, "control": True, "student": False}
    opened([])  # experiment.yaml as it was


@pytest.mark.parametrize("name", ["student-int8.tflite", "student-int8.onnx"])
def test_a_file_answers_about_photos(smoke_run: Path, tmp_path: Path, name: str) -> None:
    photo = save_photo(tmp_path / "a photo.png", seed=1)
    outcome = command("evaluate", "predict", smoke_run / "files" / name, photo, "--json")
    assert outcome.code == 0, outcome.err
    answer = json.loads(outcome.out.splitlines()[-1])["predictions"][0]["answers"]
    assert {a["class"] for a in answer} == {str(digit) for digit in range(10)}
    assert sum(a["probability"] for a in answer) == pytest.approx(1, abs=1e-5)


def test_a_run_becomes_a_bundle(smoke_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "app.zip"
    outcome = command("compress", "bundle", smoke_run, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    made = json.loads(outcome.out.splitlines()[-1])
    chosen = json.loads((smoke_run / "report.json").read_text())["verdict"]["chosen_file"]
    assert (made["bundle"], made["file"], made["num_photos"]) == (str(out), chosen, 5)
    with zipfile.ZipFile(out) as archive:
        folder = Path(chosen).stem
        card = archive.read(f"{folder}/model_card.md").decode()
        assert card == (smoke_run / "model_card.md").read_text()
        photos = json.loads(archive.read(f"{folder}/photos/expected.json"))["photos"]
        archive.extract(f"{folder}/photos/photo-1.png", tmp_path)
    photo = tmp_path / folder / "photos" / "photo-1.png"
    outcome = command("evaluate", "predict", smoke_run / "files" / chosen, photo, "--json")
    predicted = json.loads(outcome.out.splitlines()[-1])["predictions"][0]["answers"]
    assert photos[0]["answers"] == predicted

    outcome = command("compress", "bundle", smoke_run, "--pixels", "0..1")
    assert outcome.code == 2
    assert "--pixels has no effect" in outcome.err


def test_bare_files_are_scored_and_timed(smoke_run: Path) -> None:
    files = [
        smoke_run / "files" / "student-int8.tflite",
        smoke_run / "files" / "student-float32.onnx",
    ]
    digits = smoke_run / "data" / "digits"
    outcome = command("evaluate", "accuracy", *files, "--data", digits, "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out.splitlines()[-1])["files"]
    expected = json.loads((smoke_run / "report.json").read_text())["files"]
    top1 = {row["name"]: row["accuracy"]["top1"] for row in expected}
    for row in rows:  # the folder is split by the same rule, with the same default fractions
        assert row["accuracy"]["top1"] == top1[row["name"]]
    outcome = command("evaluate", "latency", *files, "--num-runs", "20", "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out.splitlines()[-1])["files"]
    assert all(row["latency"][0]["p50_ms"] > 0 for row in rows)


def test_a_damaged_model_is_named_and_made_again(smoke_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(smoke_run, run)
    model = run / "student" / "model.keras"
    model.write_bytes(b"x" * model.stat().st_size)
    (run / "files" / "student-int8.tflite.json").unlink()
    outcome = command("compress", "quantize", "smoke", "--run", run)
    assert outcome.code == 2
    assert "its files changed since" in outcome.err
    assert "distill student smoke" in outcome.err  # what makes it again
    assert "Traceback" not in outcome.err


def test_labels_of_two_shards_are_the_labels_of_one_process(
    smoke_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "shards"
    shutil.copytree(smoke_run, run)
    labels = next((run / "soft_labels").glob("*.npy"))
    whole = labels.read_bytes()
    labels.unlink()
    labels.with_suffix(".json").unlink()

    def label(*more: str) -> Outcome:
        return command("distill", "label", "smoke", "--run", run, *more)

    assert label("--shard", "1/2").code == 0
    lacking = label("--merge")
    assert lacking.code == 2
    assert "lacks shard 2 of 2" in lacking.err
    assert label("--shard", "2/2").code == 0
    merged = label("--merge", "--verify", "50", "--json")
    assert merged.code == 0, merged.err
    assert labels.read_bytes() == whole
    assert json.loads(merged.out.splitlines()[-1])["max_abs_diff"] < 0.02  # float16, logits < 16
    # Shards of another split beside them: some photos would be there twice.
    part = next((run / "soft_labels").glob("*.1-of-2.npy"))
    shutil.copy(part, part.with_name(part.name.replace("1-of-2", "1-of-3")))
    twice = label("--merge", "--force", "label")
    assert twice.code == 2
    assert "shards of 2 and of 3" in twice.err
    assert labels.read_bytes() == whole
    for wrong in ("3/2", "0/2", "one"):
        assert "--shard 1/4" in label("--shard", wrong).err


def test_labels_that_are_not_the_teachers_are_reported(smoke_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "wrong labels"
    shutil.copytree(smoke_run, run)
    path = next((run / "soft_labels").glob("*.npy"))
    manifest = path.with_suffix(".json")
    labels = np.load(path)
    np.save(path, labels + np.float16(1))
    facts = json.loads(manifest.read_text())
    facts["outputs"][path.name]["sha256"] = file_sha256(path)
    manifest.write_text(json.dumps(facts))
    outcome = command("distill", "label", "smoke", "--run", run, "--verify", "20")
    assert outcome.code == 1
    assert "20 of 20 soft labels are not what the teacher says now" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_run_is_compared_and_held_to_a_gate(smoke_run: Path) -> None:
    outcome = command("evaluate", "compare", smoke_run, smoke_run, "--json")
    assert outcome.code == 0, outcome.err
    first, second = json.loads(outcome.out.splitlines()[-1])["runs"]
    assert {**first, "mcnemar_p": None} == {**second, "mcnemar_p": None}
    for limit, code in (("0", 0), ("1", 1)):
        assert command("evaluate", "gate", smoke_run, "--min-top1", limit).code == code


def test_channels_that_were_measured_before_a_kill_are_those_that_learn_after_it(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(shutil.copytree(smoke_run, tmp_path / "run"))
    experiment = load_experiment(run.experiment, REGISTRIES, [])
    options = METHODS.check("channels", {"keep": 0.8, "of": "tflite.float32"})
    step = method_step(
        run, experiment, open_photo_store(run, experiment), parent="student", name="channels",
        method=Choice(name="channels", options=options),
    )  # fmt: skip
    learning: list[int] = []

    def killed(*words: object, **_: object) -> None:
        learning.append(count_macs(words[-1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(channel_sizes, "time_together", timed_by_size)
    monkeypatch.setattr(apply, "finetune", killed)
    with pytest.raises(KeyboardInterrupt):
        take_step(step)
    monkeypatch.setattr(channel_sizes, "time_together", None)
    monkeypatch.setattr(
        apply, "finetune", lambda *words, **_: learning.append(count_macs(words[-1]))
    )
    take_step(step)
    assert learning[0] == learning[1]
    manifest = read_json(run.model_dir("channels") / "manifest.json")
    assert manifest["latency"]["ratio"] <= 0.8
    assert manifest["num_macs"] == learning[0]
    assert not (run.model_dir("channels") / "checkpoint").exists()
