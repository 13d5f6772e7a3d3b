"""`evaluate serve` as a user starts it: its answers, its start and its end."""

import http.client
import io
import json
import signal
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from compress.recipes.metadata import write_metadata
from configs.contract import OWN_PIXELS
from configs.errors import UserError
from eval.metadata import FileMetadata
from eval.scoring.threshold import Threshold
from eval.serve.server import is_loopback, listen
from running_service import Service, start
from support import save_photo
from web_client import FORM, form, post_photo, request

TRAINERS = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"}


def photo_of(colour: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(colour).save(stream, "PNG")
    return stream.getvalue()


def test_it_starts_in_two_seconds_and_imports_no_training_framework(onnx_file: Path) -> None:
    running = start(onnx_file)
    running.process.send_signal(signal.SIGTERM)
    out, _ = running.process.communicate(timeout=30)
    modules = out.splitlines()[-1].split()
    assert "fastapi" in modules
    assert not TRAINERS & set(modules)
    assert running.cpu_seconds < 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "turned.jpg"])
def test_it_answers_as_evaluate_predict_does(
    program: Callable, service: Service, tflite_files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    photo = save_photo(tmp_path / name, seed=5, size=(61, 47))
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        Image.open(photo).save(photo, exif=exif)
    for kind in ("int8", "float32"):
        file = tflite_files[kind]
        outcome = program("evaluate", "predict", file, photo, "--json")
        expected = json.loads(outcome.out)["predictions"][0]["answers"]
        answer = post_photo(service.url, photo.read_bytes(), f"?file={file.name}").value
        assert answer["probabilities"] == expected
        assert answer["class"] == expected[0]["class"]
        assert answer["file"] == file.name
        assert answer["accepted"] is None
        assert answer["ms"] > 0


def test_the_first_file_answers_by_default(service: Service, colours: np.ndarray) -> None:
    assert service.files == ["colours-int8.tflite", "colours-float32.tflite", "colours.onnx"]
    assert post_photo(service.url, photo_of(colours[0])).value["file"] == service.files[0]


def test_it_describes_its_files(service: Service) -> None:
    assert request(service.url, "/health").value == {"status": "ok", "num_files": 3}
    facts = request(service.url, "/metadata").value
    assert [file["file"] for file in facts["files"]] == service.files
    first = facts["files"][0]
    assert first["classes"] == ["0", "1", "2", "3"]
    assert first["input"] == {
        "image_size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1], "channels": "rgb",
        "fit": "crop", "interpolation": "bilinear", "layout": None,
    }  # fmt: skip
    paths = request(service.url, "/openapi.json").value["paths"]
    assert set(paths) >= {"/predict", "/health", "/metadata"}


def test_parallel_requests_get_the_answers_to_their_own_photos(
    service: Service, colours: np.ndarray
) -> None:
    photos = [photo_of(colour) for colour in colours]

    def best(number: int) -> str:
        return post_photo(service.url, photos[number % 3]).value["class"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(best, range(240))) == [str(number % 3) for number in range(240)]


def lets_nobody_in(url: str) -> bool:
    """Whether a server that was told to stop soon refuses connections."""
    for _ in range(100):
        try:
            request(url, "/health")
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_a_request_before_it_stops(
    onnx_file: Path, colours: np.ndarray, stop: signal.Signals
) -> None:
    running = start(onnx_file)
    body = form(photo_of(colours[1]))
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=30)
    connection.putrequest("POST", "/predict")
    for name, value in {**FORM, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body[:50])
    request(running.url, "/health")  # by now the server has the first half, too
    running.process.send_signal(stop)
    assert lets_nobody_in(running.url)
    connection.send(body[50:])
    response = connection.getresponse()
    assert json.loads(response.read())["class"] == "1"
    assert running.process.wait(timeout=30) == 0


