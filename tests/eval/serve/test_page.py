"""The page of the service: what it loads, and what a user sees in Chromium without a network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from chromium import Chromium
from eval.serve.answers import predict_photos
from eval.serve.runtimes import fetch_runtimes
from running_service import Service, start
from support import AXE, save_photo
from web_client import request

INT8_STEP = 1 / 256


def test_the_page_and_its_parts_are_served_isolated(service: Service) -> None:
    page = request(service.url, "/")
    assert b"Try the files" in page.content
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert page.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        part = request(service.url, f"/page/{name}")
        assert part.status == 200
        assert part.headers["content-type"].startswith(kind)


def test_the_page_names_no_other_address() -> None:
    folder = Path(__file__).parents[3] / "eval" / "serve" / "page"
    for path in folder.iterdir():
        assert "http" not in path.read_text().replace("(https or localhost)", "")


def test_a_browser_gets_the_files_that_are_served_and_no_other(
    service: Service, onnx_file: Path
) -> None:
    assert request(service.url, "/files/colours.onnx").content == onnx_file.read_bytes()
    for path in ("/files/other.onnx", "/page/nothing.js", "/runtimes/manifest.json"):
        assert request(service.url, path).status == 404


@pytest.fixture(scope="module")
def shown(
    npm_archives: Path, tflite_files: dict[str, Path], onnx_file: Path, tmp_path_factory
) -> Iterator[tuple[Service, list[Path]]]:
    """A service whose page runs files in the browser, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        fetch_runtimes(npm_archives)
        files = [tflite_files["int8-inside"], tflite_files["float32"], onnx_file]
        running = start(*files)
        yield running, files
        running.process.kill()
        running.process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        running.resize(1280, 900)
        yield running


ALL_ANSWERED = "document.querySelectorAll('[data-place]').length === 6"
SHOWN = """[...document.querySelectorAll('[data-place]')].map((place) => ({
  file: place.closest('[data-file]').dataset.file, place: place.dataset.place,
  best: place.querySelector('.class').textContent,
  shares: [...place.querySelectorAll('.top li')].map((row) => row.lastChild.textContent),
}))"""


@pytest.mark.slow
def test_files_answer_side_by_side_as_evaluate_predict_does(
    shown: tuple[Service, list[Path]], browser: Chromium, tmp_path: Path
) -> None:
    running, files = shown
    photo = save_photo(tmp_path / "photo.png", seed=5, size=(61, 47))
    browser.open(running.url)
    browser.wait_for("document.getElementById('served').textContent.startsWith('3 files')")
    browser.value("document.getElementById('in-browser').click()")
    browser.drop("#drop", photo)
    browser.wait_for(ALL_ANSWERED)
    for row in browser.value(SHOWN):
        file = next(path for path in files if path.name == row["file"])
        (expected,) = predict_photos(file, [photo])
        best = expected["answers"][0]
        assert row["best"] == best["class"], row
        share = float(row["shares"][0].removesuffix(" %")) / 100
        # The page shows tenths of a percent.
        assert share == pytest.approx(best["probability"], abs=INT8_STEP + 0.0005), row
    assert browser.value("document.getElementById('verdict').textContent").startswith("All 6")
    assert browser.problems() == []
    origin = running.url.rstrip("/")
    elsewhere = [url for url in browser.requested() if not url.startswith(origin)]
    assert {url.split(":")[0] for url in elsewhere} <= {"blob", "data", "about"}


@pytest.mark.slow
def test_of_100_jpegs_nearly_all_get_the_same_answer(
    shown: tuple[Service, list[Path]], browser: Chromium, flowers: Path
) -> None:
    running, files = shown
    photos = sorted(flowers.glob("*/*.jpg"))[::43][:100]
    names = {file.name: [a["answers"][0]["class"] for a in predict_photos(file, photos)]
             for file in files}  # fmt: skip
    browser.open(running.url)
    browser.wait_for("document.getElementById('served').textContent.startsWith('3 files')")
    browser.value("document.getElementById('in-browser').click()")
    document = browser.send("DOM.getDocument")["root"]["nodeId"]
    field = browser.send("DOM.querySelector", nodeId=document, selector="#choose")["nodeId"]
    same = {"server": 0, "browser": 0}
    for number, photo in enumerate(photos):
        browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(photo)])
        browser.wait_for(f"document.getElementById('answers').dataset.photo === '{number + 1}' && "
                         + ALL_ANSWERED)  # fmt: skip
        for row in browser.value(SHOWN):
            same[row["place"]] += row["best"] == names[row["file"]][number]
    assert same["server"] == len(files) * len(photos)
    assert same["browser"] >= 0.99 * len(files) * len(photos)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_accessible_and_fits(
    shown: tuple[Service, list[Path]],
    browser: Chromium,
    npm_archives: Path,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    shutil.unpack_archive(npm_archives / f"{AXE.replace('@', '-')}.tgz", tmp_path / "axe", "gztar")
    browser.resize(width, 900, scheme)
    browser.open(shown[0].url)
    browser.wait_for("document.getElementById('served').textContent.startsWith('3 files')")
    browser.drop("#drop", save_photo(tmp_path / "photo.png", seed=5, size=(61, 47)))
    browser.wait_for("document.querySelectorAll('[data-place]').length === 3")
    assert browser.value("document.documentElement.scrollWidth") <= width
    browser.value((tmp_path / "axe" / "package" / "axe.min.js").read_text() + ";0")
    found = browser.value("axe.run().then((result) => JSON.stringify(result.violations))")
    serious = [v for v in json.loads(found) if v["impact"] in ("serious", "critical")]
    assert serious == []


@pytest.mark.slow
def test_everything_is_reached_with_the_keyboard(
    shown: tuple[Service, list[Path]], browser: Chromium
) -> None:
    browser.open(shown[0].url)
    browser.wait_for("document.getElementById('served').textContent.startsWith('3 files')")
    reached = []
    for _ in range(4):
        browser.press("Tab", windowsVirtualKeyCode=9)
        reached.append(browser.value("document.activeElement.id"))
    assert reached == ["choose", "camera", "threshold", "in-browser"]


@pytest.mark.slow
def test_a_threshold_turns_unsure_answers_into_none_of_these(
    shown: tuple[Service, list[Path]], browser: Chromium, tmp_path: Path
) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (8, 8), (90, 90, 90)).save(grey)
    browser.open(shown[0].url)
    browser.wait_for("document.getElementById('served').textContent.startsWith('3 files')")
    browser.drop("#drop", grey)
    browser.wait_for("document.querySelectorAll('[data-place]').length === 3")
    best = "document.querySelector('.class').textContent"
    assert browser.value(best) != "none of these?"
    browser.value(
        "(() => { const slider = document.getElementById('threshold'); slider.value = 95;"
        " slider.dispatchEvent(new Event('input')) })()"
    )
    assert browser.value(best) == "none of these?"
    assert browser.value("document.getElementById('threshold-text').textContent") == "95 %"


@pytest.mark.slow
def test_the_camera_takes_a_photo(shown: tuple[Service, list[Path]], browser: Chromium) -> None:
    browser.open(shown[0].url)
    browser.wait_for("document.getElementById('served').textContent.startsWith('3 files')")
    browser.value("document.getElementById('camera').click()")
    browser.wait_for("!document.getElementById('shoot').hidden")
    browser.value("document.getElementById('shoot').click()")
    browser.wait_for("document.querySelectorAll('[data-place]').length === 3")
    assert browser.value("document.getElementById('verdict').textContent") != "No photo yet."
