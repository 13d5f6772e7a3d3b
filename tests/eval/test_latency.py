from pathlib import Path
from typing import Any

import pytest

from configs.errors import StepFailed
from configs.registry import Registry
from eval import latency
from eval.latency import measure

FIELDS = {
    "device", "runtime", "num_threads", "batch", "num_warmup", "num_runs",
    "p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_ms", "peak_rss_mib", "times_ms",
}  # fmt: skip


class Recorder:
    """A device whose n-th execution of a file takes n milliseconds."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self.breaks_after: int | None = None

    def stub(self, file: Path, *, num_threads: int) -> Any:
        recorder = self

        class Session:
            ready = {"runtime": "stub", "runtime_version": "1", "load_ms": 5.0, "batch": 1}  # noqa: RUF012
            count = 0

            def run(self, count: int) -> list[float]:
                recorder.runs.append((file.name, count))
                if recorder.breaks_after is not None and len(recorder.runs) > recorder.breaks_after:
                    raise StepFailed("broken")
                self.count += count
                return [float(n) for n in range(self.count - count + 1, self.count + 1)]

            def close(self) -> dict[str, float]:
                recorder.ended.append(file.name)
                return {"peak_rss_mib": 7.0}

            def kill(self) -> None:
                recorder.ended.append(file.name)

        return Session()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder, devices = Recorder(), Registry("device")
    devices.add(recorder.stub, name="stub")
    monkeypatch.setattr(latency, "DEVICES", devices)
    return recorder


FILES = [Path("a.onnx"), Path("b.onnx"), Path("c.onnx")]


def test_files_take_turns_and_each_round_starts_with_another(recorder: Recorder) -> None:
    measure(FILES, device="stub", num_warmup=3, num_runs=20)
    assert recorder.runs[:3] == [("a.onnx", 3), ("b.onnx", 3), ("c.onnx", 3)]
    timed = [name[0] for name, count in recorder.runs[3:] if count == 2]
    assert "".join(timed) == "abcbcacab" * 3 + "abc"


def test_every_timed_run_is_kept_and_summed_up(recorder: Recorder) -> None:
    done: list[int] = []
    rows = measure(FILES, device="stub", num_warmup=3, num_runs=5, progress=done.append)
    row = rows[FILES[1]]
    # Three to warm up, then in five rounds an untimed and a timed one: 5, 7, 9, 11, 13
    assert row["times_ms"] == [5, 7, 9, 11, 13]
    assert (row["p50_ms"], row["mean_ms"], row["load_ms"], row["peak_rss_mib"]) == (9, 9, 5, 7)
    assert row["p90_ms"] == pytest.approx(12.2)  # 11 + 0.6 * 2
    assert (row["device"], row["runtime"], row["num_runs"]) == ("stub", "stub 1", 5)
    assert done[-1] == 3 * (3 + 5)
    assert done == sorted(done)
    assert recorder.ended == ["a.onnx", "b.onnx", "c.onnx"]


def test_a_failure_ends_every_probe(recorder: Recorder) -> None:
    recorder.breaks_after = 4
    with pytest.raises(StepFailed, match="broken"):
        measure(FILES, device="stub", num_runs=5)
    assert sorted(recorder.ended) == ["a.onnx", "b.onnx", "c.onnx"]


def test_a_file_named_twice_is_timed_once(recorder: Recorder) -> None:
    assert list(measure([FILES[0]] * 2, device="stub", num_runs=5)) == [FILES[0]]
    assert recorder.ended == ["a.onnx"]


def test_this_machine_times_both_formats(onnx_file: Path, tflite_files: dict[str, Path]) -> None:
    files = [onnx_file, tflite_files["int8"]]
    rows = measure(files, num_warmup=2, num_runs=12)
    assert list(rows) == files
    for row in rows.values():
        assert set(row) == FIELDS
        assert len(row["times_ms"]) == row["num_runs"] == 12
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
    assert rows[onnx_file]["runtime"].startswith("onnxruntime ")
    assert rows[files[1]]["runtime"].startswith("litert ")
