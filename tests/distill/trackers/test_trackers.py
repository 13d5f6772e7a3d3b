"""What trackers were told, read by the reader of each."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.config_choices import REGISTRIES
from configs.errors import UserError
from configs.loading.experiment import load_experiment
from configs.loading.targets import CONFIGS
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.trackers import TRACKERS
from distill.trackers.of_run import Trackers, check_trackers, open_trackers, publish_report

REPORT = {
    "models": [{"name": "student", "accuracy": {"top1": 0.8, "nll": 0.5, "ece": 0.02}}],
    "files": [
        {
            "name": "student-int8.tflite",
            "accuracy": {"top1": 0.75, "nll": 0.6, "ece": 0.03},
            "file_bytes": 1234,
            "latency": [{"device": "local", "p50_ms": 1.5}],
        }
    ],
}


def experiment_with(trackers: str) -> Experiment:
    return load_experiment(CONFIGS / "smoke.yaml", REGISTRIES, [f"trackers={trackers}"])


def track(run: RunDir, experiment: Experiment) -> None:
    """A training that is killed after an epoch and continued, and the report."""
    for epoch, val_loss in ((1, 0.5), (2, 0.25)):
        with open_trackers(run, experiment) as trackers:
            trackers.log_epoch("student", epoch, {"val_loss": val_loss})
    run.file("x").parent.mkdir(parents=True)
    run.file("student-int8.tflite").write_bytes(b"TFL3")
    (run.path / "report.json").write_text(json.dumps(REPORT))
    publish_report(run, experiment, REPORT)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "photos-run")


def test_mlflow_reads_its_file_store(run: RunDir) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    track(run, experiment_with("[mlflow]"))
    client = MlflowClient(tracking_uri=(run.path / "trackers" / "mlflow").as_uri())
    known = client.get_experiment_by_name("potstill")
    assert known is not None
    (found,) = client.search_runs([known.experiment_id])  # one, although it was opened three times
    assert found.info.run_name == "photos-run"
    assert found.info.status == "FINISHED"
    assert found.data.params["student.epochs"] == "2"
    assert found.data.params["student.loss.name"] == "kd"
    curve = client.get_metric_history(found.info.run_id, "student/val_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.5), (2, 0.25)]
    assert found.data.metrics["student-int8.tflite/top1"] == 0.75
    assert found.data.metrics["student-int8.tflite/p50_ms"] == 1.5
    paths = {item.path for item in client.list_artifacts(found.info.run_id, "files")}
    assert paths == {"files/student-int8.tflite", "files/report.json"}


def test_tensorboard_reads_its_event_files(run: RunDir) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.util.tensor_util import make_ndarray

    track(run, experiment_with("[tensorboard]"))
    reader = EventMultiplexer().AddRunsFromDirectory(str(run.path / "trackers" / "tensorboard"))
    reader.Reload()
    assert set(reader.Runs()) == {"student", "run"}
    curve = reader.Tensors("student", "val_loss")
    assert [(point.step, float(make_ndarray(point.tensor_proto))) for point in curve] == [
        (1, 0.5),
        (2, 0.25),
    ]
    texts = {
        tag: str(make_ndarray(reader.Tensors("run", tag)[-1].tensor_proto))
        for tag in ("config", "report", "files")
    }
    assert "| student.epochs | 2 |" in texts["config"]
    assert "| student-int8.tflite | 0.75 | 0.6 | 0.03 | 1234 | 1.5 |" in texts["report"]
    assert "student-int8.tflite" in texts["files"]


def wandb_records(path: Path) -> Iterator:
    """The records of a .wandb file, parsed by W&B's own protocol.

    The package has no public reader. The file is a log as LevelDB writes it: blocks of 32 KiB that
    hold fragments of records, each behind a checksum, its length and its kind.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_reads_its_offline_files(run: RunDir) -> None:
    pytest.importorskip("wandb")
    track(run, experiment_with("[{name: wandb, mode: offline}]"))
    files = sorted((run.path / "trackers" / "wandb").glob("offline-run-*/*.wandb"))
    assert files
    assert len({path.name for path in files}) == 1  # all are parts of one run
    settings, curve, artifacts, table = {}, [], [], {}
    for path in files:
        for record in wandb_records(path):
            for update in [*record.run.config.update, *record.config.update]:
                settings[update.key or ".".join(update.nested_key)] = update.value_json
            items = {
                item.key or ".".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            if "student/val_loss" in items:
                curve.append((items["student/epoch"], items["student/val_loss"]))
            if "report.path" in items:
                table = json.loads(
                    (path.parent / "files" / json.loads(items["report.path"])).read_text()
                )
            artifact = record.request.log_artifact.artifact.name or record.artifact.name
            artifacts += [artifact] if artifact else []
    assert settings["student.epochs"] == "2"
    assert curve == [("1", "0.5"), ("2", "0.25")]
    assert table["columns"] == ["name", "top1", "nll", "ece", "file_bytes", "p50_ms"]
    assert table["data"][1] == ["student-int8.tflite", 0.75, 0.6, 0.03, 1234, 1.5]
    assert "photos-run-files" in artifacts


def test_a_missing_package_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TRACKERS._facts, "wandb", {"package": "no_such_package"})
    with pytest.raises(UserError, match=r"pip install 'potstill\[wandb\]'"):
        check_trackers(experiment_with("[wandb]"))
    check_trackers(experiment_with("[]"))
    with pytest.raises(UserError, match=r"trackers\[0\]: unknown tracker 'tensorbord'. Did you"):
        experiment_with("[tensorbord]")
    with pytest.raises(UserError, match="names mlflow twice"):
        experiment_with("[mlflow, {name: mlflow, uri: x}]")


def test_a_tracker_that_fails_is_left_out(warnings: list[str]) -> None:
    class Away:
        def log_epoch(self, model: str, epoch: int, values: object) -> None:
            raise ConnectionError("the server is away")

    trackers = Trackers({"mlflow": Away()})
    for epoch in (1, 2):
        trackers.log_epoch("student", epoch, {})
    (message,) = warnings
    assert "tracker mlflow failed" in message
    assert "the server is away" in message
    trackers.close()


def test_a_tracker_that_cannot_be_opened_says_so(run: RunDir) -> None:
    pytest.importorskip("mlflow")
    experiment = experiment_with("[{name: mlflow, uri: 'gopher://x'}]")
    with (
        pytest.raises(UserError, match="tracker mlflow cannot be opened"),
        open_trackers(run, experiment),
    ):
        pass
