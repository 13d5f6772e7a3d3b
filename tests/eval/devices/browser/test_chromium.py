"""Files measured in headless Chromium, by the real page and the real runtimes."""

import json
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from chromium import Chromium
from configs import progress
from configs.errors import StepFailed, UserError
from eval.devices.browser import link
from eval.devices.browser.headless import HeadlessChromium, find_chromium
from eval.serve.runtimes import fetch_runtimes
from eval.serve.server import network_address
from eval.timing.differences import difference
from eval.timing.measure import measure
from eval.timing.rounds import Journal
from support import AXE, Outcome

pytestmark = pytest.mark.slow
HEADLESS = {"headless": True}


@pytest.fixture(scope="module")
def installed(npm_archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The runtimes of browsers, in a cache of this module."""
    try:
        find_chromium()
    except UserError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        fetch_runtimes(npm_archives)
        yield


@pytest.fixture
def files(installed: None, tflite_files: dict[str, Path], onnx_file: Path) -> list[Path]:
    return [tflite_files["int8-inside"], tflite_files["float32"], onnx_file]


def chromium_here() -> list[psutil.Process]:
    """The browser that this process started, without the processes of its own."""
    living = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "--headless=new" in child.cmdline()]


def test_the_table_is_that_of_any_device(
    files: list[Path], program: Callable[..., Outcome]
) -> None:
    words = ["evaluate", "latency", *files, "--device", "browser:headless", "--num-runs", 70]
    outcome = program(*words, "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out.splitlines()[-1])["files"]
    assert [row["name"] for row in rows] == [file.name for file in files]
    for row, file in zip(rows, files, strict=True):
        (latency,) = row["latency"]
        runtime = "litert.js" if file.suffix == ".tflite" else "onnxruntime-web"
        assert latency["runtime"].startswith(runtime)
        assert latency["device"] == "browser (headless)"
        assert latency["num_threads"] == 1
        assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
        assert latency["noise_floor"] > 0
        assert latency["against_fastest"]["verdict"] in ("no difference", "slower", "faster")
        assert "Chrome" in latency["state"]["os"]
        assert latency["state"]["cpu"]
    assert chromium_here() == []


def test_answers_are_those_of_this_machine(
    files: list[Path], program: Callable[..., Outcome], photo_folder: Path
) -> None:
    words = ["evaluate", "latency", *files, "--device", "browser:headless", "--verify", 5]
    outcome = program(*words, "--data", photo_folder, "--json")
    for row in json.loads(outcome.out.splitlines()[-1])["verified"]:
        assert row["argmax_equal"] == row["n"] == 5
        assert row["max_abs_diff"] <= 1 / 256 + 1e-6  # a step of int8


@pytest.mark.parametrize("https", [False, True])
def test_threads_are_used_where_the_page_is_isolated(files: list[Path], https: bool) -> None:
    options = {**HEADLESS, "https": https}
    rows = measure(files, device="browser", options=options, num_threads=2, num_runs=10)
    assert [row.num_threads for row in rows.values()] == [2, 2, 2]


def test_two_copies_do_not_differ(files: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copy(files[0], tmp_path / "copy.tflite"))
    rows = measure([files[0], copy], device="browser", options=HEADLESS, num_runs=80)
    verdict = difference(rows[copy], rows[files[0]])
    assert verdict is not None
    assert verdict.verdict == "no difference"


def test_a_browser_that_is_killed_is_started_again(files: list[Path], tmp_path: Path) -> None:
    killed = []

    def kill_once(num_done: int) -> None:
        if not killed:
            killed.extend(chromium_here())
            # Every user of this machine reads its arguments; the address has a token.
            assert "http:" not in " ".join(killed[0].cmdline())
            killed[0].kill()

    journal = Journal(tmp_path / "rounds.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "SILENCE_SECONDS", 2.0)
        patch.setattr(link, "HOLD_SECONDS", 0.5)
        rows = measure(
            files[2:], device="browser", options=HEADLESS, num_runs=30, journal=journal,
            progress=kill_once,
        )  # fmt: skip
    assert len(rows[files[2]].times_ms) == 30
    assert len(journal.rounds()) == 3


def test_a_file_that_cannot_be_executed_says_why(
    installed: None, tflite_files: dict[str, Path]
) -> None:
    with pytest.raises(StepFailed, match="cannot be executed in the browser"):
        measure([tflite_files["batch"]], device="browser", options=HEADLESS, num_runs=10)


def test_webgpu_runs_where_there_is_an_adapter(files: list[Path]) -> None:
    options = {**HEADLESS, "webgpu": True}
    try:
        rows = measure(files[1:], device="browser", options=options, num_warmup=1, num_runs=10)
    except UserError as error:
        pytest.skip(str(error))
    for row in rows.values():
        assert row.runtime.endswith("webgpu")
        assert "WebGPU on " in str(row.state.os)


@pytest.fixture
def invitations(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[str]":
    """The addresses that commands print."""
    addresses: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(progress, "announce", lambda text: addresses.put(text.split()[-1]))
    return addresses


def test_a_tab_that_is_closed_leaves_the_rounds_and_goes_on_later(
    files: list[Path], invitations: "queue.Queue[str]", tmp_path: Path
) -> None:
    journal, results = Journal(tmp_path / "rounds.jsonl"), []
    has_rounds = threading.Event()

    def work() -> None:
        rows = measure(
            files[2:], device="browser", num_runs=100, journal=journal,
            progress=lambda _: has_rounds.set(),
        )  # fmt: skip
        results.append(rows[files[2]])

    measuring = threading.Thread(target=work)
    measuring.start()
    url = invitations.get(timeout=60)
    with Chromium() as browser:
        browser.open(url)
        assert has_rounds.wait(120)
        browser.send("Page.navigate", url="about:blank")
        num_before = len(journal.rounds())
        browser.open(url)
        browser.wait_for("document.getElementById('state').textContent.startsWith('Finished')")
        assert browser.problems() == []
    measuring.join(60)
    assert 1 <= num_before < 10
    assert len(results[0].times_ms) == 100


def test_over_plain_http_one_thread_is_used_and_the_row_says_so(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if network_address() is None:
        pytest.skip("this machine has no address that is not its own")
    with HeadlessChromium(find_chromium(), webgpu=False, trusted_key=None) as browser:
        monkeypatch.setattr(
            progress, "announce", lambda text: browser.open(text.splitlines()[1].strip())
        )
        rows = measure(files, device="browser", num_threads=2, num_runs=10)
    assert [row.num_threads for row in rows.values()] == [1, 1, 1]
    assert all(time > 0 for row in rows.values() for time in row.times_ms)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_the_page_says_what_happens_and_is_accessible(
    files: list[Path],
    invitations: "queue.Queue[str]",
    npm_archives: Path,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    shutil.unpack_archive(npm_archives / f"{AXE.replace('@', '-')}.tgz", tmp_path / "axe", "gztar")
    with Chromium() as browser:
        browser.resize(width, 700, scheme)
        measuring = threading.Thread(
            target=lambda: measure(files, device="browser", num_runs=30), daemon=True
        )
        measuring.start()
        url = invitations.get(timeout=60)
        browser.open(url)
        state = "document.getElementById('state').textContent"
        browser.wait_for(f"{state}.startsWith('Measuring')")
        browser.wait_for(f"{state}.startsWith('Finished')")
        browser.screenshot(tmp_path / "finished.png")
        assert browser.value("document.documentElement.scrollWidth") <= width
        browser.value((tmp_path / "axe" / "package" / "axe.min.js").read_text() + ";0")
        found = browser.value("axe.run().then((result) => JSON.stringify(result.violations))")
        serious = [v for v in json.loads(found) if v["impact"] in ("serious", "critical")]
        assert serious == []
        assert {url.split("/")[2] for url in browser.requested() if "//" in url} == {
            url.split("/")[2]
        }
    measuring.join(60)
