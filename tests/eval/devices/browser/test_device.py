"""Files measured in a browser: the page is played by a client that speaks its protocol."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser_page import USER_AGENT, Page
from configs.errors import StepFailed, UserError
from eval.devices.browser import device as device_module
from eval.devices.browser import link
from eval.devices.registry import DEVICES, check_device, device_label, parse_device
from eval.timing import rounds
from eval.timing.differences import difference
from eval.timing.measure import measure
from eval.timing.rounds import Journal
from support import Outcome

browser = DEVICES["browser"]
VERSIONS = {".tflite": "litert.js 2.5.3 wasm", ".onnx": "onnxruntime-web 1.30.0 wasm"}


def test_files_are_timed_there_as_on_any_device(
    visitors: Callable[..., Any], onnx_file: Path, tflite_files: dict[str, Path], tmp_path: Path
) -> None:
    visitors()
    copy = Path(shutil.copy(onnx_file, tmp_path / "copy.onnx"))
    files = [onnx_file, copy, tflite_files["float32"]]
    rows = measure(files, device="browser", num_threads=4, num_warmup=5, num_runs=70)
    assert list(rows) == files
    for file, row in rows.items():
        assert row.runtime == VERSIONS[file.suffix]
        assert len(row.times_ms) == row.num_runs == 70
        assert len(row.round_min_ms) == 7
        assert row.num_threads == 1  # a page that is not isolated has no more
        assert (row.state.num_cores, row.state.os) == (8, USER_AGENT)
        assert row.state.cpu is None
        assert (row.load_ms, row.first_ms, row.peak_rss_mib) == (5.0, 2.0, None)
    verdict = difference(rows[copy], rows[onnx_file])
    assert verdict is not None
    assert verdict.verdict == "no difference"


def test_the_command_prints_a_table_and_says_that_one_thread_was_used(
    visitors: Callable[..., Any], program: Callable[..., Outcome], onnx_file: Path
) -> None:
    visitors()
    words = ["evaluate", "latency", onnx_file, "--device", "browser:pixel", "--num-runs", 20]
    outcome = program(*words, "--num-threads", 2)
    assert outcome.code == 0, outcome.err
    assert "colours.onnx" in outcome.out
    assert "1 of 2 threads. A browser gives threads to a page over https" in outcome.out
    visitors()
    (row,) = json.loads(program(*words, "--json").out)["files"]
    assert row["latency"][0]["device"] == "browser:pixel"
    assert row["latency"][0]["num_threads"] == 1


def test_a_file_that_answers_differently_there_is_not_timed(
    visitors: Callable[..., Any], onnx_file: Path
) -> None:
    def swapped(page: Page, message: Any) -> Any:
        answer = page.answer(message)
        return {"answer": answer["answer"][::-1]} if "answer" in answer else answer

    visitors(respond=swapped)
    with pytest.raises(StepFailed, match="answers differently in the browser: by 0"):
        measure([onnx_file], device="browser", num_runs=10)


@pytest.mark.parametrize(
    ("key", "answer", "problem"),
    [
        ("open", {"error": "out of memory"}, "cannot be executed in the browser: out of memory"),
        ("open", {"load_ms": 1.0}, "expected numbers for load_ms and first_ms"),
        ("image", {"answer": [0.5, 0.5]}, "with 2 numbers"),
        ("run", {"times_ms": [1.0] * 3}, "expected 10 times above 0"),
        ("run", {"times_ms": [0.0] * 10}, "expected 10 times above 0"),
        ("run", {"times_ms": ["soon"] * 10}, "expected numbers for times_ms"),
        ("run", {"times_ms": [float("nan")] * 10}, "expected numbers for times_ms"),
    ],
)
def test_answers_that_make_no_sense_are_refused(
    visitors: Callable[..., Any], onnx_file: Path, key: str, answer: Any, problem: str
) -> None:
    visitors(respond=lambda page, message: answer if key in message else None)
    with pytest.raises(StepFailed, match=problem):
        measure([onnx_file], device="browser", num_warmup=10, num_runs=10)


def test_a_tab_that_is_closed_and_opened_again_costs_one_round(
    visitors: Callable[..., Any], onnx_file: Path, tmp_path: Path
) -> None:
    def closes_once(page: Page, message: Any) -> None:
        if len(pages) == 1 and page.num_runs == 7 and "run" in message:
            page.close()
            pages.append(Page(page.url, folder=tmp_path))

    pages = visitors(respond=closes_once)
    journal = Journal(tmp_path / "rounds.jsonl")
    rows = measure([onnx_file], device="browser", num_warmup=0, num_runs=50, journal=journal)
    assert len(rows[onnx_file].times_ms) == 50
    assert len(journal.rounds()) == 5
    # Two turns a round: three rounds, a turn and the one that was lost; then two rounds.
    assert [page.num_runs for page in pages] == [8, 4]


def test_rounds_are_kept_if_nobody_opens_it_again(
    visitors: Callable[..., Any],
    onnx_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitors(respond=lambda page, _: page.vanish() if page.num_runs == 5 else None)
    journal = Journal(tmp_path / "rounds.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "PATIENCE_SECONDS", 0.1)
        patch.setattr(link, "SILENCE_SECONDS", 0.3)
        patch.setattr(link, "HOLD_SECONDS", 0.1)
        with pytest.raises(StepFailed) as stopped:
            measure([onnx_file], device="browser", num_warmup=0, num_runs=50, journal=journal)
    assert "the browser is gone: its page was silent" in str(stopped.value)
    assert "Open it again: http" in str(stopped.value)
    assert "2 of 5 rounds are done" in str(stopped.value)
    pages = visitors()
    measure([onnx_file], device="browser", num_warmup=0, num_runs=50, journal=journal)
    assert pages[-1].num_runs == 6


def test_nobody_opens_it(visitors: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "OPENING_SECONDS", 0.0)
    monkeypatch.setattr(device_module.progress, "announce", lambda text: None)
    with pytest.raises(StepFailed, match="nobody opened http"), browser():
        pass


def test_a_browser_without_webgpu_is_told_apart(visitors: Callable[..., Any]) -> None:
    visitors()
    check = check_device("browser", {"webgpu": True})
    assert check.device == "browser (webgpu)"
    assert "has no WebGPU adapter" in str(check.problem)


def test_what_is_missing_is_named(
    runtimes_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no-such-chromium is not here"):
        browser(headless=True, program="no-such-chromium").__enter__()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="Get them once: evaluate runtimes"):
        browser().__enter__()


def test_files_that_a_browser_cannot_load_are_refused_before_it_is_asked(
    visitors: Callable[..., Any], tflite_files: dict[str, Path]
) -> None:
    visitors()
    with pytest.raises(UserError, match="its input is int8, and the runtime of browsers takes"):
        measure([tflite_files["int8"]], device="browser", num_runs=10)


def test_how_it_is_named() -> None:
    name, options = parse_device("browser:headless")
    assert (name, options["headless"], options["called"]) == ("browser", True, "")
    assert device_label(name, options) == "browser (headless)"
    name, options = parse_device("browser:pixel")
    assert device_label(name, options) == "browser:pixel"
    assert parse_device("local:openvino")[1]["openvino"] is True


def test_https_is_for_browsers(program: Callable[..., Outcome], onnx_file: Path) -> None:
    outcome = program("evaluate", "latency", onnx_file, "--https")
    assert "--https has no effect on local. It is for browser devices." in outcome.err


def test_it_ends_at_once(visitors: Callable[..., Any]) -> None:
    visitors()
    with browser() as device:
        assert device.machine().num_cores == 8
        start = time.monotonic()
    assert time.monotonic() - start < 3
