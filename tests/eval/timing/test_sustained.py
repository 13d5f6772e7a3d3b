"""Files under load: arithmetic against a session whose times are fixed in advance."""

import itertools
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from configs.resume import Step, take_step
from configs.run_dir import RunDir
from eval.devices.probe import MachineState
from eval.timing.modes import sustain_step
from eval.timing.sustained import NUM_INTERVALS, single_stream, thermal_curve


class Session:
    """Its executions take the given milliseconds; it is warmer every time its state is read."""

    def __init__(self, times_ms: Iterable[float]) -> None:
        self.times_ms, self.num_states = iter(times_ms), 0

    def run(self, count: int) -> list[float]:
        return list(itertools.islice(self.times_ms, count))

    def state(self) -> MachineState:
        self.num_states += 1
        return MachineState(cpu="stub", temperature_c=40.0 + self.num_states)


def test_a_curve_has_its_intervals_in_equal_times() -> None:
    # A minute at 10 ms, then throttled to 20 ms: ten intervals of 6 s each, and ten more.
    session = Session(itertools.chain([10.0] * 6000, itertools.repeat(20.0)))
    intervals = thermal_curve(session, seconds=120).intervals  # type: ignore[arg-type]
    assert len(intervals) == NUM_INTERVALS
    assert [interval.p50_ms for interval in intervals] == [10.0] * 10 + [20.0] * 10
    assert [interval.minute for interval in intervals] == pytest.approx(
        np.arange(1, 21) / 10, abs=0.01
    )  # an interval ends with the execution that fills it
    assert [interval.temperature_c for interval in intervals] == list(range(41, 61))


@pytest.mark.parametrize(
    ("time_ms", "num_queries", "seconds", "expected"),
    [
        (2.0, 1024, 60, 30_000),  # the time is reached last
        (100.0, 1024, 60, 1024),  # the number is
        (100.0, 8, 1, 10),
    ],
)
def test_a_stream_reaches_both_minima(
    time_ms: float, num_queries: int, seconds: float, expected: int
) -> None:
    session = Session(itertools.repeat(time_ms))
    stream = single_stream(session, num_queries=num_queries, seconds=seconds)  # type: ignore[arg-type]
    assert stream.num_queries == len(stream.times_ms) == expected
    assert stream.seconds == pytest.approx(expected * time_ms / 1000)
    assert stream.p90_ms == time_ms


def test_the_p90_is_that_of_all_queries() -> None:
    session = Session(itertools.chain([5.0] * 15, itertools.cycle([1.0] * 85 + [9.0] * 15)))
    stream = single_stream(session, num_queries=1000, seconds=0.5)  # type: ignore[arg-type]
    assert (stream.p50_ms, stream.p90_ms) == (1.0, 9.0)


def test_a_bare_file_is_timed_under_load(program, onnx_file: Path) -> None:
    outcome = program("evaluate", "latency", onnx_file, "--thermal", "0.002", "--json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out.splitlines()[-1])["files"]
    assert len(row["intervals"]) == NUM_INTERVALS
    assert row["intervals"][-1]["minute"] >= 0.002
    assert row["device"] == "local"
    outcome = program("evaluate", "latency", onnx_file, "--thermal", "0.002")
    assert "colours.onnx" in outcome.out
    assert "change %" in outcome.out


def test_measurements_of_a_run_are_stored_and_not_repeated(tmp_path: Path, onnx_file: Path) -> None:
    run = RunDir(tmp_path)
    task = partial(single_stream, num_queries=30, seconds=0.01)

    def step(num_queries: int) -> Step:
        return sustain_step(
            run,
            [onnx_file],
            task,
            name="single-stream",
            settings={"num_queries": num_queries},
            device="local",
            options={},
            num_threads=1,
        )

    row = take_step(step(30))["files"][onnx_file.name]
    assert len(row["times_ms"]) == row["num_queries"] >= 30
    assert row["runtime"].startswith("onnxruntime ")
    assert row["state"]["cpu"]
    path = tmp_path / "results" / "single-stream-local.json"
    written = path.stat().st_mtime_ns
    assert take_step(step(30))["files"][onnx_file.name] == row
    assert path.stat().st_mtime_ns == written
    take_step(step(31))
    assert path.stat().st_mtime_ns != written


def test_a_bare_file_answers_a_stream(
    program, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_stream, "__kwdefaults__", {"num_queries": 20, "seconds": 0.01})
    outcome = program("evaluate", "latency", onnx_file, "--single-stream", "--json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out.splitlines()[-1])["files"]
    assert row["num_queries"] >= 20
    assert row["seconds"] >= 0.01
    assert "times_ms" not in row


def test_the_operators_of_an_onnx_file_are_timed(program, onnx_file: Path) -> None:
    outcome = program("evaluate", "latency", onnx_file, "--profile", "--json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out.splitlines()[-1])["files"]
    operators = {operator["operator"]: operator for operator in row["operators"]}
    assert set(operators) == {"ReduceMean", "MatMul", "Softmax"}
    assert all(o["num_nodes"] == 1 and o["ms"] > 0 for o in operators.values())
    times = [operator["ms"] for operator in row["operators"]]
    assert times == sorted(times, reverse=True)


def test_litert_files_have_no_profile(
    program, onnx_file: Path, tflite_files: dict[str, Path]
) -> None:
    outcome = program("evaluate", "latency", tflite_files["int8"], "--profile")
    assert outcome.code == 2
    assert "--profile is for .onnx files; got colours-int8.tflite" in outcome.err
    # Of several files, the others are profiled.
    outcome = program("evaluate", "latency", tflite_files["int8"], onnx_file, "--profile")
    assert outcome.code == 0
    assert "colours-int8.tflite are left out: --profile cannot measure them" in outcome.err
    assert "colours.onnx" in outcome.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--thermal", "1", "--single-stream"], "are measurements of their own"),
        (["--single-stream", "--profile"], "are measurements of their own"),
        (["--thermal", "0"], "expected minutes above 0"),
        (["--single-stream", "--num-runs", "9"], "--num-runs has no effect"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    program, onnx_file: Path, words: list, says: str
) -> None:
    outcome = program("evaluate", "latency", onnx_file, *words)
    assert outcome.code == 2
    assert says in outcome.err
