"""What a stranger may send: each gets a 4xx or is cut off, and the service goes on."""

import io
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from eval.serve.app import make_app
from eval.serve.served import named_files
from eval.serve.uploads import Limits, Refused, check_photo
from running_service import Service
from web_client import FORM, form, post_photo, request


def png(size: tuple[int, int] = (16, 12), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


def jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def saved_as(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, kind)
    return stream.getvalue()


def png_that_lies() -> bytes:
    """The header says 8 x 8 pixels; the rows that follow are those of a larger photo."""
    content = bytearray(png((4000, 4000)))
    content[16:24] = struct.pack(">II", 8, 8)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


BAD_PHOTOS = {
    "200 megapixels": (lambda: png((20_000, 10_000), "1"), 413),
    "100 megapixels": (lambda: png((10_000, 10_000), "1"), 413),
    "a cut JPEG": (lambda: jpeg()[:20_000], 422),
    "half a header": (lambda: jpeg()[:10], 415),
    "text": (lambda: b"this is no photo, it is text", 415),
    "an empty file": (lambda: b"", 422),
    "zeros": (lambda: bytes(5000), 415),
    "PostScript": (lambda: saved_as("EPS"), 415),
    "an icon": (lambda: saved_as("ICO"), 415),
    "a page": (lambda: saved_as("PDF"), 415),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_bad_photo_is_refused_with_a_sentence(service: Service, name: str) -> None:
    make, status = BAD_PHOTOS[name]
    response = post_photo(service.url, make())
    assert response.status == status, response.content
    assert response.value["detail"].endswith(".")
    assert post_photo(service.url, png()).status == 200


def test_a_png_whose_header_lies_costs_no_memory(service: Service) -> None:
    # Pillow decodes the 64 pixels that the header promises, and no more.
    assert post_photo(service.url, png_that_lies()).status in (200, 422)


def test_pixels_are_counted_before_any_is_decoded() -> None:
    # Of this photo there is the header alone: whoever decoded it would call it cut short.
    with pytest.raises(Refused, match="100 megapixels, and at most 64 are read") as refusal:
        check_photo(png((10_000, 10_000), "1")[:60], Limits())
    assert refusal.value.status == 413


@pytest.mark.parametrize("announced", [True, False])
def test_50_megabytes_are_refused_unread(service: Service, announced: bool) -> None:
    body = form(bytes(50_000_000))
    if announced:
        response = request(service.url, "/predict", "POST", body, FORM)
    else:
        chunks = [body[i : i + (1 << 20)] for i in range(0, len(body), 1 << 20)]
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        headers = {**FORM, "Transfer-Encoding": "chunked"}
        response = request(service.url, "/predict", "POST", chunked + b"0\r\n\r\n", headers)
    assert response.status == 413
    assert "at most 20 MiB" in response.value["detail"]
    assert request(service.url, "/health").status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"image=photo.png", "application/x-www-form-urlencoded", 415),
        (png(), "image/png", 415),
        (form(png(), field="other"), FORM["Content-Type"], 422),
        (form(png(), kind="text/html"), FORM["Content-Type"], 415),
        (form(png())[:80], FORM["Content-Type"], 422),
        (form(jpeg())[:-40], FORM["Content-Type"], 422),
        (form(png()), "multipart/form-data", 400),
        (b"", FORM["Content-Type"], 422),
        (b"--" + b"x" * 5000, FORM["Content-Type"], 400),
    ],
)
def test_what_is_not_a_form_with_a_photo_is_refused(
    service: Service, body: bytes, kind: str, status: int
) -> None:
    response = request(service.url, "/predict", "POST", body, {"Content-Type": kind})
    assert response.status == status, response.content
    assert response.value["detail"]


def test_a_damaged_form_logs_nothing(
    serve_here: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    address, body = serve_here(), b"--" + b"x" * 5000
    caplog.clear()  # what it says while it opens its files
    assert request(address, "/predict", "POST", body, FORM).status == 400
    assert not caplog.records


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd", "//etc/passwd", "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "/files/../../etc/passwd", "/files/..%2f..%2fetc%2fpasswd",
        "/files//etc/passwd", "/files/%2fetc%2fpasswd", "/files/colours.onnx%00.png",
        "/.git/config", "/cli.py", "/eval/serve/app.py", "/docs", "/metadata/..",
    ],
)  # fmt: skip
def test_a_path_leads_to_no_file(service: Service, path: str) -> None:
    response = request(service.url, path)
    assert response.status in (400, 404), response.content
    assert b"root:" not in response.content