def test_a_run_answers_with_the_file_it_ships(tmp_path: Path, onnx_file: Path) -> None:
    folder = tmp_path / "run" / "files"
    folder.mkdir(parents=True)
    for name in ("a.onnx", "b.onnx"):
        (folder / name).write_bytes(onnx_file.read_bytes())
    (folder / "c.onnx").write_bytes(b"damaged")
    score = {"top1": 0.75, "split": "test"}
    row = {"file_bytes": 1, "accuracy": score, "latency": []}
    report = {
        "run": "run", "machine": {}, "data": {"num_test": 4}, "models": [],
        "files": [{"name": "a.onnx", **row}, {"name": "b.onnx", **row}],
        "verdict": {"chosen_file": "b.onnx"},
    }  # fmt: skip
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    running = start(tmp_path / "run")
    try:
        assert running.files == ["b.onnx", "a.onnx"]
        facts = request(running.url, "/metadata").value["files"]
        assert [(file["top1"], file["is_chosen"]) for file in facts] == [
            (0.75, True),
            (0.75, False),
        ]
    finally:
        running.process.terminate()
        _, errors = running.process.communicate(timeout=30)
    assert "c.onnx is left out" in errors


def test_a_photo_below_the_threshold_is_not_accepted(
    tflite_files: dict[str, Path], colours: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "sure.tflite"
    file.write_bytes(tflite_files["float32"].read_bytes())
    metadata = FileMetadata(
        classes=["red", "green", "blue", "grey"], output="probabilities", pixels=OWN_PIXELS,
        image_size=[8, 8], parent="student", recipe="tflite.float32",
        threshold=Threshold(score=0.9, accuracy=0.95, coverage=0.8),
    )  # fmt: skip
    write_metadata(file, metadata)
    running = start(file)
    try:
        # Pure red: logits 4, 0, 0, 1 (times 250/255); softmax gives red 0.91. Grey is less sure.
        red = post_photo(running.url, photo_of(colours[0])).value
        assert (red["class"], red["accepted"]) == ("red", True)
        grey = post_photo(running.url, photo_of(np.full((8, 8, 3), 90, "uint8"))).value
        assert grey["accepted"] is False
        assert request(running.url, "/metadata").value["files"][0]["threshold"]["score"] == 0.9
    finally:
        running.process.kill()
        running.process.communicate()


def test_only_this_machine_reaches_it_unless_told_otherwise() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert is_loopback(listener)
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken. Choose another: --port"):
            listen("127.0.0.1", port)
    for name in ("no-such-host", "two..dots", 100 * "x"):
        with pytest.raises(UserError, match=f"--host {name} is no address"):
            listen(name, 0)
    with listen("localhost", 0) as listener:
        assert is_loopback(listener)


def test_over_https_it_signs_a_certificate_for_its_address(onnx_file: Path) -> None:
    running = start(onnx_file, "--https")
    assert running.url.startswith("https://127.0.0.1:")
    address = (urlsplit(running.url).hostname, urlsplit(running.url).port)
    pem = ssl.get_server_certificate(address)  # type: ignore[arg-type]
    trusting = ssl.create_default_context(cadata=pem)
    health = request(running.url, "/health", context=trusting).value
    assert health == {"status": "ok", "num_files": 1}
    running.process.send_signal(signal.SIGTERM)
    running.process.communicate(timeout=30)
    assert running.process.returncode == 0


def test_wrong_words_are_explained(program: Callable, onnx_file: Path, tmp_path: Path) -> None:
    missing = program("evaluate", "serve", tmp_path / "nothing")
    assert missing.code == 2
    assert "Expected a run directory, or .tflite and .onnx files" in missing.err
    twice = program("evaluate", "serve", onnx_file, onnx_file, "--port", "0")
    assert "two files have the same name" in twice.err
    contract = program("evaluate", "serve", tmp_path, "--pixels", "0..1")
    assert "--pixels has no effect" in contract.err


def test_a_name_that_a_page_made_up_is_refused(service: Service) -> None:
    assert request(service.url, "/health", headers={"Host": "evil.example"}).status == 400
    port = urlsplit(service.url).port
    assert request(service.url, "/health", headers={"Host": f"localhost:{port}"}).status == 200
