"""Files timed in rounds, on devices whose times are fixed in advance."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs.errors import StepFailed, UserError
from configs.registry import Registry
from eval.devices.probe import Finished, MachineState, Readings, Ready
from eval.devices.session import DeviceLost
from eval.timing import measure as measuring
from eval.timing import rounds
from eval.timing.differences import difference
from eval.timing.latency import Latency
from eval.timing.measure import measure
from eval.timing.rounds import Journal, warm_up


def device_of(
    open_file: Callable[..., Any], is_back: Callable[[], bool] = lambda: True
) -> Callable[[], Any]:
    """A device, as DEVICES has them, that opens its sessions with `open_file`."""
    device = SimpleNamespace(open=open_file, formats=(".onnx",), is_back=is_back)
    return lambda: nullcontext(device)


class Recorder:
    """A device whose n-th execution of a file, over all its processes, takes n milliseconds."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self.breaks_after: int | None = None
        self.breaks_with: type[Exception] = StepFailed
        self.num_checks = 0

    def stub(self, file: Path, *, num_threads: int) -> Any:
        recorder = self

        class Session:
            count, opened = 0, 1

            @property
            def ready(self) -> Ready:
                return Ready(
                    load_ms=5.0 * self.opened,
                    first_ms=2.0 * self.opened,
                    runtime="stub",
                    runtime_version="1",
                    batch=1,
                    state=MachineState(cpu="stub", load=0.5),
                )

            def reopen(self) -> None:
                recorder.runs.append((file.name, 0))
                self.opened += 1

            def run(self, count: int) -> list[float]:
                recorder.runs.append((file.name, count))
                if recorder.breaks_after is not None and len(recorder.runs) > recorder.breaks_after:
                    raise recorder.breaks_with("broken")
                self.count += count
                return [float(n) for n in range(self.count - count + 1, self.count + 1)]

            def close(self) -> Finished:
                recorder.ended.append(file.name)
                return Finished(7.0, MachineState(cpu="stub", load=0.75))

            def kill(self) -> None:
                recorder.ended.append(file.name)

        return Session()

    def is_back(self) -> bool:
        """True from the second time on."""
        self.num_checks, self.breaks_after = self.num_checks + 1, None
        return self.num_checks == 2


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder, devices = Recorder(), Registry("device")
    devices.add(device_of(recorder.stub, recorder.is_back), name="stub")
    monkeypatch.setattr(measuring, "DEVICES", devices)
    return recorder


FILES = [Path("a.onnx"), Path("b.onnx"), Path("c.onnx")]


def test_files_take_turns_and_the_first_takes_part_twice(recorder: Recorder) -> None:
    measure(FILES, device="stub", num_warmup=0, num_runs=40)
    timed = "".join(name[0] for name, count in recorder.runs if count == 10)
    assert timed == "abca" + "bcaa" + "caab" + "aabc"


def test_every_round_but_the_first_starts_in_new_processes(recorder: Recorder) -> None:
    measure(FILES[:1], device="stub", num_warmup=0, num_runs=20)
    assert recorder.runs == [("a.onnx", n) for n in (10, 10, 0, 10, 0, 10)]


def test_every_timed_execution_is_stored_and_summarized(recorder: Recorder) -> None:
    done: list[int] = []
    rows = measure(FILES, device="stub", num_warmup=3, num_runs=20, progress=done.append)
    row = rows[FILES[1]]
    # In each of two rounds: three and five executions to warm up, then ten timed ones.
    assert row.times_ms == (*range(9, 19), *range(27, 37))
    assert row.round_min_ms == (9, 27)
    assert (row.p50_ms, row.mean_ms, row.num_warmup) == (22.5, 22.5, 8)
    assert row.p90_ms == pytest.approx(34.1)  # the 18th of 20 and 0.1 of the way to the 19th
    assert (row.load_ms, row.first_ms, row.peak_rss_mib) == (7.5, 3.0, 7)
    assert (row.device, row.runtime, row.num_runs) == ("stub", "stub 1", 20)
    assert row.state == MachineState(cpu="stub", load=0.5, after=Readings(load=0.75))
    assert done[-1] == 4 * 20
    assert done == sorted(done)
    assert recorder.ended == ["a.onnx", "b.onnx", "c.onnx", "a.onnx"]


def test_a_failure_ends_every_probe(recorder: Recorder) -> None:
    recorder.breaks_after = 4
    with pytest.raises(StepFailed, match="broken"):
        measure(FILES, device="stub", num_runs=5)
    assert sorted(recorder.ended) == ["a.onnx", "a.onnx", "b.onnx", "c.onnx"]