@pytest.mark.parametrize("name", ["/etc/passwd", "../colours.onnx", "colours.onnx%00", "", "*"])
def test_a_file_that_is_not_served_does_not_answer(service: Service, name: str) -> None:
    response = post_photo(service.url, png(), f"?file={name}")
    assert response.status == 404
    assert "Its files: colours-int8.tflite" in response.value["detail"]


def test_the_name_of_an_upload_means_nothing(service: Service) -> None:
    for name in ("../../etc/cron.d/evil", "/etc/passwd", "a.dng", "x" * 300):
        assert post_photo(service.url, png(), name=name).status == 200
    assert not Path("/etc/cron.d/evil").exists()


def cut_off(url: str, parts: list[bytes], pause: float) -> tuple[bytes, float]:
    """What a server answers to a client that sends these parts with pauses, and after how long."""
    parsed = urlsplit(url)
    start = time.perf_counter()
    with socket.create_connection((parsed.hostname, parsed.port), timeout=20) as client:
        client.settimeout(20)
        answer = b""
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            while received := client.recv(4096):
                answer += received
        except ConnectionError:
            pass
        return answer, time.perf_counter() - start


def test_a_slow_client_is_cut_off_and_holds_up_nobody(serve_here: Callable[..., str]) -> None:
    url = serve_here(header_seconds=0.5, upload_seconds=0.5)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    length = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n"
    silent, seconds = cut_off(url, [b""], 0)
    assert silent == b""
    assert 0.4 < seconds < 10
    dripping, _ = cut_off(url, [head, *[b"X: y\r\n"] * 8], 0.1)
    assert dripping == b""
    body, _ = cut_off(url, [head + length, b"--x"], 0.1)
    assert body.startswith(b"HTTP/1.1 408 ")
    # After an answer on the same connection, the next header is waited for no longer either.
    again, _ = cut_off(url, [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", head], 0.2)
    assert again.count(b"HTTP/1.1 200") == 1
    assert post_photo(url, png()).status == 200


def test_a_client_that_leaves_is_forgotten(serve_here: Callable[..., str]) -> None:
    url = serve_here(max_held_bytes=1 << 20, max_bytes=1 << 20)
    parsed = urlsplit(url)
    for _ in range(5):  # each would leave less of the budget, were its bytes not given back
        with socket.create_connection((parsed.hostname, parsed.port)) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + bytes(800_000)
            )
    deadline = time.monotonic() + 10
    while post_photo(url, bytes(700_000)).status == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert post_photo(url, bytes(700_000)).status == 415


def test_more_bytes_at_once_than_there_is_room_for_are_put_off(
    serve_here: Callable[..., str],
) -> None:
    url = serve_here(max_held_bytes=100_000, upload_seconds=5)
    response = post_photo(url, bytes(200_000))
    assert response.status == 503
    assert "Send it again later" in response.value["detail"]
    assert post_photo(url, png()).status == 200


def test_more_connections_than_there_is_room_for_are_put_off(
    serve_here: Callable[..., str],
) -> None:
    url = serve_here(max_connections=4)
    parsed = urlsplit(url)
    others = [socket.create_connection((parsed.hostname, parsed.port)) for _ in range(4)]
    assert request(url, "/health").status == 503
    for other in others:
        other.close()
    deadline = time.monotonic() + 10
    while request(url, "/health").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_that_overflows_says_so_and_the_service_goes_on(
    tmp_path: Path, onnx_file: Path
) -> None:
    from fastapi.testclient import TestClient

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 8, 8, 3])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])
    minus = helper.make_tensor("minus", TensorProto.FLOAT, [1], [-1.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "minus"], ["below"]),
        helper.make_node("Log", ["below"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "nan", [image], [result], [minus, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "nan.onnx")
    app = make_app(named_files([tmp_path / "nan.onnx", onnx_file]), num_workers=1)
    with TestClient(app) as client:
        black = {"image": ("a.png", png(), "image/png")}
        response = client.post("/predict", files=black)
        assert response.status_code == 500
        assert "answers with NaN or infinity" in response.json()["detail"]
        assert client.post("/predict?file=colours.onnx", files=black).status_code == 200
