"""The code of a bundle where its users run it: a fresh environment, a browser, a C++ program."""

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from compress.bundle.serve_page import Files

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# It loads the page of the bundle, waits for its status and sends home what it shows.
WATCHER = """<!doctype html><iframe id="page" src="/web/"></iframe><script>
const timer = setInterval(() => {
  const page = document.getElementById('page').contentDocument;
  const status = page?.getElementById('status')?.textContent ?? '';
  if (!/^(Test photos|Error|Ready)/.test(status)) return;
  clearInterval(timer);
  const rows = Array.from(page.querySelectorAll('tbody tr'), (row) => row.textContent);
  fetch('/seen', { method: 'POST', body: JSON.stringify({ status, rows }) });
}, 100);
</script>"""


def test_python_answers_in_a_fresh_environment(bundle: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    requirements = bundle / "python" / "requirements.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    assert "tensorflow" not in installed.stdout
    outcome = subprocess.run(
        [python, bundle / "python" / "classify.py"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "5 of 5 as expected"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_answers_as_expected_in_chromium(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    npm = ["npm", "install", "--no-audit", "--no-fund"]
    subprocess.run(npm, cwd=folder / "web", check=True, capture_output=True)
    (folder / "watch.html").write_text(WATCHER)
    seen = seen_by_chromium(folder, tmp_path / "profile")
    assert seen["status"] == "Test photos: 5 of 5 as expected."
    assert len(seen["rows"]) == 5


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_says_how_to_fetch_its_runtime(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    (folder / "watch.html").write_text(WATCHER)
    seen = seen_by_chromium(folder, tmp_path / "profile")
    assert seen["status"].startswith('Error: The runtime is missing. Type "npm install"')


def seen_by_chromium(folder: Path, profile: Path) -> dict[str, Any]:
    """What the watcher sends home. No other machine can be reached."""
    messages: list[dict[str, Any]] = []
    arrived = threading.Event()

    class Handler(Files):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            messages.append(json.loads(self.rfile.read(size)))
            self.send_response(204)
            self.end_headers()
            arrived.set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/watch.html",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert arrived.wait(timeout=120)
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
    return messages[0]


def test_the_server_of_the_page_serves_this_machine_alone(bundle: Path) -> None:
    assert issubclass(Files, SimpleHTTPRequestHandler)
    process = subprocess.Popen(
        [sys.executable, bundle / "web" / "serve.py", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(not shutil.which("cmake"), reason="no CMake")
def test_the_cpp_program_answers_as_expected(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    contract = json.loads((folder / "contract.json").read_text())
    if not contract["file"].endswith(".tflite"):
        pytest.skip("no package registry has the headers of ONNX Runtime")
    import ai_edge_litert

    runtime = ai_edge_litert.__path__[0]
    for words in (["-B", "build", f"-DRUNTIME={runtime}"], ["--build", "build"]):
        subprocess.run(["cmake", *words], cwd=folder / "cpp", check=True, capture_output=True)
    expected = json.loads((folder / "photos" / "expected.json").read_text())
    for photo in expected["photos"]:
        ppm = folder / "photo.ppm"
        Image.open(folder / "photos" / photo["photo"]).save(ppm)
        model = folder / "model" / contract["file"]
        outcome = subprocess.run(
            [folder / "cpp" / "build" / "classify", model, folder / "labels.txt", ppm],
            capture_output=True,
            text=True,
        )
        assert outcome.returncode == 0, outcome.stderr
        _, best, probability, *_ = outcome.stdout.rstrip("\n").split("\t")
        assert best == photo["answers"][0]["class"]
        assert float(probability) == pytest.approx(
            photo["answers"][0]["probability"], abs=expected["tolerance"]
        )