def test_a_round_is_taken_again_when_the_device_went_away_in_it(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PATIENCE_SECONDS", 0.1)
    recorder.breaks_after, recorder.breaks_with = 4, DeviceLost
    rows = measure(FILES[:1], device="stub", num_warmup=0, num_runs=20)
    # A round of both, a round that the second of them broke, and that round in new sessions.
    assert [count for _, count in recorder.runs] == [10, 10, 0, 10, 0, 10, 10, 10]
    assert recorder.num_checks == 2
    assert rows[FILES[0]].times_ms == (*range(1, 11), *range(1, 11))


def test_a_device_that_goes_away_twice_in_one_round_is_given_up(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "DEVICES", devices := Registry("device"))
    devices.add(device_of(recorder.stub, lambda: True), name="stub")
    recorder.breaks_after, recorder.breaks_with = 0, DeviceLost
    with pytest.raises(DeviceLost, match="broken"):
        measure(FILES[:1], device="stub", num_warmup=0, num_runs=20)
    assert len(recorder.runs) == 2


def test_finished_rounds_are_stored_if_the_device_does_not_come_back(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rounds, "PATIENCE_SECONDS", 0.0)
    recorder.breaks_after, recorder.breaks_with = 4, DeviceLost
    journal = Journal(tmp_path / "rounds.jsonl")
    with pytest.raises(StepFailed, match="1 of 2 rounds are done"):
        measure(FILES[:1], device="stub", num_warmup=0, num_runs=20, journal=journal)
    recorder.runs, recorder.breaks_after = [], None
    measure(FILES[:1], device="stub", num_warmup=0, num_runs=20, journal=journal)
    assert [count for _, count in recorder.runs] == [10, 10]
    assert len(journal.rounds()) == 2
    (tmp_path / "rounds.jsonl").write_text('[{"ready": {}, "num_w')  # an incomplete line
    assert journal.rounds() == []


def test_files_that_a_device_does_not_execute_are_left_out(recorder: Recorder) -> None:
    assert list(measure([Path("a.tflite"), FILES[0]], device="stub", num_runs=5)) == [FILES[0]]
    with pytest.raises(UserError, match=r"stub executes \.onnx files; got a\.tflite"):
        measure([Path("a.tflite")], device="stub", num_runs=5)


def test_a_file_named_twice_is_one_file(recorder: Recorder) -> None:
    assert list(measure([FILES[0]] * 2, device="stub", num_runs=5)) == [FILES[0]]


def test_no_files_have_no_rows(recorder: Recorder) -> None:
    assert measure([], device="stub") == {}


class Falling:
    """A session whose times fall to 1 ms after `slow_runs` executions."""

    def __init__(self, slow_runs: int) -> None:
        self.times = itertools.chain(
            (100.0 * 0.9**n for n in range(slow_runs)), itertools.cycle([1.0])
        )

    def run(self, count: int) -> list[float]:
        return list(itertools.islice(self.times, count))


@pytest.mark.parametrize(
    ("slow_runs", "num_warmup", "expected"),
    [
        (0, 10, 15),  # the least, and five that are no faster
        (12, 10, 20),  # 8 to 12 are slow, 13 to 15 of the next five fast, then all
        (12, 20, 25),
        (10_000, 10, rounds.MAX_WARMUP),
        (12, 0, 0),
    ],
)
def test_warm_up_lasts_until_times_stop_falling(
    slow_runs: int, num_warmup: int, expected: int
) -> None:
    assert warm_up(Falling(slow_runs), num_warmup) == expected  # type: ignore[arg-type]


def drawn(
    monkeypatch: pytest.MonkeyPatch, seed: int, factors: dict[str, float]
) -> dict[str, Latency]:
    """Latencies on a device with drift, bursts and a random speed of each process."""
    rng, devices, drift = (
        np.random.default_rng(seed),
        Registry("device"),
        iter(np.linspace(1, 2, 9999)),
    )

    def noisy(file: Path, *, num_threads: int) -> Any:
        class Session:
            ready = Ready(load_ms=1.0, first_ms=1.0, runtime="", runtime_version="", batch=1)
            luck = rng.normal(0, 0.02)

            def reopen(self) -> None:
                self.luck = rng.normal(0, 0.02)

            def run(self, count: int) -> list[float]:
                burst = rng.exponential(0.3) if rng.random() < 0.1 else 0.0
                level = factors[file.stem] * np.exp(self.luck + burst) * next(drift)
                return list(level * np.exp(rng.normal(0, 0.05, count)))

            def close(self) -> Finished:
                return Finished(1.0)

        return Session()

    devices.add(device_of(noisy), name="noisy")
    monkeypatch.setattr(measuring, "DEVICES", devices)
    rows = measure([Path(f"{name}.onnx") for name in factors], device="noisy", num_runs=200)
    return {file.stem: row for file, row in rows.items()}


def test_copies_do_not_differ_and_a_file_with_ten_percent_more_work_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies, slower = [], []
    for seed in range(20):
        rows = drawn(monkeypatch, seed, {"one": 1.0, "copy": 1.0, "more": 1.1})
        copies.append(difference(rows["copy"], rows["one"]))
        slower.append(difference(rows["more"], rows["one"]))
    assert [speed.verdict for speed in copies if speed] == ["no difference"] * 20
    assert [speed.verdict for speed in slower if speed] == ["slower"] * 20


def test_this_machine_times_both_formats(onnx_file: Path, tflite_files: dict[str, Path]) -> None:
    files = [onnx_file, tflite_files["int8"]]
    rows = measure(files, num_warmup=2, num_runs=20)
    assert list(rows) == files
    for row in rows.values():
        assert len(row.times_ms) == row.num_runs == 20
        assert 0 < row.p50_ms <= (row.p90_ms or 0) <= (row.p99_ms or 0)
        assert row.noise_floor is None  # two rounds are too few
        assert row.state.cpu
    assert rows[onnx_file].runtime.startswith("onnxruntime ")
    assert rows[onnx_file].delegate is None
    assert rows[files[1]].runtime.startswith("litert ")
    delegate = rows[files[1]].delegate
    assert delegate is not None
    assert delegate.num_ops > 0
